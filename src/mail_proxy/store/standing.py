"""What the database knows of why a message has not been sent yet."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    Select,
    SmallInteger,
    Text,
    bindparam,
    func,
    literal_column,
    select,
)

from mail_proxy.domain.account import Hold
from mail_proxy.domain.backlog import MANY
from mail_proxy.domain.explanation import Ahead, Standing
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import RecipientState
from mail_proxy.domain.report import EventType
from mail_proxy.store.claim import SCHEDULER_ACTIVE
from mail_proxy.store.schema import accounts, events, messages, recipients, settings, suspended_batches, tenants

_NOT_THROUGH = [EventType.DEFERRED.value, EventType.UNCERTAIN.value]


def _of(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[Any]:
    """Look one value up for the message."""
    return select(column).where(*conditions).scalar_subquery().label(column.key)


_of_account = accounts.c.pk == messages.c.account_pk
_of_tenant = tenants.c.id == messages.c.tenant_id
_missed = (
    recipients.c.message_pk == messages.c.pk,  # where the state is NULL it is the message's
    recipients.c.state.not_in([RecipientState.WAITING.value, RecipientState.SENT.value]),
)
_STANDING: Select[Any] = select(
    messages,
    _of(accounts.c.hold_reason, _of_account),
    _of(accounts.c.hold_since, _of_account),
    _of(accounts.c.limited_until, _of_account),
    _of(accounts.c.limited_reason, _of_account),
    _of(tenants.c.active, _of_tenant),
    _of(tenants.c.suspended, _of_tenant),
    _of(
        suspended_batches.c.ending,
        suspended_batches.c.tenant_id == messages.c.tenant_id,
        suspended_batches.c.batch_code == messages.c.batch_code,
    ),
    select(settings.c.value).where(settings.c.name == SCHEDULER_ACTIVE).scalar_subquery().label("scheduler"),
    select(func.max(events.c.ts))
    .where(events.c.message_pk == messages.c.pk, events.c.type.in_(_NOT_THROUGH))
    .scalar_subquery()
    .label("last_told_ts"),
    select(func.count()).select_from(recipients).where(*_missed).scalar_subquery().label("missed"),
    select(recipients.c.reply)
    .where(*_missed)
    .order_by(recipients.c.n)
    .limit(1)
    .scalar_subquery()
    .label("missed_reply"),
).where(messages.c.tenant_id == bindparam("tenant", type_=Text), messages.c.id == bindparam("id", type_=Text))

_ready = select(messages.c.pk).where(
    messages.c.state == literal_column("'ready'"), messages.c.account_pk == bindparam("account", type_=BigInteger)
)
_priority = bindparam("priority", type_=SmallInteger)


def _up_to_many(before: Select[Any], name: str) -> ColumnElement[int]:
    return select(func.count()).select_from(before.limit(MANY + 1).subquery(name)).scalar_subquery()


# In two parts: of a comparison of (priority, pk) SQLite makes use of the first alone.
_AHEAD = select(
    _up_to_many(_ready.where(messages.c.priority < _priority), "more_urgent")
    + _up_to_many(
        _ready.where(messages.c.priority == _priority, messages.c.pk < bindparam("pk", type_=BigInteger)), "older"
    )
)


def look(connection: Connection, tenant_id: str, message_id: str) -> Standing | None:
    """Read the standing of a message, None if it is unknown; counts up to `MANY` messages ahead of it."""
    row = connection.execute(_STANDING, {"tenant": tenant_id, "id": message_id}).first()
    if row is None:
        return None
    state = MessageState(row.state)
    return Standing(
        id=row.id,
        tenant_id=row.tenant_id,
        account_pk=row.account_pk,
        account_id=row.account_id,
        batch_code=row.batch_code,
        state=state,
        attempts=row.attempts,
        crashes=row.crashes,
        created_ts=row.created_ts,
        first_attempt_ts=row.first_attempt_ts,
        last_told_ts=row.last_told_ts,
        due_ts=row.due,
        expires_ts=row.expires_ts,
        finished_ts=row.finished_ts,
        reply=row.reply,
        hold=None if row.hold_since is None else Hold(row.hold_reason or "", row.hold_since),
        limited_until=row.limited_until,
        limited_reason=row.limited_reason,
        limit_told=row.limit_told,
        tenant_active=bool(row.active),
        tenant_suspended=bool(row.suspended),
        batch_suspended=row.ending is not None and not row.ending,
        batch_ending=bool(row.ending),
        scheduler_active=row.scheduler != "false",
        ahead=_ahead(connection, row) if state is MessageState.READY else None,
        body_removed=bool(row.body_removed),
        missed=row.missed,
        missed_reply=row.missed_reply,
    )


def _ahead(connection: Connection, row: Row[Any]) -> Ahead:
    place = {"account": row.account_pk, "priority": row.priority, "pk": row.pk}
    count: int = connection.execute(_AHEAD, place).scalar_one()
    return Ahead(min(count, MANY), at_least=count > MANY)
