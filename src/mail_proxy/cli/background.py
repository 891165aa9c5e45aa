"""`python -m mail_proxy.cli.background NAME`: an instance in a process of its own, as `start --background` makes it.

What it is to be started with comes on stdin, as JSON.
"""

from __future__ import annotations

import json
import sys

import click

from mail_proxy.cli.instances import InstanceError, Wanted, existing
from mail_proxy.cli.running import serve
from mail_proxy.runtime import environment


def main() -> int:
    """Run it until it is ended; return the exit code."""
    asked = json.load(sys.stdin)
    workers = asked.pop("workers")
    try:
        return serve(existing(sys.argv[1], environment.current()), Wanted(**asked), environment.current(), workers)
    except InstanceError as error:
        click.echo(f"mail-proxy: {error}", err=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
