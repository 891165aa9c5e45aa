"""The repository's pages of documentation, taken apart: fenced blocks, links, anchors, names in code style."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_NOT_IN_AN_ANCHOR = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `mark` is what the comment before it says to the tests: `<!-- test: run -->`."""

    language: str
    text: str
    mark: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of Markdown."""

    path: Path

    @property
    def name(self) -> str:
        """The path below the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """The whole page."""
        return _read(self.path)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The fenced blocks in their order."""
        return _taken_apart(self.path)[0]

    @property
    def prose(self) -> str:
        """The page without its fenced blocks and comments."""
        return _taken_apart(self.path)[1]

    @property
    def links(self) -> tuple[str, ...]:
        """The targets of its links."""
        return tuple(_LINK.findall(self.prose))

    @property
    def anchors(self) -> frozenset[str]:
        """What a link can point to behind `#`, made from the headings as Git forges make it."""
        seen: dict[str, int] = {}
        anchors: set[str] = set()
        for heading in _HEADING.findall(self.prose):
            slug = _NOT_IN_AN_ANCHOR.sub("", heading.lower()).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            anchors.add(f"{slug}-{count}" if count else slug)
        return frozenset(anchors)

    @property
    def code(self) -> tuple[str, ...]:
        """What stands in code style in the prose."""
        return tuple(_CODE.findall(self.prose))


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _taken_apart(path: Path) -> tuple[tuple[Block, ...], str]:
    """Return a page's blocks, and its text without them."""
    text = _read(path)
    blocks = tuple(Block(found["language"], found["text"], found["mark"]) for found in _FENCE.finditer(text))
    return blocks, _COMMENT.sub("", _FENCE.sub("", text))


def pages() -> list[Page]:
    """Return every page of the repository."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    return [Page(path) for path in sorted(paths)]


def page(name: str) -> Page:
    """Return one page by its path below the root."""
    return Page(ROOT / name)


def table_rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a page's tables, without their headings' rules."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in line.strip("|").split("|")]
