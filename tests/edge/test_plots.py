"""The pictures of `make bench-full`: that they show the figures which they are given."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from bench.__main__ import BACKLOG, INSTANCES
from bench.matrix import cases
from tests.docs.pages import ROOT

FIGURES = {
    "others": {"Postfix as a relay /s": [1000.0, 1234.0, 1300.0], "smtplib, a connection each /s": [777.0]},
    "the main job": {"accepted to delivered and reported /s": [2500.0, 2687.0, 2700.0]},
    BACKLOG: {"1000 waiting: a claim of 100, ms": 1.68, "1000000 waiting: a claim of 100, ms": 1.64},
    INSTANCES: {"1 on PostgreSQL, reported /s": [381.0], "2 on PostgreSQL, reported /s": [624.0]},
    "single submissions": {"SQLite, 32 clients: /s": [1828.0]},
    "the main job in all its forms": {case.name: [100.0 + n] for n, case in enumerate(cases())},
}


def _drawn(figures: Mapping[str, object], folder: Path) -> dict[str, str]:
    """Draw as `make bench-full` does (in a process of its own: pygal changes how modules are imported)."""
    (folder / "figures.json").write_text(json.dumps({"figures": figures}), encoding="utf-8")
    command = [sys.executable, "-m", "bench.plots", str(folder / "figures.json"), str(folder / "plots")]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {Path(line).stem: _texts(Path(line)) for line in said.splitlines()}


def _texts(file: Path) -> str:
    return " ".join(ET.parse(file).getroot().itertext())  # noqa: S314 - it is ours


def test_each_group_of_figures_has_its_picture(tmp_path: Path) -> None:
    files = _drawn(FIGURES, tmp_path)
    assert "2,687" in files["end-to-end"]  # the median
    assert "1,234" in files["end-to-end"]
    assert "aiosmtplib" not in files["end-to-end"]  # it was not measured
    assert "1.68" in files["backlog"]
    assert "624" in files["instances"]
    assert "1,828" in files["submissions"]
    shown = " ".join(text for name, text in files.items() if name.startswith("matrix-"))
    for n in range(len(list(cases()))):
        assert re.search(rf"\b{100 + n}\b", shown), n


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert set(_drawn({BACKLOG: FIGURES[BACKLOG]}, tmp_path)) == {"backlog"}


def test_the_pictures_of_the_documentation_load_nothing() -> None:
    files = sorted((ROOT / "docs" / "plots").glob("*.svg"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "<script" not in text, file
        assert not re.search(r'(?:href|src)="https?:', text), file
