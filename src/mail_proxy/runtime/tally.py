"""Counts of one process or of several, in memory that they share.

Each process has a page to itself and is the only one that writes it; everybody reads all of them. A page outlives its
process, also one that was killed: whoever takes its place goes on from there, so that no sum ever becomes smaller. The
memory is shared by forking, and is gone with the last process.

    page    [cells in use] [pid] [totals …] rows
    row     [bytes of the name] [name …] [numbers …]

A cell is 8 bytes and is written in one step, so a reader meets the number of before or the one of after.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CELL = 8
Labels = tuple[str, str]
_HEAD = 2
_LONGEST_NAME = 136
"""Bytes for both labels of a row; ids of tenants and accounts have at most 64 characters."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a page has room for: so many totals, and so many rows of so many numbers."""

    totals: int
    rows: int
    numbers: int

    @property
    def cells(self) -> int:
        """The size of a page."""
        return _HEAD + self.totals + self.rows * (1 + _LONGEST_NAME // CELL + self.numbers)


class Page:
    """The counts of one process. `totals` and what `add` returns are counted in place."""

    def __init__(self, cells: memoryview[int], shape: Shape) -> None:
        self._cells = cells
        self._shape = shape
        self._first = _HEAD + shape.totals
        self.totals = cells[_HEAD : self._first]

    @property
    def pid(self) -> int:
        """The process that writes here; 0 before there was one."""
        return self._cells[1]

    def take(self, pid: int) -> None:
        """Say who writes here from now on."""
        self._cells[1] = pid

    def add(self, labels: Labels) -> memoryview[int]:
        """Begin a row. What is too long for a name is cut. Raises `IndexError` when the page is full."""
        name = "\0".join(labels).encode(errors="surrogatepass")[:_LONGEST_NAME]
        begin = self._cells[0] or self._first
        numbers = begin + 1 + -(-len(name) // CELL)
        end = numbers + self._shape.numbers
        if end > len(self._cells):
            raise IndexError("the page is full")
        self._cells[begin] = len(name)
        padded = memoryview(name.ljust((numbers - begin - 1) * CELL, b"\0")).cast("Q")
        self._cells[begin + 1 : numbers] = padded
        self._cells[0] = end  # last: a row that is in use is whole
        return self._cells[numbers:end]

    def rows(self) -> Iterator[tuple[Labels, memoryview[int]]]:
        """Give every row, the oldest first."""
        begin, end = self._first, self._cells[0]
        while begin < end:
            size = self._cells[begin]
            numbers = begin + 1 + -(-size // CELL)
            name = self._cells[begin + 1 : numbers].tobytes()[:size].decode(errors="replace")
            tenant_id, _, account_id = name.partition("\0")
            begin = numbers + self._shape.numbers
            yield (tenant_id, account_id), self._cells[numbers:begin]


class Tally:
    """The pages of all processes, and one number that they keep together."""

    def __init__(self, shape: Shape, pages: int = 1) -> None:
        self._memory = mmap.mmap(-1, (1 + pages * shape.cells) * CELL)  # anonymous, and shared with forked processes
        cells = memoryview(self._memory).cast("Q")
        self._common = cells[:1]
        self.pages: Sequence[Page] = [
            Page(cells[1 + n * shape.cells : 1 + (n + 1) * shape.cells], shape) for n in range(pages)
        ]

    @property
    def latest(self) -> int | None:
        """The number that was set last, by whichever process; None before that."""
        return self._common[0] - 1 if self._common[0] else None

    @latest.setter
    def latest(self, number: int) -> None:
        self._common[0] = number + 1
