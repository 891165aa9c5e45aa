"""Another encryption key while everything goes on: with several instances, crashes, and new passwords."""  # G16

from __future__ import annotations

import asyncio
import dataclasses
import threading
import typing
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update
from typing_extensions import override

from mail_proxy.administration.key_rotation import KeyRotation
from mail_proxy.domain.account import Account
from mail_proxy.domain.attachment_auth import PLACE, place_of
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.large_file import LargeFileConfig, LinkWanted, StorageKind, StoragePlace
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.sealing import SealCursor
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import EarlierSecret, Signing
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Tenant
from mail_proxy.ports.secrets import WrongKey
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.store.directory_rows import DirectoryRows
from mail_proxy.store.files import place_of as files_place_of
from mail_proxy.store.opening import database_url
from mail_proxy.store.schema import accounts, contents, instances, metadata
from mail_proxy.store.sealed import SEALED_COLUMNS, DeclaredPlaces
from mail_proxy.store.store import Store, open_store
from tests.support.stores import SetClock, a_message, enqueue

OLD, NEW, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))
BEFORE, AFTER = AesGcmCipher(OLD), AesGcmCipher(NEW, [OLD])
MANY = 5
SECRETS = MANY * len(SEALED_COLUMNS)
AUTH = ClientAuth(ClientAuthMethod.BASIC, token=Secret("token"), user="us", password=Secret("basic"))
SIGNING = Signing(Secret("whsec_bmV3"), (EarlierSecret(Secret("whsec_b2xk"), 2.0),))
PLACE_OF_FILES = StoragePlace(StorageKind.S3, "s3://files", {"secret_access_key": Secret("bucket secret")})
LARGE_FILES = LargeFileConfig(storage=PLACE_OF_FILES)
TENANT = Tenant("acme", created_ts=1.0, client_auth=AUTH, signing=SIGNING, large_files=LARGE_FILES)
OAUTH = OAuth("https://login.example/token", "app", Secret("client secret"), Secret("refresh token"), "g1")
ACCOUNT = Account(0, "acme", "main", "mail.example.com", 25, user="mailer", password=Secret("password"), oauth=OAUTH)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return database_url(str(tmp_path / "mail_service.db"))
    shared: str = request.getfixturevalue("postgres_url")
    return shared


class Stores:
    """Opens stores, and closes at the end what the test leaves open."""

    def __init__(self) -> None:
        self._open: list[Store] = []

    async def __call__(self, url: str, cipher: AesGcmCipher, name: str = "one", **changes: Any) -> Store:
        options = {"check_key": partial(check_key, cipher), "cipher": cipher, **changes}
        store = await open_store(url, instance_id=name, address="", clock=SetClock(), **options)
        self._open.append(store)
        return store

    async def close(self, *stores: Store) -> None:
        for store in stores or tuple(self._open):
            self._open.remove(store)
            await store.close()


@pytest.fixture
async def opened() -> AsyncIterator[Stores]:
    stores = Stores()
    yield stores
    await stores.close()


async def fill(store: Store) -> None:
    for n in range(MANY):
        await store.directory.put_tenant(replace(TENANT, id=f"t{n}"), None)
        await store.directory.change_signing(f"t{n}", lambda _: SIGNING)
        kept = await store.files.reserve(f"t{n}", PLACE_OF_FILES, "0" * 64, 1, 1.0)
        await store.files.link(LinkWanted(kept.pk, n, 1.0, 0, "a.zip", "application/zip", 1e10, 1.0, None))
        changed = replace(ACCOUNT, tenant_id=f"t{n}", password=Secret(f"password {n}"))
        account = await store.directory.put_account(changed)
        await enqueue(store, a_message(f"M{n}", account, auths=Secret(f"auths {n}")))


async def passwords(store: Store) -> list[str]:
    found = []
    for n in range(MANY):
        (account,) = await store.directory.accounts_of(f"t{n}")
        tenant = await store.directory.tenant(f"t{n}")
        assert tenant is not None
        assert tenant.client_auth == AUTH
        assert tenant.signing == SIGNING
        assert tenant.large_files == LARGE_FILES
        linked = await store.files.linked(n + 1)
        assert linked is not None
        assert linked.place == PLACE_OF_FILES
        assert account.oauth == OAUTH
        assert account.oauth.refresh_token == OAUTH.refresh_token
        assert account.password is not None
        found.append(account.password.reveal())
    auths = select(contents.c.auths).order_by(contents.c.message_pk)
    sealed = await store.database.read(lambda connection: connection.execute(auths).scalars().all())
    cipher = store.cipher
    assert [cipher.open(text, place_of(f"t{n}", f"M{n}")) for n, text in enumerate(sealed)] == [
        f"auths {n}" for n in range(MANY)
    ]
    return found


PASSWORDS = [f"password {n}" for n in range(MANY)]


async def sealed_texts(store: Store) -> list[str]:
    """Everything in any table that looks like a sealed text."""

    def read(connection: Connection) -> list[str]:
        rows = [row for table in metadata.sorted_tables for row in connection.execute(select(table))]
        return [value for row in rows for value in row if isinstance(value, str) and value.startswith("ENC1:")]

    return await store.database.read(read)


async def rotate(store: Store) -> None:
    await KeyRotation(store.seals, SetClock()).look()


async def test_everything_is_sealed_with_the_new_key_and_then_the_old_one_can_go(url: str, opened: Stores) -> None:
    store = await opened(url, BEFORE)
    await fill(store)
    await opened.close(store)
    store = await opened(url, AFTER)
    assert await passwords(store) == PASSWORDS
    standing = await store.seals.standing()
    assert standing.with_old_keys == SECRETS + 1
    assert (standing.own_key, standing.old_keys, standing.key_in_use) == (
        AFTER.key_id,
        frozenset({BEFORE.key_id}),
        BEFORE.key_id,
    )
    await rotate(store)
    assert (await store.seals.standing()).with_old_keys == 0
    texts = await sealed_texts(store)
    assert len(texts) == SECRETS + 1
    assert {AFTER.key_of(text) for text in texts} == {AFTER.key_id}
    await opened.close(store)
    store = await opened(url, AesGcmCipher(NEW))
    assert await passwords(store) == PASSWORDS


async def test_it_can_be_broken_off_anywhere_and_goes_on(url: str, opened: Stores) -> None:
    store = await opened(url, BEFORE)
    await fill(store)
    await opened.close(store)
    cursor: SealCursor | None = None
    for run in range(2 * SECRETS):
        store = await opened(url, AFTER, f"run {run}")
        await store.seals.adopt()
        # From the beginning now and then, and on often enough to come to the last column.
        step = await store.seals.reseal(cursor if run % len(SEALED_COLUMNS) else None, 4)
        cursor = step.next
        assert await passwords(store) == PASSWORDS
        left = (await store.seals.standing()).with_old_keys
        await opened.close(store)
        if left:
            with pytest.raises(WrongKey, match=r"^\d+ secrets? .* GMP_ENCRYPTION_KEYS_OLD until"):
                await opened(url, AesGcmCipher(NEW))
            continue
        break
    else:
        pytest.fail("it never came to its end")
    assert run > 2


class Interrupted(AesGcmCipher):
    """Lets somebody do something while a secret has been read and is being sealed anew."""

    def __init__(self) -> None:
        super().__init__(NEW, [OLD])
        self.reached, self.go_on = threading.Event(), threading.Event()

    @override
    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        if key_id is not None and threading.current_thread().name.startswith("store-reader"):
            self.reached.set()
            assert self.go_on.wait(4)
        return super().seal(text, place, key_id)


@pytest.mark.parametrize("what", ["changed", "removed"])
async def test_a_secret_that_is_set_meanwhile_keeps_its_newer_value(url: str, opened: Stores, what: str) -> None:
    store = await opened(url, BEFORE)
    await store.directory.put_tenant(replace(TENANT, client_auth=ClientAuth(), large_files=None), None)
    await store.directory.put_account(ACCOUNT)
    await opened.close(store)
    cipher = Interrupted()
    store = await opened(url, cipher)
    assert await store.seals.adopt()
    # from the accounts on, so that the first secret that is met is the password
    start = SealCursor(next(n for n, each in enumerate(SEALED_COLUMNS) if each.name == "accounts.password"), 0)
    resealing = asyncio.create_task(store.seals.reseal(start, 10))
    assert await asyncio.to_thread(cipher.reached.wait, 4)
    await store.directory.put_account(replace(ACCOUNT, password=Secret("newer") if what == "changed" else None))
    cipher.go_on.set()
    assert (await resealing).count == 0
    (account,) = await store.directory.accounts_of("acme")
    assert account.password == (Secret("newer") if what == "changed" else None)
    assert (await store.seals.standing()).with_old_keys == 0


async def test_a_key_is_adopted_when_every_instance_has_it(postgres_url: str, opened: Stores) -> None:
    """A rolling restart: until the last one has come back, all go by the old key and open everything."""
    first, second = await opened(postgres_url, BEFORE, "first"), await opened(postgres_url, BEFORE, "second")
    await fill(first)
    await opened.close(first)
    first = await opened(postgres_url, AFTER, "first again")
    await rotate(first)
    standing = await first.seals.standing()
    assert (standing.key_in_use, standing.awaited) == (BEFORE.key_id, ("second",))
    # what the new one writes, the old one reads
    await first.directory.put_account(replace(ACCOUNT, tenant_id="t0", password=Secret("written by the first")))
    assert await second.directory.refresh()
    assert (await passwords(second))[0] == "written by the first"
    await opened.close(second)
    # the other way round: a key that is still the old one's own, although it opens with the new one as well
    second = await opened(postgres_url, AesGcmCipher(OLD, [NEW]), "second again")
    await rotate(second)
    await rotate(first)
    assert (await first.seals.standing()).key_in_use == BEFORE.key_id
    await opened.close(second)
    second = await opened(postgres_url, AFTER, "second at last")
    await rotate(first)
    await rotate(second)
    assert (await second.seals.standing()).with_old_keys == 0
    assert {AFTER.key_of(text) for text in await sealed_texts(first)} == {AFTER.key_id}
    for latecomer in (BEFORE, AesGcmCipher(THIRD)):
        with pytest.raises(WrongKey):
            await opened(postgres_url, latecomer)


async def test_the_last_moment_before_an_instance_is_on_the_list_counts(postgres_url: str, opened: Stores) -> None:
    """The key changes between its look at the check value and its coming onto the list."""
    store = await opened(postgres_url, BEFORE)
    await opened.close(store)
    store = await opened(postgres_url, AFTER)
    await rotate(store)
    with pytest.raises(WrongKey, match="has just been sealed with another"):
        await opened(postgres_url, BEFORE, "late", check_key=lambda held: held)
    assert list(await store.queue.instances()) == ["one"]


async def test_an_instance_that_was_taken_for_dead_writes_nothing_with_a_key_that_was_left(
    postgres_url: str, opened: Stores
) -> None:
    sleeper = await opened(postgres_url, BEFORE, "sleeper")
    await fill(sleeper)
    other = await opened(postgres_url, AFTER, "other")
    with other.database.engine.begin() as connection:
        connection.execute(delete(instances).where(instances.c.id == "sleeper"))
    await rotate(other)
    with pytest.raises(StoreUnavailable, match="key was changed"):
        await sleeper.directory.put_account(replace(ACCOUNT, tenant_id="t0"))
    with pytest.raises(WrongKey):
        await rotate(sleeper)
    assert {AFTER.key_of(text) for text in await sealed_texts(other)} == {AFTER.key_id}
    assert not await sleeper.queue.beat(1.0)
    with other.database.engine.connect() as connection:
        known = {row.id: row.key_id for row in connection.execute(select(instances))}
    assert known == {"other": AFTER.key_id, "sleeper": BEFORE.key_id}


async def test_a_secret_that_nobody_can_open_keeps_nothing_else_back(url: str, opened: Stores) -> None:
    store = await opened(url, BEFORE)
    await fill(store)
    with store.database.engine.begin() as connection:
        stranger = BEFORE.seal("copied", "accounts.password/other/main")
        connection.execute(update(accounts).where(accounts.c.tenant_id == "t0").values(password=stranger))
    await opened.close(store)
    store = await opened(url, AFTER)
    rotation = KeyRotation(store.seals, SetClock())
    await rotation.look()
    assert (await store.seals.standing()).with_old_keys == 1
    (broken,) = (text for text in await sealed_texts(store) if AFTER.key_of(text) == BEFORE.key_id)
    assert broken == stranger


# -- no sealed column is forgotten -------------------------------------------------------------------------------------


class NotingCipher(AesGcmCipher):
    """Takes down for which places it seals."""

    def __init__(self) -> None:
        super().__init__(NEW)
        self.places: list[str] = []

    @override
    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        self.places.append(place)
        return super().seal(text, place, key_id)


def secrets_left_out(value: object) -> Sequence[str]:
    """Name the fields of a dataclass that can hold a secret and do not, those of dataclasses in it as well."""
    missing = []
    for name, kind in typing.get_type_hints(type(value)).items():
        kinds = [kind, *typing.get_args(kind)]
        inner = [
            each for each in kinds if dataclasses.is_dataclass(each) and "Secret" in str(typing.get_type_hints(each))
        ]
        if Secret not in kinds and not inner:
            continue
        held = getattr(value, name)
        if held is None:
            missing.append(name)
        elif inner:
            missing += secrets_left_out(held)
    return missing


def test_every_secret_of_a_tenant_and_an_account_stands_in_a_column_that_is_sealed_anew() -> None:
    assert [*secrets_left_out(TENANT), *secrets_left_out(ACCOUNT)] == [], "give the new secret a value above"
    cipher = NotingCipher()
    rows = DirectoryRows(cipher)
    signing = {"signing": rows.seal_signing(TENANT.id, TENANT.signing)}
    values = [rows.tenant_values(TENANT), signing, rows.account_values(ACCOUNT)]
    sealed = [text for each in values for text in each.values() if str(text).startswith("ENC1:")]
    assert len(sealed) == len(cipher.places)
    columns = {each.name: each for each in SEALED_COLUMNS}
    assert columns.pop(PLACE).place("acme", "M1") == place_of("acme", "M1")  # of messages: its rows are in `fill`
    assert columns.pop("file_storages.access").place("acme", "s3://files") == files_place_of("acme", "s3://files")
    for place in cipher.places:
        column, _, identity = place.partition("/")
        assert place == columns.pop(column).place(*identity.split("/"))
    assert columns == {}


def test_nothing_is_sealed_for_a_column_that_is_not_declared() -> None:
    with pytest.raises(LookupError, match=r"accounts\.host/acme/main: the column needs info=SEALED"):
        DeclaredPlaces(BEFORE).seal("secret", "accounts.host/acme/main")
