"""Tenants and their keys: made, changed, removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from mail_proxy.administration.large_files import FIELD, LargeFileRules, check_config, read_config
from mail_proxy.administration.requests import ClientAuthIn, TenantChanges, TenantIn
from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.errors import Invalid, NotFound, Problem, StoreUnavailable
from mail_proxy.domain.rate_limit import Limits
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import Signing
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Tenant, TenantSecret
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry
from mail_proxy.ports.queue import Stale

MAX_TRIES = 8
"""How often a tenant is set anew because it was removed in the same moment."""


class Tenants:
    """Changes tenants.

    `new_token` makes a key, `digest` what is stored of it, `new_secret` what reports are signed with;
    `forget` removes what is kept of a tenant beside the database.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        clock: Clock,
        new_token: Callable[[], str],
        digest: Callable[[str], str],
        new_secret: Callable[[], Secret],
        large_files: LargeFileRules,
        forget: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._clock = clock
        self._new_token = new_token
        self._digest = digest
        self._new_secret = new_secret
        self._large_files = large_files
        self._forget = forget

    async def all(self) -> Sequence[Tenant]:
        """Return all tenants, by id."""
        return await self._registry.tenants()

    async def page(self, after: str | None, limit: int) -> tuple[Sequence[Tenant], str | None]:
        """Return a page of them, from the one that follows on this id, and the id of its last; None: the end."""
        found = await self._registry.tenants_after(after, limit + 1)
        shown = found[:limit]
        return shown, shown[-1].id if len(found) > limit else None

    async def get(self, tenant_id: str) -> Tenant:
        """Return one tenant; raises `NotFound`."""
        tenant = await self._find(tenant_id)
        if tenant is None:
            raise _unknown(tenant_id)
        return tenant

    async def put(self, wanted: TenantIn) -> str | None:
        """Create a tenant and return its key, which nothing can show again; or change it and return None."""
        for _ in range(MAX_TRIES):
            now = self._clock.now()
            existing = await self._find(wanted.id)
            tenant = self._changed(existing or Tenant(wanted.id, created_ts=now), wanted, now)
            key = self._new_token()
            try:
                # Whether it is new is decided there: somebody else may make it meanwhile, or nobody was told an
                # earlier key.
                is_new = await self._registry.put_tenant(tenant, self._digest(key), existing)
            except Stale:
                continue
            return key if is_new else None
        raise StoreUnavailable("the tenant is being removed by others all the time")

    async def update(self, tenant_id: str, changes: TenantChanges) -> None:
        """Change a tenant; raises `NotFound`."""
        existing = await self.get(tenant_id)
        tenant = self._changed(existing, changes, self._clock.now())
        try:
            await self._registry.put_tenant(tenant, None, existing)
        except Stale:
            raise _unknown(tenant_id) from None

    async def delete(self, tenant_id: str, *, force: bool) -> None:
        """Remove a tenant and all its data.

        Raises `NotFound`, and `Conflict` while something is unfinished or unreported, unless `force`. G9.
        """
        await self._directory.refresh()
        if not await self._registry.delete_tenant(tenant_id, force=force):
            raise _unknown(tenant_id)
        if self._forget is not None:
            await self._forget(tenant_id)

    async def new_key(self, tenant_id: str, expires_at: float | None) -> str:
        """Give the tenant a new key and return it, once; the old one ends at once. Raises `NotFound`."""
        _refuse_past(expires_at, self._clock.now())
        key = self._new_token()
        if not await self._registry.set_api_key(tenant_id, self._digest(key), expires_at):
            raise _unknown(tenant_id)
        return key

    async def revoke_key(self, tenant_id: str) -> None:
        """Take the tenant's key away; raises `NotFound` where there is no such tenant."""
        if not await self._registry.set_api_key(tenant_id, None, None):
            raise _unknown(tenant_id)

    async def new_signing_secret(self, tenant_id: str) -> tuple[str, float | None]:
        """Sign the tenant's reports with a new secret, and return it, once; those before it sign along for a day.

        The second value is when the last of those ends, in Unix seconds. Raises `NotFound`.
        """
        secret = self._new_secret()
        now = self._clock.now()
        signing = await self._registry.change_signing(tenant_id, lambda held: held.renewed(secret, now))
        if signing is None:
            raise _unknown(tenant_id)
        return secret.reveal(), signing.earlier_until

    async def stop_signing(self, tenant_id: str) -> None:
        """Sign the tenant's reports no more; raises `NotFound`."""
        if await self._registry.change_signing(tenant_id, lambda _held: Signing()) is None:
            raise _unknown(tenant_id)

    def _changed(self, tenant: Tenant, changes: TenantChanges, now: float) -> Tenant:
        changed = changed_tenant(tenant, changes, now)
        if FIELD in changes.model_fields_set:  # what was set up once does not keep other settings from being changed
            check_config(changed.large_files, self._large_files)
        return changed

    async def _find(self, tenant_id: str) -> Tenant | None:
        await self._directory.refresh()
        return await self._directory.tenant(tenant_id)


def changed_tenant(tenant: Tenant, changes: TenantChanges, now: float) -> Tenant:
    """Return the tenant that the request asks for; raises `Invalid`. What is not mentioned stays as it is."""
    given = changes.model_fields_set
    new: dict[str, Any] = {}
    defaults = Tenant(tenant.id)
    for name in ("name", "client_base_url", "client_sync_path", "client_attachment_path", "active"):
        if name in given:
            value = getattr(changes, name)
            new[name] = getattr(defaults, name) if value is None else value
    if "client_auth" in given:
        new["client_auth"] = _client_auth(changes.client_auth)
    if "on_uncertain" in given:
        new["on_uncertain"] = OnUncertain(changes.on_uncertain or OnUncertain.RESEND)
    if "rate_limits" in given:
        limits = changes.rate_limits
        new["limits"] = Limits() if limits is None else Limits(None, limits.hourly or None, limits.daily or None)
    if FIELD in given:
        lost_config = TenantSecret.LARGE_FILES in tenant.unreadable
        new["large_files"] = read_config(changes.large_file_config, tenant.large_files, lost=lost_config)
    if "api_key_expires_at" in given:
        _refuse_past(changes.api_key_expires_at, now)
        new["api_key_expires_at"] = changes.api_key_expires_at
    named = {TenantSecret.CLIENT_AUTH: "client_auth", TenantSecret.LARGE_FILES: FIELD}
    lost = frozenset(each for each in tenant.unreadable if named.get(each) not in given)
    return replace(tenant, **new, unreadable=lost)


def _client_auth(wanted: ClientAuthIn | None) -> ClientAuth:
    if wanted is None:
        return ClientAuth()
    method = ClientAuthMethod(wanted.method)
    needed = {
        ClientAuthMethod.NONE: frozenset[str](),
        ClientAuthMethod.BEARER: frozenset({"token"}),
        ClientAuthMethod.BASIC: frozenset({"user", "password"}),
    }[method]
    problems = [
        Problem(f"client_auth.{name}", f"{'is required' if name in needed else 'has no place'} with {method.value!r}")
        for name in ("token", "user", "password")
        if (getattr(wanted, name) is not None) != (name in needed)
    ]
    if problems:
        raise Invalid(*problems)
    return ClientAuth(
        method=method,
        token=None if wanted.token is None else Secret(wanted.token.get_secret_value()),
        user=wanted.user,
        password=None if wanted.password is None else Secret(wanted.password.get_secret_value()),
    )


def _refuse_past(expires_at: float | None, now: float) -> None:
    if expires_at is not None and expires_at <= now:
        raise Invalid(Problem("api_key_expires_at", "lies in the past: to end a key at once, revoke it"))


def _unknown(tenant_id: str) -> NotFound:
    return NotFound(f"There is no tenant {tenant_id!r}.")
