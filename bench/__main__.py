"""`python -m bench`: the figures of docs/performance.md, all in one run, in less than ten minutes; `--full`: all."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import backlog, compose, far, mailers, main_job, matrix, reports, search, smtp
from bench.machine import fsync_rate, machine
from bench.processes import MailCounter, mail_sink
from bench.smtp_tools import NotInstalled
from bench.table import shown

Figures = Mapping[str, float | Sequence[float]]

INSTANCES = "instances on one PostgreSQL, the mail server 50 ms away"
BACKLOG = "a backlog"

OTHERS: Mapping[str, Callable[[MailCounter], float]] = {
    "smtp-source straight to the sink /s": lambda sink: mailers.direct(sink, 10_000),
    "Postfix as a relay /s": lambda sink: mailers.relay(sink, 3000),
    "aiosmtplib, 4 connections /s": lambda sink: mailers.aiosmtplib_loop(sink.port, 3000),
    "smtplib, a connection each /s": lambda sink: mailers.each_by_smtplib(sink.port, 300),
}


def others(rounds: int = 3) -> Figures:
    """Measure what others do with the same messages."""
    figures: dict[str, list[float]] = {}
    with mail_sink() as sink:
        for _ in range(rounds):
            for name, measure in OTHERS.items():
                try:
                    figures.setdefault(name, []).append(measure(sink))
                except NotInstalled as why:
                    print(f"  left out: {name}: {why}", file=sys.stderr)
    return {name: values for name, values in figures.items() if values}


def measurements(*, full: bool = False) -> Mapping[str, Callable[[], Figures]]:
    """Return what is measured, by its title."""
    short: dict[str, Callable[[], Figures]] = {
        "the disk": lambda: {"fsync /s": [fsync_rate() for _ in range(3)]},
        "others": others,
        "the main job": main_job.run,
        "a mail server 50 ms away": far.run,
        INSTANCES: far.instances,
        BACKLOG: backlog.run,
        "composing, ms a message": compose.run,
        "SMTP alone, messages/s": smtp.run,
        "reports": lambda: reports.run(tenants=300, dead=100, seconds=5.0),
        "lists among a million messages, ms": search.run,
    }
    if not full:
        return short
    return short | {
        INSTANCES: lambda: far.instances((1, 2, 4)),
        BACKLOG: lambda: backlog.run((1_000, 100_000, 1_000_000)),
        "single submissions": matrix.submissions,
        "the main job in all its forms": matrix.run,
    }


def main() -> None:
    """Measure and print; with `--json FILE` also write the figures there."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.add_argument("--only", metavar="WORD", help="only what has this word in its title")
    parser.add_argument("--full", action="store_true", help="the whole matrix: twenty minutes or so")
    arguments = parser.parse_args()

    found: dict[str, Figures] = {}
    for title, measure in measurements(full=arguments.full).items():
        if arguments.only is None or arguments.only in title:
            began = time.monotonic()
            print(f"measuring {title} ...", file=sys.stderr, end="", flush=True)
            found[title] = measure()
            print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(machine())
    for title, figures in found.items():
        print(f"\n{title}\n{shown(figures)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
