"""What callers may take of memory, time and turns, and that others have theirs all the same."""  # G11

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import httpx
import pytest

from mail_proxy.api import bodies, body_memory, failed_tokens
from mail_proxy.api.application import create_app
from mail_proxy.api.body_memory import BIG_FROM, COUNTED_FROM, BodyMemory
from mail_proxy.api.body_memory import MOST_WAITING as MOST_BODIES
from mail_proxy.api.errors import TooBusy
from mail_proxy.api.failed_tokens import FREE, MOST_ADDRESSES, MOST_WAITING, FailedTokens, client_of
from mail_proxy.api.page_turns import AT_ONCE, PageTurns
from mail_proxy.api.page_turns import MOST_WAITING as MOST_PAGES
from mail_proxy.api.validation import MAX_PROBLEMS
from mail_proxy.domain.errors import TooLarge, TooMany
from tests.support.api import ADMIN_TOKEN, Instance, a_submission

# Room for bodies


async def test_a_caller_has_half_of_the_room_and_big_bodies_leave_small_ones_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_memory, "PATIENCE", 0.01)
    memory = BodyMemory(10 * BIG_FROM)
    with memory.room("acme") as one, memory.room("acme") as two, memory.room("other") as three:
        await one.grow(4 * BIG_FROM)
        with pytest.raises(TooBusy):
            await two.grow(BIG_FROM + 1)
        await three.grow(4 * BIG_FROM)
        with memory.room("third") as four, memory.room("third") as small, memory.room("third") as tiny:
            with pytest.raises(TooBusy):
                await four.grow(BIG_FROM + 1)
            await small.grow(BIG_FROM)
            await tiny.grow(COUNTED_FROM)
    with memory.room("third") as alone:  # whether a body may be as large as this is another setting's matter
        await alone.grow(1000 * BIG_FROM)


async def test_those_who_wait_for_room_get_it_in_turn_and_nobody_waits_for_one_who_has_his_share() -> None:
    memory = BodyMemory(10 * BIG_FROM)
    first, greedy, second = memory.room("acme"), memory.room("acme"), memory.room("other")
    await first.grow(4 * BIG_FROM)
    waiting = asyncio.create_task(greedy.grow(2 * BIG_FROM))
    await asyncio.sleep(0)
    await second.grow(4 * BIG_FROM)
    given_up = asyncio.create_task(memory.room("third").grow(3 * BIG_FROM))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert not waiting.done()
    first.leave()
    await waiting
    greedy.leave()
    second.leave()
    with memory.room("acme") as all_of_it:
        await all_of_it.grow(8 * BIG_FROM)


async def test_those_who_wait_without_number_are_asked_to_come_back_and_keep_nobody_else_out() -> None:
    memory = BodyMemory(10 * BIG_FROM)
    with memory.room("acme") as first, memory.room("other") as second:
        await first.grow(4 * BIG_FROM)
        waiting = [asyncio.create_task(memory.room("acme").grow(2 * BIG_FROM)) for _ in range(MOST_BODIES)]
        await asyncio.sleep(0)
        with pytest.raises(TooBusy):
            await memory.room("acme").grow(2 * BIG_FROM)
        await asyncio.wait_for(second.grow(4 * BIG_FROM), 5)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("path", ["/commands/delete-messages", "/commands/add-messages", "/account"])
async def test_who_sends_thousands_of_unknown_fields_is_told_of_the_first_few(
    acme: httpx.AsyncClient, path: str
) -> None:
    """To make a sentence of each of them would hold everybody else up."""
    answer = await acme.post(path, json={f"k{n}": None for n in range(1900)})
    assert (answer.status_code, len(answer.json()["detail"])) == (422, MAX_PROBLEMS)
    if path != "/commands/add-messages":  # whose messages have some values each
        answer = await acme.post(path, json={"ids": [{f"k{n}": n for n in range(10_000)}]})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_no_room_is_lost_whatever_callers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_memory, "PATIENCE", 0.002)
    memory, rng = BodyMemory(10 * BIG_FROM), Random(3)
    held = most = 0

    async def request(whose: int, size: int, pause: float) -> None:
        nonlocal held, most
        with memory.room(whose) as room:
            await room.grow(size)
            held += size
            most = max(most, held)
            try:
                await asyncio.sleep(pause)
            finally:
                held -= size

    tasks = []
    for _ in range(300):
        tasks.append(asyncio.create_task(request(rng.randrange(4), rng.randrange(8 * BIG_FROM), rng.random() / 500)))
        if rng.random() < 0.3:
            rng.choice(tasks).cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert 0 < most <= 10 * BIG_FROM
    assert (memory.part(1).used, memory.part(8 * BIG_FROM).used) == (0, 0)


async def test_a_body_for_which_there_is_no_room_is_told_to_come_back(
    instance: Instance, acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_memory, "PATIENCE", 0.01)
    memory = instance.services.body_memory
    message = json.dumps({"messages": [a_submission(body="x" * 2 * COUNTED_FROM)]}).encode()

    async def in_chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(message), 1000):
            yield message[start : start + 1000]

    with memory.room("somebody") as taken:
        await taken.grow(BIG_FROM)
        await memory.part(1).take("somebody else", memory.part(1).room - BIG_FROM)
        for content in (message, in_chunks()):
            answer = await acme.post("/commands/add-messages", content=content)
            assert (answer.status_code, answer.json()["code"]) == (503, "too_busy")
            assert int(answer.headers["retry-after"]) > 0
        assert (await acme.post("/commands/add-messages", json={"messages": [a_submission()]})).json()["queued"] == 1
        memory.part(1).leave("somebody else", memory.part(1).room - BIG_FROM)
    assert (await acme.post("/commands/add-messages", content=in_chunks())).status_code == 200
    assert memory.part(1).used == 0


# Time and values


@pytest.mark.parametrize("path", ["/commands/add-messages", "/account"])
async def test_a_body_that_comes_drop_by_drop_is_given_up(
    acme: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "GRACE", 0.05)

    async def dripping() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.005)

    answer = await acme.post(path, content=dripping())
    assert (answer.status_code, answer.json()["code"]) == (408, "timeout")


@pytest.mark.parametrize("piece", [2, 4, bodies.PIECE])
def test_values_are_counted_and_texts_are_not_taken_for_values(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE", piece)
    rng = Random(5)

    def value(depth: int) -> object:
        kind = rng.randrange(6 if depth < 5 else 3)
        if kind == 0:
            return rng.choice([1, True, None, -1.5])
        if kind in {1, 2}:
            return "".join(rng.choice('[]{},"\\ aä:') for _ in range(rng.randrange(8)))
        if kind in {3, 4}:
            return [value(depth + 1) for _ in range(rng.randrange(5))]
        return {f"{n}\\,[": value(depth + 1) for n in range(rng.randrange(5))}

    def number_of_values(found: object) -> int:
        inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
        return 1 + sum(number_of_values(each) for each in inner)

    for _ in range(300):
        given = value(0)
        number = number_of_values(given)
        for text in (json.dumps(given), json.dumps(given, separators=(",", ":"), ensure_ascii=False)):
            cut = len(text) // piece  # an empty list that is cut in two counts as another value
            assert bodies.parse_json(text.encode(), number + cut) == given, text
            with pytest.raises(TooLarge):
                bodies.parse_json(text.encode(), number - 2)


async def test_a_body_of_too_many_values_is_too_large(instance: Instance, admin: httpx.AsyncClient) -> None:
    settings = replace(instance.services.settings, max_values=1000)
    async with instance.client(app=create_app(replace(instance.services, settings=settings))) as client:
        for inner in (["[]"] * 1200, ["{}"] * 1200, ["1"] * 1200, ['"a"'] * 1200):
            body = b'{"messages": [[' + ",".join(inner).encode() + b"]]}"
            answer = await client.post("/commands/add-messages", content=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        text = {"messages": [a_submission(body='{"a": [1, 2]}, ' * 5000)]}
        assert (await client.post("/commands/add-messages", json=text)).status_code == 200


# Failed tokens


async def test_tokens_that_keep_failing_are_answered_late_and_valid_ones_at_once(
    instance: Instance, acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_back, all_wait = asyncio.Event(), asyncio.Event()

    async def wait(seconds: float) -> None:
        assert seconds == failed_tokens.DELAY
        if instance.services.failed_tokens.waiting == MOST_WAITING:
            all_wait.set()
        await held_back.wait()

    async with instance.client("wrong") as guesser:
        monkeypatch.setattr(failed_tokens, "hold_back", wait)
        for _ in range(FREE):
            assert (await guesser.get("/messages")).status_code == 401
        late = [asyncio.create_task(guesser.get("/messages")) for _ in range(MOST_WAITING)]
        await all_wait.wait()
        refused = await guesser.post("/commands/add-messages", json={})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_failures")
        assert refused.headers["retry-after"] == "60"
        assert (await acme.get("/messages")).status_code == 200  # from the same address
        async with instance.client(None) as without:
            assert (await without.get("/messages")).status_code == 401  # that is no guess
        held_back.set()
        assert {(await each).status_code for each in late} == {401}
        instance.clock.time += 60
        held_back.clear()
        assert (await guesser.get("/messages")).status_code == 401  # at once
        assert instance.services.failed_tokens.waiting == 0


async def test_the_token_of_the_metrics_is_no_better_to_guess(instance: Instance) -> None:
    settings = replace(instance.services.settings, metrics_token_digest="0" * 64)
    app = create_app(replace(instance.services, settings=settings))
    transport = httpx.ASGITransport(app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            answer = await client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
            assert answer.status_code == 401
        documented = (await client.get("/openapi.json")).json()["paths"]["/metrics"]["get"]["responses"]
    assert instance.services.failed_tokens.failures("192.0.2.7") == 2
    assert set(documented) == {"200", "401", "422", "429", "500"}


async def test_addresses_that_fail_take_bounded_room() -> None:
    tokens = FailedTokens(lambda: 0.0)
    for n in range(MOST_ADDRESSES + 500):
        await tokens.failed(str(n))
    assert tokens.remembered == MOST_ADDRESSES
    assert (tokens.failures("0"), tokens.failures(str(MOST_ADDRESSES))) == (0, 1)


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.5"], "192.0.2.1"),  # whoever says it is not trusted
        ("10.0.0.1", ["203.0.113.5"], "203.0.113.5"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.5"], "203.0.113.5"),  # what the client has said itself
        ("10.0.0.1", ["198.51.100.1", "203.0.113.5, 10.0.0.2"], "203.0.113.5"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("::ffff:10.0.0.1", ["2001:db8:1:2::9"], "2001:db8:1:2::/64"),
    ],
)
def test_where_a_request_came_from(client: str, forwarded: list[str], address: str) -> None:
    scope = {"client": (client, 1), "headers": [(b"x-forwarded-for", each.encode()) for each in forwarded]}
    assert client_of(scope, [ip_network("10.0.0.0/8")]) == address


# Turns


async def test_a_tenant_reads_few_pages_at_a_time_and_another_one_its_own() -> None:
    turns, go_on, reading = PageTurns(), asyncio.Event(), 0

    async def page() -> None:
        nonlocal reading
        async with turns.turn("acme"):
            reading += 1
            await go_on.wait()

    pages = [asyncio.create_task(page()) for _ in range(AT_ONCE + MOST_PAGES)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reading == AT_ONCE
    with pytest.raises(TooMany):
        await page()
    async with turns.turn("other"):
        pass
    pages.pop().cancel()
    go_on.set()
    await asyncio.gather(*pages)
    async with turns.turn("acme"):
        pass


async def test_a_long_list_is_the_same_as_a_short_one(acme: httpx.AsyncClient) -> None:
    ids = [f"M{n}" for n in range(60)]
    await acme.post("/commands/add-messages", json={"messages": [a_submission(id_) for id_ in ids]})
    long, short = await acme.get("/messages?limit=60"), await acme.get("/messages?limit=2")
    assert [each["id"] for each in long.json()["messages"]] == ids[::-1]
    assert (long.json()["ok"], long.json()["next_cursor"]) == (True, None)
    assert short.json()["messages"] == long.json()["messages"][:2]
    assert short.json()["next_cursor"] is not None
