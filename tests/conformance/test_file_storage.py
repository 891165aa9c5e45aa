"""What every storage of large files promises: a folder, three clouds, and the one in memory that other tests use.

Google's emulator takes every signature for genuine, and half a body for a whole one: that a changed or old URL is
refused, and that nobody finds half of a file, is shown with the other two. The server for S3 gives no file a name.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import aiohttp
import pytest
from yarl import URL

from mail_proxy.attachments import storage_az, storages
from mail_proxy.attachments.storages import OpenStorages
from mail_proxy.domain.large_file import StorageKind, StoragePlace, storage_place
from mail_proxy.domain.secret import Secret
from mail_proxy.outbound.guard import Trusted
from mail_proxy.outbound.transfers import TransferClient
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, Storages
from tests.support.cloud_servers import BUCKET, HAS_NANIO, CloudServers, free_port
from tests.support.loop_turns import stop_listening
from tests.support.sources import Held
from tests.support.storages import MemoryStorages

VERIFYING = (*(("s3",) if HAS_NANIO else ()), "az")
CLOUDS = (*VERIFYING, "gs")
ALL = ("memory", "file", *CLOUDS)
SIZES = (0, 1, 6_000_000)
NAMES = ("plain.pdf", 'a "quoted" 100% name; \\ $&+=#?.pdf', "Gehaltsübersicht – 給与 🙂.pdf")
SHORT = 0.4
"""Seconds of patience, where a test waits for it to end."""


@dataclass
class Bench:
    """A storage, and what it takes to look at it from outside."""

    kind: str
    storages: Storages
    place: StoragePlace
    storage: FileStorage
    web: aiohttp.ClientSession

    async def fetch(self, url: str) -> tuple[int, bytes, Mapping[str, str]]:
        """Ask for a URL as anybody would."""
        async with self.web.get(URL(url, encoded=True), allow_redirects=False) as answer:
            return answer.status, await answer.read(), dict(answer.headers)

    async def found(self, key: str) -> bytes | None:
        """Return what is there under a key."""
        url = await self.storage.location(key, "file.bin", "application/octet-stream", 60)
        if url is None:
            stored = await self.storage.read(key)
            return None if stored is None else b"".join([chunk async for chunk in stored.chunks])
        status, body, _ = await self.fetch(url)
        assert status in {200, 404}
        return body if status == 200 else None


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[OpenStorages]:
    (tmp_path / "root").mkdir()
    async with TransferClient(Trusted()) as transfers:
        found = OpenStorages([tmp_path / "root"], transfers, {}, 20)
        yield found
        await found.close()


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[OpenStorages]:
    for library in ("botocore.session", "google.cloud.storage", "azure.storage.blob"):  # loading counts as time
        import_module(library)
    async with TransferClient(Trusted()) as transfers:
        yield OpenStorages([tmp_path / "root"], transfers, {}, SHORT)


def a_place(kind: str, credentials: Mapping[str, str], bucket: str = BUCKET) -> StoragePlace:
    # all that a prefix may have, since every character of it is signed
    place = storage_place(f"{kind}://{bucket}/it's (mail)! _.*/{uuid4().hex}", secret(credentials))
    assert isinstance(place, StoragePlace)
    return place


def secret(credentials: Mapping[str, str]) -> Mapping[str, Secret]:
    return {name: Secret(value) for name, value in credentials.items()}


def given(servers: CloudServers, kind: str) -> Mapping[str, str]:
    credentials: Mapping[str, str] = getattr(servers, kind)()
    return credentials


@pytest.fixture
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, opened: OpenStorages, web: aiohttp.ClientSession
) -> Bench:
    kind: str = request.param
    found: Storages = opened
    place = StoragePlace(StorageKind.FILE, f"file://{tmp_path}/root/mail")
    if kind == "memory":
        found = MemoryStorages()
    elif kind != "file":
        place = a_place(kind, given(request.getfixturevalue("cloud_servers"), kind))
    assert found.problem(place) is None
    return Bench(kind, found, place, await found.at(place), web)


def over(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bench", kinds, indirect=True)


def a_key() -> str:
    return f"acme/{uuid4().hex}"


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bench", "size"),
    # Google's emulator falls over an empty body
    [(kind, size) for kind in ALL for size in SIZES if (kind, size) != ("gs", 0)],
    indirect=["bench"],
)
async def test_a_file_comes_out_as_it_went_in(bench: Bench, size: int) -> None:
    data = hashlib.shake_128(b"seed").digest(size)
    key = a_key()
    await bench.storage.put(key, Held(data, (1, 50_000, 0, 3_000_000)), "application/pdf")
    assert await bench.found(key) == data
    assert await bench.found(a_key()) is None


@over(*ALL)
async def test_a_key_is_overwritten_and_removed_however_often(bench: Bench) -> None:
    key, other = a_key(), a_key()
    await bench.storage.put(key, Held(b"longer than what comes"), "text/plain")
    await bench.storage.put(key, Held(b"after it"), "text/html")
    await bench.storage.put(other, Held(b"another"), "text/plain")
    assert await bench.found(key) == b"after it"
    await bench.storage.delete(key)
    assert await bench.found(key) is None
    await bench.storage.delete(key)
    await bench.storage.delete(f"never-there/{uuid4().hex}")
    assert await bench.found(other) == b"another"


@over(*ALL)
async def test_files_are_stored_side_by_side(bench: Bench) -> None:
    contents = {a_key(): bytes([n]) * 300_000 for n in range(6)}
    await asyncio.gather(*(bench.storage.put(key, Held(data), "image/png") for key, data in contents.items()))
    assert {key: await bench.found(key) for key in contents} == contents


class Breaking:
    """A content of 6 MB whose source ends in the middle, in its own way."""

    size = 6_000_000

    def __init__(self, end: Callable[[], Any]) -> None:
        self._end = end
        self.reached = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(15):
            yield b"x" * 200_000
        self.reached.set()
        await self._end()


def files_but(name: str, folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*") if each.is_file() and each.name != name]


async def raises() -> None:
    raise OSError("the spool is gone")


async def ends() -> None:
    pass


async def never() -> None:
    await asyncio.Event().wait()


@over("memory", "file", *VERIFYING)
@pytest.mark.parametrize("before", [None, b"what was there before"], ids=["new", "overwriting"])
@pytest.mark.parametrize("end", [raises, never])
async def test_nobody_finds_half_of_a_file(
    bench: Bench, end: Callable[[], Any], before: bytes | None, tmp_path: Path
) -> None:
    key = a_key()
    if before is not None:
        await bench.storage.put(key, Held(before), "text/plain")
    source = Breaking(end)
    storing = asyncio.create_task(bench.storage.put(key, source, "text/plain"))
    await asyncio.wait([asyncio.create_task(source.reached.wait()), storing], return_when=asyncio.FIRST_COMPLETED)
    if end is never:
        storing.cancel()
    with pytest.raises(asyncio.CancelledError if end is never else OSError):
        await storing
    assert await bench.found(key) == before
    assert files_but(key[5:], tmp_path) == []


@over("file", *VERIFYING)
async def test_a_content_that_is_shorter_than_it_says_is_not_stored(bench: Bench) -> None:
    key = a_key()
    with pytest.raises(StorageFailed) as failed:
        await bench.storage.put(key, Breaking(ends), "text/plain")
    assert not failed.value.permanent
    assert await bench.found(key) is None


# -- URLs --------------------------------------------------------------------------------------------------------------


@over(*CLOUDS)
@pytest.mark.parametrize("name", NAMES)
async def test_a_url_gives_the_file_to_anybody_under_its_name(bench: Bench, name: str) -> None:
    key = a_key()
    await bench.storage.put(key, Held(b"data"), "text/plain")
    url = await bench.storage.location(key, name, "application/pdf", 3600)
    assert url is not None
    status, body, headers = await bench.fetch(url)
    assert (status, body) == (200, b"data")
    told = URL(url).query["response-content-disposition"] if bench.kind == "s3" else headers["Content-Disposition"]
    named = re.fullmatch(r'attachment; filename="([ -~]*)"; filename\*=UTF-8\'\'(\S+)', told)
    assert named is not None, told
    assert unquote(named[2], errors="strict") == name
    assert '"' not in named[1]
    typed = URL(url).query.get("response-content-type") or headers["Content-Type"]
    assert typed == "application/pdf"
    with pytest.raises(ValueError, match="location"):
        await bench.storage.read(key)


@over(*VERIFYING)
async def test_a_url_that_was_changed_is_refused(bench: Bench) -> None:
    key, other = a_key(), a_key()
    await bench.storage.put(key, Held(b"data"), "text/plain")
    await bench.storage.put(other, Held(b"another"), "text/plain")
    url = await bench.storage.location(key, "a.pdf", "application/pdf", 3600)
    assert url is not None
    assert (await bench.fetch(url))[0] == 200
    base, _, query = url.partition("?")
    parts = query.split("&")
    changed = {"key": f"{base.replace(quote(key), quote(other))}?{query}"}
    for n, part in enumerate(parts):
        name, _, value = part.partition("=")
        rest = parts[:n] + parts[n + 1 :]
        changed[f"{name} gone"] = f"{base}?{'&'.join(rest)}"
        changed[f"{name} changed"] = f"{base}?{'&'.join([*rest, f'{name}={longer(value)}'])}"
    more = "rscl=de" if bench.kind == "az" else "response-content-language=de"
    changed["a parameter more"] = f"{url}&{more}"
    answers = {what: (await bench.fetch(each))[:2] for what, each in changed.items()}
    assert len(answers) > 10
    assert {what: answer for what, answer in answers.items() if answer[0] < 400 or b"data" in answer[1][:4]} == {}


def longer(value: str) -> str:
    """Change a value in the way that would pay: a later time, another text."""
    if value.isdigit():
        return str(int(value) + 1000)
    at = next(n for n, each in enumerate(value) if each.isalnum())
    return value[:at] + ("1" if value[at] != "1" else "2") + value[at + 1 :]


@over(*VERIFYING)
async def test_a_url_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    key = a_key()
    await bench.storage.put(key, Held(b"data"), "text/plain")
    then = datetime.now(timezone.utc) - timedelta(hours=1)
    if bench.kind == "s3":
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: then.replace(tzinfo=None))
    else:
        monkeypatch.setattr(storage_az, "_now", lambda: then)
    ended = await bench.storage.location(key, "a.pdf", "application/pdf", 3500)
    holds = await bench.storage.location(key, "a.pdf", "application/pdf", 3700)
    assert ended is not None and holds is not None  # noqa: PT018
    assert ((await bench.fetch(ended))[0], (await bench.fetch(holds))[0]) == (403, 200)


@over(*CLOUDS)
async def test_a_url_lasts_no_longer_than_clouds_allow(bench: Bench) -> None:
    key = a_key()
    await bench.storage.put(key, Held(b"data"), "text/plain")
    for seconds in (30 * 86_400.0, 0.2):
        url = await bench.storage.location(key, "a.pdf", "application/pdf", seconds)
        assert url is not None
        found = re.search(r"X-(?:Amz|Goog)-Expires=(\d+)", url)
        assert (found is None) == (bench.kind == "az")
        assert found is None or 1 <= int(found[1]) <= 7 * 86_400


# -- what goes wrong ---------------------------------------------------------------------------------------------------


WRONG: Mapping[str, Mapping[str, str]] = {
    "s3": {"secret_access_key": "canary-of-a-secret"},
    "az": {"account_key": "Y2FuYXJ5LW9mLWEtc2VjcmV0"},
    "gs": {"service_account": '{"type": "service_account", "private_key": "canary-of-a-secret"}'},
}


async def failure(storages_: Storages, place: StoragePlace, size: int = 6_000_000) -> StorageFailed:
    """Return what both verbs that change something say, which is the same."""
    said: list[StorageFailed] = []
    storage = await storages_.at(place)
    for wanted in (storage.put(a_key(), Held(bytes(size)), "text/plain"), storage.delete(a_key())):
        with pytest.raises(StorageFailed) as failed:
            await wanted
        said.append(failed.value)
        assert place.url in failed.value.reason
        assert not re.search(r"canary|Y2FuYX|(?i:signature|sig=|x-amz|x-goog)", failed.value.reason)
    assert said[0].permanent == said[1].permanent
    return said[0]


@over(*CLOUDS)
async def test_wrong_credentials_are_told_for_good(bench: Bench) -> None:
    place = replace(bench.place, credentials={**bench.place.credentials, **secret(WRONG[bench.kind])})
    failed = await failure(bench.storages, place)
    assert failed.permanent
    assert "credentials" in failed.reason
    await bench.storage.put(a_key(), Held(b"with the right ones"), "text/plain")


@over(*CLOUDS)
async def test_a_bucket_that_is_not_there_is_told_for_good(bench: Bench) -> None:
    place = a_place(bench.kind, {n: v.reveal() for n, v in bench.place.credentials.items()}, "nowhere")
    storage = await bench.storages.at(place)
    with pytest.raises(StorageFailed, match="nowhere") as failed:
        await storage.put(a_key(), Held(b"data"), "text/plain")
    assert failed.value.permanent
    await storage.delete(a_key())  # what was in it is gone as well


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server that says this to every request, or takes connections and nothing else; yields its port."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                if answer is None:
                    await asyncio.Event().wait()
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(answer or b"")
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=10_000)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await stop_listening(server)
        for task in filter(None, serving):
            task.cancel()
        await asyncio.gather(*filter(None, serving), return_exceptions=True)


def at_port(kind: str, servers: CloudServers, port: int) -> StoragePlace:
    return a_place(kind, {**given(servers, kind), "endpoint_url": f"http://127.0.0.1:{port}"})


@pytest.mark.parametrize("kind", CLOUDS)
async def test_a_server_that_is_down_or_hangs_is_told_for_now(
    kind: str, impatient: OpenStorages, cloud_servers: CloudServers
) -> None:
    down = await failure(impatient, at_port(kind, cloud_servers, free_port()))
    assert not down.permanent
    async with answering(None) as port:
        hanging = await failure(impatient, at_port(kind, cloud_servers, port))
        assert (hanging.permanent, str(SHORT) in hanging.reason) == (False, True)


@pytest.mark.parametrize(("status", "permanent"), [(500, False), (503, False), (429, False), (403, True), (301, True)])
async def test_what_a_server_answers_says_whether_to_try_again(
    status: int, permanent: bool, opened: OpenStorages, cloud_servers: CloudServers
) -> None:
    said = b"HTTP/1.1 %d x\r\nContent-Length: 6\r\nLocation: http://127.0.0.1:9/\r\n\r\ncanary" % status
    async with answering(said) as port:
        failed = await failure(opened, at_port("az", cloud_servers, port))
    assert (failed.permanent, str(status) in failed.reason) == (permanent, True)


@over("az")
async def test_what_hangs_in_one_place_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    signs, hangs = storage_az.AzSigner.put, threading.Event()

    def hanging(self: storage_az.AzSigner, name: str, seconds: float) -> Any:
        if "hangs" in name:
            hangs.wait()
        return signs(self, name, seconds)

    monkeypatch.setattr(storage_az.AzSigner, "put", hanging)
    stuck = await bench.storages.at(replace(bench.place, url=bench.place.url + "/hangs"))
    waiting = [asyncio.create_task(stuck.put(a_key(), Held(b"data"), "text/plain")) for _ in range(40)]
    await asyncio.sleep(0)
    key = a_key()
    await bench.storage.put(key, Held(b"data"), "text/plain")
    assert await bench.found(key) == b"data"
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    hangs.set()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(("kind", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure")])
async def test_an_extra_that_is_missing_is_named(
    kind: str, extra: str, opened: OpenStorages, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = a_place(kind, {})
    assert opened.problem(place) is None
    monkeypatch.setattr(storages, "find_spec", lambda module: None)
    problem = opened.problem(place)
    assert problem is not None
    assert problem.field == "storage_url"
    assert f"needs the extra [{extra}]" in problem.problem
    assert f"pip install '.[{extra}]'" in problem.problem  # not by a name that is somebody else's on PyPI
    with pytest.raises(StorageFailed, match="pip install") as failed:
        await opened.at(place)
    assert failed.value.permanent


# -- how much it takes -------------------------------------------------------------------------------------------------


class Endless:
    """Sixty million bytes that are nowhere."""

    size = 60_000_000

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for _ in range(300):
            yield bytes(200_000)


@over("file", *CLOUDS[:1])
async def test_a_file_of_any_size_takes_little_memory(bench: Bench) -> None:
    await bench.storage.put(a_key(), Held(b"what is loaded once"), "text/plain")
    tracemalloc.start()
    try:
        await bench.storage.put(a_key(), Endless(), "text/plain")
        assert tracemalloc.get_traced_memory()[1] < 16_000_000  # G11
    finally:
        tracemalloc.stop()
