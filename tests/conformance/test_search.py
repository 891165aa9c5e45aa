"""Messages are found by what they are, what is written in them and when they came, at a cost that has a bound."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text as sql

from mail_proxy.domain.account import Account
from mail_proxy.domain.message import Details
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.search import TextFilter
from mail_proxy.ports.archive import MessageFilter, Page, Place
from mail_proxy.store.search import READ_AT_MOST
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, REFUSED, attempt, claim
from tests.support import backlog
from tests.support.stores import a_message, enqueue, with_account


async def pages(store: Store, wanted: MessageFilter, limit: int = 100) -> AsyncIterator[Page]:
    """Follow the pages to the end."""
    below: Place | None = None
    while True:
        page = await store.archive.page("acme", wanted, below, limit, NOW)
        yield page
        below = page.below
        if below is None:
            return


async def found(store: Store, limit: int = 100, **wanted: Any) -> list[str]:
    return [each.id async for page in pages(store, MessageFilter(**wanted), limit) for each in page.messages]


STATES: tuple[dict[str, Any], ...] = (
    {},
    {"state": "sending"},
    {"state": "waiting"},
    {"state": "sent"},
    {"status": "error"},
    {"status": "deferred"},
    {"active_only": True},
    {"state": "sent", "active_only": True},
)
OWNERS: tuple[dict[str, Any], ...] = (
    {},
    {"account_id": "main"},
    {"batch_code": "spring"},
    {"account_id": "other", "batch_code": "spring"},
)


def texts(id_: str, **fields: object) -> str:
    return json.dumps({"id": id_, "subject": "", "from": "", **fields}, ensure_ascii=False)


async def a_mixture(store: Store) -> Account:
    """Messages of two accounts, some with a batch, in every state, at times that are not in the order of their numbers.

    Three at a time come at once, at a time that only seventeen digits tell exactly.
    """
    main, other = await with_account(store), await with_account(store, account_id="other")
    numbers = iter(range(1000))
    for answer, account, batch in product((ACCEPTED, REFUSED, None), (main, other), ("spring", None)):
        for _ in range(3):
            n = next(numbers)
            message = a_message(
                f"M{n}", account, batch_code=batch, created_ts=NOW - 1000 + (n * 7 % 36) // 3 + 0.123457
            )
            await enqueue(store, message)
            if answer is not None:
                await attempt(store, account, answer)
    await claim(store, main, 2)
    for n in range(2):
        await enqueue(store, a_message(f"late {n}", main, due=NOW + 10, created_ts=NOW - 2000))
    return main


def of(all_of_them: list[Details], wanted: MessageFilter) -> list[str]:
    """Pick what is wanted by looking at each."""

    def suits(each: Details) -> bool:
        error = each.state.value in {"failed", "expired"}
        return (
            (wanted.state is None or each.state.public == wanted.state)
            and (wanted.status != "error" or error)
            and (wanted.status != "deferred" or (each.due_ts or 0) > NOW)
            and (wanted.account_id is None or each.account_id == wanted.account_id)
            and (wanted.batch_code is None or each.batch_code == wanted.batch_code)
            and (not wanted.active_only or not each.state.final)
            and (wanted.created_from is None or each.created_ts >= wanted.created_from)
            and (wanted.created_to is None or each.created_ts < wanted.created_to)
        )

    newest_first = sorted(all_of_them, key=lambda each: (each.created_ts, each.pk), reverse=True)
    return [each.id for each in newest_first if suits(each)]


async def test_whatever_is_wanted_comes_newest_first_without_a_gap_and_without_a_repetition(store: Store) -> None:
    await a_mixture(store)
    everything = [each async for page in pages(store, MessageFilter()) for each in page.messages]
    assert len(everything) == 38
    exact = everything[9].created_ts
    between = {"created_from": NOW - 998, "created_to": NOW - 994}
    for state, owner, time in product(STATES, OWNERS, ({}, {"created_from": exact}, {"created_to": exact}, between)):
        wanted = {**state, **owner, **time}
        expected = of(everything, MessageFilter(**wanted))
        assert await found(store, 2, **wanted) == expected, wanted
        assert await found(store, 100, **wanted) == expected, wanted


async def test_a_page_goes_on_at_its_place_although_messages_come_and_go(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account, created_ts=NOW + n) for n in range(6)))
    first = await store.archive.page("acme", MessageFilter(), None, 2, NOW)
    assert [each.id for each in first.messages] == ["M5", "M4"]
    await attempt(store, account, ACCEPTED, limit=6)  # all of them are in another list now
    with store.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM messages WHERE id IN ('M4', 'M3')")
    await enqueue(store, a_message("new", account, created_ts=NOW + 100))
    second = await store.archive.page("acme", MessageFilter(), first.below, 2, NOW)
    assert [each.id for each in second.messages] == ["M2", "M1"]


async def test_texts_are_found_by_a_part_of_them_whatever_its_case(store: Store) -> None:
    account = await with_account(store)
    people = (("Anna@Example.net", RecipientKind.TO), ("x_y%z@example.org", RecipientKind.BCC))
    fields = {"subject": 'GRÜSSE 100% _sure_ "\\ 🜁', "from": "Der Laden <shop@acme.example>", "body": "needle"}
    await enqueue(
        store,
        a_message("M1", account, recipients=people, fields=texts("M1", **fields)),
        a_message("M2", account, fields=texts("M2", subject="needle", body="a \0 b")),
    )
    for part in ("grüße", "GRÜSSE 100%", "% _", '"\\', "🜁", "_SURE_"):
        assert await found(store, texts=TextFilter(subject=part)) == ["M1"], part
    for part in ("anna@EXAMPLE", "_y%Z@", "example.net"):
        assert "M1" in await found(store, texts=TextFilter(recipient=part)), part
    for part in ("LADEN", "shop@acme", "<"):
        assert await found(store, texts=TextFilter(sender=part)) == ["M1"], part
    for part in ("a%e", "an_a", "\\%", "%", "';--", "\0"):
        assert await found(store, texts=TextFilter(recipient=part)) == (["M1"] if part == "%" else []), part
    assert await found(store, texts=TextFilter(subject="NEEDLE")) == ["M2"]
    third = texts("M3", subject="a \\u0000 in letters", **{"from": "Zo\u00eb <zoe@xn--mnchen-3ya.example>"})
    await enqueue(store, a_message("M3", account, fields=third))
    assert await found(store, texts=TextFilter(subject="\\u0000 in")) == ["M3"]
    for part in ("@m\u00fcnchen.example", "xn--mnchen", "ZO\u00cb"):
        assert await found(store, texts=TextFilter(sender=part)) == ["M3"], part
    await enqueue(store, a_message("M4", account, fields=json.dumps({"id": "M4", "raw_subject": "of its own"})))
    assert await found(store, texts=TextFilter(subject="OF ITS")) == ["M4"]
    assert await found(store, texts=TextFilter("anna", "shop", "sure")) == ["M1"]
    assert await found(store, texts=TextFilter("anna", "shop", "unsure")) == []


async def test_values_of_metadata_are_found_as_they_are_written_in_json(store: Store) -> None:
    account = await with_account(store)
    odd = 'a"b.c[0]\\%'
    values = ["7", 7, 7.5, True, None, 12345678901234567890, {"in": "side"}, ["7"], "", "7 ", "\0"]
    await enqueue(
        store,
        a_message("none", account),
        *(a_message(f"M{n}", account, fields=texts("", metadata={"k": v, odd: v})) for n, v in enumerate(values)),
    )
    expected = {"7": ["M1", "M0"], "7.5": ["M2"], "true": ["M3"], "null": ["M4"], "12345678901234567890": ["M5"]}
    expected |= {"": ["M8"], "7 ": ["M9"], "True": [], "None": [], '["7"]': [], "7.0": []}
    for text, ids in expected.items():
        assert await found(store, texts=TextFilter(metadata=(("k", text),))) == ids, text
        assert await found(store, texts=TextFilter(metadata=((odd, text),))) == ids, text
        assert await found(store, texts=TextFilter(metadata=(("k", text), (odd, "7")))) == (ids if "M0" in ids else [])
    assert await found(store, texts=TextFilter(metadata=(("in", "side"),))) == []


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ({"priority": 0}, READ_AT_MOST),
        ({"texts": TextFilter(recipient="rare")}, READ_AT_MOST // 2),
        ({"texts": TextFilter(subject="rare")}, READ_AT_MOST),
        ({"texts": TextFilter(metadata=(("rare", "1"),))}, READ_AT_MOST),
    ],
    ids=["no index", "recipient", "subject", "metadata"],
)
async def test_a_search_answers_after_ten_thousand_rows_and_goes_on_from_there(
    store: Store, wanted: dict[str, Any], first: int
) -> None:
    account = await with_account(store)
    fields = texts("", subject="a rare one", metadata={"rare": 1})
    to = (("rare@example.net", RecipientKind.TO),)
    await enqueue(store, a_message("rare", account, priority=0, fields=fields, recipients=to, created_ts=NOW - 1))
    backlog.fill(store, account, READ_AT_MOST + 5000)
    looked = [page async for page in pages(store, MessageFilter(**wanted))]
    assert [[each.id for each in page.messages] for page in looked] == [[]] * (len(looked) - 1) + [["rare"]]
    below = looked[0].below
    assert below is not None
    newest = (await store.archive.page("acme", MessageFilter(), None, 1, NOW)).messages[0].pk
    seen = newest - below.pk + 1
    assert first - 600 < seen <= min(first + 600, READ_AT_MOST)  # rows are counted when some have been read
    assert len(looked) == -(-(READ_AT_MOST + 5001) // seen)


async def test_what_many_instances_are_sending_is_listed_to_the_end(store: Store) -> None:
    account = await with_account(store)
    backlog.fill(store, account, 5000, state="sending")
    with store.database.engine.begin() as connection:
        connection.execute(sql("UPDATE messages SET instance_id = 'i' || (pk % 12), created_ts = created_ts - pk % 7"))
    looked = [page async for page in pages(store, MessageFilter(state="sending"), 1000)]
    ids = [each.id for page in looked for each in page.messages]
    assert len(ids) == len(set(ids)) == 5000
    assert len(looked) <= 6


async def test_a_search_ends_before_where_messages_are_big(store: Store) -> None:
    account = await with_account(store)
    big = [a_message(f"M{n}", account, fields=texts("", subject="x", body="x" * 1_000_000)) for n in range(12)]
    for each in big:
        await enqueue(store, each)
    counts = [len(page.messages) async for page in pages(store, MessageFilter(texts=TextFilter(subject="y")))]
    assert counts == [0, 0]
    assert len(await found(store, texts=TextFilter(subject="X"))) == 12
