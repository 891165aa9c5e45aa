"""Who asks for events gets them at once, or as soon as there are some; nothing runs for nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from typing_extensions import override

from mail_proxy.domain.errors import CursorTooOld, Invalid, StoreUnavailable
from mail_proxy.domain.report import StoredEvent
from mail_proxy.ports import outbox
from mail_proxy.ports.outbox import Stretch
from mail_proxy.reporting.feed import MAX_BYTES, WAITING_OF_TENANT, Feed, FeedPage, Start, Wanted
from tests.support.fake_clock import FakeClock, settled
from tests.support.reporting import event


class MemoryFeed(outbox.Feed):
    """Keeps events in a list; ids count all tenants."""

    def __init__(self) -> None:
        self.stored: list[StoredEvent] = []
        self.horizon = 0
        self.reads = 0
        self.looks: list[list[str]] = []
        self.away = False
        self.after_reading: Callable[[], Awaitable[None]] | None = None

    def write(self, message: int, tenant_id: str = "acme", text: str = "") -> int:
        self.stored.append(StoredEvent(len(self.stored) + 1, event(message, tenant_id=tenant_id, text=text)))
        return len(self.stored)

    @override
    async def stretch(self, tenant_id: str, after: int | None, limit: int, max_chars: int) -> Stretch:
        self.reads += 1
        begin = self.horizon if after is None else after
        mine = [each for each in self.stored if each.event.tenant_id == tenant_id]
        found = [each for each in mine if each.event_id > begin][:limit]
        if self.after_reading is not None:
            await self.after_reading()
        return Stretch(found, self.horizon, mine[-1].event_id if mine else self.horizon)

    @override
    async def ends(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        self.looks.append(sorted(tenant_ids))
        if self.away:
            raise StoreUnavailable("the disk is full")
        ends = {each.event.tenant_id: each.event_id for each in self.stored}
        return {each: ends.get(each, self.horizon) for each in tenant_ids}


class House:
    """A feed, and those who ask it."""

    def __init__(self, most_waiting: int = 500) -> None:
        self.events = MemoryFeed()
        self.clock = FakeClock()
        self.feed = Feed(self.events, self.clock, most_waiting)
        self.gone = asyncio.Event()
        self.turns = 0

    async def read(
        self, after: int | Start = Start.OLDEST, wait: float = 0, limit: int = 100, tenant_id: str = "acme"
    ) -> FeedPage:
        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            self.turns += 1
            yield

        return await self.feed.read(Wanted(tenant_id, after, limit, wait), turn, self.gone.wait)

    async def asked(self, after: int = 0, wait: float = 30, tenant_id: str = "acme") -> asyncio.Task[FeedPage]:
        """Have somebody ask, and return when it waits or is answered."""
        task = asyncio.create_task(self.read(after, wait, tenant_id=tenant_id))
        await settled()
        return task


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    looking = asyncio.create_task(made.feed.run())
    yield made
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


def ids(page: FeedPage) -> list[int]:
    return [int(json.loads(entry)["event_id"]) for entry in page.entries]


async def test_a_page_goes_on_after_a_cursor_and_says_whether_there_is_more(house: House) -> None:
    for n in range(5):
        house.events.write(n)
    first = await house.read(limit=2)
    assert (ids(first), first.next_after, first.more) == ([1, 2], 2, True)
    last = await house.read(2, limit=3)
    assert (ids(last), last.next_after, last.more) == ([3, 4, 5], 5, False)
    nothing = await house.read(5)
    assert (ids(nothing), nothing.next_after, nothing.more) == ([], 5, False)
    assert list(json.loads(first.entries[0])) == ["event_id", "tenant_id", "id", "pk", "event", "text"]


async def test_a_page_ends_at_a_megabyte_but_has_one_event_at_least(house: House) -> None:  # G11
    for text in ("a" * 400_000, "b" * 400_000, "c" * 300_000, "d" * (MAX_BYTES + 1)):
        house.events.write(1, text=text)
    first = await house.read()
    assert (ids(first), first.more) == ([1, 2], True)
    second = await house.read(first.next_after)
    assert (ids(second), second.more) == ([3], True)
    third = await house.read(second.next_after)
    assert (ids(third), third.next_after, third.more) == ([4], 4, False)


async def test_without_a_cursor_it_begins_at_the_oldest_or_at_the_end(house: House) -> None:
    nothing = await house.read(Start.LATEST)
    assert (ids(nothing), nothing.next_after, nothing.more) == ([], 0, False)
    for n in range(4):
        house.events.write(n)
    house.events.horizon = 2
    assert ids(await house.read()) == [3, 4]
    assert (await house.read(Start.LATEST)).next_after == 4
    assert (await house.read(tenant_id="other")).next_after == 2
    waiting = asyncio.create_task(house.read(Start.LATEST, wait=30))
    await settled()
    house.feed.notify([*"acme", "acme"])
    await settled()
    assert not waiting.done()  # told of what it knows already
    house.events.write(5)
    house.feed.notify(["acme"])
    assert ids(await waiting) == [5]


async def test_a_cursor_that_cannot_be_gone_on_from_is_refused(house: House) -> None:
    for n in range(4):
        house.events.write(n)
    house.events.horizon = 2
    assert ids(await house.read(2)) == [3, 4]
    with pytest.raises(CursorTooOld, match="what is kept follows on 2") as too_old:
        await house.read(1)
    assert too_old.value.oldest == 2
    with pytest.raises(Invalid, match="after: is beyond the last event of this tenant"):
        await house.read(5)


async def test_who_waits_is_answered_as_soon_as_this_instance_has_written(house: House) -> None:
    waiting, other = await house.asked(), await house.asked(tenant_id="other")
    house.events.write(1)
    house.feed.notify(["acme", "acme"])
    page = await waiting
    assert (ids(page), page.next_after) == ([1], 1)
    assert not other.done()
    other.cancel()


async def test_what_is_written_between_the_look_and_the_wait_is_not_waited_for(house: House) -> None:
    async def write_behind_its_back() -> None:
        house.events.after_reading = None
        house.events.write(1)
        house.feed.notify(["acme"])

    house.events.after_reading = write_behind_its_back
    assert ids(await house.read(0, wait=30)) == [1]
    assert house.turns == 2


async def test_one_look_a_second_finds_what_others_have_written_for_all_who_wait(house: House) -> None:
    await house.clock.advance(100)
    assert house.events.looks == []  # nobody waits
    house.events.write(1)
    behind, ahead, other = await house.asked(0), await house.asked(1), await house.asked(0, tenant_id="other")
    assert ids(behind.result()) == [1]
    await house.clock.advance(1)
    assert house.events.looks == [["acme", "other"]]
    house.events.write(2)
    assert not ahead.done()
    await house.clock.advance(1)
    assert ids(ahead.result()) == [2]
    assert not other.done()
    house.events.away = True
    await house.clock.advance(1)
    house.events.away = False
    house.events.write(3, "other")
    await house.clock.advance(1)
    assert ids(other.result()) == [3]
    seen, slept = len(house.events.looks), house.clock.sleeps
    await house.clock.advance(100)
    assert (len(house.events.looks), house.clock.sleeps - slept) == (seen, 0)


async def test_the_wait_ends_without_an_event_and_the_cursor_stays(house: House) -> None:
    house.events.write(1)
    waiting = await house.asked(1, wait=10)
    await house.clock.advance(9.9)
    assert not waiting.done()
    await house.clock.advance(0.1)
    page = waiting.result()
    assert (ids(page), page.next_after, page.more) == ([], 1, False)
    assert house.events.reads == 1


async def test_a_stop_answers_whoever_waits_and_nobody_waits_afterwards(house: House) -> None:  # G6
    waiting = [await house.asked(), await house.asked(tenant_id="other")]
    house.feed.stop()
    assert [ids(await each) for each in waiting] == [[], []]
    assert ids(await house.read(wait=30)) == []


async def test_a_client_that_goes_away_is_not_waited_for(house: House) -> None:
    waiting = await house.asked()
    house.gone.set()
    await settled()
    assert waiting.done()
    assert house.events.reads == 1


async def test_a_tenant_has_so_many_waiting_calls_and_others_their_own(house: House) -> None:  # G11
    waiting = [await house.asked() for _ in range(WAITING_OF_TENANT)]
    assert not any(each.done() for each in waiting)
    beyond = await house.read(0, wait=30)  # answered at once, and told why
    assert (ids(beyond), beyond.too_many_wait) == ([], True)
    assert not (await house.read(0, wait=0)).too_many_wait
    other = await house.asked(tenant_id="other")
    assert not other.done()
    waiting.pop().cancel()
    await settled()
    assert not (await house.asked()).done()
    house.feed.stop()


async def test_where_all_places_are_taken_the_tenant_with_the_most_gives_one_up() -> None:  # G11
    house = House(most_waiting=4)
    many = [await house.asked() for _ in range(3)]
    one = await house.asked(tenant_id="one")
    for n in range(2):
        new = await house.asked(tenant_id=f"new{n}")
        assert not new.done()
        assert [each.done() for each in many] == [n >= k for k in range(3)]
    assert not one.done()
    house.feed.stop()
    await settled()
