"""The promises of the `CommandLog` port."""

from __future__ import annotations

import pytest

from mail_proxy.domain.command_log import EntryFilter, Position
from mail_proxy.ports.command_log import CommandLog
from mail_proxy.store.command_log import LOOKED_AT
from mail_proxy.store.store import Store
from tests.support.stores import an_entry

ANY = EntryFilter()
START = 1_800_000_000.0


@pytest.fixture
def log(store: Store) -> CommandLog:
    return store.command_log


async def keys(log: CommandLog, wanted: EntryFilter = ANY, *, oldest_first: bool = False) -> list[str]:
    page = await log.page(wanted, None, 100, oldest_first=oldest_first)
    assert page.next_position is None
    return [each.entry.key for each in page.entries]


async def test_an_entry_is_read_as_it_was_written(log: CommandLog) -> None:
    full = an_entry(1, by_admin=False, code="invalid", details='{"path":{"id":"\\u0000\\ud800"}}', ts=START + 0.123)
    bare = an_entry(2, tenant_id=None, status=None, address=None)
    await log.append([full, bare], again=False)
    assert [each.entry for each in (await log.page(ANY, None, 100)).entries] == [bare, full]


async def test_what_may_have_been_written_before_is_not_written_twice(log: CommandLog) -> None:
    await log.append([an_entry(1), an_entry(2)], again=False)
    await log.append([an_entry(1), an_entry(2), an_entry(3)], again=True)
    await log.append([], again=True)
    assert await keys(log, oldest_first=True) == ["key-1", "key-2", "key-3"]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("tenant_id", [None, "acme"])
async def test_pages_have_each_entry_once_although_many_are_of_one_moment(
    log: CommandLog, tenant_id: str | None, *, oldest_first: bool
) -> None:
    entries = [an_entry(n, ts=START + n // 4, tenant_id=("acme", "other", None)[n % 3]) for n in range(30)]
    await log.append(entries, again=False)
    wanted = EntryFilter(tenant_id=tenant_id, since=START + 1, until=START + 6)
    expected = [e.key for e in entries if tenant_id in {None, e.tenant_id} and START + 1 <= e.ts < START + 6]
    found, place = list[str](), None
    while True:
        page = await log.page(wanted, place, 3, oldest_first=oldest_first)
        found += [each.entry.key for each in page.entries]
        place = page.next_position
        if place is None:
            break
    assert found == (expected if oldest_first else expected[::-1])


async def test_looking_for_a_route_reads_a_bounded_number_of_entries_and_says_where_to_go_on(log: CommandLog) -> None:
    rare = an_entry(0, method="DELETE")
    await log.append([rare, *(an_entry(n) for n in range(1, LOOKED_AT + 1))], again=False)
    wanted = EntryFilter(method="DELETE", route="/tenant")
    first = await log.page(wanted, None, 10)
    assert first.entries == ()
    assert first.next_position is not None
    second = await log.page(wanted, first.next_position, 10)
    assert [each.entry for each in second.entries] == [rare]
    assert second.next_position is None
    late = await log.page(wanted, Position(START, 0), 10)
    assert late.entries == ()


async def test_what_is_old_is_removed_in_chunks_oldest_first(log: CommandLog) -> None:
    await log.append([an_entry(n) for n in (3, 1, 2, 0)], again=False)
    assert await log.prune(START + 3, 2) == 2
    assert await keys(log, oldest_first=True) == ["key-2", "key-3"]
    assert await log.prune(START + 3, 2) == 1
    assert await log.prune(START + 3, 2) == 0
    assert await keys(log) == ["key-3"]
