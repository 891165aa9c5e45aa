"""Large files from the submission to the receiver's download: in a folder, and in a store that speaks S3."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import httpx
import pytest

from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import Reply
from tests.support.file_server import ENDPOINT, FileServer
from tests.support.instance import Instance, a_message, eventually

BIG = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("large")
    (folder / "kept").mkdir()
    instance = Instance(folder, STORAGE_ROOTS=str(folder / "kept"), RETRY_DELAYS="0.1")
    yield instance
    instance.close()


@pytest.fixture
async def instance(_instance: Instance) -> Instance:
    """A running instance that may keep files in a folder."""
    if not _instance.running:
        await _instance.start()
    return _instance


@asynccontextmanager
async def desk(instance: Instance, **config: object) -> AsyncIterator[tuple[Tenant, Sink]]:
    """A tenant whose large files go to the folder, and the mail server behind its account."""
    async with running_sink() as sink, FileServer() as server, new_tenant(instance, sink.port) as tenant:
        server.put(ENDPOINT, Reply(200, BIG))
        kept = {"action": "rewrite", "max_size_mb": 1, "storage_url": f"file://{instance.folder}/kept/{tenant.id}"}
        changes = {
            "client_base_url": server.url,
            "large_file_config": {**kept, "public_base_url": instance.address, **config},
        }
        answer = await tenant.admin.ask("PUT", f"/tenant/{tenant.id}", json=changes)
        assert answer.status_code == 200, answer.text
        yield tenant, sink


def arrived(sink: Sink, id_: str) -> EmailMessage:
    (arrival,) = (each for each in sink.arrivals if each.mail_id == id_)
    parsed = message_from_bytes(arrival.content, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


def link_in(message: EmailMessage) -> str:
    """The one link of a message, which both bodies have."""
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    (url,) = re.findall(r"https?://\S+/files/\S+", plain.get_content())
    assert f'href="{url}"' in html.get_content()
    return str(url)


def kept_files(instance: Instance, tenant: Tenant) -> list[Path]:
    return [path for path in (instance.folder / "kept" / tenant.id).rglob("*") if path.is_file()]


def a_large_one(id_: str) -> dict[str, object]:
    return a_message(
        id_,
        body=None,
        text="The plans.",
        html="<html><body><p>The plans.</p></body></html>",
        attachments=[
            {"filename": 'größe "1".zip', "storage_path": "doc_id=1"},
            {"filename": "a.csv", "storage_path": "base64:YTtiCg=="},
        ],
    )


async def test_a_receiver_downloads_what_was_too_large_for_mail(instance: Instance) -> None:
    async with desk(instance) as (tenant, sink):
        await tenant.client.submit(a_large_one("M1"))
        await tenant.client.message_when("M1", "sent")
        message = arrived(sink, "M1")
        assert [part.get_filename() for part in message.iter_attachments()] == ["a.csv"]
        url = link_in(message)
        assert url.startswith(f"{instance.address}/files/")
        async with httpx.AsyncClient() as anybody:
            whole = await anybody.get(url)
            assert (whole.status_code, whole.content) == (200, BIG)
            assert "filename*=UTF-8''gr%C3%B6%C3%9Fe" in whole.headers["content-disposition"]
            rest = await anybody.get(url, headers={"Range": "bytes=2999990-"})
            assert (rest.status_code, rest.content) == (206, BIG[2_999_990:])
            tampered = await anybody.get(url[:-1] + ("A" if url[-1] != "A" else "B"))
            assert tampered.status_code == 404
        (file,) = kept_files(instance, tenant)
        assert file.read_bytes() == BIG
        assert file.stat().st_mode & 0o777 == 0o600


async def test_a_killed_instance_leaves_each_file_once_and_every_link_leads_to_it(instance: Instance) -> None:
    async with desk(instance) as (tenant, sink):
        ids = [f"M{n}" for n in range(12)]
        await tenant.client.submit(*(a_large_one(id_) for id_ in ids))
        await eventually(lambda: kept_files(instance, tenant) or sink.arrivals, "a file that is being kept")
        instance.kill()
        await instance.start()
        for id_ in ids:
            await tenant.client.message_when(id_, "sent", 30)
        # The account's server may have taken a message whose answer was lost: then it has come twice, the same.
        contents = {id_: {each.content for each in sink.arrivals if each.mail_id == id_} for id_ in ids}
        assert {id_: len(each) for id_, each in contents.items()} == dict.fromkeys(ids, 1)
        async with httpx.AsyncClient(base_url=instance.address) as anybody:
            for id_ in ids:
                (content,) = contents[id_]
                parsed = message_from_bytes(content, policy=SMTP)
                assert isinstance(parsed, EmailMessage)
                path = "/files/" + link_in(parsed).rpartition("/")[2]
                assert (await anybody.get(path)).content == BIG
        whole = [path for path in kept_files(instance, tenant) if path.stat().st_size == len(BIG)]
        assert 1 <= len(whole) <= 2  # the one that was being stored when it was killed has an entry that ends


async def test_what_is_larger_than_allowed_fails_with_its_name_where_that_is_wanted(instance: Instance) -> None:
    async with desk(instance, action="reject") as (tenant, sink):
        await tenant.client.submit(a_large_one("M1"))
        failed = await tenant.client.message_when("M1", "failed")
        told = "has 3.0 MB, more than 1.0 MB that large_file_config allows"
        assert told in str(failed["recipients"])
        assert sink.arrivals == []


async def test_a_folder_outside_of_the_roots_is_refused_with_the_setting(instance: Instance) -> None:
    async with new_tenant(instance) as tenant:
        config = {"action": "rewrite", "storage_url": "file:///etc", "public_base_url": instance.address}
        answer = await tenant.admin.ask("PUT", f"/tenant/{tenant.id}", json={"large_file_config": config})
        assert answer.status_code == 422
        assert "must be below one of the folders of GMP_STORAGE_ROOTS" in answer.text
        config["storage_url"] = f"file://{instance.folder}/kept"
        (instance.folder / "kept").rename(instance.folder / "unmounted")
        answer = await tenant.admin.ask("PUT", f"/tenant/{tenant.id}", json={"large_file_config": config})
        (instance.folder / "unmounted").rename(instance.folder / "kept")
        assert answer.status_code == 422
        assert "which is not there: make that folder, or mount its disk" in answer.text


async def test_the_files_of_a_deleted_tenant_cannot_be_had_any_more(instance: Instance) -> None:
    async with desk(instance) as (tenant, sink):
        await tenant.client.submit(a_large_one("M1"))
        await tenant.client.message_when("M1", "sent")
        url = link_in(arrived(sink, "M1"))
        answer = await tenant.admin.ask("DELETE", f"/tenant/{tenant.id}?force=true")
        assert answer.status_code == 200, answer.text
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(url)).status_code == 404
