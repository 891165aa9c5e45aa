"""Links lead somewhere, and what a page names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mail_proxy
from tests.docs.pages import ROOT, Page, page, pages, table_rows

SOURCE = ROOT / "src" / "mail_proxy"

PAGES = [pytest.param(each, id=each.name) for each in pages()]
_PATH = re.compile(r"[\w./-]+\.(?:py|md|toml|sh|yml|txt)|(?:src|tests|docs|store|bench|tools)/[\w./-]+|\.ci/run")
_NAMED = re.compile(r"(?P<path>[\w./-]+\.py): (?P<name>\w+(?:\.\w+)*)\Z")
# What an instance writes, or what the reader does; none of it is in the repository.
_ELSEWHERE = {"receiver.py", "config.toml"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_repository_leads_somewhere(page: Page) -> None:
    astray = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        known = Page(target).anchors if target.suffix == ".md" and target.is_file() else frozenset[str]()
        if not target.exists() or (anchor and anchor not in known):
            astray.append(link)
    assert not astray


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_name_that_a_page_points_to_is_there(page: Page) -> None:
    missing = [code for code in page.code if not _is_there(code)]
    assert not missing


def test_the_way_of_a_message_is_told_by_name() -> None:
    named = [code for code in page("ARCHITECTURE.md").code if _NAMED.match(code)]
    assert len(named) > 60


def test_every_package_is_in_the_picture_of_the_layers() -> None:
    (layers,) = (block.text for block in page("ARCHITECTURE.md").blocks)
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} - {"runtime"}
    modules = {f"runtime/{path.name}" for path in SOURCE.glob("runtime/*.py")} - {"runtime/__init__.py"}
    assert {
        name for name in packages | modules if not re.search(rf"(?<![\w/]){re.escape(name)}(?![\w.])", layers)
    } == set()


def test_every_page_is_reached_from_the_index() -> None:
    reached = {page("README.md").path}
    new = set(reached)
    while new:
        found = {
            (each.parent / link.partition("#")[0]).resolve()
            for each in new
            for link in Page(each).links
            if link.partition("#")[0].endswith(".md") and ":" not in link
        }
        new = {path for path in found - reached if path.is_file()}
        reached |= new
    assert {each.path for each in pages()} - reached == set()


def test_every_decision_is_in_the_index() -> None:
    linked = {link for link in page("docs/index.md").links if link.startswith("adr/")}
    assert linked == {f"adr/{path.name}" for path in ROOT.glob("docs/adr/*.md")}


def test_every_alert_is_explained_and_its_runbook_is_there() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "mail-proxy.rules.yml").read_text(encoding="utf-8")
    section = page("docs/operations.md").text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    explained = [row[0].strip("`") for row in table_rows(section)][1:]
    assert explained == re.findall(r"- alert: (\w+)", rules)
    for file, anchor in re.findall(r"runbook: ([\w./-]+)#(\S+)", rules):
        assert anchor in page(file).anchors
    assert len(re.findall(r"runbook: \S+#\S+", rules)) == len(explained)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_installed_by_a_name_that_is_somebody_elses(page: Page) -> None:
    """Until 0.1.0 is published, PyPI has another program by the name."""
    if page.path.parent.name != "adr":
        assert re.findall(r"pip install [^`\n]*(?<![\w./-])genro-mail-proxy.*", page.text) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_that_a_page_names_is_there(page: Page) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = [*page.code, *(line for block in page.blocks if block.language == "sh" for line in block.text.splitlines())]
    named = {target for code in shown for target in re.findall(r"^(?:\w+=\S+ )*make ([a-z-]+)", code)}
    assert named <= targets


def test_the_changelog_speaks_of_this_version() -> None:
    assert mail_proxy.__version__ in page("CHANGELOG.md").text


def _is_there(code: str) -> bool:
    """True for what does not look like a path, and for what is there as the page says."""
    named = _NAMED.match(code)
    if named is not None:
        path = _located(named["path"])
        return path is not None and _defines(path, named["name"])
    if not _PATH.fullmatch(code) or code in _ELSEWHERE:
        return True
    return _located(code) is not None


def _located(name: str) -> Path | None:
    """Find a path as pages name it: from the root, or a module from `src/mail_proxy`."""
    return next((path for path in (SOURCE / name, ROOT / name) if path.exists()), None)


def _defines(path: Path, name: str) -> bool:
    """True when a module has a name, `name` or `Class.name`, whether a function, a class or a value."""
    scope: ast.Module | ast.ClassDef | None = _parsed(path)
    for part in name.split("."):
        if scope is None or part not in (members := _members(scope)):
            return False
        found = members[part]
        scope = found if isinstance(found, ast.ClassDef) else None
    return True


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _members(scope: ast.Module | ast.ClassDef) -> dict[str, ast.stmt]:
    """What a module or a class has by name; a class also has what its `__init__` sets on `self`."""
    members: dict[str, ast.stmt] = {}
    for node in scope.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                members[name] = node
                if name == "__init__":
                    members |= {target.attr: node for target in _assigned(node) if isinstance(target, ast.Attribute)}
            case _:
                members |= {target.id: node for target in _assigned(node) if isinstance(target, ast.Name)}
    return members


def _assigned(node: ast.stmt) -> Iterator[ast.expr]:
    for child in ast.walk(node):
        match child:
            case ast.Assign(targets=targets):
                yield from targets
            case ast.AnnAssign(target=target):
                yield target
            case _:
                pass
