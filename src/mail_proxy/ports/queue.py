"""The queue of messages: taking in, claiming, settling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.backlog import Survey
from mail_proxy.domain.claim import Claimed, Demand, Taking
from mail_proxy.domain.message import NewMessage, Verdict
from mail_proxy.domain.settlement import Settlement


class Stale(Exception):
    """The directory changed since the caller looked; nothing was stored, look again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What the queue made of one submitted message; `code` says why it was refused."""

    verdict: Verdict
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """Scheduled messages whose time has come: for which accounts, and when the next one is due (Unix seconds)."""

    account_pks: frozenset[int]
    more: bool
    next_due: float | None


class Queue(Protocol):
    """The verbs of the queue. A call that returns has committed; one that raises has changed nothing.

    All raise `StoreUnavailable` when the database cannot be reached or cannot write, within 5 s (G12). Where a commit
    whose answer was lost goes through after all, repeating the call finds it done, and what was claimed is put back.
    """

    async def enqueue(self, messages: Sequence[NewMessage], directory_version: int) -> Sequence[Taken]:
        """Write messages down together and answer for each, in order. G1, G2, G3.

        Raises `Stale` when the directory is no longer at that version, and a message has no longer the tenant, active,
        and the account that it had then.
        """
        ...

    async def digests(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, str]:
        """The digests of those of a tenant's messages that there are, by id."""  # G3
        ...

    async def claim(self, demands: Sequence[Demand], token: str, now: float) -> Taking:
        """Take ready messages, by priority then age, and count an attempt for each. G5.

        Nothing is taken for suspended or inactive tenants, suspended batches (parked as held, so many at a time that
        the claim stays short), or accounts on hold.
        Rate limits are kept in the same transaction: what is taken counts for them at once. G10.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Record state, recipients and events together; False for each whose claim was lost meanwhile. G5, G9."""
        ...

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give claimed messages back untried, their attempts too. Those lost meanwhile are passed over."""
        ...

    async def promote(self, now: float, limit: int) -> Promotion:
        """Make up to `limit` scheduled messages ready whose time has come, urgent ones first."""
        ...

    async def claim_expired(self, now: float, limit: int, token: str) -> Sequence[Claimed]:
        """Take waiting messages whose `expires_ts` has passed, so that they can be settled as expired."""
        ...

    async def claim_waited_out(self, before: float, limit: int, token: str) -> Sequence[Claimed]:
        """Take messages that an account on hold has kept waiting since before that time, so that they can be expired.

        Time counts from the first attempt, else from when a message was due, and while the account has been on hold.
        Accounts that are not on hold cost nothing.
        """
        ...

    async def ready_accounts(self) -> Sequence[int]:
        """Accounts that have ready messages; costs the same for one or a million of them."""
        ...

    async def unhold(self, limit: int) -> Promotion:
        """Put back up to `limit` held messages: of batches no longer suspended, and what `free_poison` asked for."""
        ...

    async def divert(self, account_pk: int, fallback_pk: int, limit: int) -> int:
        """Move ready messages to another account of the tenant, by priority then age; return how many.

        Of each priority as many as leave that account with no more than `limit` ready ones. None while nothing may be
        claimed for it: on hold, suspended, or gone.
        """  # G8, G11
        ...

    async def instances(self) -> Mapping[str, int]:
        """The counter of every instance that has claims or is registered; one without a row counts as -1. G6."""
        ...

    async def beat(self, now: float) -> bool:
        """Raise this instance's counter, so that the others see that it lives.

        False if they had taken it for dead and off their list; it is on it again then.
        """
        ...

    async def rescue(self, dead: Sequence[str], limit: int) -> Sequence[Claimed]:
        """Take over up to `limit` messages that these instances had claimed, with the tokens that they have. G6."""
        ...

    async def prune(self, finished_before: float, limit: int, silent_tenants: Sequence[str]) -> int:
        """Remove up to `limit` finished and reported messages that ended before that time; return how many.

        So are events of that age that messages removed by hand have left. Tenants that have no endpoint are `silent`:
        there is nobody to report to, age alone counts. G9.
        """
        ...

    async def remove_bodies(self, finished_before: float, now: float, limit: int) -> int:
        """Remove what up to `limit` messages said that had ended by then, reported or not; return how many.

        Who they were from and to, their subjects and what the client keeps with them stay. They cannot be sent again.
        """
        ...

    async def count_pending(self) -> int:
        """Messages that are not finished."""
        ...

    async def survey(self, many: int) -> Survey:
        """Count what is not finished, in all and where it is `many`. Reads an index as long as the queue."""
        ...
