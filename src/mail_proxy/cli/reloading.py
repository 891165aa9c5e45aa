"""`start --reload`: an instance that is started anew when its settings or the code change. For development."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import click

import mail_proxy
from mail_proxy.cli.instances import Instance, Wanted

PAUSE = 0.5
"""Seconds between two looks at the files."""
Versions = Mapping[Path, int]


def serve_and_reload(chosen: Instance, wanted: Wanted, environment: Mapping[str, str], workers: int | None) -> int:
    """Run an instance in a process of its own until it is ended; return the exit code.

    When config.toml or a file of this package changes, it is ended in good order and started again. One that does not
    start waits for the next change.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    asked = json.dumps({**asdict(wanted), "workers": workers}).encode()
    command = [sys.executable, "-m", "mail_proxy.cli.background", chosen.name]
    while True:
        seen = _versions(chosen)
        child = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=chosen.folder, env=dict(environment))
        try:
            _give(child, asked)
            while child.poll() is None and _versions(chosen) == seen:
                time.sleep(PAUSE)
            if child.returncode == 0:  # it was asked to end
                return 0
            while _versions(chosen) == seen:
                time.sleep(PAUSE)
            click.echo("mail-proxy: something has changed; starting again", err=True)
        except KeyboardInterrupt:
            return _ended(child)
        _ended(child)


def _give(child: subprocess.Popen[bytes], asked: bytes) -> None:
    if child.stdin is not None:
        child.stdin.write(asked)
        child.stdin.close()


def _ended(child: subprocess.Popen[bytes]) -> int:
    """End a process in good order and return its exit code; a second signal, as Ctrl-C gives it, changes nothing."""
    if child.poll() is None:
        child.terminate()
    return child.wait()


def _versions(chosen: Instance) -> Versions:
    found: dict[Path, int] = {}
    for path in (chosen.config, *Path(mail_proxy.__file__).parent.rglob("*.py")):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # an editor is replacing it
            continue
    return found


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
