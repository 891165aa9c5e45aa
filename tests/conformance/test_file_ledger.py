"""What is kept in storages and the links that lead there, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import Connection, select, update

from mail_proxy.domain.large_file import DAY, KeptFile, LinkWanted, StorageKind, StoragePlace
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import Tenant
from mail_proxy.store.files import PATIENCE
from mail_proxy.store.schema import file_links, file_storages, kept_files
from mail_proxy.store.store import Store

NOW = 1_800_000_000.0
PLACE = StoragePlace(
    StorageKind.S3, "s3://files/mail", {"access_key_id": Secret("A1"), "secret_access_key": Secret("S1")}
)
ONE, OTHER = "1" * 64, "2" * 64


async def kept(store: Store, content: str = ONE, *, tenant: str = "acme", place: StoragePlace = PLACE) -> KeptFile:
    return await store.files.reserve(tenant, place, content, 12, NOW)


def wanted(
    file: KeptFile, message: int = 1, *, until: float = NOW + 30 * DAY, lifespan: float | None = None
) -> LinkWanted:
    return LinkWanted(
        file_pk=file.pk,
        message_pk=message,
        message_ts=NOW,
        n=0,
        filename="a.zip",
        mime_type="application/zip",
        until=until,
        renew_below=NOW + 15 * DAY,
        lifespan=lifespan,
    )


async def test_a_content_is_stored_once_for_a_tenant_and_a_place(store: Store) -> None:
    first = await kept(store)
    assert not first.ready
    assert first.key.startswith("acme/")
    assert not (await kept(store)).ready  # it is not there yet, and who began may never end
    assert await store.files.link(wanted(first)) is not None
    assert await kept(store) == replace(first, ready=True)
    others = [
        await kept(store, OTHER),
        await kept(store, tenant="globex"),
        await kept(store, place=replace(PLACE, url="s3://files/other")),
        await store.files.reserve("acme", PLACE, ONE, 13, NOW),
    ]
    assert not any(each.ready for each in others)
    assert len({each.key for each in [first, *others]}) == 5


async def test_a_link_leads_to_its_file_with_the_credentials_of_the_last_time(store: Store) -> None:
    file = await kept(store)
    link = await store.files.link(wanted(file))
    assert link is not None
    fresh = replace(PLACE, credentials={"access_key_id": Secret("A2")})
    await kept(store, place=fresh)
    found = await store.files.linked(link.pk)
    assert found is not None
    assert (found.link, found.tenant_id, found.place, found.key) == (link, "acme", fresh, file.key)
    assert (found.filename, found.mime_type, found.size, found.downloaded) == ("a.zip", "application/zip", 12, False)
    for number in (0, link.pk + 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert await store.files.linked(number) is None


async def test_every_attempt_of_a_message_has_the_same_link(store: Store) -> None:
    file = await kept(store)
    first = await store.files.link(wanted(file))
    assert first is not None
    assert await store.files.link(wanted(file, until=NOW + 31 * DAY)) == first
    late = replace(wanted(file, until=NOW + 60 * DAY), renew_below=NOW + 45 * DAY)
    assert await store.files.link(late) == replace(first, until=NOW + 60 * DAY)
    another = await kept(store, OTHER)  # the attachment has other bytes today
    asked = [wanted(file, 2), replace(wanted(file), message_ts=NOW + 1), wanted(another)]
    others = [await store.files.link(each) for each in asked]
    assert len({None if each is None else each.pk for each in [first, *others]}) == 4


async def test_a_file_is_doomed_when_its_last_link_has_ended(store: Store) -> None:
    file = await kept(store)
    await store.files.link(wanted(file, 1, until=NOW + DAY))
    last = await store.files.link(wanted(file, 2, until=NOW + 2 * DAY))
    assert last is not None
    assert not await store.files.doomed(NOW + 1.5 * DAY, 10)
    found = await store.files.doomed(NOW + 2 * DAY + 1, 10)
    assert [(each.pk, each.tenant_id, each.place, each.key) for each in found] == [(file.pk, "acme", PLACE, file.key)]
    assert await store.files.linked(last.pk) is None
    assert await store.files.link(wanted(file, 3)) is None
    # somebody is at it; if that one ends, it comes again
    assert not await store.files.doomed(NOW + 2 * DAY + 2, 10)
    again = await store.files.doomed(NOW + 3 * DAY, 10)
    assert [each.pk for each in again] == [file.pk]
    assert not (await kept(store)).ready
    again = [*again, *await store.files.doomed(NOW + 4 * DAY, 10)]
    await store.files.removed([each.pk for each in again])
    assert not await store.files.doomed(NOW + 30 * DAY, 10)
    assert await everything(store) == ([], [], [])


async def test_what_was_reserved_and_not_linked_is_doomed_after_an_hour(store: Store) -> None:
    file = await kept(store)
    assert not await store.files.doomed(NOW + PATIENCE - 1, 10)
    assert [each.pk for each in await store.files.doomed(NOW + PATIENCE + 1, 10)] == [file.pk]


async def test_a_file_that_is_used_again_lives_on(store: Store) -> None:
    file = await kept(store)
    await store.files.link(wanted(file, until=NOW + 10))
    assert (await kept(store)).ready  # a message is about to link it
    assert not await store.files.doomed(NOW + 20, 10)
    assert await store.files.link(wanted(file, 2)) is not None
    assert not await store.files.doomed(NOW + DAY, 10)


async def test_the_first_download_brings_the_end_nearer(store: Store) -> None:
    file = await kept(store)
    link = await store.files.link(wanted(file, lifespan=DAY))
    other = await store.files.link(wanted(file, 2, until=NOW + 3 * DAY))
    assert link is not None
    assert other is not None
    await store.files.downloaded(link.pk, NOW + 100)
    await store.files.downloaded(link.pk, NOW + 5000)
    await store.files.downloaded(other.pk, NOW + 100)
    found = await store.files.linked(link.pk)
    assert found is not None
    assert (found.link.until, found.downloaded) == (NOW + 100 + DAY, True)
    assert not await store.files.doomed(NOW + 2 * DAY, 10)
    assert [each.pk for each in await store.files.doomed(NOW + 3 * DAY + 1, 10)] == [file.pk]


async def test_the_files_of_a_tenant_that_is_removed_are_cleared_away(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    file, others = await kept(store), await kept(store, tenant="globex")
    link = await store.files.link(wanted(file))
    kept_link = await store.files.link(wanted(others, 2))
    assert link is not None
    assert kept_link is not None
    await store.directory.delete_tenant("acme", force=False)
    assert await store.files.linked(link.pk) is None
    assert [each.key for each in await store.files.doomed(NOW, 10)] == [file.key]
    await store.files.removed([file.pk])
    assert await store.files.linked(kept_link.pk) is not None
    assert (await everything(store))[0] == ["globex"]


async def test_an_access_that_no_key_opens_is_made_anew_and_holds_nothing_else_up(store: Store) -> None:
    file, others = await kept(store), await kept(store, tenant="globex")
    link, kept_link = await store.files.link(wanted(file)), await store.files.link(wanted(others, 2))
    assert link is not None
    assert kept_link is not None
    with store.database.engine.begin() as connection:
        mine = update(file_storages).where(file_storages.c.tenant_id == "acme")
        connection.execute(mine.values(access="sealed[elsewhere]x"))
    assert await store.files.linked(link.pk) is None  # which token is genuine nobody knows
    assert await store.files.linked(kept_link.pk) is not None
    doomed = {each.tenant_id: each.place for each in await store.files.doomed(NOW + 40 * DAY, 10)}
    assert doomed["globex"] == PLACE
    assert (doomed["acme"].unreadable, doomed["acme"].credentials) == (True, {})

    anew = await store.files.link(wanted(await kept(store, OTHER), 3))
    assert anew is not None
    found = await store.files.linked(anew.pk)
    assert found is not None
    assert (found.place, found.link) == (PLACE, anew)


async def test_many_at_a_time_do_not_get_into_each_others_way(store: Store) -> None:
    files = await asyncio.gather(*(kept(store, f"{n % 5:064x}") for n in range(50)))
    links = await asyncio.gather(*(store.files.link(wanted(each, n)) for n, each in enumerate(files)))
    assert len({each.pk for each in links if each is not None}) == 50
    assert (await everything(store))[0] == ["acme"]


@pytest.mark.parametrize("tenant", ["a.b_c@d", "..", "A" * 64])
async def test_keys_have_characters_that_every_storage_takes(store: Store, tenant: str) -> None:
    key = (await kept(store, tenant=tenant)).key
    folder, _, name = key.partition("/")
    assert all(each.isascii() and (each.isalnum() or each == "-") for each in folder + name)
    assert len(name) == 32


async def everything(store: Store) -> tuple[list[str], list[int], list[int]]:
    """Whose storages there are, and the numbers of files and links."""

    def look(connection: Connection) -> tuple[list[str], list[int], list[int]]:
        return (
            list(connection.execute(select(file_storages.c.tenant_id)).scalars()),
            list(connection.execute(select(kept_files.c.pk)).scalars()),
            list(connection.execute(select(file_links.c.pk)).scalars()),
        )

    return await store.database.read(look)
