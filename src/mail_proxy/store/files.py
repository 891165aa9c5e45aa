"""What is kept in storages, and the links that lead there.

    reserved ──stored and linked──▶ ready ──its last link ends──▶ doomed ──removed from the storage──▶ (gone)
        └──────an hour without a link──────────────────────────────▲

`kept_files.until` says when the next step is due, so that clearing away looks at nothing that is not due.
"""  # G11

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Row, Select, Table, and_, delete, exists, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mail_proxy.domain.download_link import SECRET_BYTES
from mail_proxy.domain.large_file import (
    DoomedFile,
    FileLink,
    KeptFile,
    LinkedFile,
    LinkWanted,
    StorageKind,
    StoragePlace,
)
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.secrets import Cipher, SealBroken
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.schema import file_links, file_storages, kept_files
from mail_proxy.store.sealed import DeclaredPlaces, key_of_the_database, sealed_as_the_database_is
from mail_proxy.store.version import hold_version

ResultT = TypeVar("ResultT")

PATIENCE = 3600.0
"""Seconds that storing a file, or removing it, may take before somebody else takes it up."""
SLOWEST = 100_000
"""Bytes a second with which a file is stored at the slowest, half of what a storage is asked for: for large ones the
time is longer.
"""
RESERVED, READY, DOOMED = "reserved", "ready", "doomed"
log = structlog.get_logger(__name__)
_SPENT = ~exists().where(kept_files.c.storage_pk == file_storages.c.pk)


@dataclass(frozen=True, slots=True)
class _Access:
    """How a storage is reached, and the key that the tokens of its links are made with."""

    place: StoragePlace
    signing_key: Secret


class StoreFileLedger:
    """Keeps the `FileLedger` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._places = DeclaredPlaces(cipher)
        # some of them take the directory's lock to seal: first in their groups, as all who do
        self._change_op = Operation("files", _run, rank=1)

    async def reserve(self, tenant_id: str, place: StoragePlace, sha256: str, size: int, now: float) -> KeptFile:
        """See `FileLedger.reserve`."""
        key = f"{tenant_id_in_a_key(tenant_id)}/{secrets.token_hex(16)}"

        until = now + PATIENCE + size / SLOWEST

        def change(connection: Connection) -> KeptFile:
            storage_pk = self._storage(connection, tenant_id, place)
            same = (kept_files.c.storage_pk == storage_pk) & (kept_files.c.sha256 == sha256)
            ready = connection.execute(
                select(kept_files.c.pk, kept_files.c.key)
                .where(same, kept_files.c.size == size, kept_files.c.state == READY)
                .order_by(kept_files.c.pk)
                .with_for_update()
            ).first()
            if ready is not None:
                longer = update(kept_files).where(kept_files.c.pk == ready.pk, kept_files.c.until < until)
                connection.execute(longer.values(until=until))
                return KeptFile(ready.pk, ready.key, ready=True)
            values = {"storage_pk": storage_pk, "key": key, "sha256": sha256, "size": size}
            entry = insert(kept_files).values(**values, state=RESERVED, until=until)
            pk: int = connection.execute(entry.returning(kept_files.c.pk)).scalar_one()
            return KeptFile(pk, key, ready=False)

        return await self._write(change)

    async def link(self, wanted: LinkWanted) -> FileLink | None:
        """See `FileLedger.link`."""

        def change(connection: Connection) -> FileLink | None:
            mine = kept_files.c.pk == wanted.file_pk
            held = connection.execute(
                select(kept_files.c.storage_pk).where(mine, kept_files.c.state != DOOMED).with_for_update()
            ).first()
            if held is None:
                return None
            signing_key = self._access_of(connection, held.storage_pk).signing_key
            pk, until = self._linked_to(connection, wanted)
            latest = max(until, connection.execute(_latest(wanted.file_pk)).scalar() or 0.0)
            connection.execute(update(kept_files).where(mine).values(state=READY, until=latest))
            return FileLink(pk, signing_key, until)

        return await self._write(change)

    async def linked(self, link: int) -> LinkedFile | None:
        """See `FileLedger.linked`."""
        if link >= 2**63:
            return None

        def look(connection: Connection) -> LinkedFile | None:
            row = connection.execute(
                select(file_links, kept_files.c.key, kept_files.c.size, kept_files.c.storage_pk)
                .join(kept_files, kept_files.c.pk == file_links.c.file_pk)
                .where(file_links.c.pk == link)
            ).first()
            if row is None:
                return None
            storage = _storage_row(connection, row.storage_pk)
            access = self._access_or_none(storage)
            if access is None:  # which tokens are genuine nobody knows
                return None
            return LinkedFile(
                link=FileLink(row.pk, access.signing_key, row.until),
                tenant_id=storage.tenant_id,
                place=access.place,
                key=row.key,
                filename=row.filename,
                mime_type=row.mime_type,
                size=row.size,
                downloaded=row.downloaded_ts is not None,
            )

        return await self._database.read(look)

    async def downloaded(self, link: int, now: float) -> None:
        """See `FileLedger.downloaded`."""

        def change(connection: Connection) -> None:
            mine = file_links.c.pk == link
            row = connection.execute(select(file_links).where(mine).with_for_update()).first()
            if row is None or row.downloaded_ts is not None:
                return
            until = row.until if row.lifespan is None else min(row.until, now + row.lifespan)
            connection.execute(update(file_links).where(mine).values(downloaded_ts=now, until=until))
            latest = connection.execute(_latest(row.file_pk)).scalar()
            ready = (kept_files.c.pk == row.file_pk) & (kept_files.c.state == READY)
            connection.execute(update(kept_files).where(ready).values(until=latest))

        await self._write(change)

    async def doomed(self, now: float, limit: int) -> Sequence[DoomedFile]:
        """See `FileLedger.doomed`."""
        due = select(kept_files.c.pk).where(kept_files.c.until < now).order_by(kept_files.c.until).limit(limit)
        if not await self._database.read(lambda connection: connection.execute(due.limit(1)).first()):
            return ()

        def change(connection: Connection) -> Sequence[DoomedFile]:
            pks = connection.execute(due.with_for_update(skip_locked=True)).scalars().all()
            mine = kept_files.c.pk.in_(pks)
            connection.execute(delete(file_links).where(file_links.c.file_pk.in_(pks)))
            connection.execute(update(kept_files).where(mine).values(state=DOOMED, until=now + PATIENCE))
            found = []
            for row in connection.execute(select(kept_files).where(mine)).all():
                storage = _storage_row(connection, row.storage_pk)
                found.append(DoomedFile(row.pk, storage.tenant_id, self._place_of(storage), row.key))
            return found

        return await self._write(change)

    async def removed(self, file_pks: Sequence[int]) -> None:
        """See `FileLedger.removed`."""

        def change(connection: Connection) -> None:
            gone = delete(kept_files).where(kept_files.c.pk.in_(file_pks), kept_files.c.state == DOOMED)
            storages = connection.execute(gone.returning(kept_files.c.storage_pk)).scalars().all()
            connection.execute(delete(file_storages).where(file_storages.c.pk.in_(set(storages)), _SPENT))

        await self._write(change)

    # -- within a transaction ----------------------------------------------------------------------------------------

    async def _write(self, change: Callable[[Connection], ResultT]) -> ResultT:
        result: ResultT = await self._database.write(self._change_op, change)
        return result

    def _storage(self, connection: Connection, tenant_id: str, place: StoragePlace) -> int:
        """Return the number of a tenant's storage, made where it is new; it has the credentials of the last time."""
        key_of_the_database(connection, self._cipher)
        mine = (file_storages.c.tenant_id == tenant_id) & (file_storages.c.url == place.url)
        row = connection.execute(select(file_storages).where(mine)).first()
        if row is None:
            first = self._sealed(connection, tenant_id, _Access(place, Secret(secrets.token_hex(SECRET_BYTES))))
            self._insert(connection, file_storages, {"tenant_id": tenant_id, "url": place.url, **first})
            row = connection.execute(select(file_storages).where(mine)).one()
        access = self._access_or_none(row)
        if access is None:  # links to what is there lead nowhere any more; those from now on do
            log.error("secrets cannot be opened", places=[place_of(tenant_id, place.url)], secrets=1)
            access = _Access(replace(place, unreadable=True), Secret(secrets.token_hex(SECRET_BYTES)))
        if access.place != place:
            values = self._sealed(connection, tenant_id, _Access(place, access.signing_key))
            connection.execute(update(file_storages).where(mine).values(values))
        pk: int = row.pk
        return pk

    def _sealed(self, connection: Connection, tenant_id: str, access: _Access) -> Mapping[str, Any]:
        text = json.dumps(
            {
                "credentials": {name: value.reveal() for name, value in access.place.credentials.items()},
                "signing_key": access.signing_key.reveal(),
            }
        )
        sealed = {"access": self._places.seal(text, place_of(tenant_id, access.place.url))}
        return sealed_as_the_database_is(connection, self._cipher, file_storages, sealed, tenant_id, access.place.url)

    def _opened(self, row: Row[Any]) -> _Access:
        """Return how a storage is reached."""
        values = json.loads(self._places.open(row.access, place_of(row.tenant_id, row.url)))
        credentials = {name: Secret(value) for name, value in values["credentials"].items()}
        return _Access(StoragePlace(_kind_of(row.url), row.url, credentials), Secret(values["signing_key"]))

    def _access_or_none(self, row: Row[Any]) -> _Access | None:
        """Return how a storage is reached; None where no key opens that."""
        try:
            return self._opened(row)
        except SealBroken:
            return None

    def _place_of(self, row: Row[Any]) -> StoragePlace:
        """Return a storage, without its credentials where no key opens them."""
        access = self._access_or_none(row)
        return StoragePlace(_kind_of(row.url), row.url, unreadable=True) if access is None else access.place

    def _access_of(self, connection: Connection, storage_pk: int) -> _Access:
        return self._opened(_storage_row(connection, storage_pk))

    def _linked_to(self, connection: Connection, wanted: LinkWanted) -> tuple[int, float]:
        """Return number and end of a message's link to a file, made where it is new."""
        whose = {
            "message_pk": wanted.message_pk,
            "message_ts": wanted.message_ts,
            "n": wanted.n,
            "file_pk": wanted.file_pk,
        }
        mine = and_(*(file_links.c[name] == value for name, value in whose.items()))
        look = select(file_links.c.pk, file_links.c.until).where(mine).with_for_update()
        row = connection.execute(look).first()
        if row is None:
            about = {
                "filename": wanted.filename,
                "mime_type": wanted.mime_type,
                "until": wanted.until,
                "lifespan": wanted.lifespan,
            }
            self._insert(connection, file_links, {**whose, **about})
            row = connection.execute(look).one()
        if row.until >= wanted.renew_below:
            return row.pk, row.until
        connection.execute(update(file_links).where(mine).values(until=wanted.until))
        return row.pk, wanted.until

    def _insert(self, connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
        """Insert a row unless another instance has just done so."""
        anew = sqlite_insert if self._database.dialect == "sqlite" else postgresql_insert
        connection.execute(anew(table).values(**values).on_conflict_do_nothing())


def forget_links(connection: Connection, tenant_id: str) -> None:
    """End the links of a tenant that is removed, so that its files are cleared away next."""
    storages = select(file_storages.c.pk).where(file_storages.c.tenant_id == tenant_id)
    files = select(kept_files.c.pk).where(kept_files.c.storage_pk.in_(storages))
    connection.execute(delete(file_links).where(file_links.c.file_pk.in_(files)))
    ready = kept_files.c.storage_pk.in_(storages) & (kept_files.c.state == READY)
    connection.execute(update(kept_files).where(ready).values(state=DOOMED, until=0.0))


def tenant_id_in_a_key(tenant_id: str) -> str:
    """Write a tenant's id in characters that every storage takes: an operator sees whose a file is."""
    return "".join(each if each.isascii() and each.isalnum() else f"-{ord(each):02x}" for each in tenant_id)


def _latest(file_pk: int) -> Select[tuple[float | None]]:
    return select(func.max(file_links.c.until)).where(file_links.c.file_pk == file_pk)


def _storage_row(connection: Connection, storage_pk: int) -> Row[Any]:
    return connection.execute(select(file_storages).where(file_storages.c.pk == storage_pk)).one()


def _kind_of(url: str) -> StorageKind:
    return StorageKind(url.partition(":")[0])


def place_of(tenant_id: str, url: str) -> str:
    """What the access to a storage is bound to."""
    return f"file_storages.access/{tenant_id}/{url}"


def _run(transaction: Transaction, changes: Sequence[Callable[[Connection], Any]]) -> Sequence[Any]:
    hold_version(transaction.connection)  # before the rows, as whoever removes a tenant does
    return [change(transaction.connection) for change in changes]
