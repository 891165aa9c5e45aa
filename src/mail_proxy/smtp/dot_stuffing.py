"""How a message is made safe to stand between DATA and the final dot (RFC 5321 section 4.5.2)."""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\r|\n")


class DotStuffer:
    """Doubles the dots that begin lines, makes every line end CRLF, and knows how the message must end.

    A bare CR or LF never passes: servers differ in whether it ends a line, and by that difference a second message can
    be smuggled in behind the first (RFC 5321 section 2.3.8).
    """  # G15

    __slots__ = ("_at_line_start", "_held_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held_cr = False

    def stuff(self, chunk: bytes) -> bytes:
        """Return what may go out for this piece; the pieces may be cut anywhere."""
        if self._held_cr:
            chunk = b"\r" + chunk
            self._held_cr = False
        if chunk.endswith(b"\r"):
            # Whether a line feed belongs to it shows in the next piece.
            chunk = chunk[:-1]
            self._held_cr = True
        if not chunk:
            return b""
        pairs = chunk.count(b"\r\n")
        if chunk.count(b"\n") != pairs or chunk.count(b"\r") != pairs:
            chunk = _LINE_END.sub(b"\r\n", chunk)
        if b"\n." in chunk:
            chunk = chunk.replace(b"\n.", b"\n..")
        if self._at_line_start and chunk.startswith(b"."):
            chunk = b"." + chunk
        self._at_line_start = chunk.endswith(b"\n")
        return chunk

    def ending(self) -> bytes:
        """Return the final dot, after the line end that the message itself may lack."""
        if self._held_cr or not self._at_line_start:
            return b"\r\n.\r\n"
        return b".\r\n"


def unstuff(content: bytes) -> bytes:
    """Take out the dots that were put in: the other side's half (RFC 5321 section 4.5.2). Lines end with CRLF."""
    if content.startswith(b"."):
        content = content[1:]
    return content.replace(b"\r\n.", b"\r\n") if b"\r\n." in content else content
