"""Ids for shells to complete: quickly, or not at all, and never with a word on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.place import Place, reachable, token_of

if TYPE_CHECKING:
    from mail_proxy.client import MailProxyClient

PATIENCE = 2.0
"""Seconds that a running instance has to answer."""


def tenant_ids(place: Place) -> Sequence[str]:
    """Return the tenants of an instance."""
    from mail_proxy.store.glance import tenant_ids as in_file  # noqa: PLC0415

    return _ids(place, lambda proxy: [each["id"] for each in proxy.tenants.list()], lambda: in_file(place.database))


def account_ids(place: Place) -> Sequence[str]:
    """Return the accounts of a tenant."""
    from mail_proxy.store.glance import account_ids as in_file  # noqa: PLC0415

    tenant_id = place.tenant_id or ""
    return _ids(
        place,
        lambda proxy: [each["id"] for each in proxy.accounts.list()],
        lambda: in_file(place.database, tenant_id),
    )


def _ids(
    place: Place, ask: Callable[[MailProxyClient], Sequence[str]], look: Callable[[], Sequence[str]]
) -> Sequence[str]:
    """Ask a running instance, else look into its file; of what cannot be asked there is nothing to complete."""
    from mail_proxy.client import ClientError, MailProxyClient  # noqa: PLC0415 - takes a while

    try:
        running = place.instance.running()
        if running is None:
            return look()
        token = token_of(place.instance)
        with MailProxyClient(
            reachable(running.address), token, tenant_id=place.tenant_id, retries=0, timeout=PATIENCE
        ) as proxy:
            return ask(proxy)
    except (InstanceError, ClientError):
        return []
