"""Writing submitted messages down: one insert for all that came in together, however many requests it were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Double,
    Integer,
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mail_proxy.domain.attachment_auth import place_of
from mail_proxy.domain.message import Existing, FoundBy, MessageState, NewMessage, Verdict, resubmission
from mail_proxy.domain.report import EventType
from mail_proxy.ports.queue import Taken
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.errors import Crossed
from mail_proxy.store.hints import Hint
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import Prepared
from mail_proxy.store.rows import ALONE, among, one_of, pack, packed, selected, unpacked
from mail_proxy.store.schema import accounts, contents, events, messages, recipients, tenants
from mail_proxy.store.sealed import sealed_as_the_database_is
from mail_proxy.store.version import hold_version

_ATTEMPTED = [each.value for each in (EventType.SENT, EventType.FAILED, EventType.EXPIRED, EventType.UNCERTAIN)]

_NUMBERS = "messages_pk_seq"
"""PostgreSQL: where the numbers of messages come from."""

Key = tuple[str, str]
Route = tuple[str, int, str, str]
"""Tenant, account by number and id, and how they were found."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages of one request, checked against the directory at this version."""

    messages: tuple[NewMessage, ...]
    directory_version: int

    @property
    def routes(self) -> Iterable[Route]:
        """Where its messages go by what it was checked against."""
        return {(m.tenant_id, m.account_pk, m.account_id, m.found_by.value) for m in self.messages}

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return sum(len(message.fields) + 300 for message in self.messages)


@dataclass(frozen=True, slots=True)
class _Row:
    pk: int
    new: bool
    existing: Existing

    def replaced_by(self, given: Sequence[NewMessage]) -> bool:
        """Say whether one of these takes its place."""
        return not self.new and any(
            resubmission(self.existing, message.digest)[0] is Verdict.REPLACED for message in given
        )


class Enqueue:
    """Inserts new messages, recognises repeated ones, replaces those never tried. G1, G2, G3."""

    def __init__(self, dialect: str, cipher: Cipher | None = None) -> None:
        """`cipher` seals the credentials of attachments; without it none may come."""
        self._cipher = cipher
        into = postgresql_insert if dialect == "postgresql" else sqlite_insert
        new = unpacked(
            dialect,
            {
                "tenant_id": Text(),
                "id": Text(),
                "account_pk": BigInteger(),
                "account_id": Text(),
                "priority": SmallInteger(),
                "batch_code": Text(),
                "state": Text(),
                "due": Double(),
                "expires_ts": Double(),
                "digest": Text(),
                "size": Integer(),
                "created_ts": Double(),
            },
        )
        rest = (literal(0), bindparam("nonce", type_=Text))
        if dialect == "postgresql":
            # numbered as they come, and written in the order of their keys: two that write the same ones wait in turn;
            # what is there is left out, as an insert would wait for whoever changes it
            there = messages.alias("there")
            known = select(there.c.pk).where(there.c.tenant_id == new.c.tenant_id, there.c.id == new.c.id)
            fresh = select(func.nextval(_NUMBERS, type_=BigInteger).label("pk"), *new.c).where(
                known.scalar_subquery().is_(None)
            )
            numbered = fresh.subquery("numbered")
            source = select(*numbered.c, *rest).order_by(numbered.c.tenant_id, numbered.c.id)
            columns = [*numbered.c.keys(), "attempts", "token"]
        else:
            source = select(*new.c, *rest).where(true())
            columns = [*new.c.keys(), "attempts", "token"]
        self.insert_messages = Prepared(
            into(messages).from_select(columns, source).on_conflict_do_nothing(index_elements=["tenant_id", "id"])
        )
        keys = unpacked(dialect, {"tenant_id": Text(), "id": Text()}, "keys")
        named = messages.alias("named")
        number = select(named.c.pk).where(named.c.tenant_id == keys.c.tenant_id, named.c.id == keys.c.id)
        # attempted, although its attempts were given back or start anew; not asked of what was just inserted
        served = exists().where(recipients.c.message_pk == messages.c.pk, recipients.c.state.is_not(None))
        has_ended = exists().where(events.c.message_pk == messages.c.pk, one_of(events.c.type, _ATTEMPTED))
        new_or_counted = or_(messages.c.token == bindparam("nonce", type_=Text), messages.c.attempts > 0)
        found = (
            select(
                messages.c.pk,
                messages.c.tenant_id,
                messages.c.id,
                messages.c.token,
                messages.c.digest,
                messages.c.state,
                case((new_or_counted, messages.c.attempts), (or_(served, has_ended), 1), else_=0).label("attempts"),
            )
            .where(selected(dialect, messages.c.pk, select(number.scalar_subquery()).select_from(keys)))
            .subquery("found")
        )
        self.find = Prepared(packed(dialect, found))
        lock = select(messages.c.pk).where(among(dialect, messages.c.pk)).order_by(messages.c.pk).with_for_update()
        self.lock = Prepared(packed(dialect, lock.subquery("locked"))) if dialect == "postgresql" else None
        route = unpacked(
            dialect,
            {"tenant_id": Text(), "account_pk": BigInteger(), "account_id": Text(), "found_by": Text()},
            "routes",
        )
        another = accounts.alias("another")
        others = exists().where(another.c.tenant_id == accounts.c.tenant_id, another.c.pk != accounts.c.pk)
        by_default = and_(route.c.found_by == FoundBy.DEFAULT.value, or_(accounts.c.is_default, ~others))
        standing = (
            select(*route.c)
            .join_from(route, accounts, accounts.c.pk == route.c.account_pk)
            .join(tenants, tenants.c.id == accounts.c.tenant_id)
            .where(accounts.c.tenant_id == route.c.tenant_id, accounts.c.id == route.c.account_id, tenants.c.active)
            .where(or_(route.c.found_by == FoundBy.NAME.value, by_default))
        )
        self.standing = Prepared(packed(dialect, standing.subquery("standing")))
        wide = unpacked(
            dialect,
            {
                "message_pk": BigInteger(),
                "fields": Text(),
                "message_id": Text(),
                "date": Double(),
                "auths": Text(),
                "by_tenant": Boolean(),
            },
        )
        self.insert_contents = Prepared(insert(contents).from_select(list(wide.c.keys()), select(*wide.c)))
        to = unpacked(dialect, {"message_pk": BigInteger(), "n": Integer(), "address": Text(), "kind": Text()})
        self.insert_recipients = Prepared(insert(recipients).from_select(list(to.c.keys()), select(*to.c)))
        self.insert_content_alone = insert(contents)
        self.replace_message = (
            update(messages)
            .where(messages.c.pk == bindparam("message"))
            .values(
                {
                    name: bindparam(name)
                    for name in (
                        "account_pk",
                        "account_id",
                        "priority",
                        "batch_code",
                        "state",
                        "due",
                        "expires_ts",
                        "digest",
                        "size",
                    )
                }
                | {"created_ts": bindparam("created_ts"), "reply": None, "crashes": 0}
            )
        )
        self.delete_content = delete(contents).where(contents.c.message_pk == bindparam("message"))
        self.delete_recipients = delete(recipients).where(recipients.c.message_pk == bindparam("message"))

    def run(self, transaction: Transaction, batches: Sequence[Batch]) -> Sequence[tuple[Taken, ...] | None]:
        """Answer each batch with what was made of its messages, or None where what it goes by has changed."""
        current = self._current(transaction.connection, batches)
        wanted: dict[Key, list[NewMessage]] = {}
        for batch, stands in zip(batches, current, strict=True):
            for message in batch.messages if stands else ():
                wanted.setdefault((message.tenant_id, message.id), []).append(message)
        rows = self._insert(transaction, wanted) if wanted else {}
        if any(of_key[0].due is None for of_key in wanted.values()):
            transaction.hints.add(Hint.READY.value)
        return [
            tuple(self._take(transaction, message, rows) for message in batch.messages) if stands else None
            for batch, stands in zip(batches, current, strict=True)
        ]

    def _current(self, connection: Connection, batches: Sequence[Batch]) -> Sequence[bool]:
        """Say of each batch whether what it was checked against still holds; it does until the transaction ends.

        The directory may have changed where it is none of the batch's concern: all tenants share its version.
        """  # G11
        version = hold_version(connection)
        doubtful = {route for batch in batches if batch.directory_version != version for route in batch.routes}
        standing = (
            {tuple(row) for row in self.standing.rows(connection, {"routes": pack(doubtful)})} if doubtful else ()
        )
        return [
            batch.directory_version == version or all(route in standing for route in batch.routes) for batch in batches
        ]

    def _insert(self, transaction: Transaction, wanted: Mapping[Key, Sequence[NewMessage]]) -> dict[Key, _Row]:
        """Insert the first of each id that is free; answer the row that stands under each id now.

        It is locked where it is to be replaced. Whoever only repeats a message waits for nothing.

        Raises `Crossed` where another transaction has removed what was in the way of the insert: a second insert would
        wait for whoever has the id by now, with those of the first in hand.
        """
        connection, nonce = transaction.connection, uuid4().hex
        narrow = pack(_narrow(of_key[0]) for of_key in wanted.values())
        self.insert_messages.run(connection, {"rows": narrow, "nonce": nonce})
        rows = self._find(connection, wanted, nonce)
        replaced = {key: row.pk for key, row in rows.items() if row.replaced_by(wanted[key])}
        if replaced and self.lock is not None:
            self.lock.run(connection, {"pks": pack(replaced.values())})
            now = self._find(connection, replaced, nonce)  # what it has become until it was locked
            held = {key: row for key, row in now.items() if row.pk == replaced[key]}
            rows = {key: row for key, row in rows.items() if key not in replaced} | held
        if len(rows) < len(wanted):
            raise Crossed("messages of the same ids are removed and submitted all the time")
        self._insert_wide(transaction, [(rows[key].pk, of_key[0]) for key, of_key in wanted.items() if rows[key].new])
        return rows

    def _find(self, connection: Connection, keys: Iterable[Key], nonce: str) -> dict[Key, _Row]:
        found = self.find.rows(connection, {"keys": pack(keys), "nonce": nonce})
        return {
            (tenant_id, id_): _Row(pk, token == nonce, Existing(digest, MessageState(state), attempts))
            for pk, tenant_id, id_, token, digest, state, attempts in found
        }

    def _insert_wide(self, transaction: Transaction, new: Sequence[tuple[int, NewMessage]]) -> None:
        if not new:
            return
        connection = transaction.connection
        together = [(pk, m) for pk, m in new if len(m.fields) <= ALONE]
        if together:
            rows = pack(_wide(pk, m, self._sealed_auths(connection, m)) for pk, m in together)
            self.insert_contents.run(connection, {"rows": rows})
        for pk, m in new:
            if len(m.fields) > ALONE:
                row = dict(zip(_WIDE, _wide(pk, m, self._sealed_auths(connection, m)), strict=True))
                connection.execute(self.insert_content_alone, row)
        self.insert_recipients.run(connection, {"rows": pack(_recipients(new))})

    def _sealed_auths(self, connection: Connection, message: NewMessage) -> str | None:
        """Seal the credentials of a message's attachments with the key that the database goes by."""  # G16
        if message.auths is None:
            return None
        if self._cipher is None:
            raise LookupError("there is no cipher to seal credentials with")
        place = (message.tenant_id, message.id)
        own = self._cipher.seal(message.auths.reveal(), place_of(*place))
        sealed: str = sealed_as_the_database_is(connection, self._cipher, contents, {"auths": own}, *place)["auths"]
        return sealed

    def _take(self, transaction: Transaction, message: NewMessage, rows: dict[Key, _Row]) -> Taken:
        key = (message.tenant_id, message.id)
        row = rows[key]
        if row.new:  # the first with this id, in the order of the requests
            rows[key] = replace(row, new=False)
            return Taken(Verdict.QUEUED)
        verdict, code = resubmission(row.existing, message.digest)
        if verdict is Verdict.REPLACED:
            self._replace(transaction, row.pk, message)
            rows[key] = _Row(row.pk, False, Existing(message.digest, _first_state(message), 0))
        return Taken(verdict, code)

    def _replace(self, transaction: Transaction, pk: int, message: NewMessage) -> None:
        connection = transaction.connection
        values: dict[str, Any] = dict(zip(_NARROW, _narrow(message), strict=True))
        del values["tenant_id"], values["id"]
        connection.execute(self.replace_message, {"message": pk, **values})
        connection.execute(self.delete_content, {"message": pk})
        connection.execute(self.delete_recipients, {"message": pk})
        self._insert_wide(transaction, [(pk, message)])


_NARROW = (
    "tenant_id",
    "id",
    "account_pk",
    "account_id",
    "priority",
    "batch_code",
    "state",
    "due",
    "expires_ts",
    "digest",
    "size",
    "created_ts",
)


def _first_state(message: NewMessage) -> MessageState:
    return MessageState.READY if message.due is None else MessageState.SCHEDULED


def _narrow(message: NewMessage) -> tuple[object, ...]:
    return (
        message.tenant_id,
        message.id,
        message.account_pk,
        message.account_id,
        message.priority,
        message.batch_code,
        _first_state(message).value,
        message.due,
        message.expires_ts,
        message.digest,
        len(message.fields),
        message.created_ts,
    )


_WIDE = ("message_pk", "fields", "message_id", "date", "auths", "by_tenant")


def _wide(pk: int, message: NewMessage, auths: str | None) -> tuple[object, ...]:
    return pk, message.fields, message.identity.message_id, message.identity.date, auths, message.by_tenant


def _recipients(new: Iterable[tuple[int, NewMessage]]) -> Iterable[tuple[object, ...]]:
    for pk, message in new:
        for n, (address, kind) in enumerate(message.recipients):
            yield pk, n, address, kind.value
