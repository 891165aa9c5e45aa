"""How values are spread, counted in cells that all workers share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily

_PARTS = 1_000_000
"""A sum is kept in whole millionths."""


class Histogram:
    """One distribution for each value of a label; `label` None: a single one. `bounds` are inclusive and grow."""

    def __init__(
        self,
        name: str,
        text: str,
        bounds: tuple[float, ...],
        label: str | None = None,
        values: tuple[str, ...] = ("",),
    ) -> None:
        self._name, self._text = name, text
        self._bounds = bounds
        self._label, self._values = label, values
        self._width = len(bounds) + 2

    @property
    def cells(self) -> int:
        """How many cells it takes: for each value one for each bound, one for what is beyond, and one for the sum."""
        return self._width * len(self._values)

    def observe(self, cells: memoryview[int], index: int, value: float) -> None:
        """Count a value under the label's value of that index."""
        width = self._width
        first = index * width
        cells[first + bisect_left(self._bounds, value)] += 1
        cells[first + width - 1] += max(0, int(value * _PARTS))

    def family(self, cells: Sequence[int]) -> HistogramMetricFamily:
        """Show what was counted."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for index, value in enumerate(self._values):
            counts = cells[index * self._width : (index + 1) * self._width]
            buckets = list(zip(self._bounds_as_text(), accumulate(counts[:-1]), strict=True))
            family.add_metric([value] if self._label else [], buckets, counts[-1] / _PARTS)
        return family

    def _bounds_as_text(self) -> Iterator[str]:
        yield from (f"{bound:g}" for bound in self._bounds)
        yield "+Inf"
