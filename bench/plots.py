"""Pictures of the figures, for docs/performance.md: `python -m bench.plots docs/figures.json docs/plots`.

Colours and lines are such that they can be seen on white and on black.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

from bench.matrix import ACCOUNTS, CLIENTS, DATABASES, DISTANCES, SIZES, Case

Figures = Mapping[str, Mapping[str, float | Sequence[float]]]

_GREY = "#808080"
_STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground=_GREY,
    foreground_strong=_GREY,
    foreground_subtle=_GREY,
    colors=("#3b7dd8", "#d8843b", "#3ba272", "#a45bc0"),
    font_family="sans-serif",
    guide_stroke_color="#80808055",
    major_guide_stroke_color="#80808055",
    value_font_size=13,
    value_colors=(_GREY,) * 4,
    opacity=".9",
)


def end_to_end(figures: Figures) -> pygal.HorizontalBar:
    """Ours beside what others do on the same machine."""
    chart = _bars("Messages a second, one kind of mail server on the same machine", legend=False)
    rows = {
        "ours: written down, sent, reported": _median(figures, "the main job", "accepted to delivered and reported /s"),
        "Postfix as a relay": _median(figures, "others", "Postfix as a relay /s"),
        "a loop of aiosmtplib, 4 connections": _median(figures, "others", "aiosmtplib, 4 connections /s"),
        "smtplib, a connection each": _median(figures, "others", "smtplib, a connection each /s"),
    }
    known = {name: value for name, value in rows.items() if value is not None}
    chart.x_labels = list(reversed(known))
    chart.add("", list(reversed(known.values())))
    return chart


def submissions(figures: Figures) -> pygal.Bar:
    """Single submissions by so many clients at once."""
    chart = _bars("Single submissions a second, while all is sent and reported", kind=pygal.Bar)
    chart.x_labels = [f"{count} client{'s' if count > 1 else ''}" for count in CLIENTS]
    for database in DATABASES:
        names = [f"{database}, {label}: /s" for label in chart.x_labels]
        chart.add(database, [_median(figures, "single submissions", name) for name in names])
    return chart


def matrix(figures: Figures, size: int, distance: float) -> pygal.Bar:
    """One account and many, on both databases."""
    where = f"a mail server {distance * 1000:.0f} ms away" if distance else "the mail server near"
    chart = _bars(f"Messages of {size // 1000} kB a second, reports included, {where}", kind=pygal.Bar)
    chart.x_labels = [f"{count} account{'s' if count > 1 else ''}" for count in ACCOUNTS]
    for database in DATABASES:
        names = [Case(database, count, size, distance).name for count in ACCOUNTS]
        chart.add(database, [_median(figures, "the main job in all its forms", name) for name in names])
    return chart


def backlog(figures: Figures) -> pygal.Bar:
    """What a claim costs."""
    title = "a backlog"
    chart = _bars("Milliseconds to claim 100 of so many waiting messages", kind=pygal.Bar, legend=False, digits=2)
    ends = ": a claim of 100, ms"
    names = [name for name in figures[title] if name.endswith(ends)]
    chart.x_labels = [f"{int(name.removesuffix(ends).removesuffix(' waiting')):,}" for name in names]
    chart.add("", [_median(figures, title, name) for name in names])
    return chart


def instances(figures: Figures) -> pygal.Bar:
    """Instances on one PostgreSQL."""
    title = "instances on one PostgreSQL, the mail server 50 ms away"
    chart = _bars("Messages a second by instances on one PostgreSQL, mail server 50 ms away", legend=False)
    ends = " on PostgreSQL, reported /s"
    names = [name for name in figures[title] if name.endswith(ends)]
    chart.x_labels = list(reversed([name.removesuffix(ends) for name in names]))
    chart.add("", list(reversed([_median(figures, title, name) for name in names])))
    return chart


def _bars(title: str, kind: Any = pygal.HorizontalBar, *, legend: bool = True, digits: int = 0) -> Any:  # noqa: ANN401 - pygal has no types
    beside = "" if kind is pygal.Bar else "\N{NO-BREAK SPACE}" * 9  # its middle stands at the end of the bar
    return kind(
        title=title,
        style=_STYLE,
        js=(),
        print_values=True,
        print_values_position="top",
        value_formatter=lambda value: "" if value is None else f"{beside}{value:,.{digits}f}",
        show_legend=legend,
        legend_at_bottom=True,
        show_y_guides=kind is pygal.Bar,
        width=760,
        height=360 if kind is pygal.Bar else 260,
        disable_xml_declaration=False,
        pretty_print=True,
        no_prefix=True,
    )


def _median(figures: Figures, title: str, name: str) -> float | None:
    value = figures.get(title, {}).get(name)
    if value is None or isinstance(value, int | float):
        return value
    return statistics.median(value)


def _still(svg: str) -> str:
    """Take out what moves or tells when it was made."""
    return re.sub(r"<script\b.*?</script>|<!--.*?-->", "", svg, flags=re.DOTALL)


def draw(figures: Figures, folder: Path) -> Sequence[Path]:
    """Write a picture for each group of figures that is there; return their files."""
    charts: dict[str, Any] = {}
    if "the main job" in figures:
        charts["end-to-end"] = end_to_end(figures)
    if "single submissions" in figures:
        charts["submissions"] = submissions(figures)
    if "the main job in all its forms" in figures:
        for size in SIZES:
            for distance in DISTANCES:
                charts[f"matrix-{size // 1000}kB-{distance * 1000:.0f}ms"] = matrix(figures, size, distance)
    if "a backlog" in figures:
        charts["backlog"] = backlog(figures)
    if "instances on one PostgreSQL, the mail server 50 ms away" in figures:
        charts["instances"] = instances(figures)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, chart in charts.items():
        file = folder / f"{name}.svg"
        file.write_text(_still(chart.render().decode()), encoding="utf-8")
        files.append(file)
    return files


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__)
    parser.add_argument("figures", type=Path, help="what `python -m bench --json FILE` has written")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    arguments = parser.parse_args()
    for file in draw(json.loads(arguments.figures.read_text(encoding="utf-8"))["figures"], arguments.folder):
        print(file)


if __name__ == "__main__":
    main()
