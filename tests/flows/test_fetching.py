"""Attachments that hang, fail or are broken off: what becomes of their messages, and of those beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mail_proxy.delivery import fetching
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.domain.account import Account
from mail_proxy.domain.attachment_auth import written
from mail_proxy.domain.attempt import AccountRefused
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.rate_limit import Limits
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue
from tests.support.fake_clock import FakeClock
from tests.support.sources import Held
from tests.support.stores import open_test_store, ready_made, with_account


class Kept(Held):
    """Bytes that are told of when they are given up."""

    def __init__(self, source: Scripted, data: bytes) -> None:
        super().__init__(data)
        object.__setattr__(self, "source", source)
        source.open.add(id(self))

    source: Scripted

    def close(self) -> None:
        self.source.open.discard(id(self))


class Scripted(AttachmentSource):
    """Answers by path: `hang`, `later`, `never`, `bug`, or the path's own bytes."""

    def __init__(self) -> None:
        self.asked: list[Wanted] = []
        self.open: set[int] = set()
        """What was given and not given up."""
        self.hanging = 0
        self.go_on = asyncio.Event()

    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        self.asked.append(wanted)
        match path := wanted.attachment.storage_path:
            case "hang":
                self.hanging += 1
                try:
                    await self.go_on.wait()
                finally:
                    self.hanging -= 1
            case "later":
                raise FetchFailed("it answered 503", permanent=False)
            case "never":
                raise FetchFailed("it answered 404", permanent=True)
            case "bug":
                raise ZeroDivisionError
            case _:
                pass
        grown(len(path))
        return Kept(self, path.encode())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = FlakyQueue(store.database, store.instance_id)
    settings = replace(SETTINGS, max_fetches=8, max_fetched=1000)
    bench = Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log", settings)
    bench.attachments = Scripted()
    yield bench
    await store.close()


def source_of(bench: Bench) -> Scripted:
    assert isinstance(bench.attachments, Scripted)
    return bench.attachments


async def submit(
    bench: Bench, delivery: Delivery, account: Account, id_: str, *paths: str, auth: ClientAuth | None = None
) -> None:
    """Submit a message with attachments at these paths, as intake writes it down."""
    shown = [
        {"filename": f"{n}.txt", "fetch_mode": "endpoint", "mime_type": "text/plain", "storage_path": path}
        for n, path in enumerate(paths)
    ]
    fields = {"id": id_, "from": "a@example.com", "to": ["b@example.net"], "subject": "S", "body": "B"}
    text = json.dumps(fields | {"attachments": shown, "inline": [None] * len(paths)}, separators=(",", ":"))
    auths = None if auth is None else written({0: auth})
    await bench.submit(delivery, account, id_, fields=text, auths=auths, by_tenant=False)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it does not come")


async def test_all_attachments_are_there_when_a_message_goes_and_are_given_up_after_it(bench: Bench) -> None:
    account, source = await with_account(bench.store), source_of(bench)
    auth = ClientAuth(ClientAuthMethod.BEARER, token=Secret("t"))
    async with bench.delivering() as delivery:
        for n in range(30):  # more than there are places
            await submit(bench, delivery, account, f"M{n}", f"one {n}", f"two {n}", auth=auth)
        for n in range(30):
            await bench.until_state(f"M{n}", MessageState.SENT)
        await until(lambda: not source.open)
    assert len(bench.sent_ids) == 30
    assert all(each.content.count(b"Content-Disposition: attachment") == 2 for each in bench.transport.messages)
    assert {wanted.attachment.auth == auth for wanted in source.asked if "one" in wanted.attachment.storage_path} == {
        True
    }
    assert not any(wanted.by_tenant or wanted.tenant.id != "acme" for wanted in source.asked)


async def test_what_may_come_later_costs_an_attempt_and_neither_holds_nor_breaks_anything(bench: Bench) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", "fine", "later")
        await submit(bench, delivery, account, "M2", "bug")
        first = await bench.until_state("M1", MessageState.SCHEDULED)
        second = await bench.until_state("M2", MessageState.SCHEDULED)
        assert delivery.outage_of(account.pk) is None
        last = await bench.until_state("M1", MessageState.FAILED, seconds=30)
    assert first.reply == "attachment_failed: 1.txt: it answered 503"
    assert (first.attempts, last.attempts) == (1, 3)
    assert second.reply is not None
    assert "ZeroDivisionError" in second.reply
    assert not bench.transport.begun
    assert not source_of(bench).open


async def test_what_never_comes_fails_at_once_by_name(bench: Bench) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, "M1", "hang", "never", "fine")
        failed = await bench.until_state("M1", MessageState.FAILED)
    assert (failed.attempts, failed.reply) == (1, "attachment_failed: 1.txt: it answered 404")
    assert not source_of(bench).open
    assert not source_of(bench).hanging


async def test_a_server_that_hangs_holds_up_its_own_messages_alone(bench: Bench) -> None:  # G11
    account = await with_account(bench.store)
    other_account = await with_account(bench.store, account_id="other")
    other = await with_account(bench.store, "globex")
    source = source_of(bench)
    async with bench.delivering() as delivery:
        for n in range(10):
            await submit(bench, delivery, account, f"H{n}", "hang")
        await until(lambda: source.hanging == 4)  # half of the places
        await bench.submit(delivery, other_account, "beside")
        await submit(bench, delivery, other, "N1", "fine")
        await bench.until_state("beside", MessageState.SENT)

        async def sent() -> bool:
            return (await bench.details("N1", "globex")).state is MessageState.SENT

        await bench.until(sent)
        assert source.hanging == 4
        source.go_on.set()
        for n in range(10):
            await bench.until_state(f"H{n}", MessageState.SENT)
        await until(lambda: not source.open)


async def test_no_more_is_fetched_than_there_is_room_for(bench: Bench) -> None:  # G11
    account = await with_account(bench.store, max_connections=1)
    bench.transport.gate.clear()
    source = source_of(bench)
    async with bench.delivering() as delivery:
        for n in range(6):
            await submit(bench, delivery, account, f"M{n}", f"{n}" * 400)
            await until(lambda n=n: len(source.open) == min(n + 1, 2))  # type: ignore[misc]  # 800 of 1000
        await bench.clock.advance(5)
        assert len(source.asked) == 2
        bench.transport.gate.set()
        for n in range(6):
            await bench.until_state(f"M{n}", MessageState.SENT)


async def test_stopping_breaks_fetches_off_and_gives_their_attempts_back(bench: Bench) -> None:  # G6
    account = await with_account(bench.store)
    source = source_of(bench)
    async with bench.delivering() as delivery:
        for n in range(6):
            await submit(bench, delivery, account, f"M{n}", "hang")
        await until(lambda: source.hanging == 4)
    assert not source.hanging
    assert not source.open
    for n in range(6):
        details = await bench.details(f"M{n}")
        assert (details.state, details.attempts) == (MessageState.READY, 0)
    source.go_on.set()
    async with bench.delivering():
        for n in range(6):
            await bench.until_state(f"M{n}", MessageState.SENT)
    assert len(bench.sent_ids) == 6


async def test_what_was_fetched_for_an_account_that_goes_on_hold_is_given_up(bench: Bench) -> None:
    account = await with_account(bench.store)
    source = source_of(bench)
    bench.transport.failure = AccountRefused("no")
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        for n in range(5):
            await submit(bench, delivery, account, f"M{n}", "fine")
        await until(lambda: len(source.open) == 4)
        bench.transport.gate.set()
        for n in range(5):
            await bench.until_state(f"M{n}", MessageState.READY)
        await until(lambda: not source.open)
        assert (await bench.details("M0")).attempts == 0
        bench.transport.failure = None
        for n in range(5):
            await bench.until_state(f"M{n}", MessageState.SENT, seconds=60)
    assert len(bench.sent_ids) == 5


async def test_an_account_with_limits_fetches_for_as_many_as_it_may_send(bench: Bench) -> None:  # G10
    account = await with_account(bench.store, max_connections=2, limits=Limits(per_minute=100))
    source = source_of(bench)
    async with bench.delivering() as delivery:
        for n in range(5):
            await submit(bench, delivery, account, f"M{n}", "hang")
        await until(lambda: source.hanging == 2)
        await bench.clock.advance(5)
        assert (await bench.details("M2")).state is MessageState.READY
        source.go_on.set()
        for n in range(5):
            await bench.until_state(f"M{n}", MessageState.SENT)


async def test_what_has_no_place_waits_in_the_queue_and_not_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:  # G11
    monkeypatch.setattr(fetching, "MOST_WAITING", 4)
    account = await with_account(bench.store)
    second = await with_account(bench.store, account_id="second")
    source = source_of(bench)
    async with bench.delivering() as delivery:
        for n in range(30):
            await submit(bench, delivery, (account, second)[n % 2], f"H{n}", "hang")
        await until(lambda: source.hanging == 4)
        await bench.clock.advance(5)
        states = [(await bench.details(f"H{n}")).state for n in range(30)]
        assert states.count(MessageState.SENDING) <= 4 + 4 + 1
        source.go_on.set()
        for n in range(30):
            await bench.until_state(f"H{n}", MessageState.SENT)
    assert len(bench.sent_ids) == 30
