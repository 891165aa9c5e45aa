"""What the flows need from the world, as promises. Each Protocol is kept by one package below the flows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.attachment import Attachment
from mail_proxy.domain.attempt import AccountRefused, Attempt, Envelope, HostFailed, Phase, ProbeResult, Trace
from mail_proxy.domain.backlog import Survey
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.claim import Claimed, Demand, Taking
from mail_proxy.domain.command_log import Entry, EntryFilter, LogPage, Position
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.errors import Problem
from mail_proxy.domain.explanation import Standing
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.large_file import (
    DoomedFile,
    FileLink,
    KeptFile,
    LargeFileAction,
    LinkedFile,
    LinkWanted,
    StoragePlace,
)
from mail_proxy.domain.message import Details, NewMessage, Priority, Verdict
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.report import EventType, StoredEvent
from mail_proxy.domain.requeue import Skipped
from mail_proxy.domain.sealing import Resealed, SealCursor, SealStanding
from mail_proxy.domain.search import TextFilter
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.settlement import Settlement
from mail_proxy.domain.signing import Signing
from mail_proxy.domain.sync_lease import Behind, SyncLease, SyncMemory, SyncRecord, SyncStanding, Waiting
from mail_proxy.domain.tenant import ClientAuth, Suspension, Tenant


class Clock(Protocol):
    """Time and randomness, so that no test waits for time to pass."""

    def now(self) -> float:
        """Unix seconds by the wall clock: for what is written down and shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow: for durations."""  # G14
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


class Meter(Protocol):
    """Counts what happened, for operators. Never raises."""

    def sent(self, tenant_id: str, account_id: str) -> None:
        """A message was sent."""
        ...

    def failed(self, tenant_id: str, account_id: str) -> None:
        """A message ended as failed or expired."""
        ...

    def deferred(self, tenant_id: str, account_id: str) -> None:
        """A message was put off to a later time."""
        ...

    def rate_limited(self, tenant_id: str, account_id: str) -> None:
        """A rate limit was met."""
        ...

    def uncertain(self, tenant_id: str, account_id: str) -> None:
        """A final dot got no answer."""  # G4
        ...

    def poison(self, tenant_id: str, account_id: str) -> None:
        """A message was held because instances kept ending while they sent it."""  # G13
        ...

    def reported(self, events: int, *, ok: bool) -> None:
        """A report with that many events was acknowledged, or was not."""
        ...

    def behind(self, tenants: Mapping[SyncStanding, Behind]) -> None:
        """How many tenants have events to be told of, and since when, by how reporting goes to them."""  # G9
        ...

    def reports_took(self, seconds: float, *, answered: bool) -> None:
        """A report was on its way for so long, until it was answered or given up."""
        ...

    def waited(self, priority: Priority, seconds: float) -> None:
        """A message was first attempted so long after it could have been."""
        ...

    def phase(self, phase: Phase, seconds: float) -> None:
        """An attempt spent so long on a phase."""
        ...

    def pending(self, messages: int, oldest: float | None) -> None:
        """So many messages are not finished; the oldest that could go at once was taken in so many seconds ago."""
        ...

    def in_hand(self, messages: int, sessions: int, journal: int) -> None:
        """This instance has taken up so many messages, holds so many sessions, and its journal has so many bytes."""
        ...

    def large_file(self, action: LargeFileAction) -> None:
        """An attachment was larger than its tenant wants to send, and this was done."""
        ...

    def outages(self, on_hold: int, left_alone: int) -> None:
        """So many accounts are on hold, and so many servers left alone by this instance."""  # G8
        ...


class CommitMeter(Protocol):
    """Counts what the store's writers do. Never raises; may be called from any thread."""

    def committed(self, writes: int, seconds: float) -> None:
        """So many writes were committed together, and that took so long."""
        ...


class Submitted(Protocol):
    """A submission that is being followed."""

    traceparent: str | None
    """What its messages are to be followed by."""

    def done(self, tenant_id: str | None, queued: int, rejected: int) -> None:
        """Take note of what came of it."""
        ...


class Tracer(Protocol):
    """Follows messages from their request to their report. Never raises. Times are Unix seconds."""

    def submission(self, traceparent: str | None) -> AbstractContextManager[Submitted]:
        """Follow one submission, below what its caller has sent, if that is a `traceparent`."""
        ...

    def attempt(self, account: Account, claimed: Claimed, outcome: Settlement, trace: Trace, began: float) -> None:
        """Take note of an attempt that ends now."""
        ...

    def report(self, tenant_id: str, payload: bytes, status: int | None, began: float) -> None:
        """Take note of a report that ends now; `status` None: there was no answer."""
        ...


@dataclass(frozen=True, slots=True)
class Observers:
    """Who looks on, for operators; nothing depends on them."""

    meter: Meter
    tracer: Tracer


class CacheTier(str, Enum):
    """Where a cached content came from."""

    MEMORY = "memory"
    DISK = "disk"
    SHARED = "shared"
    """Somebody else was fetching the same."""


class CacheMeter(Protocol):
    """Counts what the cache of attachments does. Never raises; may be called from any thread."""

    def cache_hit(self, tier: CacheTier, size: int) -> None:
        """A content of so many bytes did not have to be fetched."""
        ...

    def cache_missed(self) -> None:
        """A content that was named had to be fetched."""
        ...

    def cache_evicted(self, tier: CacheTier) -> None:
        """A content had to make room for another one."""
        ...

    def cache_holds(self, tier: CacheTier, size: int) -> None:
        """So many bytes are kept."""
        ...


CHECK_PLACE = "settings.encryption_check"
"""Where the value stands that shows which key the database is sealed with."""


class SealBroken(Exception):
    """A sealed text cannot be opened: it was sealed with another key or for another place, or it was changed."""


class WrongKey(Exception):
    """The database is sealed with an encryption key that this instance does not have."""


class Cipher(Protocol):
    """Seals secrets for the database, bound to the place where they stand."""  # G16

    @property
    def key_id(self) -> str:
        """Which key is this instance's own; tells nothing about the key."""
        ...

    @property
    def key_ids(self) -> frozenset[str]:
        """The keys that it can open with: its own and old ones."""
        ...

    def head(self, key_id: str) -> str:
        """How every text begins that is sealed with that key, and no other."""
        ...

    def key_of(self, sealed: str) -> str:
        """The key that a text was sealed with; raises `SealBroken` for what is not sealed."""
        ...

    def mark(self, text: str) -> str:
        """Return what stands for a text and shows nothing of it: the same for the same text, with the same own key."""
        ...

    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        """Encrypt a text with this instance's own key, or one of its others.

        `place` (table, column, tenant, id) must be given again to open it. Raises `SealBroken` for a key that it does
        not have.
        """
        ...

    def open(self, sealed: str, place: str) -> str:
        """Decrypt; raises `SealBroken` for an unknown key, a changed text or another place; never answers garbage."""
        ...


class Seals(Protocol):
    """Which keys the secrets in the database are sealed with, and the way to another key.

    The database goes by one key at a time, also when several instances have others as their own meanwhile: whoever
    writes a secret seals it with that one. All raise `StoreUnavailable`.
    """  # G16

    def mark(self, text: str) -> str:
        """See `Cipher.mark`."""
        ...

    async def may_go_on(self) -> bool:
        """True when the database goes by this instance's own key.

        Raises `WrongKey` when it goes by a key that this instance does not have at all.
        """
        ...

    async def adopt(self) -> bool:
        """Make this instance's own key the database's, if every instance that is there has it as its own."""
        ...

    async def reseal(self, after: SealCursor | None, limit: int) -> Resealed:
        """Seal up to `limit` secrets anew that are sealed with other keys than the database's.

        `after` is where the last call ended. A secret that somebody changes meanwhile keeps its newer value.
        """
        ...

    async def standing(self) -> SealStanding:
        """Say how far the secrets have come. Reads all of them."""
        ...


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

        Raises `Stale` when the directory is no longer at that version.
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


class Outbox(Protocol):
    """Events that tenants have not acknowledged yet."""  # G9

    async def tenants_with_events(self) -> Sequence[Waiting]:
        """Tenants that have unreported events, and what was handed on with the last turn of each."""
        ...

    async def pending(self, tenant_id: str, limit: int, after: int = 0) -> Sequence[StoredEvent]:
        """The tenant's oldest unreported events whose id is above `after`, in order."""
        ...

    async def acknowledge(self, event_ids: Sequence[int], now: float, lease: SyncLease | None = None) -> bool:
        """Mark events as reported, and their messages where nothing is left to report.

        False, and nothing is marked, where that lease is another instance's by now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a tenant's feed, and how far the feed goes, as they were at one moment."""

    events: Sequence[StoredEvent]
    horizon: int
    """The highest event that was removed, or 0. What is at or below it is not told; nothing above it was removed."""
    end: int
    """The highest event that the tenant has ever had, or 0."""


class Feed(Protocol):
    """All events of a tenant in their order, whether they were reported or not."""

    async def stretch(self, tenant_id: str, after: int | None, limit: int, max_chars: int) -> Stretch:
        """Return up to `limit` events that follow on `after`; None: on the horizon.

        It ends early where their entries have more characters than `max_chars`. Nothing follows on what is below the
        horizon or beyond the end. Whoever goes on from the last event, and is above the horizon then, misses none.
        """
        ...

    async def ends(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the highest event that each of these tenants has ever had, or 0, at the cost of a step for each."""
        ...


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which failed or expired messages of a tenant are meant; None means any."""

    state: str | None = None
    """`failed` or `expired`."""
    account_id: str | None = None
    batch_code: str | None = None
    created_from: float | None = None
    """Unix seconds."""
    created_to: float | None = None
    """Unix seconds, not included."""


@dataclass(frozen=True, slots=True)
class Found:
    """Messages by number, oldest first, and the number to go on after; None at the end."""

    pks: Sequence[int]
    next_after: int | None


class Deletion(str, Enum):
    """What became of a message that was to be deleted. One that was gone already has none of these."""

    REMOVED = "removed"
    """It was finished, and is gone."""
    CANCELLED = "cancelled"
    """It was waiting; its end is reported."""
    IN_PROGRESS = "in_progress"
    """It is being sent, and was not touched."""


@dataclass(frozen=True, slots=True)
class Requeueing:
    """What became of messages that were to be sent again."""

    queued: int
    skipped: Mapping[Skipped, int]
    account_pks: frozenset[int]
    """Those that have messages to send now."""


class MessageChanges(Protocol):
    """What is done with messages because somebody says so. A tenant is `silent` that has no endpoint to report to.

    What writes does so in one transaction, and is meant for some hundreds of messages at a time (G11).
    """

    async def find(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, int]:
        """Return the numbers of a tenant's messages by id; those that are not there are left out."""
        ...

    async def failed(self, tenant_id: str, wanted: RetryFilter, after: int) -> Found:
        """Look for failed and expired messages among the next ones of a tenant; reads a bounded number."""
        ...

    async def told(self, tenant_id: str, finished_before: float, after: int, *, silent: bool) -> Found:
        """Look for messages that ended before that time and have nothing left to report, as `failed` does."""
        ...

    async def delete(self, pks: Sequence[int], now: float, *, silent: bool) -> Mapping[int, Deletion]:
        """Cancel what waits, and report that; remove what is finished, and go on reporting what is not yet. G9.

        The id of what is removed is free again at once; its events stay in the feed until retention takes them.
        """
        ...

    async def requeue(self, pks: Sequence[int], now: float) -> Requeueing:
        """Put finished messages back into the queue, for those recipients whom they failed to reach. G7."""
        ...

    async def clean(self, pks: Sequence[int], finished_before: float, *, silent: bool) -> int:
        """Remove those of these that `told` would find, as `delete` does; return how many."""
        ...


class SyncLeases(Protocol):
    """Turns to report to a tenant: one instance at a time has it."""  # G9

    async def take(self, tenant_id: str) -> SyncLease | None:
        """Take the turn; None while an instance has it that is not known to be dead."""
        ...

    async def release(self, lease: SyncLease, memory: SyncMemory) -> None:
        """Give the turn back, and hand on what the next one should know, also one after a restart.

        Where there is nobody else, no write is made for what means nothing to a next one; `close` makes it.
        """
        ...


class SyncRecords(Protocol):
    """How reporting goes, tenant by tenant. Reads only."""

    async def records(self, after: str | None, limit: int) -> Sequence[SyncRecord]:
        """Up to `limit` tenants whose id is above `after`, by id. Costs no more where a million events are pending."""
        ...


class Directory(Protocol):
    """Tenants and accounts as the flows read them. Values are snapshots; `version` grows with every change."""

    @property
    def version(self) -> int:
        """The version that the last answers came from."""
        ...

    async def refresh(self) -> int:
        """Look whether another instance changed something; return the version that holds now."""
        ...

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """One tenant, or None."""
        ...

    async def account(self, account_pk: int) -> Account | None:
        """One account by the store's number, its password opened, or None."""
        ...

    async def owners_of(self, account_pks: Sequence[int]) -> Mapping[int, str]:
        """The tenants of accounts, by the store's numbers; those that are gone are left out. Reads many at a time."""
        ...

    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        """A tenant's accounts, oldest first."""
        ...

    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        """A tenant's account of this id (any text), or None. The cost does not grow with the number of accounts."""
        ...

    async def account_owners(self, account_id: str) -> Sequence[str]:
        """The tenants that have an account of this id."""
        ...

    async def only_tenant(self) -> str | None:
        """The id of the tenant, where there is exactly one."""
        ...


BeforeDot = Callable[[], Awaitable[None]]
"""Awaited just before a final dot goes out; if it raises, the dot does not go out and the error passes through."""


class AccessTokens(Protocol):
    """Access tokens for accounts that log in with XOAUTH2."""

    async def token(self, account: Account, refused: Secret | None = None) -> Secret | HostFailed | AccountRefused:
        """Return a token that is good for a while, or say why there is none. `refused`: one that was not taken.

        However many ask, the token server is asked once at a time for each account. Raises `StoreUnavailable`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attachment to fetch, and for whom. `by_tenant`: its message came with the tenant's token."""

    attachment: Attachment
    tenant: Tenant
    by_tenant: bool


class FetchFailed(Exception):
    """An attachment cannot be had. `permanent`: nor will it be had by asking again."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent


class Fetched(ByteSource, Protocol):
    """The whole of an attachment, in memory or in a file that nobody else has, verified by its digests."""

    def close(self) -> None:
        """Give up what holds the bytes; may be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Download:
    """Something to fetch by HTTP. `timeout` covers all of it, redirects too; `max_bytes` counts decoded bytes.

    `auth` is sent to the URL's own origin and no other. `trusted`: the operator has set the URL, so that private
    networks may be reached; else public ones alone. With a body it is a POST, and no redirect is followed.
    """

    url: str
    timeout: float
    max_bytes: int
    auth: ClientAuth
    trusted: bool
    json_body: bytes | None = None


class Downloader(Protocol):
    """Fetches by HTTP, piece by piece."""

    async def download(self, wanted: Download, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand the answer's bytes to `write` as they come; raises `FetchFailed` for all that can go wrong outside.

        What `write` raises passes through.
        """
        ...


class AttachmentSource(Protocol):
    """Where the bytes of attachments come from."""

    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        """Fetch one, bounded in time, size and memory. Raises `FetchFailed` for everything that can go wrong outside.

        `grown` is told of bytes as they come in. Cancelled or failed, it leaves nothing behind.
        """  # G11
        ...


@dataclass(frozen=True, slots=True)
class Transfer:
    """A request to a storage in a cloud, by a URL that carries its own authorisation; it is never shown."""

    method: str
    url: str
    headers: Mapping[str, str]
    timeout: float
    """Seconds for all of it."""
    patience: float
    """Seconds in which something has to go on: a piece taken, or the answer given."""
    content: ByteSource | None = None
    """What is sent, piece by piece."""


class Transfers(Protocol):
    """Speaks HTTP with storages that the operator has set."""

    async def send(self, transfer: Transfer) -> int:
        """Return the status of the answer. Raises `StorageFailed` where there is none; what `content` raises passes."""
        ...


class StorageFailed(Exception):
    """A storage did not do what it was asked. `permanent`: nor will it when it is asked again; told to the tenant."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent


@dataclass(frozen=True, slots=True)
class StoredRange:
    """A stored file that is being read: `size` of the whole, and the chunks of what was asked for."""

    size: int
    chunks: AsyncGenerator[bytes, None]
    """Has to be read to its end or closed with `aclose`."""


class FileStorage(Protocol):
    """One place that takes files. Keys are of letters, digits, `-` and `/`, made by the service.

    Every method is bounded in time and raises `StorageFailed` for everything that can go wrong outside; its reason has
    no secret in it.
    """

    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        """Store a file by streaming. Nobody finds half of one under the key, whatever happens meanwhile."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a file, and what a broken `put` has left of it; one that is not there is removed as well."""
        ...

    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        """Return a URL that gives the file to anybody for so many seconds, under this name, as a download.

        None where the storage has no URLs: then it is read with `read`. It does not say whether the file is there.
        """
        ...

    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        """Open a file at a position, by default the whole; None where it is not there.

        Raises `ValueError` where `location` is what gives it.
        """
        ...


class Storages(Protocol):
    """The places where tenants' large files may be kept."""

    def problem(self, place: StoragePlace) -> Problem | None:
        """Say why a place cannot be used here (no such extra, outside of the roots), naming the field; or None."""
        ...

    async def at(self, place: StoragePlace) -> FileStorage:
        """Return the storage at a place; connections are kept and shared. Raises `StorageFailed` like `problem`."""
        ...


class FileLedger(Protocol):
    """What is kept in storages, and which links lead there. Every file has an entry before its first byte is stored.

    A file without an entry is nowhere; one whose entry is in the way of nothing any more is found by `doomed`.
    """

    async def reserve(self, tenant_id: str, place: StoragePlace, sha256: str, size: int, now: float) -> KeptFile:
        """Return the file of this content that the tenant has there, or the entry of one that is to be stored.

        The entry holds for an hour, in which the file has to be stored and linked.
        """
        ...

    async def link(self, wanted: LinkWanted) -> FileLink | None:
        """Write down that a file is there and that a link leads to it; return the link of an earlier attempt instead.

        None where the entry is gone: it took too long.
        """
        ...

    async def linked(self, link: int) -> LinkedFile | None:
        """Return what a link leads to, also after its end, until it is cleared away."""
        ...

    async def downloaded(self, link: int, now: float) -> None:
        """Write down that a link was used for the first time, which may bring its end nearer."""
        ...

    async def doomed(self, now: float, limit: int) -> Sequence[DoomedFile]:
        """Take files that no link leads to any more, with their links; they are others' again after an hour."""
        ...

    async def removed(self, file_pks: Sequence[int]) -> None:
        """Forget files that are gone from their storage."""
        ...


class Transport(Protocol):
    """Delivers messages to one account's server. Never raises for what a server or the network does wrong."""

    def session_count(self) -> int:
        """How many sessions are open."""
        ...

    async def send(self, account: Account, envelope: Envelope, wire: Wire, before_dot: BeforeDot) -> Attempt:
        """Send one message to all recipients of the envelope and tell what was said about each."""
        ...

    async def probe(self, account: Account) -> ProbeResult:
        """Connect, TLS, EHLO, AUTH, QUIT: no message at stake."""
        ...

    async def close(self) -> None:
        """End idle sessions politely and the others at once."""
        ...


@dataclass(frozen=True, slots=True)
class SinkAnswer:
    """What came back for a report. `status` None: no answer at all, and `error` says why."""

    status: int | None
    body: bytes
    retry_after: float | None = None
    error: str | None = None


class ReportSink(Protocol):
    """Carries a report to a tenant's endpoint. Never raises for what the endpoint does wrong."""

    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        """POST the payload and return what came back, bounded in time and size.

        The same report has the same id each time that it is sent.
        """
        ...

    def has_endpoint(self, tenant: Tenant) -> bool:
        """True when there is somewhere to report to."""
        ...

    def place(self, tenant: Tenant) -> str:  # noqa: ARG002 - for those who have more than one
        """A text that is another one when the tenant's reports go elsewhere; may hold secrets, and is never kept."""
        return ""


@dataclass(frozen=True, slots=True)
class KeyedTenant:
    """A tenant found by the SHA-256 of its token."""

    tenant: Tenant
    expires_at: float | None


class Registry(Protocol):
    """Changes to tenants, accounts and suspensions. Each call is one transaction and raises `version`."""

    async def put_tenant(self, tenant: Tenant, api_key_hash: str | None) -> bool:
        """Create (True) or update (False) a tenant; `api_key_hash` is stored only on creation."""
        ...

    async def tenants(self) -> Sequence[Tenant]:
        """All tenants, by id."""
        ...

    async def delete_tenant(self, tenant_id: str, *, force: bool) -> bool:
        """Remove a tenant and all its data; False if unknown.

        Raises `Conflict` while it has unfinished or unreported messages, unless `force`. G9.
        """
        ...

    async def set_api_key(self, tenant_id: str, api_key_hash: str | None, expires_at: float | None) -> bool:
        """Replace the tenant's key, or revoke it with None; the old one ends at once. False if unknown."""
        ...

    async def change_signing(self, tenant_id: str, decide: Callable[[Signing], Signing]) -> Signing | None:
        """Give a tenant other secrets to sign its reports with, and answer them; None if it is unknown.

        `decide` is told those that it has. It can be asked again, with what came of an answer that was lost.
        """
        ...

    async def tenant_by_key(self, api_key_hash: str) -> KeyedTenant | None:
        """The tenant that has this key now, on whichever instance it was given."""
        ...

    async def put_account(self, account: Account, based_on: Account | None = None) -> Account:
        """Create (pk 0) or update an account by (tenant, id) and end its hold; answers it with its pk.

        `based_on` is what the caller made it from: raises `Stale` where it has been set anew meanwhile. A refresh token
        that the token server has replaced meanwhile is kept.
        """
        ...

    async def replace_refresh_token(self, account_pk: int, used: OAuth, fresh: Secret) -> bool:
        """Keep the refresh token that a token server gave in place of the one that was used.

        False, and nothing is changed, where the account has another one by now, or none.
        """
        ...

    async def delete_account(self, tenant_id: str, account_id: str, *, force: bool) -> bool:
        """Remove an account; False if unknown. Raises `Conflict` while messages wait for it, unless `force`.

        With `force` its waiting messages are cancelled and reported.
        """
        ...

    async def accounts_on_hold(self) -> Sequence[Account]:
        """The accounts of all tenants that are on hold, oldest first."""
        ...

    async def set_hold(self, account_pk: int, hold: Hold | None) -> None:
        """Put an account on hold, or end the hold. One that is on hold stays so since it began. G8."""
        ...

    async def change_suspension(self, tenant_id: str, decide: Callable[[Suspension], Suspension]) -> Suspension | None:
        """Hold or free a tenant or its batches; answers what is held now, None if the tenant is unknown.

        `decide` is given what is held when nobody else can change it any more, and may raise `Conflict`. It may be
        called again, and must then decide the same. Costs the same however many messages are concerned.
        """
        ...

    async def free_poison(self, tenant_id: str) -> None:
        """Have what is held of a tenant because instances ended over it put back in chunks, as if it were new. G13."""
        ...

    async def instance_settings(self) -> InstanceSettings:
        """What is kept in the database for all instances."""
        ...

    async def change_instance_settings(
        self, decide: Callable[[InstanceSettings], InstanceSettings]
    ) -> InstanceSettings:
        """Change that, on every instance, and answer what holds now. `decide` as in `change_suspension`."""
        ...

    async def scheduler_active(self) -> bool:
        """Whether anything is sent at all."""
        ...

    async def set_scheduler_active(self, *, active: bool) -> None:
        """Hold or free the whole scheduler, on every instance."""
        ...


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages of a tenant are listed; None means any."""

    status: str | None = None
    """The historic word: pending, deferred, sent, error."""
    state: str | None = None
    """The public state: waiting, sending, sent, failed, expired, cancelled."""
    account_id: str | None = None
    batch_code: str | None = None
    priority: int | None = None
    active_only: bool = False
    created_from: float | None = None
    """Accepted then or later, Unix seconds."""
    created_to: float | None = None
    """Accepted before then."""
    texts: TextFilter = TextFilter()  # noqa: RUF009 - a value that never changes


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the list of a tenant's messages: what was accepted later lies above, and of two at once the later pk.

    It stays where it is while messages come and go.
    """

    created_ts: float
    pk: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of messages, newest first, and the place to go on below; None at the end.

    A search that had to look at many messages may have found few or none so far, and yet go on below.
    """

    messages: Sequence[Details]
    below: Place | None


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One line of a message's history."""

    event_id: int | None
    type: EventType
    ts: float
    entry: str | None
    reported_ts: float | None


class Archive(Protocol):
    """Messages and their histories as the API shows them. Reads only."""

    async def page(self, tenant_id: str, wanted: MessageFilter, below: Place | None, limit: int, now: float) -> Page:
        """Messages of one tenant, newest first; costs the same on the first page and on the last.

        Reads a bounded number of messages, whatever is wanted of them, and then answers what it has found. A page
        ends early where its messages are large.
        """  # G11
        ...

    async def message(self, tenant_id: str, message_id: str) -> Details | None:
        """One message of one tenant, or None."""
        ...

    async def history(self, tenant_id: str, message_id: str) -> Sequence[PastEvent] | None:
        """A message's events in order, the derived `queued` first; None if the message is unknown."""
        ...

    async def standing(self, tenant_id: str, message_id: str) -> Standing | None:
        """What decides when one message of one tenant is sent, or None; bounded in time as `pending` is."""
        ...

    async def pending(self, tenant_id: str, batch_code: str | None = None) -> int:
        """How many messages of a tenant (and batch) are not finished, counted up to `MANY`."""
        ...


class CommandLog(Protocol):
    """Who asked for which change, and what came of it. Entries are added and, when they are old, removed."""

    async def append(self, entries: Sequence[Entry], *, again: bool) -> None:
        """Write entries down together. `again`: some may have been written before, and are not written twice."""
        ...

    async def page(
        self, wanted: EntryFilter, beyond: Position | None, limit: int, *, oldest_first: bool = False
    ) -> LogPage:
        """Up to `limit` entries beyond a place; costs the same on the first page and on the last.

        Where methods or routes are looked for it reads a bounded number of entries, and answers what it found.
        """
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Remove up to `limit` entries from before that time; return how many."""
        ...
