"""Access tokens: asked for with an account's refresh token, kept in memory until shortly before they end (RFC 6749)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlencode

import structlog
from typing_extensions import assert_never, override

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Step
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.oauth import Away, Grant, OAuth, Refused, understand
from mail_proxy.domain.secret import Secret
from mail_proxy.outbound.client import OutboundClient, Request
from mail_proxy.outbound.errors import Blocked, OutboundError, Unusable
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry
from mail_proxy.ports.transport import AccessTokens

log = structlog.get_logger(__name__)

TIMEOUT = 20.0
"""Seconds that a token server has for its whole answer."""
MAX_BYTES = 64_000
MARGIN = 60.0
"""Seconds, at the most, before its end from which on a token is not used any more."""
SECOND_LOOK = 2.0
"""Seconds until a refused refresh token is looked up again, where another instance may just have had it replaced."""
PARTING = 5.0
"""Seconds that requests under way have to end in when the instance stops."""
_TIDY_AT = 64

Outcome: TypeAlias = Secret | HostFailed | AccountRefused | StoreUnavailable


@dataclass(slots=True)
class _Kept:
    """What is known of one account's token."""

    token: Secret | None = None
    good_until: float = 0.0
    """By the monotonic clock."""
    unsaved: tuple[OAuth, Secret] | None = None
    """A refresh token that was replaced, and by which; the database was away. Without the new one no other comes."""
    asking: asyncio.Task[Outcome] | None = None

    def usable(self, now: float, refused: Secret | None) -> Secret | None:
        """Return the token if it is good for a while."""
        good = self.unsaved is None and self.token != refused and now < self.good_until
        return self.token if good else None


@dataclass(slots=True)
class RefreshedTokens(AccessTokens):
    """Asks token servers. `trusted` is for URLs that the operator has set, `guarded` for those of tenants.

    `alone`: no other instance uses the same database.
    """

    trusted: OutboundClient
    guarded: OutboundClient
    directory: Directory
    registry: Registry
    clock: Clock
    alone: bool = True
    timeout: float = TIMEOUT
    _kept: dict[tuple[int, OAuth], _Kept] = field(default_factory=dict)
    _tidy_at: int = _TIDY_AT

    @override
    async def token(self, account: Account, refused: Secret | None = None) -> Secret | HostFailed | AccountRefused:
        """See `AccessTokens.token`.

        The question goes on when nobody waits for its answer any more: a refresh token in it may replace the old one.
        """
        if account.oauth is None:
            return AccountRefused(_sentence("the account has no oauth"))
        kept = self._of(account.pk, account.oauth)
        if kept.asking is None:
            usable = kept.usable(self.clock.monotonic(), refused)
            if usable is not None:
                return usable
            kept.asking = asyncio.get_running_loop().create_task(
                self._obtain(account, account.oauth, kept, refused), name=f"access token {account.id}"
            )
            kept.asking.add_done_callback(lambda task: _ended(kept, task))
        asking = kept.asking
        await asyncio.wait([asking])
        outcome = asking.result()
        if isinstance(outcome, StoreUnavailable):
            raise outcome
        return outcome

    async def close(self) -> None:
        """Let questions under way end, for a few seconds: their answers may hold new refresh tokens."""
        asking = [kept.asking for kept in self._kept.values() if kept.asking is not None]
        if asking:
            _, late = await asyncio.wait(asking, timeout=PARTING)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _of(self, account_pk: int, oauth: OAuth) -> _Kept:
        key = (account_pk, oauth)
        if key not in self._kept and len(self._kept) >= self._tidy_at:
            now = self.clock.monotonic()
            self._kept = {
                key: kept
                for key, kept in self._kept.items()
                if kept.asking is not None or kept.unsaved is not None or now < kept.good_until
            }
            self._tidy_at = max(_TIDY_AT, 2 * len(self._kept))
        return self._kept.setdefault(key, _Kept())

    async def _obtain(self, account: Account, oauth: OAuth, kept: _Kept, refused: Secret | None) -> Outcome:
        try:
            if kept.unsaved is not None:
                await self._save(account, kept)
                usable = kept.usable(self.clock.monotonic(), refused)
                if usable is not None:
                    return usable
            return await self._refreshed(account, oauth, kept)
        except StoreUnavailable as error:
            return error

    async def _refreshed(self, account: Account, oauth: OAuth, kept: _Kept) -> Outcome:
        """Ask with the refresh token that stands in the database now; once more if another one has come meanwhile."""
        current = await self._current(account, oauth)
        if current is None:
            return HostFailed(_sentence("the account was set anew meanwhile"), step=Step.TOKEN, shared=True)
        outcome = await self._asked(account, current, kept)
        if not isinstance(outcome, AccountRefused):
            return outcome
        if not self.alone:
            await self.clock.sleep(SECOND_LOOK)
        newer = await self._current(account, oauth)
        if newer is None or newer.refresh_token == current.refresh_token:
            return outcome
        return await self._asked(account, newer, kept)

    async def _current(self, account: Account, oauth: OAuth) -> OAuth | None:
        """Return what stands in the database, if it is the same grant to the same client."""
        await self.directory.refresh()
        stored = await self.directory.account(account.pk)
        return stored.oauth if stored is not None and stored.oauth == oauth else None

    async def _asked(self, account: Account, oauth: OAuth, kept: _Kept) -> Outcome:
        asked_at = self.clock.monotonic()
        client = self.guarded if account.token_url_by_tenant else self.trusted
        try:
            response = await client.request(_request(oauth, self.timeout))
        except (Blocked, Unusable) as error:
            return AccountRefused(_sentence(f"{error}; ask the operator"), step=Step.TOKEN)
        except OutboundError as error:
            return HostFailed(_sentence(str(error)), step=Step.TOKEN, shared=True)
        answer = understand(oauth, response.status, response.body)
        match answer:
            case Grant(token, seconds, fresh):
                kept.token = token
                kept.good_until = asked_at + seconds - min(MARGIN, seconds / 10)
                if fresh is not None and fresh != oauth.refresh_token:
                    kept.unsaved = (oauth, fresh)
                    await self._save(account, kept)
                return token
            case Refused():
                return AccountRefused(_sentence(f"the token server said {answer}"), step=Step.TOKEN)
            case Away(text):
                return HostFailed(_sentence(f"the token server is of no use: {text}"), step=Step.TOKEN, shared=True)
            case _:
                assert_never(answer)

    async def _save(self, account: Account, kept: _Kept) -> None:
        """Write a new refresh token down; it stays in memory while the database is away."""
        if kept.unsaved is None:
            return
        used, fresh = kept.unsaved
        saved = await self.registry.replace_refresh_token(account.pk, used, fresh)
        kept.unsaved = None
        log.info("refresh token replaced", tenant_id=account.tenant_id, account_id=account.id, saved=saved)


def _ended(kept: _Kept, task: asyncio.Task[Outcome]) -> None:
    kept.asking = None
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("asking for an access token failed", exc_info=error)


def _request(oauth: OAuth, timeout: float) -> Request:
    """RFC 6749 section 6; the client's credentials stand in the body (section 2.3.1), as all mail providers take it."""
    fields = {
        "grant_type": "refresh_token",
        "refresh_token": oauth.refresh_token.reveal(),
        "client_id": oauth.client_id,
        "client_secret": oauth.client_secret.reveal(),
    }
    if oauth.scope:
        fields["scope"] = oauth.scope
    headers = (("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json"))
    return Request("POST", oauth.token_url, timeout, MAX_BYTES, headers, urlencode(fields).encode("ascii"))


def _sentence(what: str) -> str:
    return f"{Step.TOKEN.value}: {what}"
