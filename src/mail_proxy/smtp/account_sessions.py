"""The sessions of one account: how many at a time, which are idle, and who waits for one."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from mail_proxy.domain.account import Account, AuthMethod, TlsMode
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Step
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.secret import Secret
from mail_proxy.smtp.connection import CLOSING
from mail_proxy.smtp.errors import NotOpened
from mail_proxy.smtp.session import Opener, Session

# RFC 4954: 454 at AUTH is temporary; so often in a row it is taken for the account's fault.
TEMPORARY_LOGIN_FAILURES = 3


class Ended(Exception):
    """The transport was closed while someone waited for a session."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What two uses of an account's session must have in common: where it leads, as whom, and how well protected."""

    host: str
    port: int
    user: str | None
    password: Secret | None
    oauth: OAuth | None
    auth: AuthMethod
    tls: TlsMode
    verify_tls: bool
    host_by_tenant: bool
    """Where a guarded account may not go a trusted one may, and the session is the proof."""

    @classmethod
    def of(cls, account: Account) -> Identity:
        """Leave out what the server does not see: names, limits, the hold."""
        return cls(
            account.host,
            account.port,
            account.user,
            account.password,
            account.oauth,
            account.auth,
            account.tls,
            account.verify_tls,
            account.host_by_tenant,
        )


@dataclass(slots=True)
class _FirstLogin:
    """A login that is being made for the first time, and what became of it."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: NotOpened | None = None


class AccountSessions:
    """Sessions of one account of one tenant: at most `max_connections`, reused, kept `ttl` seconds idle.

    Each session that is taken must come back by `give_back` or `discard`.
    """

    def __init__(self, opener: Opener, account: Account) -> None:
        self.recipients_limit: int | None = None
        """How many recipients the server was seen to take in one transaction, where it refused more."""
        self._opener = opener
        self._loop = asyncio.get_running_loop()
        self._account = account
        self._identity = Identity.of(account)
        self._live: set[Session] = set()
        """All that are not closed yet, those that are parting included."""
        self._idle: list[Session] = []
        """The one that was used last stands last."""
        self._busy: dict[Session, Identity] = {}
        self._places_taken = 0
        """Sessions that are idle, busy, or being opened."""
        self._queue: deque[asyncio.Future[Session | None]] = deque()
        """Those who wait for a session, or for the place to open one (None)."""
        self._reaper: asyncio.TimerHandle | None = None
        self._proven = False
        self._first_login: _FirstLogin | None = None
        self._temporary_login_failures = 0
        self._ended = False

    @property
    def open_sessions(self) -> int:
        """How many sessions are connected."""
        return len(self._live)

    @property
    def forgettable(self) -> bool:
        """True when there is nothing here that a new start would not have."""
        remembered = self.recipients_limit or self._temporary_login_failures
        return not (self._places_taken or self._live or self._queue or remembered)

    # Taking

    async def take(self, account: Account) -> Session:
        """Return a session for the account, an idle one first; waits while all are busy.

        Raises `NotOpened`, or `Ended` once the transport is closed.
        """
        self._adopt(account)
        session = self._latest_idle()
        if session is None:
            session = await self._place()
        if session is not None:
            if await self._alive(session):
                return session
            self._drop(session)
        return await self._open(account)

    async def take_fresh(self, account: Account, instead_of: Session) -> Session:
        """Return a new session in the place of one that has turned out to be dead. Raises as `take`."""
        self._drop(instead_of)
        return await self._open(account)

    async def take_proof(self, account: Account) -> Session:
        """Return a new session, so that the login is made now. Raises as `take`."""
        self._adopt(account)
        idle = self._latest_idle() if self._places_taken >= self._account.max_connections else None
        session = idle or await self._place()
        if session is not None:
            del self._busy[session]
            session.part()
        return await self._open(account)

    def _adopt(self, account: Account) -> None:
        """Follow a change of the account's settings: sessions with the old ones end."""
        self._check_not_ended()
        if account is self._account:
            return
        self._account = account
        identity = Identity.of(account)
        if identity != self._identity:
            self._identity = identity
            self._proven = False
            self._first_login = None
            self._temporary_login_failures = 0
            self.recipients_limit = None
            self._part_idle()
        while self._queue and self._places_taken < account.max_connections:
            self._places_taken += 1
            self._free_place()

    def _latest_idle(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if session.usable:
                self._busy[session] = self._identity
                return session
            session.abort()
            self._free_place()
        return None

    async def _place(self) -> Session | None:
        """Wait for a session that is handed over, or for the place to open one (None)."""
        if self._places_taken < self._account.max_connections:
            self._places_taken += 1
            return None
        waiter: asyncio.Future[Session | None] = self._loop.create_future()
        self._queue.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                if waiter in self._queue:
                    self._queue.remove(waiter)
            elif waiter.exception() is None:
                # It was served in the same moment.
                session = waiter.result()
                if session is None:
                    self._free_place()
                else:
                    self.give_back(session)
            raise

    async def _alive(self, session: Session) -> bool:
        if self._loop.time() - session.idle_since < self._opener.timeouts.check_after:
            return True
        try:
            return await session.alive()
        except BaseException:
            self.discard(session)
            raise

    # Opening

    async def _open(self, account: Account) -> Session:
        """Open a session in a place that is taken; the place is free again when that fails."""
        try:
            self._check_not_ended()
            session = await self._logged_in(account)
        except BaseException:
            self._free_place()
            raise
        self._live.add(session)
        session.closed.add_done_callback(lambda _: self._live.discard(session))
        self._busy[session] = Identity.of(account)
        try:
            self._check_not_ended()
        except Ended:
            self.discard(session)
            raise
        return session

    async def _logged_in(self, account: Account) -> Session:
        """Open a session; until one login has succeeded, one at a time, and what it is told holds for all that wait."""
        while not self._proven and self._first_login is not None:
            first = self._first_login
            await first.done.wait()
            if first.refusal is not None:
                failure = first.refusal.failure
                if isinstance(failure, HostFailed):  # who waited has met nothing
                    failure = replace(failure, shared=True)
                raise NotOpened(failure, first.refusal.step)
        if self._proven:
            return await self._judged(account)
        first = self._first_login = _FirstLogin()
        try:
            session = await self._judged(account)
        except NotOpened as error:
            first.refusal = error
            raise
        finally:
            first.done.set()
            if self._first_login is first:
                self._first_login = None
        self._proven = Identity.of(account) == self._identity
        return session

    async def _judged(self, account: Account) -> Session:
        """Open a session; a temporary refusal of the login that keeps coming is taken for the account's fault."""
        try:
            session = await self._opener.open(account)
        except NotOpened as error:
            failure = error.failure
            if isinstance(failure, HostFailed) and error.step is Step.LOGIN and _temporary(failure.reply):
                self._temporary_login_failures += 1
                if self._temporary_login_failures >= TEMPORARY_LOGIN_FAILURES:
                    failure = AccountRefused(failure.text, failure.reply)
            self._proven = False  # the next session is opened once again, not by all at a time
            raise NotOpened(failure, error.step) from error
        self._temporary_login_failures = 0
        return session

    def _check_not_ended(self) -> None:
        if self._ended:
            raise Ended

    # Coming back

    def give_back(self, session: Session) -> None:
        """Keep a session for the next message, or hand it to whoever waits for one."""
        identity = self._busy.pop(session)
        if not session.usable:
            session.abort()
            self._free_place()
        elif self._ended or identity != self._identity or self._places_taken > self._account.max_connections:
            session.part()
            self._free_place()
        else:
            session.idle_since = self._loop.time()
            self._keep(session)

    def discard(self, session: Session) -> None:
        """Close a session at once."""
        self._drop(session)
        self._free_place()

    def login_refused(self) -> None:
        """The server takes no mail after all: the next login is made once again, not by all at a time."""
        self._proven = False

    def _drop(self, session: Session) -> None:
        """Close a session, but keep its place."""
        del self._busy[session]
        session.abort()

    def _keep(self, session: Session) -> None:
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                self._busy[session] = self._identity
                waiter.set_result(session)
                return
        self._idle.append(session)
        if self._reaper is None:
            self._reaper = self._loop.call_later(self._account.ttl, self._reap)

    def _free_place(self) -> None:
        """Pass a place on to whoever waits for one."""
        while self._queue and self._places_taken <= self._account.max_connections:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._places_taken -= 1

    # Ending

    def _reap(self) -> None:
        """Part with the sessions that were idle for too long."""
        self._reaper = None
        now = self._loop.time()
        while self._idle and (self._idle[0].idle_since + self._account.ttl <= now or not self._idle[0].usable):
            self._idle.pop(0).part()
            self._free_place()
        if self._idle:
            self._reaper = self._loop.call_at(self._idle[0].idle_since + self._account.ttl, self._reap)

    def _part_idle(self) -> None:
        idle, self._idle = self._idle, []
        for session in idle:
            session.part()
            self._free_place()

    def end(self) -> list[asyncio.Future[None]]:
        """Part with idle sessions and abort the others; return what is done when each is closed."""
        self._ended = True
        if self._reaper is not None:
            self._reaper.cancel()
        for waiter in self._queue:
            if not waiter.done():
                waiter.set_exception(Ended())
        self._queue.clear()
        self._part_idle()
        for session in self._busy:
            session.abort()
        return [session.closed for session in self._live]


def _temporary(reply: Reply | None) -> bool:
    return reply is not None and 400 <= reply.code < 500 and reply.code != CLOSING
