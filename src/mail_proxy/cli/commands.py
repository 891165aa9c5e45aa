"""The commands and their options. What they do is imported only when they run, so that `--help` is quick."""

from __future__ import annotations

import sys

import click

import mail_proxy
from mail_proxy.cli.instance_commands import COMMANDS

EPILOG = """\b
Examples:
  mail-proxy demo
  mail-proxy start myserver
  GMP_API_TOKEN=change-me mail-proxy serve
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mail_proxy.__version__, prog_name="mail-proxy")
def main() -> None:
    """Take mail by HTTP, write it down, send it by SMTP, report what became of it."""


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


for command in COMMANDS:
    main.add_command(command)
