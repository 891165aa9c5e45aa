"""Parts of a file that are asked for (RFC 9110 section 14). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `first` up to and with `last`."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """How many bytes they are."""
        return self.last - self.first + 1


class Unsatisfiable(Exception):
    """Nothing of the file is in the range."""


def asked_range(header: str | None, size: int) -> ByteRange | None:
    """Read a `Range` header; None where the whole file is to be given.

    A header that is not understood, or asks for several parts, may be passed over (RFC 9110 section 14.2). Raises
    `Unsatisfiable`.
    """
    found = None if header is None else _ONE.match(header)
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        suffix = int(found[2])
        if not suffix or not size:
            raise Unsatisfiable
        return ByteRange(max(0, size - suffix), size - 1)
    first = int(found[1])
    last = min(int(found[2]) if found[2] else size - 1, size - 1)
    if found[2] and int(found[2]) < first:
        return None
    if first >= size:
        raise Unsatisfiable
    return ByteRange(first, last)
