"""Brings what lies beside docs/ into the site: three pages of the root, and links to files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the root that are pages of the site as well."""
_LINK = re.compile(r"(?<!!)\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:  # noqa: ANN401 - mkdocs passes its own
    """Add the pages of the root, and name the decisions one by one in the navigation."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - only mkdocs runs this

    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    records = sorted(file.src_uri for file in files.documentation_pages() if file.src_uri.startswith("adr/"))
    for section in config.nav:
        entries = next(iter(section.values()))
        if isinstance(entries, list):
            for entry in entries:
                if "Decisions" in entry:
                    entry["Decisions"] = [{Path(name).stem[:4] + " " + _title(name): name} for name in records]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ANN401, ARG001
    """Let links lead to pages of the site; what is no page is named by its path."""
    here = page.file.src_uri
    beside = here in PAGES

    def lead(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return found.group()
        origin = ROOT / here if beside else ROOT / "docs" / here
        there = (origin.parent / path).resolve().relative_to(ROOT).as_posix()
        inside = there.removeprefix("docs/") if there.startswith("docs/") else there if there in PAGES else None
        if inside is None or (ROOT / there).is_dir():
            if there not in text:
                return f"{text} (`{there}`)"
            return f"`{text}`" if text == there else text
        up = "../" * here.count("/")
        return f"[{text}]({up}{inside}{'#' + anchor if anchor else ''})"

    return _LINK.sub(lead, markdown)


def _title(name: str) -> str:
    first = (ROOT / "docs" / name).read_text(encoding="utf-8").partition("\n")[0]
    return re.sub(r"^# (?:ADR )?\d*[:.]?\s*", "", first)
