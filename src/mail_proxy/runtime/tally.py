"""Counts of one process or of several, in memory that they share.

Each process has a page to itself and is the only one that writes it; everybody reads all of them. A page outlives its
process, also one that was killed: whoever takes its place goes on from there, so that no sum ever becomes smaller. The
memory is shared by forking, and is gone with the last process.

    names   [names in use] rows of [bytes of the name] [name …]
    page    [pid] [totals …] rows of [numbers …]

What the rows are called is the same for all pages; who meets a new name adds it alone (`Tally.alone`). A cell is 8
bytes and is written in one step, so a reader meets the number of before or the one of after.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from threading import Lock
from weakref import finalize

CELL = 8
Labels = tuple[str, str]
_LONGEST_NAME = 136
"""Bytes for both labels of a row; ids of tenants and accounts have at most 64 characters."""
_NAME_CELLS = 1 + _LONGEST_NAME // CELL


@dataclass(frozen=True, slots=True)
class Shape:
    """What there is room for: on each page so many totals, and for each of so many rows so many numbers."""

    totals: int
    rows: int
    numbers: int

    @property
    def cells(self) -> int:
        """The size of a page."""
        return 1 + self.totals + self.rows * self.numbers


class Names:
    """What the rows are called, in the order in which they came. A name that is in use stays where it is."""

    def __init__(self, cells: memoryview[int]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return self._cells[0]

    def add(self, labels: Labels) -> None:
        """Name another row; only within `Tally.alone`. Raises `IndexError` when there is no row left."""
        name = _written(labels)
        begin = 1 + self._cells[0] * _NAME_CELLS
        if begin >= len(self._cells):
            raise IndexError("there is no row left")
        self._cells[begin] = len(name)
        self._cells[begin + 1 : begin + _NAME_CELLS] = memoryview(name.ljust(_LONGEST_NAME, b"\0")).cast("Q")
        self._cells[0] += 1  # last: a name that is in use is whole, whenever its process was killed

    def since(self, row: int) -> list[Labels]:
        """Return the names of that row and of all that came later."""
        return [self._read(1 + n * _NAME_CELLS) for n in range(row, len(self))]

    def _read(self, begin: int) -> Labels:
        size = self._cells[begin]
        return _read(self._cells[begin + 1 : begin + _NAME_CELLS].tobytes()[:size])


def kept(labels: Labels) -> Labels:
    """Return labels as `Names` gives them back: what is too long for a name is cut."""
    return _read(_written(labels))


def _written(labels: Labels) -> bytes:
    return "\0".join(labels).encode(errors="replace")[:_LONGEST_NAME]


def _read(name: bytes) -> Labels:
    tenant_id, _, account_id = name.decode(errors="ignore").partition("\0")
    return tenant_id, account_id


class Page:
    """The counts of one process. `totals` and what `row` returns are counted in place."""

    def __init__(self, cells: memoryview[int], shape: Shape) -> None:
        self._cells = cells
        self._width = shape.numbers
        self.totals = cells[1 : 1 + shape.totals]
        self._rows = cells[1 + shape.totals :]

    @property
    def pid(self) -> int:
        """The process that writes here; 0 before there was one."""
        return self._cells[0]

    def take(self, pid: int) -> None:
        """Say who writes here from now on."""
        self._cells[0] = pid

    def row(self, row: int) -> memoryview[int]:
        """Return the numbers of a row."""
        return self._rows[row * self._width : (row + 1) * self._width]

    def numbers(self, rows: int) -> list[int]:
        """Return the numbers of so many rows, one row after the other."""
        return self._rows[: rows * self._width].tolist()


class Tally:
    """The pages of all processes, the names of their rows, and one number that they keep together."""

    def __init__(self, shape: Shape, pages: int = 1) -> None:
        names = 1 + shape.rows * _NAME_CELLS
        first = 1 + names
        self._memory = mmap.mmap(
            -1, (first + pages * shape.cells) * CELL
        )  # anonymous, and shared with forked processes
        cells = memoryview(self._memory).cast("Q")
        self._common = cells[:1]
        self.names = Names(cells[1:first])
        self.pages: Sequence[Page] = [
            Page(cells[first + n * shape.cells : first + (n + 1) * shape.cells], shape) for n in range(pages)
        ]
        self._threads = Lock()
        self._file = _file_of_no_name() if pages > 1 else None
        if self._file is not None:
            finalize(self, os.close, self._file)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other threads and processes from naming rows meanwhile.

        The lock is the system's, which takes it from a process that is killed; it is held for some microseconds.
        """
        with self._threads:
            if self._file is None:
                yield
                return
            fcntl.lockf(self._file, fcntl.LOCK_EX)  # it belongs to the process: `flock` would be shared by forking
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    @property
    def latest(self) -> int | None:
        """The number that was set last, by whichever process; None before that."""
        return self._common[0] - 1 if self._common[0] else None

    @latest.setter
    def latest(self, number: int) -> None:
        self._common[0] = number + 1


def _file_of_no_name() -> int:
    """Return a file that nobody else can open, and that ends with the processes that have it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mail-proxy-tally")
    descriptor, path = mkstemp()
    Path(path).unlink()
    return descriptor
