"""Delivery over pooled sessions: takes one, makes as many transactions as a message needs, says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from typing_extensions import assert_never, override

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import (
    AccountRefused,
    Attempt,
    Envelope,
    Failure,
    HostFailed,
    Interrupted,
    Probed,
    ProbeResult,
)
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.poison import error_words
from mail_proxy.ports.transport import AccessTokens, BeforeDot, Transport
from mail_proxy.smtp.account_sessions import AccountSessions, Ended
from mail_proxy.smtp.connection import Loss, LossKind
from mail_proxy.smtp.dialling import AddressRefusal, any_address
from mail_proxy.smtp.errors import NotOpened
from mail_proxy.smtp.sending import Sending
from mail_proxy.smtp.session import Opener, Session
from mail_proxy.smtp.timeouts import Timeouts
from mail_proxy.smtp.tls import TlsContexts, steps

RECIPIENTS_LIMIT = 100
"""RFC 5321 section 4.5.3.1.8: every server takes that many in one transaction."""

_RESOLVER_THREADS = 16
_CLOSED = "the transport was closed"


class SmtpTransport(Transport):
    """Sends by SMTP. Sessions are shared only within one account with the same settings.

    `local_hostname` is said in EHLO; None says the address that a connection comes from. `extra_ca` is a file with
    authorities to trust besides the system's. `address_refusal` says why an address may not be connected to for a host
    that its tenant has set, or None. Accounts that log in with XOAUTH2 need `tokens`.
    """

    def __init__(
        self,
        *,
        local_hostname: str | None = None,
        timeouts: Timeouts | None = None,
        recipients_limit: int = RECIPIENTS_LIMIT,
        extra_ca: Path | None = None,
        address_refusal: AddressRefusal = any_address,
        tokens: AccessTokens | None = None,
    ) -> None:
        self._recipients_limit = recipients_limit
        self._timeouts = timeouts or Timeouts()
        self._resolver = ThreadPoolExecutor(_RESOLVER_THREADS, thread_name_prefix="smtp-resolver")
        contexts = TlsContexts(extra_ca)
        self._opener = Opener(contexts, self._timeouts, self._resolver, local_hostname, address_refusal, tokens)
        self._accounts: dict[tuple[str, str], AccountSessions] = {}
        self._tidy_at = 64
        self._closed = False

    @override
    async def send(self, account: Account, envelope: Envelope, wire: Wire, before_dot: BeforeDot) -> Attempt:
        """Send one message to all recipients of the envelope and tell what was said about each.

        A session that turns out stale is replaced by a fresh one at once; then `before_dot` may be awaited once more.
        What that raises passes through, unless an earlier transaction has told something: that is not forgotten. G4.
        """
        sending = Sending(envelope, wire, self._recipients_limit)
        if self._closed:
            return sending.ended(Interrupted(_CLOSED))
        try:
            failure = await self._deliver(account, sending, before_dot)
        except NotOpened as error:
            failure = error.failure
        except Ended:
            failure = Interrupted(_CLOSED)
        except _DotForbidden as forbidden:
            if not sending.begun:
                raise forbidden.reason from None
            failure = Interrupted(error_words(forbidden.reason))
        return sending.ended(failure)

    async def _deliver(self, account: Account, sending: Sending, before_dot: BeforeDot) -> Failure | None:
        """Send on one session, and on fresh ones as long as those only turn out to be stale."""
        sessions = self._sessions(account)
        session = await sessions.take(account)
        while True:
            try:
                end = await _send_on(session, sessions, sending, before_dot)
            except BaseException:
                sessions.discard(session)
                raise
            match end:
                case None:
                    sessions.give_back(session)
                    return None
                case AccountRefused():
                    sessions.login_refused()
                    sessions.discard(session)
                    return end
                case Loss():
                    # A session that has worked before and just ended says nothing about the host.
                    stale = session.worked and end.kind is LossKind.CLOSED
                    if sending.finished or sending.uncertain or not stale:
                        sessions.discard(session)
                        return Interrupted(_CLOSED) if self._closed else HostFailed(f"sending: {end.text}", end.reply)
                    session = await sessions.take_fresh(account, instead_of=session)
                case _:
                    assert_never(end)

    @override
    async def probe(self, account: Account) -> ProbeResult:
        """Connect, TLS, EHLO, AUTH, QUIT: no message at stake. Takes one of the account's places meanwhile."""
        if self._closed:
            return HostFailed(_CLOSED)
        sessions = self._sessions(account)
        try:
            session = await sessions.take_proof(account)
        except NotOpened as error:
            return replace(error.failure, step=error.step)
        except Ended:
            return HostFailed(_CLOSED)
        try:
            session.part()
            await asyncio.wait([session.closed])
        finally:
            sessions.discard(session)
        return Probed(session.tls_version, steps(account, encrypted=session.tls_version is not None))

    @override
    async def close(self) -> None:
        """End idle sessions politely and the others at once; what is being sent on those answers accordingly."""
        self._closed = True
        closing = [closed for sessions in self._accounts.values() for closed in sessions.end()]
        if closing:
            # A session that parts ends by itself after `quit` seconds.
            await asyncio.wait(closing, timeout=self._timeouts.quit + 1)
        self._resolver.shutdown(wait=False, cancel_futures=True)

    @override
    def session_count(self) -> int:
        return sum(sessions.open_sessions for sessions in self._accounts.values())

    def open_sessions(self) -> Mapping[tuple[str, str], int]:
        """How many sessions are open, by (tenant id, account id); accounts without any may be left out."""
        return {key: sessions.open_sessions for key, sessions in self._accounts.items()}

    def _sessions(self, account: Account) -> AccountSessions:
        key = (account.tenant_id, account.id)
        sessions = self._accounts.get(key)
        if sessions is None:
            if len(self._accounts) >= self._tidy_at:
                self._accounts = {k: v for k, v in self._accounts.items() if not v.forgettable}
                self._tidy_at = max(64, 2 * len(self._accounts))
            sessions = self._accounts[key] = AccountSessions(self._opener, account)
        return sessions


class _DotForbidden(Exception):
    """The final dot of a transaction must not go out."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


async def _ask(before_dot: BeforeDot) -> None:
    try:
        await before_dot()
    except Exception as reason:
        raise _DotForbidden(reason) from reason


async def _send_on(
    session: Session, sessions: AccountSessions, sending: Sending, before_dot: BeforeDot
) -> Loss | AccountRefused | None:
    """Make transactions until nobody is left to send to, or the session is of no more use."""
    sending.on_session(session.tls_version, session.first_used())
    while batch := sending.next_batch(session.extensions, sessions.recipients_limit):
        forbidding = partial(_ask, before_dot)
        result = await session.transact(sending.envelope.sender, batch, sending.wire, forbidding, sending.took)
        sending.note(result)
        if sending.limit_seen is not None:
            sessions.recipients_limit = sending.limit_seen
        if result.unauthorized is not None:
            reply = result.unauthorized.reply
            return AccountRefused(f"sending: the server said {reply}", reply)
        if result.loss is not None:
            return result.loss
    return None
