"""A queue and a directory in memory, with as much behind them as the intake flow can see."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

from mail_proxy.domain.account import Account
from mail_proxy.domain.message import Existing, FoundBy, MessageState, NewMessage, Priority, Verdict, resubmission
from mail_proxy.domain.tenant import Tenant
from mail_proxy.intake.intake import Intake, IntakeSettings
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.queue import Queue, Stale, Taken
from tests.support.fake_clock import FakeClock


class MemoryDirectory:
    """What is stored, and beside it what this instance has seen of it: the two differ until `refresh`."""

    def __init__(self) -> None:
        self.stored_version = self.version = 1
        self.refreshed = 0
        self._stored: dict[str, tuple[Tenant, tuple[Account, ...]]] = {}
        self._seen: dict[str, tuple[Tenant, tuple[Account, ...]]] = {}
        self._pks = itertools.count(1)

    def put(self, tenant_id: str, accounts: Iterable[str], *, default: str | None = None, active: bool = True) -> None:
        """Store a tenant with accounts, as another instance does."""
        self._stored[tenant_id] = (
            Tenant(tenant_id, active=active),
            tuple(
                Account(next(self._pks), tenant_id, account, "smtp.example.com", 25, is_default=account == default)
                for account in accounts
            ),
        )
        self.stored_version += 1

    def remove(self, tenant_id: str) -> None:
        del self._stored[tenant_id]
        self.stored_version += 1

    def stands(self, message: NewMessage) -> bool:
        """True while a message goes where it went when it was checked."""
        if message.tenant_id not in self._stored or message.found_by is FoundBy.ELIMINATION:
            return False
        tenant, accounts = self._stored[message.tenant_id]
        mine = [each for each in accounts if each.pk == message.account_pk and each.id == message.account_id]
        by_name = message.found_by is FoundBy.NAME
        return tenant.active and any(by_name or each.is_default or len(accounts) == 1 for each in mine)

    async def refresh(self) -> int:
        self.refreshed += 1
        self._seen = dict(self._stored)
        self.version = self.stored_version
        return self.version

    async def tenant(self, tenant_id: str) -> Tenant | None:
        return self._seen[tenant_id][0] if tenant_id in self._seen else None

    async def account(self, account_pk: int) -> Account | None:
        return next((each for _, accounts in self._seen.values() for each in accounts if each.pk == account_pk), None)

    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        return self._seen[tenant_id][1] if tenant_id in self._seen else ()

    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        return next((each for each in await self.accounts_of(tenant_id) if each.id == account_id), None)

    async def account_owners(self, account_id: str) -> Sequence[str]:
        return [id_ for id_, (_, accounts) in self._seen.items() if account_id in {each.id for each in accounts}]

    async def only_tenant(self) -> str | None:
        return next(iter(self._seen)) if len(self._seen) == 1 else None


class MemoryQueue:
    """Holds messages by tenant and id. `before` runs ahead of each commit; `state` and `attempts` stand for all."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory
        self.messages: dict[tuple[str, str], NewMessage] = {}
        self.calls: list[Sequence[NewMessage]] = []
        self.state = MessageState.READY
        self.attempts = 0
        self.before: Callable[[], Awaitable[None]] | None = None

    async def digests(self, tenant_id: str, ids: Sequence[str]) -> dict[str, str]:
        return {id_: self.messages[tenant_id, id_].digest for id_ in ids if (tenant_id, id_) in self.messages}

    async def enqueue(self, messages: Sequence[NewMessage], directory_version: int) -> Sequence[Taken]:
        self.calls.append(messages)
        if self.before is not None:
            await self.before()
        stale = directory_version != self._directory.stored_version
        if stale and not all(self._directory.stands(message) for message in messages):
            raise Stale
        return [self._take(message) for message in messages]

    def _take(self, message: NewMessage) -> Taken:
        held = self.messages.get((message.tenant_id, message.id))
        verdict, code = Verdict.QUEUED, None
        if held is not None:
            verdict, code = resubmission(Existing(held.digest, self.state, self.attempts), message.digest)
        if verdict in {Verdict.QUEUED, Verdict.REPLACED}:
            self.messages[message.tenant_id, message.id] = message
        return Taken(verdict, code)


class Desk:
    """An intake with all that it stands on. Tenants `acme` (accounts `main`, the default, and `bulk`) and `globex`."""

    def __init__(
        self,
        *,
        max_batch: int = 1000,
        default_priority: Priority = Priority.MEDIUM,
        random_hex: Callable[[], str] | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.directory = MemoryDirectory()
        self.directory.put("acme", ["bulk", "main"], default="main")
        self.directory.put("globex", ["only", "bulk"])
        self.queue = MemoryQueue(self.directory)
        self.woken: list[tuple[frozenset[int], bool]] = []
        counting = itertools.count(1)
        self.intake = Intake(
            cast("Queue", self.queue),
            cast("Directory", self.directory),
            self.clock,
            IntakeSettings("relay.example", default_priority=default_priority, max_batch=max_batch),
            notify=lambda account_pks, urgent: self.woken.append((account_pks, urgent)),
            random_hex=random_hex or (lambda: f"{next(counting):032x}"),
        )

    async def opened(self) -> Desk:
        """Let the instance see its directory once."""
        await self.directory.refresh()
        return self

    def queued(self, id_: str = "M1", tenant_id: str = "acme") -> NewMessage:
        return self.queue.messages[tenant_id, id_]

    async def account_id(self, message: NewMessage) -> str:
        account = await self.directory.account(message.account_pk)
        assert account is not None
        assert (account.tenant_id, account.id) == (message.tenant_id, message.account_id)
        return account.id


def item(**changes: object) -> dict[str, object]:
    """A submitted message that is fine, with some fields changed; `from_` stands for `from`, `...` takes one out."""
    submission: dict[str, object] = {
        "id": "M1",
        "from": "shop@example.com",
        "to": ["anna@example.org"],
        "subject": "Your order",
        "body": "Thank you.",
    }
    submission.update({name.rstrip("_"): value for name, value in changes.items()})
    return {name: value for name, value in submission.items() if value is not ...}
