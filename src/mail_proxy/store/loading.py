"""Claimed messages with all that sending needs, read by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, case, null, select

from mail_proxy.domain.claim import HELPING, Claimed, may_fetch
from mail_proxy.domain.message import FINAL_STATES, Identity, MessageState
from mail_proxy.domain.recipient import Recipient, RecipientKind, RecipientState
from mail_proxy.store.prepared import Prepared
from mail_proxy.store.rows import ALONE, among, pack, packed, unpack
from mail_proxy.store.schema import contents, messages, recipients


class Loader:
    """Reads claimed messages with all that sending needs."""

    def __init__(self, dialect: str) -> None:
        rows = (
            select(
                messages.c.pk,
                messages.c.token,
                messages.c.tenant_id,
                messages.c.id,
                messages.c.account_pk,
                messages.c.account_id,
                messages.c.priority,
                messages.c.batch_code,
                messages.c.state,
                messages.c.attempts,
                messages.c.created_ts,
                messages.c.first_attempt_ts,
                messages.c.expires_ts,
                messages.c.reply,
                messages.c.crashes,
                contents.c.message_id,
                contents.c.date,
                contents.c.auths,
                contents.c.by_tenant,
                case((messages.c.size > ALONE, null()), else_=contents.c.fields).label("fields"),
            )
            .join(contents, contents.c.message_pk == messages.c.pk)
            .where(among(dialect, messages.c.pk))
            .order_by(messages.c.priority, messages.c.pk)
        )
        self.rows = Prepared(packed(dialect, rows.subquery("loaded")))
        to = (
            select(
                recipients.c.message_pk,
                recipients.c.n,
                recipients.c.address,
                recipients.c.kind,
                recipients.c.state,
                recipients.c.reply,
                recipients.c.ts,
            )
            .where(among(dialect, recipients.c.message_pk))
            .order_by(recipients.c.message_pk, recipients.c.n)
        )
        self.recipients = Prepared(packed(dialect, to.subquery("loaded")))
        # SQLite takes ten times as long to write a big text into JSON as to give it as it is
        self.alone = select(contents.c.fields).where(contents.c.message_pk == bindparam("message"))
        sizes = select(messages.c.pk, messages.c.size).where(among(dialect, messages.c.pk)).order_by(messages.c.pk)
        self.sizes = packed(dialect, sizes.subquery("sizes"))

    def load(self, connection: Connection, pks: Sequence[int]) -> list[Claimed]:
        """Return the messages, urgent ones first, then by age."""
        if not pks:
            return []
        chosen = {"pks": pack(pks)}
        people: dict[int, list[list[Any]]] = {}
        for row in self.recipients.rows(connection, chosen):
            people.setdefault(row[0], []).append(row[1:])
        claimed = []
        for row in self.rows.rows(connection, chosen):
            if row[-1] is None:
                row[-1] = connection.execute(self.alone, {"message": row[0]}).scalar_one()
            claimed.append(_claimed(row, people.get(row[0], [])))
        return claimed

    def in_helpings(self, connection: Connection, pks: Sequence[int]) -> Iterator[list[Claimed]]:
        """Load the messages a few at a time where they are big, in the order of their numbers."""  # G11
        helping: list[int] = []
        room = HELPING
        for pk, size in unpack(connection.execute(self.sizes, {"pks": pack(pks)}).scalar()):
            helping.append(pk)
            room -= size
            if room <= 0:
                yield self.load(connection, helping)
                helping, room = [], HELPING
        if helping:
            yield self.load(connection, helping)


def recipient_of(row: Sequence[Any], message_state: MessageState, reply: str | None, ts: float | None) -> Recipient:
    """Build a recipient from (n, address, kind, state, reply, ts); what is NULL is the message's."""
    n, address, kind, state, own_reply, own_ts = row
    if state is None:
        return Recipient(n, address, RecipientKind(kind), _inherited(message_state), reply, ts)
    return Recipient(n, address, RecipientKind(kind), RecipientState(state), own_reply, own_ts)


def _inherited(state: MessageState) -> RecipientState:
    return RecipientState(state.value) if state in FINAL_STATES else RecipientState.WAITING


def _claimed(row: Sequence[Any], people: Sequence[Sequence[Any]]) -> Claimed:
    (
        pk,
        token,
        tenant_id,
        id_,
        account_pk,
        account_id,
        priority,
        batch_code,
        state,
        attempts,
        created_ts,
        first_attempt_ts,
        expires_ts,
        reply,
        crashes,
        message_id,
        date,
        auths,
        by_tenant,
        fields,
    ) = row
    return Claimed(
        pk=pk,
        token=token,
        tenant_id=tenant_id,
        account_pk=account_pk,
        account_id=account_id,
        priority=priority,
        batch_code=batch_code,
        attempts=attempts,
        created_ts=created_ts,
        first_attempt_ts=first_attempt_ts if first_attempt_ts is not None else created_ts,
        expires_ts=expires_ts,
        fields=fields,
        identity=Identity(id_, message_id, date),
        recipients=tuple(recipient_of(person, MessageState(state), reply, None) for person in people),
        crashes=crashes,
        sealed_auths=auths,
        by_tenant=bool(by_tenant),
        may_fetch=may_fetch(fields),
    )
