"""One attempt: compose, send, decide, hand the outcome to the recorder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import anyio
import structlog

from mail_proxy.delivery.files import Files, attachments_of, fetch_all, sources
from mail_proxy.delivery.journal import FlightJournal, JournalUnwritable
from mail_proxy.delivery.large_files import LargeFiles
from mail_proxy.delivery.lease import Lease, LeaseLost
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.domain.account import Account, OnUncertain
from mail_proxy.domain.attempt import AccountRefused, Attempt, Envelope, Failure, HostFailed, Interrupted, NotFetched
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.compose import compose
from mail_proxy.domain.download_link import with_links
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.json_text import from_text
from mail_proxy.domain.message import Message, Priority
from mail_proxy.domain.poison import error_words, undecided
from mail_proxy.domain.settlement import Policy, Settlement, expire, expired, settle
from mail_proxy.domain.submission import build_message
from mail_proxy.domain.value import value
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.secrets import SealBroken

log = structlog.get_logger(__name__)

HEAVY = 200_000
"""Characters from which a submission is read on a thread: below, the thread costs more than it spares."""


@dataclass(slots=True)
class Flight:
    """One message on its way: what has to be so before its final dot may go out."""

    claimed: Claimed
    recorder: Recorder
    journal: FlightJournal
    lease: Lease
    term: int
    dot_sent: bool = False

    async def before_dot(self) -> None:
        """Wait until outcomes can be recorded, then note the dot.

        Raises `LeaseLost` and `JournalUnwritable`.
        """  # G4, G5, G12
        await self.recorder.room()
        if self.journal.full:
            self.journal.begin()
        await self.lease.look(self.term)
        self.journal.dot(self.claimed.pk, self.claimed.token)
        self.dot_sent = True


@value
class Sent:
    """How an attempt ended for the account; `untouched`: the message was not tried and is still the caller's."""

    failure: Failure | None = None
    untouched: bool = False


async def on_uncertain(directory: Directory, account: Account) -> OnUncertain:
    """Return what the account, else its tenant, wants done with an attempt whose end is not known."""  # G4
    if account.on_uncertain is not None:
        return account.on_uncertain
    tenant = await directory.tenant(account.tenant_id)
    return OnUncertain.RESEND if tenant is None else tenant.on_uncertain


async def limited(directory: Directory, account: Account) -> bool:
    """Say whether a rate limit holds for an account, its own or its tenant's."""  # G10
    if account.limits.any:
        return True
    tenant = await directory.tenant(account.tenant_id)
    return tenant is not None and tenant.limits.any


def _read(claimed: Claimed) -> Message:
    return build_message(from_text(claimed.fields))


def _not_its_own(failure: Failure | None) -> bool:
    """Say whether what ended an attempt was no fault of its message, or met by another one."""
    return isinstance(failure, AccountRefused) or (isinstance(failure, HostFailed) and failure.shared)


class Sender:
    """Carries claimed messages to their server."""

    def __init__(
        self,
        needs: Needs,
        recorder: Recorder,
        journal: FlightJournal,
        lease: Lease,
        settings: DeliverySettings,
        rng: Random,
        large_files: LargeFiles,
    ) -> None:
        self._needs = needs
        self._large_files = large_files
        self._recorder = recorder
        self._journal = journal
        self._lease = lease
        self._settings = settings
        self._rng = rng

    async def prepare(self, account: Account, claimed: Claimed, grown: Callable[[int], None]) -> Files | None:
        """Fetch a message's attachments; None where it was settled: it has expired, or they cannot be had.

        Raises `StoreUnavailable` and `JournalUnwritable`; then the message is still the caller's, as when cancelled.
        """
        policy = Policy(self._settings.schedule)
        now = self._needs.clock.now()
        if expired(claimed, self._settings.schedule, now):
            self._recorder.submit(claimed, expire(claimed, now))
            return None
        policy = Policy(self._settings.schedule, await on_uncertain(self._needs.directory, account))
        self._journal.took_up(claimed.pk, claimed.token)  # G13
        failure: Failure
        try:
            heavy = len(claimed.fields) > HEAVY
            found = (
                await asyncio.to_thread(attachments_of, self._needs, claimed)
                if heavy
                else attachments_of(self._needs, claimed)
            )
            fetched = await fetch_all(self._needs, claimed, found, grown)
            if isinstance(fetched, Files):
                fetched = await self._large_files.treat(claimed, found, fetched)
            if isinstance(fetched, Files):
                self._journal.put_back(claimed.pk, claimed.token)
                return fetched
            failure = fetched
        except (asyncio.CancelledError, StoreUnavailable):
            self._journal.put_back(claimed.pk, claimed.token)
            raise
        except SealBroken:
            failure = NotFetched("the credentials of its attachments cannot be opened with any key", permanent=False)
        except Exception as error:
            log.exception("attachments cannot be fetched", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)
            failure = Interrupted(error_words(error))
        attempt = Attempt(failure=failure)
        self._recorder.submit(claimed, self._decide(claimed, attempt, policy))
        return None

    async def send(self, account: Account, claimed: Claimed, term: int, files: Files | None = None) -> Sent:
        """Make one attempt at a message that was asked for in that term of the lease, and hand over its outcome.

        Raises `StoreUnavailable`, `JournalUnwritable` and `LeaseLost` before anything has gone out.
        """
        flight = Flight(claimed, self._recorder, self._journal, self._lease, term)
        started, now = self._needs.clock.monotonic(), self._needs.clock.now()
        policy = Policy(self._settings.schedule)
        try:
            if expired(claimed, self._settings.schedule, now):
                self._recorder.submit(claimed, expire(claimed, now))
                return Sent()
            policy = Policy(self._settings.schedule, await on_uncertain(self._needs.directory, account))
            self._journal.took_up(claimed.pk, claimed.token)  # G13
            attempt = await self._attempt(account, claimed, flight, files)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._interrupted(claimed, flight, policy)
            raise
        except (JournalUnwritable, LeaseLost, StoreUnavailable) as error:
            if not flight.dot_sent:
                self._journal.put_back(claimed.pk, claimed.token)
                raise
            attempt = self._broken(claimed, flight, error)  # between two transactions of one message
        except Exception as error:
            log.exception("attempt failed", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)
            attempt = self._broken(claimed, flight, error)
        if not attempt.answers and not attempt.uncertain and _not_its_own(attempt.failure):
            self._journal.put_back(claimed.pk, claimed.token)
            return Sent(attempt.failure, untouched=True)  # G8: the account or host is at fault, not the message
        settlement = self._decide(claimed, attempt, policy)
        if flight.dot_sent:
            self._note_reply(claimed, attempt)
        self._recorder.submit(claimed, settlement)
        self._measure(claimed, attempt, now)
        self._needs.tracer.attempt(account, claimed, settlement, attempt.trace, now)
        if self._settings.log_each_attempt:
            self._tell(account, claimed, settlement, attempt, self._needs.clock.monotonic() - started)
        return Sent(attempt.failure)

    async def _attempt(self, account: Account, claimed: Claimed, flight: Flight, files: Files | None) -> Attempt:
        heavy = len(claimed.fields) > HEAVY
        message = await asyncio.to_thread(_read, claimed) if heavy else _read(claimed)  # G11
        contents = await sources(self._needs, claimed, message.attachments, files)
        if isinstance(contents, NotFetched):
            return Attempt(failure=contents)
        links = {} if files is None else files.links
        written = partial(compose, with_links(message, links), claimed.identity, contents)
        wire = await asyncio.to_thread(written) if heavy else written()
        # those that were not tried yet go first, then those that have waited longest, where not all can go at once
        waiting = sorted(claimed.waiting, key=lambda recipient: recipient.ts or 0.0)
        envelope = Envelope(
            message.envelope_sender,
            tuple((r.n, r.address) for r in waiting),
            1 if await limited(self._needs.directory, account) else None,  # G10: each takes a place of its own
        )
        return await self._needs.transport.send(account, envelope, wire, flight.before_dot)

    def _decide(self, claimed: Claimed, attempt: Attempt, policy: Policy) -> Settlement:
        """Decide on an attempt; one that fails costs the message its attempt, and others nothing."""  # G13
        now = self._needs.clock.now()
        try:
            return settle(claimed, attempt, policy, now, self._rng)
        except Exception as error:
            log.exception("decision failed", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)
            return undecided(claimed, attempt, error, policy, now)

    def _measure(self, claimed: Claimed, attempt: Attempt, began: float) -> None:
        """Tell how long the message had waited, and what the attempt spent its time on."""
        meter = self._needs.meter
        if claimed.attempts == 1 and not claimed.scheduled:
            meter.waited(Priority(claimed.priority), max(0.0, began - claimed.created_ts))
        meter.phases(attempt.trace.seconds)

    def _note_reply(self, claimed: Claimed, attempt: Attempt) -> None:
        try:
            self._journal.reply(claimed.pk, claimed.token, attempt)
        except JournalUnwritable as error:  # the outcome is on its way to the database all the same
            log.warning("the flight journal cannot be written", reason=str(error))
        except Exception:
            log.exception("a reply cannot be noted", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)

    def _broken(self, claimed: Claimed, flight: Flight, error: Exception) -> Attempt:
        failure = Interrupted(error_words(error))
        waiting = frozenset(r.n for r in claimed.waiting)
        return Attempt(uncertain=waiting if flight.dot_sent else frozenset(), failure=failure)

    async def _interrupted(self, claimed: Claimed, flight: Flight, policy: Policy) -> None:
        """Finish what was begun when this instance stops: unanswered dots are uncertain, the rest goes back."""  # G6
        if flight.dot_sent:
            attempt = Attempt(uncertain=frozenset(r.n for r in claimed.waiting))
            self._recorder.submit(claimed, self._decide(claimed, attempt, policy))
            return
        self._journal.put_back(claimed.pk, claimed.token)
        try:
            await self._needs.queue.release([claimed])
        except StoreUnavailable as error:  # another instance, or the next start, finds it
            log.warning("a message could not be given back", id=claimed.identity.mail_id, reason=error.sentence)

    def _tell(
        self, account: Account, claimed: Claimed, settlement: Settlement, attempt: Attempt, seconds: float
    ) -> None:
        """Write all about an attempt into one line."""
        failure, trace = attempt.failure, attempt.trace
        log.info(
            "attempt",
            tenant_id=claimed.tenant_id,
            account_id=claimed.account_id,
            id=claimed.identity.mail_id,
            priority=claimed.priority,
            attempt=claimed.attempts,
            outcome=settlement.state.value,
            reply=settlement.reply,
            failure=None if failure is None else failure.text,
            host=account.host,
            port=account.port,
            tls=trace.tls,
            sessions_opened=trace.sessions,
            transactions=attempt.transactions,
            recipients=len(claimed.waiting),
            codes=dict(Counter(str(answer.reply.code) for answer in attempt.answers.values())),
            uncertain=len(attempt.uncertain),
            bytes=len(claimed.fields),
            age=round(max(0.0, self._needs.clock.now() - claimed.created_ts), 3),
            ms=round(seconds * 1000, 1),
            **{f"{phase.value}_ms": round(took * 1000, 1) for phase, took in trace.seconds.items()},
        )
