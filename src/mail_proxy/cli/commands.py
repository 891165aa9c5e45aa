"""The commands and their options. What they do is imported only when they run, so that `--help` is quick."""

from __future__ import annotations

import sys

import click

import mail_proxy
from mail_proxy.cli.instance_commands import COMMANDS
from mail_proxy.cli.named import (
    accounts,
    backups,
    configuring,
    instance,
    measuring,
    messages,
    sending,
    shell,
    tenant,
    tenants,
)
from mail_proxy.cli.named.tree import SETTINGS, Root
from mail_proxy.cli.options import examples

OF_INSTANCE = (
    *(instance.info, instance.stats, instance.token, instance.run_now, instance.command_log),
    *(tenants.tenants, configuring.config, backups.backup, backups.restore, shell.connect, measuring.bench),
)
OF_TENANT = (
    *(tenant.info, tenant.suspend, tenant.activate, instance.run_now),
    *(accounts.accounts, messages.messages, sending.send, sending.watch),
)

EPILOG = """\b
Examples:
  mail-proxy demo
  mail-proxy start myserver --background
  mail-proxy myserver tenants add
  mail-proxy myserver acme accounts add
  GMP_API_TOKEN=change-me mail-proxy serve
"""


@click.group(
    cls=Root,
    of_instance=OF_INSTANCE,
    of_tenant=OF_TENANT,
    epilog=EPILOG,
    subcommand_metavar="COMMAND | NAME COMMAND | NAME TENANT COMMAND …",
    context_settings=SETTINGS,
)
@click.version_option(mail_proxy.__version__, prog_name="mail-proxy")
def main() -> None:
    """Take mail by HTTP, write it down, send it by SMTP, report what became of it.

    Behind the name of an instance are its commands, behind the id of one of its tenants those of the tenant: see
    mail-proxy NAME --help, mail-proxy NAME TENANT --help.
    """


@main.command(
    short_help="Run an instance that is set up by GMP_* variables.",
    epilog="""\b
Examples:
  GMP_API_TOKEN=change-me mail-proxy serve
  GMP_API_TOKEN=change-me GMP_PORT=8025 GMP_DB_PATH=/var/lib/mail-proxy/mail.db mail-proxy serve
  GMP_API_TOKEN=change-me GMP_DB_PATH=postgresql://mail@db/mail mail-proxy serve --workers 4
""",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes that share the port; more than 1 need PostgreSQL. Beats GMP_WORKERS.",
)
def serve(workers: int | None) -> None:
    """Run an instance that is set up by GMP_* variables; logs go to stdout.

    SIGTERM and Ctrl-C end it: SMTP transactions in progress get GMP_SHUTDOWN_GRACE seconds, and everything else waits
    in the database for the next start. docs/settings.md lists the variables.
    """
    from mail_proxy.cli import serving  # noqa: PLC0415

    sys.exit(serving.serve(workers))


@main.command(
    short_help="Show what an instance does, in ten seconds.",
    epilog="""\b
Examples:
  mail-proxy demo
  mail-proxy demo | tee timeline.txt
""",
)
def demo() -> None:
    """Show what an instance does: three messages and what becomes of them, in some ten seconds.

    Everything is real but the receiving mail server: an instance on SQLite in a temporary folder, an SMTP server on
    this machine that catches the mail, and an endpoint that gets the reports. Nothing leaves the machine, and nothing
    is left behind.
    """
    from mail_proxy.cli import demonstration  # noqa: PLC0415

    sys.exit(demonstration.demo())


@main.command(
    short_help="Write what a shell needs to complete commands with Tab.",
    epilog=examples(
        'eval "$(mail-proxy completion bash)"       # in ~/.bashrc',
        'eval "$(mail-proxy completion zsh)"        # in ~/.zshrc',
        "mail-proxy completion fish > ~/.config/fish/completions/mail-proxy.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Write a script with which a shell completes commands, options, and names of instances, tenants and accounts."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(main, {}, "mail-proxy", "_MAIL_PROXY_COMPLETE").source())


for command in COMMANDS:
    main.add_command(command)
