"""A folder as a storage: what it looks like on disk, and what it keeps away from; the rest is in the suite of all."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mail_proxy.attachments.storages import OpenStorages
from mail_proxy.domain.large_file import StorageKind, StoragePlace, storage_place
from mail_proxy.outbound.guard import Trusted
from mail_proxy.outbound.transfers import TransferClient
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, StoredRange
from tests.support.sources import Held

DATA = bytes(range(256)) * 12_000
KEY = "acme/0123abc"
SHORT = 0.2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
async def transfers() -> AsyncIterator[TransferClient]:
    async with TransferClient(Trusted()) as client:
        yield client


@pytest.fixture
def storages(root: Path, transfers: TransferClient) -> OpenStorages:
    return OpenStorages([root], transfers, {}, 20)


@pytest.fixture
async def storage(storages: OpenStorages, root: Path) -> FileStorage:
    return await storages.at(place(root / "mail"))


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that syncs nothing until the event is set."""
    goes_on, syncs = threading.Event(), os.fsync

    def fsync(descriptor: int) -> None:
        goes_on.wait(30)
        syncs(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    yield goes_on
    goes_on.set()


def place(folder: Path) -> StoragePlace:
    found = storage_place(f"file://{folder}", {})
    assert isinstance(found, StoragePlace)
    return found


def files(folder: Path) -> list[str]:
    return [str(each.relative_to(folder)) for each in folder.rglob("*") if not each.is_dir()]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_files(folder: Path, wanted: list[str]) -> None:
    for _ in range(500):
        if files(folder) == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(files(folder))


async def test_files_are_for_the_service_alone(storage: FileStorage, root: Path) -> None:
    before = os.umask(0)
    try:
        await storage.put(KEY, Held(DATA), "text/plain")
    finally:
        os.umask(before)
    assert files(root) == [f"mail/{KEY}"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root / "mail", root / "mail/acme", root / "mail" / KEY)]
    assert modes == [0o700, 0o700, 0o600]
    assert await storage.location(KEY, "a.txt", "text/plain", 60) is None


@pytest.mark.parametrize(("first", "length"), [(0, None), (0, 0), (10, 5), (1_500_000, 1_500_000), (3_071_999, None)])
async def test_a_part_is_read(storage: FileStorage, first: int, length: int | None) -> None:
    await storage.put(KEY, Held(DATA), "text/plain")
    stored = await storage.read(KEY, first, length)
    assert stored is not None
    assert stored.size == len(DATA)
    assert b"".join([each async for each in stored.chunks]) == DATA[first:][:length]


async def test_what_is_read_keeps_no_file_open(storage: FileStorage, root: Path) -> None:
    await storage.put(KEY, Held(DATA), "text/plain")
    before = open_descriptors()
    read = [await opened(storage) for _ in range(3)]
    await read[0].chunks.aclose()  # not begun
    await read[1].chunks.__anext__()
    await read[1].chunks.aclose()
    assert [each async for each in read[1].chunks] == []
    (root / "mail" / KEY).write_bytes(b"")
    with pytest.raises(StorageFailed, match="shorter"):
        await read[2].chunks.__anext__()
    assert open_descriptors() == before


async def opened(storage: FileStorage) -> StoredRange:
    found = await storage.read(KEY)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "key", ["", "/etc", "../out", "a/../b", "a//b", "a/", "a.b", "a b", "a\0", "ä", "a\n", ".part-a"]
)
async def test_no_other_keys_are_taken(storage: FileStorage, root: Path, key: str) -> None:
    for wanted in (storage.put(key, Held(b""), "text/plain"), storage.read(key), storage.delete(key)):
        with pytest.raises(ValueError, match="key"):
            await wanted
    assert files(root) == []


async def test_what_a_killed_process_left_goes_with_the_file(storage: FileStorage, root: Path) -> None:
    for key in (KEY, f"{KEY}-4"):
        await storage.put(key, Held(b"data"), "text/plain")
    for name in ("0123abc-00ff00ff", "0123abc-deadbeef", "0123abc-4-deadbeef", "other-00ff00ff"):
        (root / f"mail/acme/.part-{name}").touch()
    await storage.delete(KEY)
    assert sorted(files(root / "mail/acme")) == [".part-0123abc-4-deadbeef", ".part-other-00ff00ff", "0123abc-4"]


# -- links, and everything that is no file -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
async def test_what_the_service_has_not_put_there_is_not_given_out(
    storage: FileStorage, root: Path, tmp_path: Path, what: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    (root / "mail/acme").mkdir(parents=True)
    at = root / "mail" / KEY
    match what:
        case "link":
            at.symlink_to(secret)
        case "folder":
            at.mkdir()
        case _:
            os.mkfifo(at)
    assert await storage.read(KEY) is None
    if what != "folder":
        await storage.put(KEY, Held(b"data"), "text/plain")
        assert (at.read_bytes(), at.is_symlink()) == (b"data", False)
    assert secret.read_text() == "of somebody else"


async def test_no_link_is_followed_on_the_way(storage: FileStorage, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/0123abc").write_text("of somebody else")
    (root / "mail").mkdir()
    (root / "mail/acme").symlink_to(tmp_path / "outside")
    for wanted in (storage.put(KEY, Held(b""), "text/plain"), storage.read(KEY), storage.delete(KEY)):
        with pytest.raises(StorageFailed, match="a link") as failed:
            await wanted
        assert failed.value.permanent
    assert (tmp_path / "outside/0123abc").read_text() == "of somebody else"


async def test_only_what_is_below_the_roots_is_used(
    storages: OpenStorages, root: Path, tmp_path: Path, transfers: TransferClient
) -> None:
    (tmp_path / "rooted").mkdir()
    (root / "out").symlink_to(tmp_path / "rooted")
    (tmp_path / "in").symlink_to(root / "mail")
    for folder in (tmp_path, tmp_path / "rooted", root / "out", root / "out/below", Path("/")):
        problem = storages.problem(place(folder))
        assert problem is not None
        assert (problem.field, "GMP_STORAGE_ROOTS" in problem.problem) == ("storage_url", True)
        with pytest.raises(StorageFailed, match="GMP_STORAGE_ROOTS") as failed:
            await storages.at(place(folder))
        assert failed.value.permanent
    for folder in (root, root / "new/one", tmp_path / "in"):
        assert storages.problem(place(folder)) is None
    await (await storages.at(place(tmp_path / "in"))).put(KEY, Held(b"data"), "text/plain")
    assert (root / "mail" / KEY).read_bytes() == b"data"
    none = OpenStorages([], transfers, {}).problem(place(root))
    assert none is not None
    assert "GMP_STORAGE_ROOTS" in none.problem


async def test_a_folder_needs_no_credentials_that_could_be_lost(
    root: Path, transfers: TransferClient, tmp_path: Path
) -> None:
    storages = OpenStorages([root], transfers, {}, 20)
    lost = replace(place(root / "mail"), unreadable=True)
    assert storages.problem(lost) is None
    await (await storages.at(place(root / "mail"))).put(KEY, Held(b"data"), "text/plain")
    await (await storages.at(lost)).delete(KEY)
    assert files(root) == []
    with pytest.raises(StorageFailed, match="GMP_STORAGE_ROOTS"):
        await storages.at(replace(place(tmp_path), unreadable=True))
    elsewhere = StoragePlace(StorageKind.S3, "s3://bucket", unreadable=True)
    with pytest.raises(StorageFailed, match="cannot be opened with any key"):
        await storages.at(elsewhere)


# -- disks that fail ---------------------------------------------------------------------------------------------------


async def test_a_root_that_is_not_mounted_is_told_for_now(storage: FileStorage, root: Path) -> None:
    os.rmdir(root)  # noqa: PTH106 - nothing here waits for it
    for wanted in (storage.put(KEY, Held(b""), "text/plain"), storage.read(KEY), storage.delete(KEY)):
        with pytest.raises(StorageFailed, match="is not there") as failed:
            await wanted
        assert not failed.value.permanent


@pytest.mark.parametrize(("error", "permanent"), [("ENOSPC", False), ("EIO", False), ("EROFS", True), ("EACCES", True)])
async def test_what_a_disk_says_tells_whether_to_try_again(
    storage: FileStorage, root: Path, monkeypatch: pytest.MonkeyPatch, error: str, permanent: bool
) -> None:
    await storage.put(KEY, Held(b"before"), "text/plain")
    number = getattr(errno, error)

    def write(descriptor: int, data: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageFailed, match=os.strerror(number)) as failed:
        await storage.put(KEY, Held(DATA), "text/plain")
    monkeypatch.undo()
    assert failed.value.permanent == permanent
    assert files(root) == [f"mail/{KEY}"]
    assert (root / "mail" / KEY).read_bytes() == b"before"


async def test_a_disk_that_hangs_is_told_for_now_and_holds_up_no_other(
    root: Path, transfers: TransferClient, hanging: threading.Event
) -> None:
    storages = OpenStorages([root], transfers, {}, SHORT)
    (root / "mail/acme").mkdir(parents=True)
    (root / "mail" / KEY).write_bytes(b"before")
    storage = await storages.at(place(root / "mail"))
    outcomes = await asyncio.gather(
        *(storage.put(f"acme/{n}", Held(b"data"), "text/plain") for n in range(12)), return_exceptions=True
    )
    assert all(isinstance(each, StorageFailed) and not each.permanent for each in outcomes), outcomes
    other = await storages.at(place(root))
    stored = await other.read(f"mail/{KEY}")
    assert stored is not None
    assert [each async for each in stored.chunks] == [b"before"]
    hanging.set()
    await until_files(root, [f"mail/{KEY}"])  # what came back late has not stored anything


async def test_what_is_cancelled_leaves_nothing_once_the_disk_goes_on(
    storage: FileStorage, root: Path, hanging: threading.Event
) -> None:
    (root / "mail/acme").mkdir(parents=True)
    before = open_descriptors()
    storing = asyncio.create_task(storage.put(KEY, Held(DATA), "text/plain"))
    while not files(root):  # noqa: ASYNC110 - another thread makes it
        await asyncio.sleep(0.005)
    storing.cancel()
    asyncio.get_running_loop().call_later(0.05, hanging.set)
    with suppress(asyncio.CancelledError):
        await storing
    await until_files(root, [])
    assert open_descriptors() == before
