"""How long each step of a session may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for each step (RFC 5321 section 4.5.3.2). Nothing limits a transaction as a whole."""

    connect: float = 30.0
    """For each address of the host."""
    command: float = 300.0
    """The greeting, the TLS handshake, and each command up to its reply."""
    data_block: float = 180.0
    """Until the server has taken a block of the message."""
    dot: float = 600.0
    """From the final dot to its reply. Giving up earlier makes copies: the server may be about to accept."""
    check: float = 10.0
    """For the question whether a session that was idle still lives."""
    quit: float = 2.0
    """For parting politely."""
    check_after: float = 5.0
    """A session that was idle for longer is asked that question before it is used again."""
