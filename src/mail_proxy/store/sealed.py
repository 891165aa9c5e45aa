"""The sealed columns: which there are, what each text is bound to, and which key the database goes by.

Whoever writes a secret does it under the directory's lock and seals it with the database's key, whatever key the
instance has as its own. So no secret is sealed with a key that has been left behind.
"""  # G16

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Table, Text, Update, and_, func, select, update

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.sealing import Resealed, SealCursor, SealStanding
from mail_proxy.ports.secrets import CHECK_PLACE, Cipher, SealBroken, WrongKey
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.rows import pack, unpacked
from mail_proxy.store.schema import IDENTITY, SEALED, contents, instances, messages, metadata, settings
from mail_proxy.store.version import hold_alone, hold_version

CHECK = "encryption_check"
CHECK_VALUE = select(settings.c.value).where(settings.c.name == CHECK)


@dataclass(frozen=True, slots=True, eq=False)
class SealedColumn:
    """One column of sealed texts."""

    column: Column[Any]
    identity: tuple[ColumnElement[Any], ...]
    key: Column[Any]
    """The primary key, by which all of them are gone through."""

    @property
    def name(self) -> str:
        """Table and column, as the texts are bound to them."""
        return f"{self.column.table.name}.{self.column.name}"

    def place(self, *identity: str) -> str:
        """What a text is bound to that stands in this column."""
        return "/".join((self.name, *identity))

    def lacks(self, heads: Sequence[str]) -> ColumnElement[bool]:
        """True for a text that begins with none of these."""
        others = (func.substr(self.column, 1, len(head)) != head for head in heads)
        return and_(self.column.is_not(None), *others)


def _sealed_columns() -> tuple[SealedColumn, ...]:
    return tuple(
        SealedColumn(column, _identity(table), next(iter(table.primary_key)))
        for table in metadata.sorted_tables
        for column in table.c
        if column.info == SEALED
    )


def _identity(table: Table) -> tuple[ColumnElement[Any], ...]:
    if table is not contents:
        return tuple(table.c[name] for name in IDENTITY[table.name])
    of_message = messages.c.pk == contents.c.message_pk
    return tuple(select(messages.c[name]).where(of_message).scalar_subquery() for name in ("tenant_id", "id"))


SEALED_COLUMNS = _sealed_columns()
_NAMES = frozenset(each.name for each in SEALED_COLUMNS)


class DeclaredPlaces:
    """A cipher that seals for columns only that are known to be sealed: no other is re-sealed with a new key."""

    def __init__(self, cipher: Cipher) -> None:
        self._cipher = cipher

    def seal(self, text: str, place: str) -> str:
        """See `Cipher.seal`. Raises `LookupError` for a place in another column."""
        if place.partition("/")[0] not in _NAMES:
            raise LookupError(f"{place}: the column needs info=SEALED in store/schema.py")
        return self._cipher.seal(text, place)

    def open(self, sealed: str, place: str) -> str:
        """See `Cipher.open`."""
        return self._cipher.open(sealed, place)


def key_of_the_database(connection: Connection, cipher: Cipher) -> str:
    """Return the id of the key that the database goes by.

    To be called under the directory's lock. Raises `StoreUnavailable` where this instance does not have the key: it is
    about to end, and may not be able to read what is there.
    """
    key_id = cipher.key_of(connection.execute(CHECK_VALUE).scalar_one())
    if key_id not in cipher.key_ids:
        raise StoreUnavailable("the encryption key was changed; this instance does not have the new one")
    return key_id


def sealed_as_the_database_is(
    connection: Connection, cipher: Cipher, table: Table, values: Mapping[str, Any], *identity: str
) -> dict[str, Any]:
    """Return a row's values with its sealed texts sealed with that key; raises as `key_of_the_database`."""
    key_id = key_of_the_database(connection, cipher)
    sealed = dict(values)
    for each in SEALED_COLUMNS:
        text = values.get(each.column.name) if each.column.table is table else None
        if text is not None:
            sealed[each.column.name] = _anew(cipher, text, each.place(*identity), key_id)
    return sealed


def refuse_unknown_keys(connection: Connection, cipher: Cipher) -> None:
    """Raise `WrongKey` unless the check value and every secret are sealed with keys of this instance."""
    if cipher.key_of(connection.execute(CHECK_VALUE).scalar_one()) not in cipher.key_ids:
        raise WrongKey("The database has just been sealed with another encryption key: start with that one.")
    heads = [cipher.head(key_id) for key_id in cipher.key_ids]
    unknown = sum(_count(connection, each, heads) for each in SEALED_COLUMNS)
    if unknown:
        raise WrongKey(
            f"{unknown} secret{'s' if unknown > 1 else ''} in the database cannot be opened with the encryption key: "
            "give the key before it in GMP_ENCRYPTION_KEYS_OLD until GET /instance says secrets_with_old_keys: 0."
        )


def _anew(cipher: Cipher, sealed: str, place: str, key_id: str) -> str:
    return sealed if cipher.key_of(sealed) == key_id else cipher.seal(cipher.open(sealed, place), place, key_id)


def _count(connection: Connection, each: SealedColumn, heads: Sequence[str]) -> int:
    return connection.execute(select(func.count()).where(each.lacks(heads))).scalar_one()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Texts of one column: the row's primary key, the text as it was found, and the same one sealed anew."""

    column: int
    rows: tuple[tuple[int | str, str, str], ...]


class StoreSeals:
    """Keeps the `Seals` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database, cipher: Cipher, instance_id: str) -> None:
        self._database = database
        self._cipher = cipher
        self._instance_id = instance_id
        self._replacing = [_replacing(database.dialect, each) for each in SEALED_COLUMNS]
        # both take the directory's lock: first in their groups, as all who do
        self._adopt_op = Operation("adopt_key", self._adopt, rank=0)
        self._reseal_op = Operation("reseal", self._write, rank=1)

    def mark(self, text: str) -> str:
        """See `Seals.mark`."""
        return self._cipher.mark(text)

    async def may_go_on(self) -> bool:
        """See `Seals.may_go_on`."""
        key_id = await self._database.read(self._key_in_use)
        if key_id not in self._cipher.key_ids:
            raise WrongKey("The encryption key of the database was changed, and this instance does not have it.")
        return key_id == self._cipher.key_id

    async def adopt(self) -> bool:
        """See `Seals.adopt`."""
        if await self._database.read(self._others):
            return False
        return await self._database.write(self._adopt_op, None)

    async def reseal(self, after: SealCursor | None, limit: int) -> Resealed:
        """See `Seals.reseal`."""
        start = after or SealCursor(0, _before_all(SEALED_COLUMNS[0]))
        chunk, step = await self._database.read(lambda connection: self._look(connection, start, limit))
        count = await self._database.write(self._reseal_op, chunk) if chunk.rows else 0
        return Resealed(count, step.next, step.broken)

    async def standing(self) -> SealStanding:
        """See `Seals.standing`."""
        return await self._database.read(self._standing)

    def _standing(self, connection: Connection) -> SealStanding:
        own, in_use = self._cipher.key_id, self._key_in_use(connection)
        head = [self._cipher.head(own)]
        return SealStanding(
            own_key=own,
            old_keys=self._cipher.key_ids - {own},
            key_in_use=in_use,
            with_old_keys=(in_use != own) + sum(_count(connection, each, head) for each in SEALED_COLUMNS),
            awaited=() if in_use == own else tuple(self._others(connection)),
        )

    def _key_in_use(self, connection: Connection) -> str:
        return self._cipher.key_of(connection.execute(CHECK_VALUE).scalar_one())

    def _others(self, connection: Connection) -> Sequence[str]:
        """Instances with another key as their own; on SQLite this one is alone, whatever rows others have left."""
        if self._database.dialect == "sqlite":
            return ()
        mine = instances.c.key_id.is_not_distinct_from(self._cipher.key_id)
        others = select(instances.c.id).where(instances.c.id != self._instance_id, ~mine).order_by(instances.c.id)
        return connection.execute(others).scalars().all()

    def _adopt(self, transaction: Transaction, items: Sequence[None]) -> Sequence[bool]:
        connection = transaction.connection
        hold_alone(connection)
        held = connection.execute(CHECK_VALUE).scalar_one()
        if self._others(connection):
            return [False] * len(items)
        anew = _anew(self._cipher, held, CHECK_PLACE, self._cipher.key_id)
        connection.execute(update(settings).where(settings.c.name == CHECK).values(value=anew))
        return [True] * len(items)

    def _look(self, connection: Connection, start: SealCursor, limit: int) -> tuple[_Chunk, Resealed]:
        """Read some texts of one column that are not sealed with this instance's own key, and seal them with it."""
        each = SEALED_COLUMNS[start.column]
        own = self._cipher.key_id
        found = connection.execute(
            select(each.key, each.column, *each.identity)
            .where(each.key > start.after, each.lacks([self._cipher.head(own)]))
            .order_by(each.key)
            .limit(limit)
        ).all()
        rows, broken = [], []
        for key, sealed, *identity in found:
            place = each.place(*identity)
            try:
                rows.append((key, sealed, _anew(self._cipher, sealed, place, own)))
            except SealBroken:
                broken.append(place)
        following: SealCursor | None = None
        if len(found) == limit:
            following = SealCursor(start.column, found[-1][0])
        elif start.column + 1 < len(SEALED_COLUMNS):
            following = SealCursor(start.column + 1, _before_all(SEALED_COLUMNS[start.column + 1]))
        return _Chunk(start.column, tuple(rows)), Resealed(0, following, tuple(broken))

    def _write(self, transaction: Transaction, chunks: Sequence[_Chunk]) -> Sequence[int]:
        """Put each text in the place of the one that was found, if that is still there and the key still holds."""
        connection = transaction.connection
        hold_version(connection)
        if self._key_in_use(connection) != self._cipher.key_id:
            return [0] * len(chunks)
        return [
            connection.execute(self._replacing[chunk.column], {"rows": pack(chunk.rows)}).rowcount for chunk in chunks
        ]


def _replacing(dialect: str, each: SealedColumn) -> Update:
    """Put texts in the place of others, row by row, where those are still the ones that were found."""
    key = Text() if each.key.type.python_type is str else BigInteger()
    rows = unpacked(dialect, {"key": key, "found": Text(), "anew": Text()})
    same = (each.key == rows.c.key) & (each.column == rows.c.found)
    return update(each.column.table).where(same).values({each.column.name: rows.c.anew})


def _before_all(each: SealedColumn) -> int | str:
    return "" if each.key.type.python_type is str else 0
