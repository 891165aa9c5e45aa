"""`mail-proxy NAME connect`: a Python shell with the instance in it."""

from __future__ import annotations

import click

from mail_proxy.cli.named.place import current_place, reach
from mail_proxy.cli.options import examples
from mail_proxy.cli.told import told


@click.command(
    short_help="Open a Python shell with the instance in it.",
    epilog=examples("mail-proxy myserver connect", "echo 'print(proxy.status())' | mail-proxy myserver connect"),
)
@told
def connect() -> None:
    """Open a Python shell in which `proxy` is the instance.

    `proxy.status()`, `proxy.tenants.list()`, `proxy.of_tenant("acme").messages.errors()`: docs/client.md has them all.
    `new_tenant()`, `new_account()` and `new_message()` are forms. Tab completes. Without a terminal it runs what comes
    on stdin.
    """
    from mail_proxy.cli.named.console import ShellProxy, run  # noqa: PLC0415 - takes a while

    with reach(current_place(), ShellProxy) as reached:
        run(reached)
