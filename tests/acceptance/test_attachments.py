"""Attachments from each source, from the API to the octets that a mail server took."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.docs.pages import page
from tests.support.callback_server import Manner, Reply
from tests.support.file_server import ENDPOINT, FileServer
from tests.support.instance import Instance, a_message, eventually

LOCAL = {"ALLOW_NETWORKS": "127.0.0.0/8"}
PDF = b"%PDF-1.7\n\x00\xff" + bytes(range(256)) * 10
BIG = os.urandom(700_000)


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    times = {"ATTACHMENT_TIMEOUT": "1", "RETRY_DELAYS": "0.1", "MAX_RETRIES": "3"}
    folder = tmp_path_factory.mktemp("attachments")
    cache = {"CACHE_DISK_DIR": str(folder / "cache"), "CACHE_DISK_THRESHOLD_KB": "1"}
    instance = Instance(folder, ATTACHMENT_MAX_MB="1", **times, **cache, **LOCAL)
    yield instance
    instance.close()


@pytest.fixture
async def instance(_instance: Instance) -> Instance:
    """A running instance that may fetch from this machine."""
    if not _instance.running:
        await _instance.start()
    return _instance


@asynccontextmanager
async def desk(instance: Instance, **settings: object) -> AsyncIterator[tuple[Tenant, Sink, FileServer]]:
    """A tenant with an account, the mail server behind it, and an HTTP server."""
    async with running_sink() as sink, FileServer() as server, new_tenant(instance, sink.port) as tenant:
        if settings:
            url = {"client_base_url": server.url}
            assert (await tenant.admin.ask("PUT", f"/tenant/{tenant.id}", json=settings | url)).status_code == 200
        yield tenant, sink, server


def parts(sink: Sink, id_: str) -> dict[str, tuple[str, bytes]]:
    """The attachments of a message as they came: type and bytes by name."""
    (arrival,) = (each for each in sink.arrivals if each.mail_id == id_)
    parsed = message_from_bytes(arrival.content, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    found = {}
    for part in parsed.walk():
        name = part.get_filename()
        if name is not None:
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            found[name] = (part.get_content_type(), data)
    return found


def file(folder: Path, name: str, data: bytes = PDF) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def left_in_spool(instance: Instance) -> list[str]:
    return [each.name for each in (instance.folder / "spool").iterdir()]


async def test_an_attachment_of_each_source_arrives_as_it_is(instance: Instance) -> None:
    auth = {"method": "bearer", "token": "of-the-tenant"}
    async with desk(instance, client_auth=auth) as (tenant, sink, server):
        file(instance.folder / "attachments" / tenant.id, "sub/list.csv", b"a;b\n")
        server.put(ENDPOINT, Reply(200, BIG))
        server.put("/a.pdf", Reply(200, PDF))
        own = {"method": "basic", "user": "us", "password": "own-password"}
        inline = {"filename": "größe.png", "storage_path": base64.b64encode(PDF).decode(), "fetch_mode": "base64"}
        message = a_message(
            "M1",
            html='<img src="cid:logo@acme">',
            body=None,
            attachments=[
                inline | {"content_id": "logo@acme"},
                {"filename": "list.csv", "storage_path": "sub/list.csv", "fetch_mode": "filesystem"},
                {
                    "filename": "big_{MD5:" + hashlib.md5(BIG, usedforsecurity=False).hexdigest()[:8] + "}.bin",
                    "storage_path": "doc_id=1&x=2",
                },
            ],
        )
        receipt = await tenant.client.submit(message)
        assert receipt["queued"] == 1, receipt
        await sink.wait_for(1)
        link = {"filename": "a.pdf", "storage_path": f"{server.url}/a.pdf?x=1", "auth": own}
        await tenant.client.submit(a_message("M2", attachments=[link]))
        await sink.wait_for(2)
        assert parts(sink, "M1") == {
            "größe.png": ("image/png", PDF),
            "list.csv": ("text/csv", b"a;b\n"),
            "big.bin": ("application/octet-stream", BIG),
        }
        assert parts(sink, "M2") == {"a.pdf": ("application/pdf", PDF)}
        (asked,), (got,) = server.asked(ENDPOINT), server.asked("/a.pdf")
        assert (asked.method, asked.path, asked.body) == (
            "POST", "/mail-proxy/attachments", b'{"storage_path": "doc_id=1&x=2"}'
        )  # fmt: skip
        assert asked.headers["authorization"] == "Bearer of-the-tenant"
        assert (got.method, got.path) == ("GET", "/a.pdf?x=1")
        assert got.headers["authorization"] == "Basic " + base64.b64encode(b"us:own-password").decode()
        shown = (await tenant.client.message_when("M1", "sent"))["message"]["attachments"]
        assert shown[0] == {
            "filename": "größe.png",
            "fetch_mode": "base64",
            "mime_type": "image/png",
            "content_id": "logo@acme",
            "size": len(PDF),
        }
        other = (await tenant.client.message_when("M2", "sent"))["message"]["attachments"]
        assert other == [{
            "filename": "a.pdf", "fetch_mode": "http_url", "mime_type": "application/pdf",
            "storage_path": f"{server.url}/a.pdf?x=1",
        }]  # fmt: skip
        assert (await tenant.client.submit(message))["duplicates"] == ["M1"]
        assert left_in_spool(instance) == []


async def test_what_cannot_be_had_for_good_fails_at_once_and_says_which_file_and_why(instance: Instance) -> None:
    async with desk(instance, name="x") as (tenant, sink, server):
        file(instance.folder / "attachments", "another/secret.txt")
        file(instance.folder / "attachments" / tenant.id, "big.bin", b"x" * 1_000_001)
        server.put(ENDPOINT, Reply(403), Reply(200, PDF), Reply(200, BIG * 2))
        cases: dict[str, tuple[str, str]] = {
            "forbidden": ("doc=1", "answered 403"),
            "other hash {MD5:0123456789}": ("doc=2", "its MD5 is"),
            "too big": ("doc=3", "longer than 1000000 bytes"),
            "gone": (f"{server.url}/gone", "answered 404"),
            "metadata": ("http://169.254.169.254/latest", "is not allowed"),
            "no file": ("/nowhere/at/all", "not below a folder"),
            "of another": (f"{instance.folder}/attachments/another/secret.txt", "not below a folder"),
            "too big a file": (f"{instance.folder}/attachments/{tenant.id}/big.bin", "more than 1000000 bytes"),
            "no such file": (f"{instance.folder}/attachments/{tenant.id}/none", "no such file"),
        }
        for n, (name, (path, why)) in enumerate(cases.items()):
            submitted = a_message(f"F{n}", attachments=[{"filename": name, "storage_path": path}])
            assert (await tenant.client.submit(submitted))["queued"] == 1
            failed = await tenant.client.message_when(f"F{n}", "failed")
            assert failed["error"].startswith(f"attachment_failed: {name.partition(' {')[0]}: "), failed["error"]
            assert why in failed["error"]
            assert failed["error_code"] == "attachment_failed"
            assert failed["attempts"] == 1
            (event,) = [each for each in await tenant.client.events(f"F{n}") if each["type"] == "failed"]
            assert event["report"]["error"] == failed["error"]
            assert why in (await tenant.client.get(f"/messages/F{n}/explain"))["sentence"]
        await tenant.client.submit(a_message("after"))
        await sink.wait_for(1)
        assert sink.ids == ["after"]
        assert left_in_spool(instance) == []


async def test_what_may_be_had_later_is_tried_again_and_holds_nothing_else_up(instance: Instance) -> None:
    async with desk(instance, name="x") as (tenant, sink, server):
        server.put(ENDPOINT, Reply(503), Reply(429), Reply(200, PDF), Reply(manner=Manner.HANG))
        await tenant.client.submit(a_message("M1", attachments=[{"filename": "a.pdf", "storage_path": "1"}]))
        await sink.wait_for(1)
        assert parts(sink, "M1")["a.pdf"][1] == PDF
        many = [a_message(f"H{n}", attachments=[{"filename": "a", "storage_path": "1"}]) for n in range(40)]
        await tenant.client.submit(*many)
        await eventually(lambda: len(server.asked(ENDPOINT)) > 4, "some are fetched")
        await tenant.client.submit(a_message("beside"))  # by the same account
        await sink.wait_for(2)
        assert sink.ids == ["M1", "beside"]
        failed = await tenant.client.message_when("H0", "failed", 30)
        assert failed["attempts"] == 3
        assert "a: it was not fetched within 1 s" in failed["error"]
        assert (await tenant.admin.get("/status"))["accounts_on_hold"] == []


async def test_a_kill_while_something_is_fetched_leaves_nothing_and_loses_nothing(instance: Instance) -> None:
    async with desk(instance, name="x") as (tenant, sink, server):
        spool = instance.folder / "spool"
        server.put("/1", Reply(200, BIG, manner=Manner.DRIP), Reply(200, PDF))
        (spool / "tmpleft").write_bytes(b"of a file system without nameless files")
        await tenant.client.submit(
            a_message("M1", attachments=[{"filename": "a", "storage_path": f"{server.url}/1"}]),
        )
        await eventually(lambda: server.asked("/1"), "it is fetched")
        instance.kill()
        await instance.start()
        await sink.wait_for(1)
        await eventually(lambda: left_in_spool(instance) == [], "the spool is empty")
        assert sink.ids == ["M1"]


async def test_a_named_content_is_fetched_once_also_over_a_kill_and_never_sent_when_it_was_changed(
    instance: Instance,
) -> None:
    async with desk(instance, name="x") as (tenant, sink, server):
        server.put(ENDPOINT, Reply(200, BIG))
        marked = "big_{MD5:" + hashlib.md5(BIG, usedforsecurity=False).hexdigest() + "}.bin"

        async def sent(id_: str) -> bytes:
            one = {"filename": marked, "storage_path": "doc_id=1"}
            await tenant.client.submit(a_message(id_, attachments=[one]))
            await tenant.client.message_when(id_, "sent")
            return parts(sink, id_)["big.bin"][1]

        assert [await sent("M1") == BIG, await sent("M2") == BIG] == [True, True]
        assert len(server.asked(ENDPOINT)) == 1
        instance.kill()
        await instance.start()
        assert await sent("M3") == BIG
        assert len(server.asked(ENDPOINT)) == 1
        kept = [path for path in (instance.folder / "cache").rglob("*") if path.stat().st_size == len(BIG)]
        assert kept
        for path in kept:
            changed = bytearray(BIG)
            changed[len(BIG) // 2] ^= 1
            path.write_bytes(changed)
        assert await sent("M4") == BIG
        assert len(server.asked(ENDPOINT)) == 2
    async with desk(instance, name="x") as (other, sink, server):  # another tenant has to have it itself
        server.put(ENDPOINT, Reply(404))
        await other.client.submit(a_message("M1", attachments=[{"filename": marked, "storage_path": "doc_id=1"}]))
        await other.client.message_when("M1", "failed")
        assert sink.ids == []


async def test_each_example_of_the_documentation_arrives(instance: Instance) -> None:
    shown = [block.text for block in page("docs/attachments.md").blocks if block.mark == "a submission"]
    assert len(shown) == 4
    async with desk(instance, name="x") as (tenant, sink, server):
        file(instance.folder / "attachments" / tenant.id, "manuals/1042.pdf")
        server.put(ENDPOINT, Reply(200, PDF))
        server.put("/terms.pdf", Reply(200, PDF))
        for text in shown:
            batch = json.loads(text.replace("https://files.acme.example", server.url))
            assert (await tenant.client.post("/commands/add-messages", batch))["queued"] == 1
        await sink.wait_for(4)
        found = {id_: parts(sink, id_) for id_ in sink.ids}
    assert {name: data for each in found.values() for name, (_, data) in each.items()} == {
        "hello.txt": b"Hello",
        "logo.png": b"\x89PNG\r\n\x1a\n",
        **dict.fromkeys(("invoice.pdf", "terms.pdf", "manual.pdf"), PDF),
    }
