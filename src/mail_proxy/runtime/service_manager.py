"""Telling systemd how the service is (sd_notify), where it has started it and wants to know."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


class ServiceManager:
    """The one that `NOTIFY_SOCKET` names in the environment; without it nobody is told anything."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        address = variables.get("NOTIFY_SOCKET", "")
        # An abstract socket is written with @ in the place of its first byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._microseconds = variables.get("WATCHDOG_USEC", "")

    @property
    def patience(self) -> float | None:
        """Seconds of silence after which it takes the service for hung; None: it does not listen for that."""
        if not self._microseconds.isdigit() or int(self._microseconds) == 0:
            return None
        return int(self._microseconds) / 1_000_000

    @property
    def alive_every(self) -> float | None:
        """Seconds after which it wants to hear that the service lives: half of what it waits; None: never."""
        return self.patience / 2 if self._address and self.patience else None

    def tell(self, state: str) -> None:
        """Send it a state. It may have gone away; the service goes on all the same."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            log.info("the service manager cannot be told", state=state, reason=os.strerror(error.errno or 0))
