"""A disk below SQLite that refuses or never finishes an fsync, under a real process."""  # G1, G12

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.acceptance.test_store_away import shown
from tests.support.instance import Instance, a_message

# Beneath SQLite, in the place of the C library's functions.
LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int there(const char *name) { const char *path = getenv(name); return path && access(path, F_OK) == 0; }

static int sync_with(const char *name, int file) {
    if (there("FSYNC_FAILS_WHILE")) { errno = EIO; return -1; }
    while (there("FSYNC_HANGS_WHILE")) usleep(10000);
    return ((int (*)(int))dlsym(RTLD_NEXT, name))(file);
}

int fsync(int file) { return sync_with("fsync", file); }
int fdatasync(int file) { return sync_with("fdatasync", file); }
"""

# Above SQLite, where the error is what SQLite makes of it. Where there is no compiler, this is all that is shown.
CUSTOMIZED = """
import os, sqlite3, time
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

def there(name):
    return os.path.exists(os.environ.get(name, ""))

@event.listens_for(Engine, "commit")
def commit(connection):
    while there("FSYNC_HANGS_WHILE"):
        time.sleep(0.01)
    if there("FSYNC_FAILS_WHILE"):
        error = sqlite3.OperationalError("disk I/O error")
        vars(error)["sqlite_errorcode"] = 1034
        raise OperationalError("COMMIT", None, error)
"""

COMPILER = shutil.which("cc")
Prepare = Callable[[Instance, Path], None]


def beneath(instance: Instance, folder: Path) -> None:
    """Put a library between SQLite and the kernel."""
    assert COMPILER is not None
    source, library = folder / "sync.c", folder / "sync.so"
    source.write_text(LIBRARY)
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    instance.variables["LD_PRELOAD"] = str(library)


def above(instance: Instance, folder: Path) -> None:
    """Put a few lines of Python between the store and SQLite."""
    (folder / "sitecustomize.py").write_text(CUSTOMIZED)
    instance.variables["PYTHONPATH"] = str(folder)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance that may end with a traceback: it is meant to."""
    (tmp_path / "instance").mkdir()
    instance = Instance(tmp_path / "instance")
    yield instance
    if instance.running:
        instance.kill()


WAYS = pytest.mark.parametrize("prepare", [above, beneath] if COMPILER else [above])


@WAYS
async def test_a_failed_fsync_ends_the_process_and_what_was_accepted_is_there_afterwards(
    instance: Instance, tmp_path: Path, prepare: Prepare
) -> None:
    prepare(instance, tmp_path)
    marker = tmp_path / "failing"
    instance.variables["FSYNC_FAILS_WHILE"] = str(marker)
    await instance.start()
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        await acme.admin.post("/commands/suspend")
        for n in range(10):
            await acme.client.submit(a_message(f"before-{n}"))
        marker.touch()
        with suppress(httpx.TransportError):  # no answer is one, too: it is safe to repeat the request
            answer = await acme.client.ask("POST", "/commands/add-messages", json={"messages": [a_message("during")]})
            assert answer.status_code >= 500  # never 200
        assert await instance.ended() == 1  # by itself
        assert "FsyncFailed" in instance.errors
        marker.unlink()
        await instance.start()
        await acme.admin.post("/commands/activate")
        before = {f"before-{n}" for n in range(10)}
        await sink.wait_for(10)
        assert before <= sink.ledger.keys() <= before | {"during"}
        receipt = await acme.client.submit(a_message("during"))
        assert receipt["queued"] + len(receipt["duplicates"]) == 1


@WAYS
async def test_a_disk_that_never_finishes_an_fsync(
    new_instance: NewInstance, tmp_path: Path, prepare: Prepare, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = new_instance()
    prepare(instance, tmp_path)
    marker = tmp_path / "hanging"
    instance.variables["FSYNC_HANGS_WHILE"] = str(marker)
    await instance.start()
    await shown("SQLite, disk hangs", instance, marker.touch, marker.unlink, capsys)
