"""SMTP accounts: made, changed, removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit
from uuid import uuid4

from mail_proxy.administration.account_rules import DEFAULT_CONNECTIONS, changed_account, moved
from mail_proxy.administration.requests import AccountIn
from mail_proxy.domain.account import Account
from mail_proxy.domain.errors import Conflict, Invalid, NotFound, Problem, StoreUnavailable
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry
from mail_proxy.ports.queue import Stale

MAX_TRIES = 8
"""How often a change is made anew because the account was set by somebody else in the same moment."""
PATIENCE = 10.0
"""Seconds that messages of an account may go on being sent while it is removed by force."""
FIRST_PAUSE = 0.05
HostRefusal = Callable[[str], "str | None"]
"""Says why a tenant may not name a host, or None. What a name resolves to is checked whenever it is connected to."""
Notify = Callable[[frozenset[int]], None]
"""Told which accounts may have messages that can go now."""


class Accounts:
    """Changes accounts. `host_refusal` is asked only about hosts that a tenant's own token sets.

    `max_connections` is for new accounts that give none.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        host_refusal: HostRefusal,
        notify: Notify,
        clock: Clock,
        max_connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._host_refusal = host_refusal
        self._notify = notify
        self._clock = clock
        self._max_connections = max_connections

    async def of(self, tenant_id: str) -> Sequence[Account]:
        """Return a tenant's accounts, oldest first."""
        await self._directory.refresh()
        return await self._directory.accounts_of(tenant_id)

    async def page(self, tenant_id: str, after: int, limit: int) -> tuple[Sequence[Account], int | None]:
        """Return a page of them, from the one that follows on this number of the store, and its last; None: the end."""
        found = await self._registry.accounts_after(tenant_id, after, limit + 1)
        shown = found[:limit]
        return shown, shown[-1].pk if len(found) > limit else None

    async def get(self, tenant_id: str, account_id: str) -> Account:
        """Return one account; raises `NotFound`."""
        account = await self._find(tenant_id, account_id)
        if account is None:
            raise _unknown(account_id)
        return account

    async def put(self, tenant_id: str, wanted: AccountIn, *, by_tenant: bool) -> bool:
        """Create an account (True) or change it (False), end its hold, and let its messages go on.

        Raises `Invalid`, and `NotFound` where the tenant is gone.
        """
        if await self._directory.tenant(tenant_id) is None:
            raise NotFound("There is no such tenant.")
        for _ in range(MAX_TRIES):
            existing = await self._find(tenant_id, wanted.id)
            if by_tenant:
                self._refuse_hosts(existing, wanted)
            account = changed_account(
                existing, tenant_id, wanted, self._max_connections, by_tenant=by_tenant, grant=uuid4().hex
            )
            fallback = wanted.fallback_account_id
            if fallback is not None and not await self._find(tenant_id, fallback):
                raise Invalid(Problem("fallback_account_id", f"there is no account {fallback!r}"))
            try:
                account = await self._registry.put_account(account, existing)
            except Stale:
                continue
            self._notify(frozenset({account.pk}))
            return existing is None
        raise StoreUnavailable("the account is being changed by others all the time")

    async def delete(self, tenant_id: str, account_id: str, *, force: bool) -> None:
        """Remove an account; raises `NotFound`, and `Conflict` while messages wait for it, unless `force`.

        With `force` those that are being sent are waited for, but not for long: then `Conflict` is raised all the same.
        Where it is removed by somebody else meanwhile, one that is made in its place stays.
        """
        pk = (await self.get(tenant_id, account_id)).pk
        deadline, pause = self._clock.monotonic() + (PATIENCE if force else 0.0), FIRST_PAUSE
        waited = False
        while True:
            try:
                found = await self._registry.delete_account(tenant_id, account_id, force=force, pk=pk)
            except Conflict:
                if self._clock.monotonic() + pause > deadline:
                    raise
                await self._clock.sleep(pause)
                pause = min(2 * pause, 1.0)
                waited = True
                continue
            if found or waited:  # by somebody else meanwhile
                return
            raise _unknown(account_id)

    async def on_hold(self) -> Sequence[Account]:
        """Return the accounts of all tenants that are not used for now."""
        return await self._registry.accounts_on_hold()

    def _refuse_hosts(self, existing: Account | None, wanted: AccountIn) -> None:
        """Raise `Invalid` where a tenant may not have something sent there; nor to another port of such a host."""
        if existing is None or moved(existing, wanted):
            host = existing.host if wanted.host is None and existing is not None else wanted.host
            self._refuse(host, "port" if wanted.host is None else "host")
        token_url = None if wanted.oauth is None else wanted.oauth.token_url
        stored = None if existing is None or existing.oauth is None else existing.oauth.token_url
        if token_url is not None and token_url != stored:
            self._refuse(urlsplit(token_url).hostname, "oauth.token_url")

    def _refuse(self, host: str | None, field: str) -> None:
        refusal = None if host is None else self._host_refusal(host)
        if refusal is not None:
            raise Invalid(Problem(field, refusal))

    async def _find(self, tenant_id: str, account_id: str) -> Account | None:
        await self._directory.refresh()
        return await self._directory.account_named(tenant_id, account_id)


def _unknown(account_id: str) -> NotFound:
    return NotFound(f"There is no account {account_id!r}.")
