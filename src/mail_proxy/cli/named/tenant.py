"""`mail-proxy NAME TENANT COMMAND`: one tenant."""

from __future__ import annotations

import click

from mail_proxy.cli.named.place import Reached, speaks
from mail_proxy.cli.named.tenants import of, show_tenant, tell_held
from mail_proxy.cli.options import AS_JSON, examples

BATCH = click.option("--batch", metavar="CODE", help="One campaign of the tenant instead of all of it.")


@click.command(short_help="Show the tenant.", epilog=examples("mail-proxy myserver acme info"))
@AS_JSON
@speaks
def info(reached: Reached, *, as_json: bool) -> None:
    """Show the tenant's settings, how many of its messages are not finished, and how reporting to it goes."""
    tenant = dict(of(reached, reached.tenant_id))
    reporting = next(
        (each for each in reached.proxy.tenants.reporting() if each["tenant_id"] == reached.tenant_id), None
    )
    if reporting is not None:
        tenant["reporting"] = {name: value for name, value in reporting.items() if name != "tenant_id"}
    tenant["accounts"] = [each["id"] for each in reached.proxy.accounts.list()]
    tenant["pending_messages"] = reached.proxy.status()["pending_messages"]
    show_tenant(tenant, as_json=as_json)


@click.command(
    short_help="Hold the tenant, or one of its batches.",
    epilog=examples("mail-proxy myserver acme suspend", "mail-proxy myserver acme suspend --batch newsletter-2026-07"),
)
@BATCH
@speaks
def suspend(reached: Reached, *, batch: str | None) -> None:
    """Hold the tenant or a batch: messages are taken, and wait. What is being sent is finished."""
    tell_held(reached.proxy.suspend(batch))


@click.command(
    short_help="Free the tenant, or one of its batches.", epilog=examples("mail-proxy myserver acme activate")
)
@BATCH
@speaks
def activate(reached: Reached, *, batch: str | None) -> None:
    """Free the tenant with all its batches, or one batch: what waits goes on."""
    tell_held(reached.proxy.activate(batch))
