"""GET /files/{token}: whoever has the link gets the file, nobody else gets anything, and nothing runs in a browser."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from mail_proxy.api.application import create_app
from mail_proxy.domain.download_link import token_of
from mail_proxy.domain.errors import Problem
from mail_proxy.domain.large_file import DAY, FileLink, LinkedFile, LinkWanted, StorageKind, StoragePlace
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.file_storage import StorageFailed
from tests.support.api import Instance, new_tenant
from tests.support.logged import logged
from tests.support.sources import Held

FOLDER = StoragePlace(StorageKind.FILE, "file:///srv/files")
CLOUD = StoragePlace(StorageKind.S3, "s3://files/mail", {"secret_access_key": Secret("the-secret-of-the-bucket")})
DATA = bytes(range(256)) * 20
NAME = 'a "b" ü\r\n.html'


async def linked(
    instance: Instance, place: StoragePlace = FOLDER, *, data: bytes = DATA, lifespan: float | None = None, n: int = 0
) -> tuple[str, FileLink]:
    """Store a file with a link to it; return the link's path."""
    now = instance.clock.now()
    kept = await instance.store.files.reserve("acme", place, f"{n:064x}", len(data), now)
    storage = await instance.storages.at(place)
    await storage.put(kept.key, Held(data), "text/html")
    link = await instance.store.files.link(
        LinkWanted(
            file_pk=kept.pk,
            message_pk=1,
            message_ts=now,
            n=n,
            filename=NAME,
            mime_type="text/html",
            until=now + 30 * DAY,
            renew_below=now,
            lifespan=lifespan,
        )
    )
    assert link is not None
    return f"/files/{token_of(link.pk, link.signing_key)}", link


async def test_a_link_gives_the_file_as_a_download_that_runs_nothing(instance: Instance) -> None:
    path, link = await linked(instance)
    async with instance.client(None) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.content) == (200, DATA)
    headers = answer.headers
    assert headers["content-length"] == str(len(DATA))
    disposition = "attachment; filename=\"a _b_ ___.html\"; filename*=UTF-8''a%20%22b%22%20%C3%BC%0D%0A.html"
    assert headers["content-disposition"] == disposition
    assert headers["content-type"].startswith("text/html")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["cache-control"] == "private, no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["accept-ranges"] == "bytes"
    found = await instance.store.files.linked(link.pk)
    assert found is not None
    assert found.downloaded


async def test_a_mistake_of_ours_does_not_log_the_link(instance: Instance) -> None:
    class Broken:
        async def find(self, _token: str) -> LinkedFile:
            raise ZeroDivisionError

    path, _ = await linked(instance)
    broken = create_app(replace(instance.services, downloads=Broken()))  # type: ignore[arg-type]
    async with instance.client(None, broken) as client:
        with logged() as lines:
            assert (await client.get(path)).status_code == 500
    (line,) = lines
    assert (line["event"], line["path"]) == ("request_failed", "/files/********")


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-9", 206, 0, 9),
        ("bytes=100-", 206, 100, 5119),
        ("bytes=-1", 206, 5119, 5119),
        ("bytes=5000-9999", 206, 5000, 5119),
        ("bytes=0-1,4-5", 200, 0, 5119),
        ("nonsense", 200, 0, 5119),
    ],
)
async def test_parts_can_be_asked_for(instance: Instance, asked: str, status: int, first: int, last: int) -> None:
    path, _ = await linked(instance)
    async with instance.client(None) as client:
        answer = await client.get(path, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (status, DATA[first : last + 1])
        assert answer.headers["content-length"] == str(last + 1 - first)
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {first}-{last}/5120"
        tag = answer.headers["etag"]
        same = await client.get(path, headers={"Range": asked, "If-Range": tag})
        assert same.status_code == status
        other = await client.get(path, headers={"Range": asked, "If-Range": '"another"'})
        assert other.status_code == 200


async def test_a_range_beyond_the_end_is_told(instance: Instance) -> None:
    path, link = await linked(instance)
    async with instance.client(None) as client:
        answer = await client.get(path, headers={"Range": "bytes=5120-"})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */5120"
    found = await instance.store.files.linked(link.pk)
    assert found is not None
    assert not found.downloaded


async def test_head_tells_and_is_no_download(instance: Instance) -> None:
    path, link = await linked(instance, lifespan=DAY)
    async with instance.client(None) as client:
        answer = await client.head(path)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5120")
    found = await instance.store.files.linked(link.pk)
    assert found is not None
    assert (found.downloaded, found.link.until) == (False, link.until)


async def test_an_empty_file_can_be_had(instance: Instance) -> None:
    path, _ = await linked(instance, data=b"")
    async with instance.client(None) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_cloud_is_redirected_to_with_a_url_that_soon_ends(instance: Instance) -> None:
    path, link = await linked(instance, CLOUD)
    async with instance.client(None) as client:
        answer = await client.get(path, headers={"Range": "bytes=0-9"})
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("https://files.cloud.example/acme/")
    assert answer.headers["location"].endswith("?lasts=600")
    assert answer.headers["cache-control"] == "private, no-store"
    found = await instance.store.files.linked(link.pk)
    assert found is not None
    assert found.downloaded


async def test_a_tampered_token_gets_what_an_unknown_one_gets(instance: Instance) -> None:
    path, link = await linked(instance)
    other_path, _ = await linked(instance, replace(FOLDER, url="file:///srv/other"), n=1)
    token, other = path[7:], other_path[7:]
    wrong = {
        "another code": token[:11] + other[11:],
        "another number": other[:11] + token[11:],
        "the first letter": ("B" if token[0] == "A" else "A") + token[1:],
        "the last letter": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "cut": token[:-1],
        "longer": token + "A",
        "unknown number": token_of(link.pk + 1000, link.signing_key),
        "too high a number": token_of(2**64 - 1, link.signing_key),
        "no number": token_of(0, link.signing_key),
        "another key": token_of(link.pk, Secret("00" * 32)),
        "padding": token[:-1] + "=",
        "nothing like it": "..%2f..%2fetc%2fpasswd",
        "letters of others": "%C3%A9" * 32,
    }
    async with instance.client(None) as client:
        answers = {what: await client.get(f"/files/{text}") for what, text in wrong.items()}
    told = {what: (answer.status_code, answer.json()["error"]) for what, answer in answers.items()}
    sentence = "There is no such file; the link may be incomplete, or have ended some time ago."
    assert {what: each for what, each in told.items() if each[0] != 404} == {}
    assert {error for what, (_, error) in told.items() if what != "nothing like it"} == {sentence}
    assert not (await found(instance, link)).downloaded


async def found(instance: Instance, link: FileLink) -> LinkedFile:
    """The link as it stands."""
    file = await instance.store.files.linked(link.pk)
    assert file is not None
    return file


async def test_nothing_can_be_listed(instance: Instance) -> None:
    await linked(instance)
    async with instance.client(None) as client:
        for path in ("/files", "/files/", "/files/acme", "/files/acme/"):
            assert (await client.get(path)).status_code in {404, 405}, path
        assert (await client.post("/files/x")).status_code == 405


async def test_a_link_that_has_ended_says_so_to_people_and_programs(instance: Instance) -> None:
    path, link = await linked(instance)
    instance.clock.time = link.until
    async with instance.client(None) as client:
        program = await client.get(path)
        person = await client.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert (program.status_code, program.json()["code"]) == (410, "gone")
    assert person.status_code == 410
    assert person.headers["content-type"].startswith("text/html")
    assert "The link has ended. Ask the sender for the file." in person.text


async def test_the_first_download_brings_the_end_nearer(instance: Instance) -> None:
    path, link = await linked(instance, lifespan=2 * DAY)
    async with instance.client(None) as client:
        assert (await client.get(path)).status_code == 200
        instance.clock.time += DAY
        assert (await client.get(path)).status_code == 200
        instance.clock.time += DAY + 1
        assert (await client.get(path)).status_code == 410
    assert link.until > instance.clock.now()


async def test_a_storage_that_fails_is_told_without_its_secrets(instance: Instance) -> None:
    path, _ = await linked(instance)
    storage = await instance.storages.at(FOLDER)
    storage.failure = StorageFailed("/srv/files cannot be used: No space left on device", permanent=False)
    async with instance.client(None) as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
        assert "/srv" not in answer.text  # who has a link need not know where files are
        storage.failure = None
        storage.files.clear()
        assert (await client.get(path)).status_code == 404


# -- what tenants want done --------------------------------------------------------------------------------------------

FULL = {
    "max_size_mb": 5,
    "action": "rewrite",
    "storage_url": "s3://files/mail",
    "credentials": {"access_key_id": "AKIA1", "secret_access_key": "the-secret-of-the-bucket"},
    "public_base_url": "https://mail.acme.example",
    "file_ttl_days": 14,
    "lifespan_after_download_days": 3,
}


async def put(client: httpx.AsyncClient, config: object) -> httpx.Response:
    return await client.put("/tenant/acme", json={"large_file_config": config})


async def test_a_config_is_kept_and_shown_without_its_secrets(instance: Instance) -> None:
    async with instance.client() as client:
        await new_tenant(client, "acme")
        assert (await client.get("/tenant/acme")).json()["large_file_config"] is None
        assert (await put(client, FULL)).status_code == 200
        shown = (await client.get("/tenant/acme")).json()["large_file_config"]
        assert shown == {
            "enabled": True,
            **{name: value for name, value in FULL.items() if name != "credentials"},
            "has_credentials": True,
        }
        for path in ("/tenant/acme", "/tenants", "/command-log", "/instance"):
            assert "the-secret-of-the-bucket" not in (await client.get(path)).text
        # what is left out stays, for the same storage and no other
        others = {name: value for name, value in FULL.items() if name != "credentials"}
        assert (await put(client, others)).status_code == 200
        assert (await client.get("/tenant/acme")).json()["large_file_config"]["has_credentials"]
        assert (await put(client, others | {"storage_url": "s3://files/other"})).status_code == 200
        assert not (await client.get("/tenant/acme")).json()["large_file_config"]["has_credentials"]
        assert (await client.put("/tenant/acme", json={"name": "Acme"})).status_code == 200
        assert (await client.get("/tenant/acme")).json()["large_file_config"]["storage_url"] == "s3://files/other"
        assert (await put(client, None)).status_code == 200
        assert (await client.get("/tenant/acme")).json()["large_file_config"] is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_size_mb": 0}, "max_size_mb"),
        ({"max_size_mb": "10"}, "max_size_mb"),
        ({"action": "delete"}, "action"),
        ({"storage_url": None}, "storage_url"),
        ({"storage_url": "http://files.example"}, "storage_url"),
        ({"storage_url": "s3://files/../x"}, "storage_url"),
        ({"storage_url": "s3://files/" + "x" * 3000}, "storage_url"),
        ({"storage_url": "file:///srv/files", "credentials": None, "public_base_url": None}, "public_base_url"),
        ({"credentials": {"account_key": "secret-1"}}, "credentials.account_key"),
        ({"credentials": {"password": "secret-1"}}, "credentials.password"),
        ({"credentials": {"access_key_id": ""}}, "credentials.access_key_id"),
        ({"credentials": {"endpoint_url": "ftp://files"}}, "credentials.endpoint_url"),
        ({"public_base_url": "mail.acme.example"}, "public_base_url"),
        ({"file_ttl_days": 0}, "file_ttl_days"),
        ({"file_ttl_days": 1e9}, "file_ttl_days"),
        ({"lifespan_after_download_days": -1}, "lifespan_after_download_days"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_field(
    instance: Instance, changes: dict[str, object], field: str
) -> None:
    async with instance.client() as client:
        await new_tenant(client, "acme")
        answer = await put(client, FULL | changes)
        assert answer.status_code == 422, answer.text
        assert [each["field"] for each in answer.json()["detail"]] == [f"large_file_config.{field}"]
        assert "secret-1" not in answer.text
        assert (await client.get("/tenant/acme")).json()["large_file_config"] is None


async def test_a_storage_that_cannot_be_used_here_is_refused_with_what_to_do(instance: Instance) -> None:
    needed = "needs the extra [s3], or [large-files] for all clouds: pip install '.[s3]' in a checkout"
    instance.storages.refused = Problem("storage_url", needed)
    async with instance.client() as client:
        await new_tenant(client, "acme")
        answer = await put(client, FULL)
        assert answer.json()["detail"] == [{"field": "large_file_config.storage_url", "problem": needed}]


async def test_a_tenant_does_not_change_where_its_files_go(instance: Instance) -> None:
    async with instance.client() as client:
        token = await new_tenant(client, "acme")
    async with instance.client(token) as client:
        assert (await put(client, FULL)).status_code == 403
