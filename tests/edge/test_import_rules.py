"""Each library is used from one place, one module reads the environment, and the domain does nothing but decide.

The direction of imports inside the package is import-linter's part (pyproject.toml).
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mail_proxy

SOURCES = Path(mail_proxy.__file__).parent

EVERYWHERE = ("",)
NOWHERE = ()
PYDANTIC_USERS = (
    *("api", "web", "intake", "administration", "client", "cli.named.fields"),
    *("runtime.settings", "runtime.setting_values"),
)
# Where a library may be imported: packages or modules below mail_proxy. A library that is missing here may be imported
# by nobody, so that a new dependency begins with the question whose it is.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "aiohttp": ("outbound", "client"),
    "aiosmtplib": ("smtp",),
    "alembic": ("store",),
    "anyio": EVERYWHERE,
    "azure": ("attachments",),
    "botocore": ("attachments",),
    "click": ("cli",),
    "cryptography": ("secrets",),
    "email_validator": ("intake", "api"),
    "fastapi": ("api", "web"),
    "django": ("client",),
    "google": ("attachments",),
    "httpx": ("client", "cli.in_process"),
    "httptools": NOWHERE,  # uvicorn finds it by itself
    "opentelemetry": ("runtime.tracing",),
    "orjson": ("domain.json_text",),
    "prometheus_client": ("runtime.telemetry", "runtime.histograms"),
    "psycopg": ("store",),
    "pydantic": PYDANTIC_USERS,
    "pydantic_core": PYDANTIC_USERS,
    "pydantic_settings": ("runtime.settings",),
    "rich": ("cli",),
    "sqlalchemy": ("store",),
    "starlette": ("api", "web"),
    "structlog": EVERYWHERE,
    "tomlkit": ("runtime.config_file",),
    "typing_extensions": EVERYWHERE,
    "uvicorn": ("runtime", "cli"),
    "uvloop": ("runtime", "cli"),
    "yarl": ("outbound",),
    # Parts of the standard library that go past a port. A request that the guard of `outbound` does not see could reach
    # any address inside the network.
    "http.client": ("client",),
    "smtplib": ("client",),  # for its exceptions
    "sqlite3": ("store",),
    "urllib.request": ("client",),
    # Flows and adapters get time, settings and metrics as arguments.
    "mail_proxy.runtime": ("runtime", "api", "web", "cli"),
}

ENVIRONMENT_READERS = ("runtime.settings", "runtime.environment")

# What the domain may import from outside: it computes, and neither does I/O nor asks a clock.
DOMAIN_LIBRARIES = {
    *("__future__", "abc", "base64", "binascii", "bisect", "codecs", "collections", "copy", "dataclasses", "datetime"),
    *(
        "decimal",
        "email",
        "encodings",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "html",
        "ipaddress",
    ),
    *("itertools", "json", "math", "numbers", "operator", "quopri", "random", "re", "string", "struct", "textwrap"),
    *("time.gmtime", "types", "typing", "unicodedata", "urllib.parse", "zlib"),
    # The standard library's own names for later Pythons.
    "typing_extensions",
    # A function of its argument, in `domain/json_text.py` alone.
    "orjson",
}
CLOCK_READERS = {"now", "utcnow", "today", "localtime", "make_msgid"}

Rule = Callable[[str, ast.Module], Iterator[str]]


def misplaced_libraries(module: str, tree: ast.Module) -> Iterator[str]:
    """Name each import of a library from where it does not belong. `module` is without the leading `mail_proxy.`."""
    for line, imported in _imports(tree):
        known = next((name for name in LIBRARIES if _is_in(imported, name)), None)
        if known is None:
            top = imported.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "mail_proxy":
                yield f"{module}:{line} imports {imported}, which has no place in LIBRARIES"
        elif not any(_is_in(module, place) for place in LIBRARIES[known]):
            yield f"{module}:{line} imports {imported}"


def environment_reads(module: str, tree: ast.Module) -> Iterator[str]:
    """Name each look at the environment, or at the home folder, which is a variable as well."""
    if module in ENVIRONMENT_READERS:
        return
    readers = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expanduser", "expandvars"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in readers:
                yield f"{module}:{node.lineno} uses {name}"
            case ast.Attribute(value=ast.Name(id="Path" | "PosixPath"), attr="home"):
                yield f"{module}:{node.lineno} uses Path.home"
            case ast.ImportFrom(module="os" | "os.path" | "posixpath", names=names):
                yield from (f"{module}:{node.lineno} uses {each.name}" for each in names if each.name in readers)
            case ast.keyword(arg="envvar" | "auto_envvar_prefix" as name):
                yield f"{module}:{node.lineno} lets click read it ({name})"
            case _:
                pass


def impurities(module: str, tree: ast.Module) -> Iterator[str]:
    """Name what a module of the domain does besides deciding."""
    if not _is_in(module, "domain"):
        return
    for line, imported in _imports(tree):
        if imported == "random" or (_is_in(imported, "random") and imported != "random.Random"):
            yield f"{module}:{line} imports {imported}: chance is passed in as a Random"
        elif not any(_is_in(imported, allowed) for allowed in (*DOMAIN_LIBRARIES, "mail_proxy.domain")):
            yield f"{module}:{line} imports {imported}"
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield f"{module}:{node.lineno} waits"
            case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCK_READERS:
                yield f"{module}:{node.lineno} asks the clock ({name})"
            case ast.Call(func=ast.Name(id="gmtime"), args=[]):
                yield f"{module}:{node.lineno} asks the clock (gmtime without a time)"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield f"{module}:{node.lineno} does I/O ({name})"
            case _:
                pass


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give line and full name of everything that is imported from outside the module's own package."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, each.name) for each in names)
            case ast.ImportFrom(module=str(package), names=names, level=0):
                yield from ((node.lineno, f"{package}.{each.name}") for each in names)
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name
            case _:
                pass


def _is_in(name: str, package: str) -> bool:
    return package in {"", name} or name.startswith(f"{package}.")


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        yield module, ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("rule", [misplaced_libraries, environment_reads, impurities])
def test_every_module_keeps_to_its_place(rule: Rule) -> None:
    assert [breach for module, tree in _modules() for breach in rule(module, tree)] == []


def test_every_dependency_has_its_place() -> None:
    requirements = importlib.metadata.requires("genro-mail-proxy") or []
    needed = {
        re.split(r"[^\w.-]", each)[0].replace("-", "_").lower() for each in requirements if "extra ==" not in each
    }

    assert needed, "the package is not installed with its requirements"
    assert needed <= LIBRARIES.keys()


def test_every_module_of_the_runtime_has_its_layer() -> None:
    configuration = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    modules = {path.stem for path in (SOURCES / "runtime").glob("*") if path.stem not in {"__init__", "__pycache__"}}

    # import-linter sees that no package is forgotten, but knows the modules of runtime one by one.
    assert {name for name in modules if f"(runtime.{name})" not in configuration} == set()


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (misplaced_libraries, "delivery.dispatcher", "import sqlalchemy"),
        (misplaced_libraries, "delivery.dispatcher", "from sqlalchemy.engine import URL"),
        (misplaced_libraries, "storekeeper", "import sqlalchemy"),
        (misplaced_libraries, "runtime.app", "def f():\n    import aiohttp"),
        (misplaced_libraries, "intake.accept", "from importlib import import_module\nimport_module('psycopg')"),
        (misplaced_libraries, "attachments.http", "from urllib import request"),
        (misplaced_libraries, "store.queue", "import requests"),
        (misplaced_libraries, "delivery.lane", "from mail_proxy.runtime.settings import Settings"),
        (misplaced_libraries, "store.queue", "from mail_proxy import runtime"),
        (environment_reads, "cli.serve", "import os\nos.environ['GMP_PORT']"),
        (environment_reads, "runtime.app", "import os\nos.getenv('GMP_PORT')"),
        (environment_reads, "runtime.app", "from os import environ"),
        (environment_reads, "cli.serve", "click.option('--port', envvar='GMP_PORT')"),
        (environment_reads, "cli.instances", "from pathlib import Path\nPath.home()"),
        (environment_reads, "cli.instances", "from pathlib import Path\nPath('~').expanduser()"),
        (impurities, "domain.retry", "import time"),
        (impurities, "domain.retry", "import random"),
        (impurities, "domain.retry", "from random import uniform"),
        (impurities, "domain.message", "import pydantic"),
        (impurities, "domain.message", "from mail_proxy.ports.clock import Clock"),
        (impurities, "domain.report", "from datetime import datetime\ndatetime.now(None)"),
        (impurities, "domain.compose", "from time import gmtime\ngmtime()"),
        (impurities, "domain.compose", "async def compose(): ..."),
        (impurities, "domain.compose", "open('message.eml')"),
    ],
)
def test_a_breach_is_seen(rule: Rule, module: str, source: str) -> None:
    assert list(rule(module, ast.parse(source))) != []


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (misplaced_libraries, "store.queue", "from sqlalchemy import select"),
        (misplaced_libraries, "api", "import fastapi"),
        (misplaced_libraries, "attachments.http", "from urllib.parse import urlsplit"),
        (misplaced_libraries, "cli.serve", "from mail_proxy.runtime.app import open_app"),
        (misplaced_libraries, "api.status", "from http import HTTPStatus"),
        (environment_reads, "runtime.settings", "import os\nos.environ"),
        (environment_reads, "store.database", "import os\nos.fsync(3)"),
        (impurities, "delivery.dispatcher", "import asyncio\nasync def run(): ..."),
        (impurities, "domain.retry", "from random import Random\nfrom datetime import datetime, timedelta"),
        (impurities, "domain.message", "from mail_proxy.domain.address import Mailbox"),
        (impurities, "domain.compose", "from time import gmtime\ngmtime(0)"),
    ],
)
def test_what_belongs_is_left_alone(rule: Rule, module: str, source: str) -> None:
    assert list(rule(module, ast.parse(source))) == []
