"""The flow from a batch of submitted items to messages in the queue."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from typing_extensions import assert_never

from mail_proxy.domain.attachment import MAX_ATTACHMENTS
from mail_proxy.domain.errors import StoreUnavailable, TooLarge
from mail_proxy.domain.message import Identity, NewMessage, Priority, Verdict
from mail_proxy.intake import addresses
from mail_proxy.intake.receipt import Receipt, Rejected, refusal
from mail_proxy.intake.resolution import Resolver, Route, Unresolved, refuse_other_tenants
from mail_proxy.intake.validation import DEFAULT_MAX_ATTACHMENT, Accepted, check
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.queue import Queue, Stale, Taken

MAX_TRIES = 5
"""How often a batch is looked at again because the directory changed meanwhile."""
BREATH = 25
"""Items that are checked before other tasks get a turn: some two milliseconds."""
HEAVY = 50_000
"""Characters from which an item is checked on a thread of its own."""

KNOWN = Taken(Verdict.DUPLICATE)
Notify = Callable[[frozenset[int], bool], None]
"""Told after a commit which accounts have new messages, and whether one of them is to go at once and is `immediate`."""


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """What the instance sets. `host` is the domain of Message-IDs whose sender's domain is not a full one."""

    host: str
    default_priority: Priority = Priority.MEDIUM
    max_batch: int = 1000
    max_attachment: int = DEFAULT_MAX_ATTACHMENT


@dataclass(frozen=True, slots=True)
class _Draft:
    """An accepted item with all that does not depend on the directory; the same in every try."""

    accepted: Accepted
    identity: Identity
    priority: Priority


class Intake:
    """Takes submissions: everything that comes in is either in the queue when this returns, or refused with a reason.

    `random_hex` makes the part of a Message-ID that no other one has.
    """

    def __init__(
        self,
        queue: Queue,
        directory: Directory,
        clock: Clock,
        settings: IntakeSettings,
        notify: Notify,
        random_hex: Callable[[], str] = secrets.token_hex,
    ) -> None:
        self._queue = queue
        self._directory = directory
        self._clock = clock
        self._settings = settings
        self._notify = notify
        self._random_hex = random_hex

    async def submit(
        self,
        caller_tenant: str | None,
        items: Sequence[object],
        default_priority: Priority | None = None,
        traceparent: str | None = None,
    ) -> Receipt:
        """Take a batch, whose items are as they came out of the JSON parser; answer for each exactly once. G1, G2.

        `caller_tenant` is the tenant whose token came with it, None for the admin token. Raises `TooLarge`,
        `Forbidden` for a tenant's token with another tenant's message, and `StoreUnavailable`: then it is safe to
        submit the batch again, and whatever was stored of it all the same is a duplicate.
        """
        if len(items) > self._settings.max_batch:
            raise TooLarge(f"a batch has at most {self._settings.max_batch} messages, this one has {len(items)}")
        refuse_other_tenants(caller_tenant, items)
        now = self._clock.now()
        default = self._settings.default_priority if default_priority is None else default_priority
        drafts, rejected = await self._drafts(items, default, now, traceparent)
        up_to_date = False
        """True when the directory was asked since the batch came: what it does not have then is not there."""
        for _ in range(MAX_TRIES):
            # Taken first: what changes between this and the commit makes the queue say Stale.
            version = self._directory.version
            placed, unresolved = await self._place([d for d in drafts if not d.accepted.too_late], caller_tenant, now)
            late, too_late = await self._late([d for d in drafts if d.accepted.too_late], caller_tenant, now)
            unresolved += too_late
            if unresolved and not up_to_date:
                up_to_date = True
                if await self._directory.refresh() != version:
                    continue  # What was not found may have come by another instance.
            try:
                taken = await self._queue.enqueue([message for _, message in placed], version) if placed else ()
            except Stale:
                up_to_date = True
                await self._directory.refresh()
                continue
            self._wake(placed, taken)
            return _receipt([*placed, *late], [*taken, *(KNOWN for _ in late)], [*rejected, *unresolved])
        raise StoreUnavailable("the tenant's accounts keep changing; nothing was stored, try again")

    async def _drafts(
        self, items: Sequence[object], default_priority: Priority, now: float, traceparent: str | None
    ) -> tuple[list[_Draft], list[Rejected]]:
        """Check each item by itself. Other tasks get their turns: a batch takes its time, a big item more. G11."""
        drafts: list[_Draft] = []
        rejected: list[Rejected] = []
        for index, item in enumerate(items):
            if index % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            heavy = _weight(item) > HEAVY
            asked = (index, item, now, self._settings.max_attachment, traceparent)
            match await asyncio.to_thread(check, *asked) if heavy else check(*asked):
                case Accepted() as accepted:
                    priority = default_priority if accepted.priority is None else accepted.priority
                    drafts.append(_Draft(accepted, self._identity(accepted, now), priority))
                case Rejected() as refused:
                    rejected.append(refused)
                case other:
                    assert_never(other)
        return drafts, rejected

    def _identity(self, accepted: Accepted, now: float) -> Identity:
        """Give the message what no attempt will change: its Message-ID, a new one unless it came with one, its date."""
        message_id = accepted.message.message_id
        if message_id is None:
            domain = accepted.message.sender.domain
            message_id = f"{self._random_hex()}@{domain if '.' in domain else self._settings.host}"
        return Identity(mail_id=accepted.id, message_id=message_id, date=now)  # G4

    async def _place(
        self, drafts: Iterable[_Draft], caller_tenant: str | None, now: float
    ) -> tuple[list[tuple[int, NewMessage]], list[Rejected]]:
        resolver = Resolver(self._directory, caller_tenant)
        placed: list[tuple[int, NewMessage]] = []
        unresolved: list[Rejected] = []
        for draft in drafts:
            accepted = draft.accepted
            match await resolver.route(accepted.tenant_id, accepted.account_id):
                case Route() as route:
                    placed.append(
                        (accepted.index, _new_message(draft, route, now, by_tenant=caller_tenant is not None))
                    )
                case Unresolved() as why:
                    unresolved.append(Rejected(accepted.index, accepted.id, why.field, why.reason, why.code))
                case other:
                    assert_never(other)
        return placed, unresolved

    async def _late(
        self, drafts: Sequence[_Draft], caller_tenant: str | None, now: float
    ) -> tuple[list[tuple[int, NewMessage]], list[Rejected]]:
        """Divide what comes after its `expires_ts`: what is repeated and known already, and the rest."""  # G3
        if not drafts:
            return [], []
        placed, unresolved = await self._place(drafts, caller_tenant, now)
        ids: dict[str, list[str]] = {}
        for _, message in placed:
            ids.setdefault(message.tenant_id, []).append(message.id)
        known = {tenant_id: await self._queue.digests(tenant_id, of_it) for tenant_id, of_it in ids.items()}
        repeated: list[tuple[int, NewMessage]] = []
        for index, message in placed:
            if known[message.tenant_id].get(message.id) == message.digest:
                repeated.append((index, message))
            else:
                unresolved.append(Rejected(index, message.id, "expires_ts", "has passed already", "invalid"))
        return repeated, unresolved

    def _wake(self, placed: Sequence[tuple[int, NewMessage]], taken: Sequence[Taken]) -> None:
        new = [
            message
            for (_, message), answer in zip(placed, taken, strict=True)
            if answer.verdict in {Verdict.QUEUED, Verdict.REPLACED}
        ]
        if new:
            urgent = any(message.priority == Priority.IMMEDIATE and message.due is None for message in new)
            self._notify(frozenset(message.account_pk for message in new), urgent)


def _weight(item: object) -> int:
    """About how much work it is to check an item, in characters of a body."""
    if not isinstance(item, dict):
        return 0
    weight = 64 * len(item)
    for name, value in item.items():
        own = len(value) if isinstance(value, str) else 64 * len(value) if isinstance(value, list | dict) else 0
        # A domain in another script takes the library a quarter of a millisecond.
        weight += own if name not in addresses.FIELDS or _ascii(value) else 20 * own
    return weight + _weight_of_files(item.get("attachments"))


def _weight_of_files(files: object) -> int:
    """About the work of checking attachments: their texts; credentials take a while on purpose."""
    if not isinstance(files, list):
        return 0
    weight = 0
    for each in files[: MAX_ATTACHMENTS + 1]:
        if isinstance(each, dict):
            path = each.get("storage_path")
            weight += 256 + (len(path) if isinstance(path, str) else 0) + (HEAVY if each.get("auth") else 0)
    return weight


def _ascii(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return all(not isinstance(text, str) or text.isascii() for text in texts)


def _new_message(draft: _Draft, route: Route, now: float, *, by_tenant: bool) -> NewMessage:
    accepted = draft.accepted
    later = accepted.deferred_ts is not None and accepted.deferred_ts > now
    return NewMessage(
        tenant_id=route.tenant_id,
        account_pk=route.account_pk,
        account_id=route.account_id,
        id=accepted.id,
        fields=accepted.fields,
        digest=accepted.digest,
        priority=draft.priority,
        recipients=accepted.message.recipients(),
        identity=draft.identity,
        created_ts=now,
        batch_code=accepted.batch_code,
        due=accepted.deferred_ts if later else None,
        expires_ts=accepted.expires_ts,
        by_tenant=by_tenant,
        auths=accepted.auths,
        found_by=route.found_by,
    )


def _receipt(placed: Sequence[tuple[int, NewMessage]], taken: Sequence[Taken], rejected: Sequence[Rejected]) -> Receipt:
    queued = 0
    duplicates: list[str] = []
    replaced: list[str] = []
    refused = list(rejected)
    for (index, message), answer in zip(placed, taken, strict=True):
        match answer.verdict:
            case Verdict.QUEUED:
                queued += 1
            case Verdict.DUPLICATE:
                duplicates.append(message.id)
            case Verdict.REPLACED:
                replaced.append(message.id)
            case Verdict.REJECTED:
                reason, code = refusal(answer.code)
                refused.append(Rejected(index, message.id, "id", reason, code))
            case other:
                assert_never(other)
    refused.sort(key=lambda one: one.index)
    tenant_ids = frozenset(message.tenant_id for _, message in placed)
    return Receipt(queued, tuple(duplicates), tuple(replaced), tuple(refused), tenant_ids)
