"""What every source of attachments promises, over real files and real HTTP servers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from mail_proxy.attachments.endpoint import EndpointSource, SharedEndpoint
from mail_proxy.attachments.files import FileSource
from mail_proxy.attachments.http import UrlSource
from mail_proxy.attachments.inline import InlineSource
from mail_proxy.attachments.sources import Sources
from mail_proxy.attachments.spool import SpoolSettings
from mail_proxy.domain.attachment import Attachment, FetchMode
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Tenant
from mail_proxy.outbound.download import DownloadClient, HttpDownloader
from mail_proxy.outbound.guard import Guarded, Trusted
from mail_proxy.ports.attachments import FetchFailed, Wanted
from tests.support.callback_server import Manner, Reply
from tests.support.file_server import ENDPOINT, FileServer
from tests.support.sources import read_all

LOCAL = Guarded((ip_network("127.0.0.0/8"),))
MOST = 1_500_000
SIZES = (0, 5, 100_000, 100_001, 1_234_567)
BEARER = ClientAuth(ClientAuthMethod.BEARER, token=Secret("of-the-tenant"))


@dataclass
class Bench:
    """All sources, a file server, and folders."""

    server: FileServer
    other: FileServer
    sources: Sources
    spool: Path
    roots: tuple[Path, Path]
    tenant: Tenant
    grown: list[int] = field(default_factory=list)

    def put(self, mode: FetchMode, data: bytes) -> str:
        """Have some bytes at the source, and return the path to them."""
        match mode:
            case FetchMode.BASE64:
                return base64.b64encode(data).decode()
            case FetchMode.FILESYSTEM:
                (self.roots[0] / "acme" / "file.bin").write_bytes(data)
                return "file.bin"
            case FetchMode.HTTP_URL:
                self.server.put("/file", Reply(200, data))
                return f"{self.server.url}/file?x=1"
            case FetchMode.ENDPOINT:
                self.server.put(ENDPOINT, Reply(200, data))
                return "doc=1"

    async def fetch(self, mode: FetchMode, path: str, *, by_tenant: bool = True, **named: str | ClientAuth) -> bytes:
        """Fetch something, read it twice, and give it up."""
        attachment = Attachment("a.bin", mode, path, "application/pdf", **named)  # type: ignore[arg-type]
        fetched = await self.sources.fetch(Wanted(attachment, self.tenant, by_tenant), self.grown.append)
        data = await read_all(fetched)
        assert await read_all(fetched) == data
        assert fetched.size == len(data)
        fetched.close()
        fetched.close()
        return data

    async def failure(self, mode: FetchMode, path: str, **options: object) -> FetchFailed:
        """Fetch something that cannot be had."""
        with pytest.raises(FetchFailed) as failed:
            await self.fetch(mode, path, **options)  # type: ignore[arg-type]
        assert list(self.spool.iterdir()) == []
        return failed.value


@asynccontextmanager
async def made(folder: Path, guard: Guarded = LOCAL, timeout: float = 5.0) -> AsyncIterator[Bench]:
    roots = (folder / "first", folder / "second")
    for root in roots:
        (root / "acme").mkdir(parents=True)
    spool = SpoolSettings(folder / "spool", MOST)
    spool.folder.mkdir()
    async with (
        FileServer() as server,
        FileServer() as other,
        DownloadClient(Trusted()) as trusted,
        DownloadClient(guard) as guarded,
    ):
        downloads = HttpDownloader(trusted, guarded)
        shared = SharedEndpoint(
            f"{other.url}/shared", ClientAuth(ClientAuthMethod.BASIC, user="us", password=Secret("ü"))
        )
        files = FileSource(roots, spool, timeout)
        sources = Sources(
            {
                FetchMode.BASE64: InlineSource(),
                FetchMode.FILESYSTEM: files,
                FetchMode.HTTP_URL: UrlSource(downloads, spool, timeout),
                FetchMode.ENDPOINT: EndpointSource(downloads, spool, timeout, shared),
            }
        )
        tenant = Tenant("acme", client_base_url=server.url, client_auth=BEARER)
        yield Bench(server, other, sources, spool.folder, roots, tenant)
        files.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with made(tmp_path) as bench:
        yield bench


@pytest.mark.parametrize("mode", list(FetchMode))
async def test_any_number_of_bytes_comes_whole_and_leaves_nothing(bench: Bench, mode: FetchMode) -> None:
    for size in SIZES:
        data = os.urandom(size)
        bench.grown.clear()
        assert await bench.fetch(mode, bench.put(mode, data)) == data
        assert sum(bench.grown) == (0 if mode is FetchMode.BASE64 else size)
        assert list(bench.spool.iterdir()) == []


FETCHED = [mode for mode in FetchMode if mode is not FetchMode.BASE64]  # that one is checked when it comes


@pytest.mark.parametrize("mode", FETCHED)
async def test_only_the_content_that_was_named_is_taken(bench: Bench, mode: FetchMode) -> None:
    data = b"content" * 40_000
    md5, sha256 = hashlib.md5(data, usedforsecurity=False).hexdigest(), hashlib.sha256(data).hexdigest()
    path = bench.put(mode, data)
    assert await bench.fetch(mode, path, content_md5=md5[:8], content_sha256=sha256) == data
    for wrong in ({"content_md5": "00000000"}, {"content_md5": md5, "content_sha256": "0" * 64}):
        failed = await bench.failure(mode, path, **wrong)
        assert failed.permanent
        assert failed.reason.startswith("the content is another one: its ")


@pytest.mark.parametrize("mode", FETCHED)
async def test_what_is_too_large_fails_for_good(bench: Bench, mode: FetchMode) -> None:
    failed = await bench.failure(mode, bench.put(mode, b"x" * (MOST + 1)))
    assert failed.permanent
    assert str(MOST) in failed.reason


# Files


async def test_relative_and_absolute_paths_are_found_below_their_roots(bench: Bench) -> None:
    first, second = bench.roots
    for root in (first, second):
        (root / "acme" / "sub").mkdir()
        (root / "acme" / "sub" / "a.txt").write_text(root.name)
    (first / "top.txt").write_text("top")
    (first / "acme" / "link").symlink_to(first / "acme" / "sub" / "a.txt")
    fetch, files = bench.fetch, FetchMode.FILESYSTEM
    assert await fetch(files, "sub/a.txt") == b"first"
    assert await fetch(files, "link") == b"first"
    assert await fetch(files, f"{second}/acme/sub/a.txt") == b"second"
    assert await fetch(files, "top.txt", by_tenant=False) == b"top"
    assert await fetch(files, f"{first}/acme//sub/./a.txt", by_tenant=False) == b"first"


async def test_no_path_leads_out_of_the_folder(bench: Bench) -> None:
    first, _ = bench.roots
    outside = first.parent / "secret.txt"
    outside.write_text("secret")
    (first / "globex").mkdir()
    (first / "globex" / "b.txt").write_text("another's")
    (first / "acmeplus").mkdir()
    (first / "acmeplus" / "b.txt").write_text("another's")
    mine = first / "acme"
    (mine / "out").symlink_to(outside)
    (mine / "up").symlink_to(first.parent)
    (mine / "loop").symlink_to(mine / "loop")
    (mine / "null").symlink_to("/dev/null")
    (mine / "folder").mkdir()
    os.mkfifo(mine / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(mine, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")
        os.close(folder)
        for path in (
            *("../secret.txt", "../globex/b.txt", "out", "up/secret.txt", "null", "loop", "fifo", "socket", "folder"),
            *("", ".", "/", "a\0b", "none", str(outside), str(first), f"{first}/globex/b.txt", "/proc/self/environ"),
            *(f"{first}/acmeplus/b.txt", f"{first}/acme/../globex/b.txt", "/dev/zero", f"{mine}/up/secret.txt"),
        ):
            failed = await bench.failure(FetchMode.FILESYSTEM, path)
            assert failed.permanent, path
            assert "secret" not in failed.reason


async def test_a_link_that_is_put_in_the_way_at_the_last_moment_is_not_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = bench.roots[0] / "acme"
    (mine / "sub").mkdir()
    (mine / "sub" / "a.txt").write_text("mine")
    elsewhere = bench.roots[0].parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.txt").write_text("secret")
    resolve = os.path.realpath

    def exchanged(path: Path) -> str:
        found = resolve(path)
        if found.endswith("a.txt"):
            (mine / "sub" / "a.txt").unlink()
            (mine / "sub").rmdir()
            (mine / "sub").symlink_to(elsewhere)
        return found

    monkeypatch.setattr(os.path, "realpath", exchanged)
    assert (await bench.failure(FetchMode.FILESYSTEM, "sub/a.txt")).permanent


# HTTP


@pytest.mark.parametrize("mode", [FetchMode.HTTP_URL, FetchMode.ENDPOINT])
async def test_a_failure_says_whether_it_is_for_good(bench: Bench, mode: FetchMode) -> None:
    path = bench.put(mode, b"")
    at = ENDPOINT if mode is FetchMode.ENDPOINT else "/file"
    for reply, permanent in (
        *((Reply(status), False) for status in (408, 425, 429, 500, 503, 599)),
        *((Reply(status), True) for status in (206, 302, 400, 401, 404, 410, 499)),
        *((Reply(200, b"x" * 1000, manner=manner), False) for manner in (Manner.RESET, Manner.CUT)),
        (Reply(200, b"nonsense\r\n\r\n", manner=Manner.RAW), False),
        (Reply(200, b"x" * 100_000, manner=Manner.ENDLESS), True),
        (Reply(200, b"no gzip", {"Content-Encoding": "gzip"}), False),
        (Reply(200, b"x", {"Content-Encoding": "br"}), False),
        (Reply(200, gzip.compress(bytes(MOST + 1)), {"Content-Encoding": "gzip"}), True),
    ):
        bench.server.put(at, reply)
        failed = await bench.failure(mode, path)
        assert failed.permanent is permanent, (reply, failed.reason)
        assert "x=1" not in failed.reason
    bench.server.put(at, Reply(200, gzip.compress(bytes(MOST)), {"Content-Encoding": "gzip"}))
    assert await bench.fetch(mode, path) == bytes(MOST)
    await bench.server.stop()
    assert not (await bench.failure(mode, path)).permanent


@pytest.mark.parametrize("manner", [Manner.HANG, Manner.DRIP])
async def test_what_takes_too_long_is_given_up_for_now(tmp_path: Path, manner: Manner) -> None:
    async with made(tmp_path, timeout=0.2) as bench:
        bench.server.put(ENDPOINT, Reply(200, b"x" * 10_000, manner=manner))
        failed = await bench.failure(FetchMode.ENDPOINT, "doc")
    assert not failed.permanent
    assert failed.reason == "it was not fetched within 0.2 s" or "did not answer in 0.2 s" in failed.reason


async def test_no_url_leads_inside(tmp_path: Path) -> None:
    async with made(tmp_path, Guarded()) as bench:
        port = bench.server.port
        bench.server.put("/file", Reply(200, b"secret"))
        for host in (
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",  # noqa: S104 - asked for, not bound
        ):
            failed = await bench.failure(FetchMode.HTTP_URL, f"http://{host}:{port}/file", by_tenant=False)
            assert failed.permanent == (host != "localhost") or "not allowed" in failed.reason, host
        assert bench.server.connections == 0
    async with made(tmp_path / "other", Guarded((ip_network("127.0.0.0/8"),))) as bench:
        for location in ("http://169.254.169.254/", "http://[::1]:1/", "file:///etc/passwd", "http://u:p@127.0.0.1/"):
            bench.server.put("/file", Reply(302, b"", {"Location": location}))
            assert (await bench.failure(FetchMode.HTTP_URL, f"{bench.server.url}/file")).permanent, location


async def test_redirects_are_followed_three_times(bench: Bench) -> None:
    for n in range(4):
        bench.server.put(f"/{n}", Reply(301, b"", {"Location": f"/{n + 1}"}))
    bench.server.put("/4", Reply(200, b"data"))
    assert await bench.fetch(FetchMode.HTTP_URL, f"{bench.server.url}/1") == b"data"
    failed = await bench.failure(FetchMode.HTTP_URL, f"{bench.server.url}/0")
    assert failed.permanent
    assert "redirects more than 3 times" in failed.reason
    bench.server.put(ENDPOINT, Reply(307, b"", {"Location": "/4"}))
    assert (await bench.failure(FetchMode.ENDPOINT, "doc")).permanent


async def test_credentials_go_to_one_server_alone(bench: Bench) -> None:
    own = ClientAuth(ClientAuthMethod.BEARER, token=Secret("own"))
    url = FetchMode.HTTP_URL

    def sent(server: FileServer, path: str) -> list[str | None]:
        return [each.headers.get("authorization") for each in server.asked(path)]

    for server in (bench.server, bench.other):
        server.put("/a", Reply(200, b"data"))
        server.put("/away", Reply(302, b"", {"Location": f"{bench.other.url}/there"}))
    bench.other.put("/there", Reply(302, b"", {"Location": f"{bench.server.url}/back"}))
    bench.server.put("/back", Reply(200, b"data"))
    bench.other.put("/shared", Reply(200, b"data"))
    await bench.fetch(url, f"{bench.server.url}/a")
    await bench.fetch(url, f"{bench.server.url}/a", auth=own)
    await bench.fetch(url, f"{bench.other.url}/a")
    await bench.fetch(url, f"{bench.other.url}/a", auth=own)
    await bench.fetch(url, f"{bench.server.url}/away", auth=own)
    bench.put(FetchMode.ENDPOINT, b"data")
    await bench.fetch(FetchMode.ENDPOINT, "doc")
    bench.tenant = replace(bench.tenant, client_base_url=None)
    await bench.fetch(FetchMode.ENDPOINT, "doc")
    assert sent(bench.server, "/a") == ["Bearer of-the-tenant", "Bearer own"]
    assert sent(bench.other, "/a") == [None, "Bearer own"]
    assert sent(bench.server, "/away") == ["Bearer own"]
    assert sent(bench.other, "/there") == [None]
    assert sent(bench.server, ENDPOINT) == ["Bearer of-the-tenant"]
    assert sent(bench.other, "/shared") == ["Basic " + base64.b64encode("us:ü".encode()).decode()]


async def test_where_there_is_no_endpoint_it_fails_for_good(bench: Bench, tmp_path: Path) -> None:
    bench.tenant = replace(bench.tenant, client_base_url=None)
    bare = EndpointSource(HttpDownloader(None, None), SpoolSettings(tmp_path, MOST), 1.0)  # type: ignore[arg-type]
    bench.sources = Sources({FetchMode.ENDPOINT: bare})
    assert "no endpoint" in (await bench.failure(FetchMode.ENDPOINT, "doc")).reason


@pytest.mark.parametrize("mode", [FetchMode.HTTP_URL, FetchMode.ENDPOINT])
async def test_broken_off_it_leaves_nothing(bench: Bench, mode: FetchMode) -> None:
    path = bench.put(mode, b"")
    at = ENDPOINT if mode is FetchMode.ENDPOINT else "/file"
    bench.server.put(at, Reply(200, b"x" * 600_000, {"Content-Length": "1000000"}, manner=Manner.CUT))
    before = open_files()
    assert not (await bench.failure(mode, path)).permanent
    bench.server.put(at, Reply(200, b"x" * 100, manner=Manner.DRIP))
    fetching = asyncio.create_task(bench.fetch(mode, path))
    await until(lambda: len(bench.server.asked(at)) == 2)
    fetching.cancel()
    with suppress(asyncio.CancelledError):
        await fetching
    await until(lambda: open_files() == before)
    assert list(bench.spool.iterdir()) == []


def open_files() -> int:
    """How many files of the file system this process has open."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += str(each.readlink()).endswith("(deleted)")
    return count


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come")
