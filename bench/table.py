"""Figures for people: the median of the rounds, and between what they were."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def shown(figures: Mapping[str, float | Sequence[float]]) -> str:
    """Return lines of text, one a figure."""
    width = max(map(len, figures), default=0)
    return "\n".join(f"  {name.ljust(width)}  {_values(value)}" for name, value in figures.items())


def _values(value: float | Sequence[float]) -> str:
    values = [value] if isinstance(value, int | float) else list(value)
    median = statistics.median(values)
    digits = 3 if median < 1 else 2 if median < 10 else 1 if median < 100 else 0
    middle = f"{median:10.{digits}f}"
    return middle if len(values) == 1 else f"{middle}   ({min(values):.{digits}f} to {max(values):.{digits}f})"
