"""Attachments that are larger than their tenant wants to send: what goes out, what is stored, what is cleared away."""

from __future__ import annotations

import asyncio
import base64
import email.policy
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import update

from mail_proxy.attachments.inline import InlineSource
from mail_proxy.attachments.sources import Sources
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.delivery.large_files import LargeFiles
from mail_proxy.domain.account import Account
from mail_proxy.domain.attachment import FetchMode
from mail_proxy.domain.download_link import PATH, is_genuine, link_in
from mail_proxy.domain.large_file import DAY, LargeFileAction, LargeFileConfig, StorageKind, StoragePlace
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted
from mail_proxy.ports.file_storage import StorageFailed
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from mail_proxy.store.schema import tenants
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue
from tests.support.fake_clock import FakeClock
from tests.support.sources import Held
from tests.support.storages import MemoryStorage
from tests.support.stores import open_test_store, ready_made, with_account

PUBLIC = "https://mail.example.com"
CLOUD = StoragePlace(StorageKind.S3, "s3://files/mail", {"access_key_id": Secret("A1")})
FOLDER = StoragePlace(StorageKind.FILE, "file:///srv/files")
REWRITE = LargeFileConfig(max_size=1000, action=LargeFileAction.REWRITE, storage=CLOUD)


class Repeated(AttachmentSource):
    """Answers with as many bytes as the path says."""

    def __init__(self) -> None:
        self.open = 0
        self.asked = 0

    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        size = int(wanted.attachment.storage_path)
        self.asked += 1
        if size < 0:
            raise FetchFailed("it answered 404", permanent=True)
        self.open += 1
        grown(size)
        return _Counted(self, b"x" * size)


class Both(Sources):
    """What came with messages, and what comes from the endpoint."""

    def __init__(self) -> None:
        self.endpoint = Repeated()
        super().__init__({FetchMode.BASE64: InlineSource(), FetchMode.ENDPOINT: self.endpoint})


class _Counted(Held):
    def __init__(self, source: Repeated, data: bytes) -> None:
        super().__init__(data)
        object.__setattr__(self, "source", source)

    source: Repeated

    def close(self) -> None:
        self.source.open -= 1


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = FlakyQueue(store.database, store.instance_id)
    settings = replace(SETTINGS, public_url=PUBLIC)
    bench = Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log", settings)
    bench.attachments = Both()
    yield bench
    await store.close()


async def with_config(bench: Bench, config: LargeFileConfig | None) -> Account:
    account = await with_account(bench.store)
    await configure(bench, config)
    return account


async def configure(bench: Bench, config: LargeFileConfig | None) -> None:
    tenant = await bench.store.directory.tenant("acme")
    assert tenant is not None
    await bench.store.directory.put_tenant(replace(tenant, large_files=config), None)


async def submit(bench: Bench, delivery: Delivery, account: Account, id_: str, *sizes: int, **more: object) -> None:
    """Submit a message with attachments of these sizes; `inline` in `more` puts the first one into the message."""
    names = [f"{n}.zip" for n in range(len(sizes))]
    inline: list[str | None] = [None] * len(sizes)
    shown = [
        {"filename": name, "fetch_mode": "endpoint", "mime_type": "application/zip", "storage_path": str(size)}
        for name, size in zip(names, sizes, strict=True)
    ]
    if more.pop("inline", False):
        inline[0] = base64.b64encode(b"y" * sizes[0]).decode()
        shown[0] = {"filename": names[0], "fetch_mode": "base64", "mime_type": "application/zip"}
    if "content_id" in more:
        shown[0]["content_id"] = str(more.pop("content_id"))
    fields: dict[str, object] = {
        "id": id_,
        "from": "a@example.com",
        "to": ["b@example.net"],
        "subject": "S",
        "text": "B",
        **more,
    }
    text = json.dumps(fields | {"attachments": shown, "inline": inline}, separators=(",", ":"))
    recipients = tuple((address, RecipientKind.TO) for address in cast("list[str]", fields["to"]))
    await bench.submit(delivery, account, id_, fields=text, by_tenant=False, recipients=recipients)


def sent(bench: Bench) -> list[EmailMessage]:
    messages = (message_from_bytes(each.content, policy=email.policy.default) for each in bench.transport.messages)
    return list(messages)


def attached(message: EmailMessage) -> list[tuple[str | None, int]]:
    found = ((part.get_filename(), part.get_content()) for part in message.iter_attachments())
    return [(name, len(content)) for name, content in found]


def texts(message: EmailMessage) -> tuple[str, str]:
    """The bodies of a message, without the attachments."""
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    return ("" if plain is None else plain.get_content()), ("" if html is None else html.get_content())


def opened(bench: Bench) -> MemoryStorage:
    (storage,) = bench.storages.open.values()
    return storage


async def test_a_large_file_is_stored_and_its_link_is_sent(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000, 1000, html="<body><p>Hi</p></body>")
        await bench.until_state("M1", MessageState.SENT)
    (message,) = sent(bench)
    assert attached(message) == [("1.zip", 1000)]
    plain, html = texts(message)
    url = plain.split()[-1]
    assert url.startswith(PUBLIC + PATH)
    assert "0.zip (5.0 kB, until 14 February 2027)" in plain
    assert f'<li><a href="{url}">0.zip</a>' in html
    token = url.rpartition("/")[2]
    file = await bench.store.files.linked(link_in(token) or 0)
    assert file is not None
    assert is_genuine(token, file.link.signing_key)
    assert (file.filename, file.mime_type, file.size) == ("0.zip", "application/zip", 5000)
    assert opened(bench).files == {file.key: b"x" * 5000}
    assert source_of(bench).open == 0
    assert 'gmp_large_files_total{action="rewrite"} 1.0' in bench.meter.render().decode()


async def test_what_came_with_the_message_is_stored_as_well(bench: Bench) -> None:
    account = await with_config(bench, replace(REWRITE, max_size=100_000))
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 150_000, inline=True)
        await bench.until_state("M1", MessageState.SENT)
    assert attached(sent(bench)[0]) == []
    assert list(opened(bench).files.values()) == [b"y" * 150_000]


async def test_many_messages_with_one_new_file_store_it_once(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    async with bench.delivering() as delivery:
        for n in range(20):
            await submit(bench, delivery, account, f"M{n}", 5000)
        for n in range(20):
            await bench.until_state(f"M{n}", MessageState.SENT)
    assert opened(bench).puts == 1
    assert len({texts(message)[0] for message in sent(bench)}) == 20  # a link for each


async def test_reject_fails_the_message_and_names_the_file(bench: Bench) -> None:
    account = await with_config(bench, replace(REWRITE, action=LargeFileAction.REJECT))
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 10, 5000)
        await submit(bench, delivery, account, "M2", 10)
        failed = await bench.until_state("M1", MessageState.FAILED)
        await bench.until_state("M2", MessageState.SENT)
    reply = failed.recipients[0].reply or ""
    assert reply == "attachment_failed: 1.zip: has 5.0 kB, more than 1.0 kB that large_file_config allows"
    assert bench.storages.open == {}
    assert source_of(bench).open == 0


@pytest.mark.parametrize(
    "config",
    [
        None,
        replace(REWRITE, enabled=False),
        replace(REWRITE, action=LargeFileAction.WARN),
        replace(REWRITE, max_size=5000),
    ],
    ids=["none", "disabled", "warn", "not larger"],
)
async def test_otherwise_large_files_are_sent(bench: Bench, config: LargeFileConfig | None) -> None:
    account = await with_config(bench, config)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        await bench.until_state("M1", MessageState.SENT)
    assert attached(sent(bench)[0]) == [("0.zip", 5000)]


async def test_an_image_that_the_html_shows_is_sent(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000, content_id="logo", html='<img src="cid:logo">')
        await bench.until_state("M1", MessageState.SENT)
    assert b"Content-ID: <logo>" in bench.transport.messages[0].content
    assert bench.storages.open == {}


@pytest.mark.parametrize("permanent", [True, False])
async def test_a_storage_that_fails_costs_an_attempt_and_the_message_waits(bench: Bench, *, permanent: bool) -> None:
    account = await with_config(bench, REWRITE)
    (await bench.storages.at(CLOUD)).failure = StorageFailed("s3://files/mail answered 403", permanent=permanent)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        assert waiting.recipients[0].reply == "attachment_failed: 0.zip: s3://files/mail answered 403"
        assert source_of(bench).open == 0
        opened(bench).failure = None
        await bench.until_state("M1", MessageState.SENT, seconds=2)
    assert len(opened(bench).files) == 1


async def test_what_a_lost_config_may_be_about_waits_until_it_is_given_anew(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    with bench.store.database.engine.begin() as connection:
        connection.execute(update(tenants).values(large_files="sealed[elsewhere]x"))
    await bench.store.directory.set_scheduler_active(active=True)  # so that the tenant is read anew
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000, 100_001)
        await submit(bench, delivery, account, "M2", 100_000)  # smaller than any config can call large
        await bench.until_state("M2", MessageState.SENT)
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        lost = "attachment_failed: large_file_config of the tenant cannot be opened with any key; give it anew"
        assert waiting.recipients[0].reply == lost
        tenant = await bench.store.directory.tenant("acme")
        assert tenant is not None
        await bench.store.directory.put_tenant(replace(tenant, large_files=REWRITE, unreadable=frozenset()), None)
        await bench.until_state("M1", MessageState.SENT, seconds=2)
    assert len(opened(bench).files) == 2


async def test_a_folder_without_a_public_url_is_told_and_nothing_is_lost(bench: Bench) -> None:
    bench.settings = replace(bench.settings, public_url=None)
    account = await with_config(bench, replace(REWRITE, storage=FOLDER))
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        assert "GMP_PUBLIC_URL" in (waiting.recipients[0].reply or "")
        await configure(bench, replace(REWRITE, storage=FOLDER, public_base_url="https://files.example.com/"))
        await bench.until_state("M1", MessageState.SENT, seconds=2)
    assert "https://files.example.com/files/" in texts(sent(bench)[0])[0]


async def test_without_a_public_url_the_cloud_s_own_link_is_sent_with_its_date(bench: Bench) -> None:
    bench.settings = replace(bench.settings, public_url=None)
    account = await with_config(bench, REWRITE)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        await bench.until_state("M1", MessageState.SENT)
    plain = texts(sent(bench)[0])[0]
    assert "https://files.cloud.example/" in plain
    assert "lasts=604800" in plain
    assert "until 20 January 2027" in plain  # 7 days on, and over everywhere


async def test_every_attempt_carries_the_same_link(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    bench.transport.rule = lambda address: Reply(450, "4.2.0", "later") if address.startswith("c") else None
    to = ["b@example.net", "c@example.net"]
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000, to=to)
        await bench.until_state("M1", MessageState.SCHEDULED)
        bench.transport.rule = lambda _address: None
        await bench.until_state("M1", MessageState.SENT, seconds=2)
    contents = {message.content for message in bench.transport.messages}
    assert len(bench.transport.messages) == 2
    assert len(contents) == 1
    assert opened(bench).puts == 1


async def test_files_are_removed_when_their_last_link_has_ended(bench: Bench) -> None:
    account = await with_config(bench, replace(REWRITE, ttl=3 * DAY))
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        await submit(bench, delivery, account, "M2", 6000)
        for id_ in ("M1", "M2"):
            await bench.until_state(id_, MessageState.SENT)
        cleaner = cleaning(bench)
        await cleaner.clear_away()
        assert len(opened(bench).files) == 2
        bench.clock.jump(10 * DAY)
        opened(bench).failure = StorageFailed("it does not answer", permanent=False)
        await cleaner.clear_away()
        assert len(opened(bench).files) == 2
        opened(bench).failure = None
        await cleaner.clear_away()  # somebody has them in hand, for an hour
        assert len(opened(bench).files) == 2
        bench.clock.jump(3700)
        await cleaner.clear_away()
        assert opened(bench).files == {}
        assert await bench.store.files.linked(1) is None


async def test_credentials_of_today_are_used_for_removing(bench: Bench) -> None:
    account = await with_config(bench, replace(REWRITE, ttl=DAY))
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        await bench.until_state("M1", MessageState.SENT)
        fresh = replace(CLOUD, credentials={"access_key_id": Secret("A2")})
        await configure(bench, replace(REWRITE, storage=fresh))
        bench.clock.jump(10 * DAY)
        await cleaning(bench).clear_away()
    assert opened(bench).files == {}
    assert opened(bench).place.credentials == fresh.credentials


async def test_what_is_left_by_a_crash_before_the_link_is_cleared_away(bench: Bench) -> None:
    """The process ends between the storage's answer and the entry of the link: after an hour nothing is left."""
    account = await with_config(bench, REWRITE)
    storage = await bench.storages.at(CLOUD)
    kept = await bench.store.files.reserve("acme", CLOUD, "0" * 64, 3, bench.clock.now())
    await storage.put(kept.key, Held(b"abc"), "text/plain")
    cleaner = cleaning(bench)
    await cleaner.clear_away()
    assert len(storage.files) == 1
    bench.clock.jump(3700)
    await cleaner.clear_away()
    assert storage.files == {}
    assert account.tenant_id == "acme"


async def test_a_hanging_storage_holds_up_no_other_message(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    storage = await bench.storages.at(CLOUD)
    storage.hanging = asyncio.Event()
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        for n in range(2, 7):
            await submit(bench, delivery, account, f"M{n}", 10)
        for n in range(2, 7):
            await bench.until_state(f"M{n}", MessageState.SENT)
        assert (await bench.details("M1")).state is MessageState.SENDING
        storage.hanging.set()
        await bench.until_state("M1", MessageState.SENT)


async def test_a_refusal_after_storing_keeps_one_file(bench: Bench) -> None:
    account = await with_config(bench, REWRITE)
    bench.transport.rule = lambda _address: Reply(550, "5.1.1", "no such user")
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", 5000)
        await bench.until_state("M1", MessageState.FAILED)
    assert len(opened(bench).files) == 1
    assert source_of(bench).open == 0


def source_of(bench: Bench) -> Repeated:
    assert isinstance(bench.attachments, Both)
    return bench.attachments.endpoint


def cleaning(bench: Bench) -> LargeFiles:
    return LargeFiles(bench.needs(), PUBLIC)
