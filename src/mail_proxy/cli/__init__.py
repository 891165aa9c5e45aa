"""The `mail-proxy` command."""

from __future__ import annotations

from mail_proxy.cli.commands import main

__all__ = ["main"]
