"""How tenants and accounts stand in their tables: each secret sealed, and bound to the place where it stands."""  # G16

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from mail_proxy.domain.account import Account, AuthMethod, Hold, OnUncertain, TlsMode
from mail_proxy.domain.large_file import LargeFileAction, LargeFileConfig, StorageKind, StoragePlace
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.rate_limit import LimitBehavior, Limits
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import EarlierSecret, Signing
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Suspension, Tenant, TenantSecret
from mail_proxy.ports.secrets import Cipher, SealBroken
from mail_proxy.store.schema import tenants
from mail_proxy.store.sealed import DeclaredPlaces

_COLUMNS = {
    TenantSecret.CLIENT_AUTH: tenants.c.client_auth.name,
    TenantSecret.SIGNING: tenants.c.signing.name,
    TenantSecret.LARGE_FILES: tenants.c.large_files.name,
}


class DirectoryRows:
    """Turns values into rows and rows into values."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = DeclaredPlaces(cipher)

    def tenant(self, row: Row[Any], batches: frozenset[str]) -> Tenant:
        """Build a tenant from its row and its suspended batches. Secrets that no key opens keep nothing else back."""
        client_auth, signing, large_files, lost = ClientAuth(), Signing(), None, set[TenantSecret]()
        try:
            client_auth = self._open_client_auth(row.id, row.client_auth)
        except SealBroken:
            lost.add(TenantSecret.CLIENT_AUTH)
        try:
            signing = self._open_signing(row.id, row.signing)
        except SealBroken:
            lost.add(TenantSecret.SIGNING)
        try:
            large_files = self._open_large_files(row.id, row.large_files)
        except SealBroken:
            lost.add(TenantSecret.LARGE_FILES)
        return Tenant(
            id=row.id,
            name=row.name,
            client_base_url=row.client_base_url,
            client_sync_path=row.client_sync_path,
            client_attachment_path=row.client_attachment_path,
            client_auth=client_auth,
            active=row.active,
            on_uncertain=OnUncertain(row.on_uncertain),
            limits=Limits(per_hour=row.limit_per_hour, per_day=row.limit_per_day),
            api_key_expires_at=row.api_key_expires_at,
            has_api_key=row.api_key_hash is not None,
            suspension=Suspension(row.suspended, batches),
            signing=signing,
            large_files=large_files,
            unreadable=frozenset(lost),
            created_ts=row.created_ts,
        )

    def tenant_values(self, tenant: Tenant) -> dict[str, Any]:
        """Return the columns of a tenant that an update sets. Those of secrets that no key opens stay as they are."""
        values = {
            "name": tenant.name,
            "client_base_url": tenant.client_base_url,
            "client_sync_path": tenant.client_sync_path,
            "client_attachment_path": tenant.client_attachment_path,
            "client_auth": self._seal_client_auth(tenant),
            "large_files": self._seal_large_files(tenant),
            "active": tenant.active,
            "on_uncertain": tenant.on_uncertain.value,
            "limit_per_hour": tenant.limits.per_hour,
            "limit_per_day": tenant.limits.per_day,
            "api_key_expires_at": tenant.api_key_expires_at,
        }
        for lost in tenant.unreadable:
            values.pop(_COLUMNS[lost], None)
        return values

    def account(self, row: Row[Any]) -> Account:
        """Build an account from its row. A secret that no key opens does not keep the rest from being read."""
        password = oauth = None
        unreadable = False
        try:
            if row.password is not None:
                password = Secret(self._cipher.open(row.password, _password_place(row.tenant_id, row.id)))
            oauth = self._open_oauth(row)
        except SealBroken:
            unreadable = True
        return Account(
            pk=row.pk,
            tenant_id=row.tenant_id,
            id=row.id,
            host=row.host,
            port=row.port,
            user=row.user,
            password=password,
            oauth=oauth,
            unreadable=unreadable,
            auth=AuthMethod(row.auth),
            tls=TlsMode(row.tls),
            verify_tls=row.verify_tls,
            ttl=row.ttl,
            max_connections=row.max_connections,
            batch_size=row.batch_size,
            on_uncertain=None if row.on_uncertain is None else OnUncertain(row.on_uncertain),
            is_default=row.is_default,
            limits=Limits(row.limit_per_minute, row.limit_per_hour, row.limit_per_day),
            limit_behavior=LimitBehavior(row.limit_behavior),
            fallback_account_id=row.fallback_account_id,
            host_by_tenant=row.host_by_tenant,
            token_url_by_tenant=row.token_url_by_tenant,
            hold=None if row.hold_since is None else Hold(row.hold_reason or "", row.hold_since),
        )

    def account_values(self, account: Account) -> dict[str, Any]:
        """Return the columns of an account that an update sets; its hold and what a limit has said end."""
        sealed = None
        if account.password is not None:
            sealed = self._cipher.seal(account.password.reveal(), _password_place(account.tenant_id, account.id))
        return {
            "host": account.host,
            "port": account.port,
            "user": account.user,
            "password": sealed,
            "oauth": self.seal_oauth(account.tenant_id, account.id, account.oauth),
            "auth": account.auth.value,
            "tls": account.tls.value,
            "verify_tls": account.verify_tls,
            "ttl": account.ttl,
            "max_connections": account.max_connections,
            "batch_size": account.batch_size,
            "on_uncertain": None if account.on_uncertain is None else account.on_uncertain.value,
            "is_default": account.is_default,
            "limit_per_minute": account.limits.per_minute,
            "limit_per_hour": account.limits.per_hour,
            "limit_per_day": account.limits.per_day,
            "limit_behavior": account.limit_behavior.value,
            "limited_until": None,
            "limited_reason": None,
            "fallback_account_id": account.fallback_account_id,
            "host_by_tenant": account.host_by_tenant,
            "token_url_by_tenant": account.token_url_by_tenant,
            "hold_reason": None,
            "hold_since": None,
        }

    def _open_oauth(self, row: Row[Any]) -> OAuth | None:
        """Return what an account's row has for XOAUTH2."""
        if row.oauth is None:
            return None
        values = json.loads(self._cipher.open(row.oauth, _oauth_place(row.tenant_id, row.id)))
        return OAuth(
            token_url=values["token_url"],
            client_id=values["client_id"],
            client_secret=Secret(values["client_secret"]),
            refresh_token=Secret(values["refresh_token"]),
            grant=values["grant"],
            scope=values["scope"],
        )

    def seal_oauth(self, tenant_id: str, account_id: str, oauth: OAuth | None) -> str | None:
        """Return what an account's row is to have for XOAUTH2."""
        if oauth is None:
            return None
        text = json.dumps(
            {
                "token_url": oauth.token_url,
                "client_id": oauth.client_id,
                "client_secret": oauth.client_secret.reveal(),
                "refresh_token": oauth.refresh_token.reveal(),
                "grant": oauth.grant,
                "scope": oauth.scope,
            }
        )
        return self._cipher.seal(text, _oauth_place(tenant_id, account_id))

    def signing(self, tenant_id: str, sealed: str | None) -> Signing:
        """Return the secrets that sign a tenant's reports; none where no key opens them."""
        try:
            return self._open_signing(tenant_id, sealed)
        except SealBroken:
            return Signing()

    def _open_signing(self, tenant_id: str, sealed: str | None) -> Signing:
        if sealed is None:
            return Signing()
        values = json.loads(self._cipher.open(sealed, _signing_place(tenant_id)))
        earlier = tuple(EarlierSecret(Secret(secret), until) for secret, until in values["earlier"])
        return Signing(Secret(values["secret"]), earlier)

    def seal_signing(self, tenant_id: str, signing: Signing) -> str | None:
        """Return what a tenant's row is to have for them."""
        if signing.secret is None:
            return None
        earlier = [(each.secret.reveal(), each.until) for each in signing.earlier]
        text = json.dumps({"secret": signing.secret.reveal(), "earlier": earlier})
        return self._cipher.seal(text, _signing_place(tenant_id))

    def _seal_large_files(self, tenant: Tenant) -> str | None:
        config = tenant.large_files
        if config is None:
            return None
        storage = config.storage
        text = json.dumps(
            {
                "enabled": config.enabled,
                "max_size": config.max_size,
                "action": config.action.value,
                "storage_url": None if storage is None else storage.url,
                "credentials": {} if storage is None else {n: s.reveal() for n, s in storage.credentials.items()},
                "public_base_url": config.public_base_url,
                "ttl": config.ttl,
                "lifespan_after_download": config.lifespan_after_download,
            }
        )
        return self._cipher.seal(text, _large_files_place(tenant.id))

    def _open_large_files(self, tenant_id: str, sealed: str | None) -> LargeFileConfig | None:
        if sealed is None:
            return None
        values = json.loads(self._cipher.open(sealed, _large_files_place(tenant_id)))
        url = values["storage_url"]
        credentials = {name: Secret(text) for name, text in values["credentials"].items()}
        return LargeFileConfig(
            enabled=values["enabled"],
            max_size=values["max_size"],
            action=LargeFileAction(values["action"]),
            storage=None if url is None else StoragePlace(StorageKind(url.partition(":")[0]), url, credentials),
            public_base_url=values["public_base_url"],
            ttl=values["ttl"],
            lifespan_after_download=values["lifespan_after_download"],
        )

    def _seal_client_auth(self, tenant: Tenant) -> str | None:
        auth = tenant.client_auth
        if auth.method is ClientAuthMethod.NONE:
            return None
        text = json.dumps(
            {
                "method": auth.method.value,
                "token": _revealed(auth.token),
                "user": auth.user,
                "password": _revealed(auth.password),
            }
        )
        return self._cipher.seal(text, _client_auth_place(tenant.id))

    def _open_client_auth(self, tenant_id: str, sealed: str | None) -> ClientAuth:
        if sealed is None:
            return ClientAuth()
        values = json.loads(self._cipher.open(sealed, _client_auth_place(tenant_id)))
        return ClientAuth(
            ClientAuthMethod(values["method"]),
            None if values["token"] is None else Secret(values["token"]),
            values["user"],
            None if values["password"] is None else Secret(values["password"]),
        )


def _revealed(secret: Secret | None) -> str | None:
    return None if secret is None else secret.reveal()


def _password_place(tenant_id: str, account_id: str) -> str:
    return f"accounts.password/{tenant_id}/{account_id}"


def _oauth_place(tenant_id: str, account_id: str) -> str:
    return f"accounts.oauth/{tenant_id}/{account_id}"


def _signing_place(tenant_id: str) -> str:
    return f"tenants.signing/{tenant_id}"


def _client_auth_place(tenant_id: str) -> str:
    return f"tenants.client_auth/{tenant_id}"


def _large_files_place(tenant_id: str) -> str:
    return f"tenants.large_files/{tenant_id}"
