"""One account's way out: what was claimed for it, who is sending, and whether its server is left alone for now."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mail_proxy.delivery.breaker import Breaker
from mail_proxy.delivery.files import Files
from mail_proxy.delivery.reach import Reach
from mail_proxy.domain.account import Account
from mail_proxy.domain.claim import Claimed


def set_anew(before: Account, now: Account) -> bool:
    """True when somebody has changed or freed the account, so that what it met before says nothing about it now."""
    freed = before.hold is not None and now.hold is None
    return freed or replace(before, hold=None) != replace(now, hold=None)


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A claimed message, and the term of the lease in which it was asked for: in a later one it must not be sent.

    The answer to a claim may come long after its commit, to an instance that was stopped meanwhile.
    """  # G5

    priority: int
    pk: int
    term: int
    claimed: Claimed = field(compare=False)
    files: Files | None = field(default=None, compare=False)
    """Its attachments, once they are fetched."""

    @classmethod
    def of(cls, claimed: Claimed, term: int) -> Job:
        """Return the job of sending a message that was asked for in that term."""
        return cls(claimed.priority, claimed.pk, term, claimed)

    @property
    def to_fetch(self) -> bool:
        """True where attachments have to be fetched before it can be sent."""
        return self.files is None and self.claimed.may_fetch

    def drop_files(self) -> Job:
        """Give up its attachments."""
        if self.files is None:
            return self
        self.files.close()
        return replace(self, files=None)


@dataclass(slots=True)
class Lane:
    """The state of one account's delivery in this instance."""

    account: Account
    breaker: Breaker = field(default_factory=Breaker)
    senders: int = 0
    fetching: int = 0
    """Messages whose attachments are being fetched, or wait for that."""
    claiming: bool = False
    """True while a claim for it is on its way."""
    probing: bool = False
    """True while a probe is under way, or a timer for it runs."""
    just_in_time: bool = False
    """True when a message is claimed only for a session that is free."""
    shut_until: float | None = None
    """Until when (monotonic) a rate limit lets nothing through; None: open."""  # G10
    reach: Reach = field(default_factory=Reach)
    _jobs: list[Job] = field(default_factory=list)

    def adopt(self, account: Account) -> None:
        """Go by the account as it is now; an outage that was met with other settings is over."""
        if set_anew(self.account, account):
            self.breaker = Breaker()
            self.shut_until = None
        self.account = account

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def in_hand(self) -> int:
        """How many messages were claimed for it that no sender has begun."""
        return len(self._jobs) + self.fetching

    def put(self, job: Job) -> None:
        """Queue a claimed message: an urgent one overtakes what was claimed before it."""
        heapq.heappush(self._jobs, job)

    def take(self) -> Job | None:
        """Return the next message to send, or None."""
        return heapq.heappop(self._jobs) if self._jobs else None

    def empty(self) -> Sequence[Claimed]:
        """Take everything that was not begun, to give it back."""
        jobs, self._jobs = self._jobs, []
        return [job.drop_files().claimed for job in jobs]

    @property
    def open_for_business(self) -> bool:
        """True when messages may be claimed for it."""
        return not self.breaker.open and self.account.hold is None

    @property
    def idle(self) -> bool:
        """True when nothing of it is in this instance's hands."""
        busy = (
            self._jobs or self.senders or self.fetching or self.claiming or self.probing or self.shut_until is not None
        )
        return not busy and not self.breaker.open

    def ahead(self, batch_size: int) -> int:
        """Return how many messages to take up at a time: so many at the most, unless the account has its own bound."""
        return self.reach.ahead(*self._bounds(batch_size))

    def half_gone(self, now: float, batch_size: int) -> None:
        """Take note that half of what was taken up has gone out, and that more is to be asked for."""
        self.reach.half_gone(now, *self._bounds(batch_size))

    def _bounds(self, batch_size: int) -> tuple[int, int]:
        return self.account.max_connections, self.account.batch_size or batch_size

    @property
    def wanted_senders(self) -> int:
        """How many more senders would have something to do."""
        return min(len(self._jobs), self.account.max_connections - self.senders)
