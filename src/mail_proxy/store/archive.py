"""Messages and their histories as the API shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    select,
)

from mail_proxy.domain.attachment import INLINE
from mail_proxy.domain.explanation import Standing
from mail_proxy.domain.message import WAITING_STATES, Details, MessageState
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.domain.report import EventType
from mail_proxy.domain.requeue import BODY_REMOVED
from mail_proxy.domain.settlement import RATE_LIMITED
from mail_proxy.ports.archive import MessageFilter, Page, PastEvent, Place
from mail_proxy.ports.clock import Clock
from mail_proxy.store import standing
from mail_proxy.store.database import Database
from mail_proxy.store.loading import recipient_of
from mail_proxy.store.page_size import fitting
from mail_proxy.store.rows import among, pack
from mail_proxy.store.schema import accounts, contents, events, messages, recipients
from mail_proxy.store.search import find
from mail_proxy.store.shown import shown_fields
from mail_proxy.store.survey import count_unfinished


def _of_account(column: ColumnElement[Any]) -> ScalarSelect[Any]:
    return select(column).where(accounts.c.pk == messages.c.account_pk).scalar_subquery()


def _of_content(column: ColumnElement[Any]) -> ScalarSelect[Any]:
    return select(column).where(contents.c.message_pk == messages.c.pk).scalar_subquery()


_DETAILS: Select[Any] = select(
    messages.c.pk,
    messages.c.id,
    messages.c.tenant_id,
    messages.c.account_id,
    messages.c.priority,
    messages.c.batch_code,
    messages.c.state,
    messages.c.attempts,
    messages.c.created_ts,
    messages.c.first_attempt_ts,
    messages.c.due,
    messages.c.finished_ts,
    messages.c.reported_ts,
    messages.c.reply,
    messages.c.crashes,
    # looked up for each message that is shown; a join might begin with all of them
    _of_account(accounts.c.hold_reason).label("hold_reason"),
    _of_account(accounts.c.limited_until).label("limited_until"),
    _of_account(accounts.c.limited_reason).label("limited_reason"),
    _of_content(shown_fields()).label("fields"),
)


class StoreArchive:
    """Keeps the `Archive` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def page(self, tenant_id: str, wanted: MessageFilter, below: Place | None, limit: int, now: float) -> Page:
        """See `Archive.page`."""
        dialect = self._database.dialect

        def look(connection: Connection) -> Page:
            found = find(connection, dialect, tenant_id, wanted, below, limit=limit, now=now)
            if not found.pks:
                return Page([], found.below)
            shown = found.pks[: fitting(connection, dialect, found.pks)]
            chosen = _DETAILS.where(among(dialect, messages.c.pk))
            rows = {row.pk: row for row in connection.execute(chosen, {"pks": pack(shown)})}
            people = _recipients(connection, shown)
            whole = len(shown) == len(found.pks)
            return Page(
                [_details(rows[pk], people.get(pk, ()), now) for pk in shown],
                found.below if whole else Place(rows[shown[-1]].created_ts, shown[-1]),
            )

        return await self._database.read(look)

    async def message(self, tenant_id: str, message_id: str) -> Details | None:
        """See `Archive.message`."""
        statement = _DETAILS.where(messages.c.tenant_id == tenant_id, messages.c.id == message_id)
        now = self._clock.now()

        def look(connection: Connection) -> Details | None:
            row = connection.execute(statement).first()
            if row is None:
                return None
            return _details(row, _recipients(connection, [row.pk]).get(row.pk, ()), now)

        return await self._database.read(look)

    async def history(self, tenant_id: str, message_id: str) -> Sequence[PastEvent] | None:
        """See `Archive.history`."""
        the_message = select(messages.c.pk, messages.c.created_ts).where(
            messages.c.tenant_id == tenant_id, messages.c.id == message_id
        )

        def look(connection: Connection) -> Sequence[PastEvent] | None:
            message = connection.execute(the_message).first()
            if message is None:
                return None
            told = connection.execute(select(events).where(events.c.message_pk == message.pk)).all()
            queued = PastEvent(None, EventType.QUEUED, message.created_ts, None, None)
            return [queued] + [
                PastEvent(row.event_id, EventType(row.type), row.ts, row.entry, row.reported_ts)
                for row in sorted(told, key=lambda row: row.event_id)
            ]

        return await self._database.read(look)

    async def standing(self, tenant_id: str, message_id: str) -> Standing | None:
        """See `Archive.standing`."""
        return await self._database.read(lambda connection: standing.look(connection, tenant_id, message_id))

    async def pending(self, tenant_id: str, batch_code: str | None = None) -> int:
        """See `Archive.pending`."""
        statement = count_unfinished(self._database.dialect, tenant_id, batch_code)
        return await self._database.read(lambda connection: int(connection.execute(statement).scalar_one()))


def _recipients(connection: Connection, pks: Sequence[int]) -> Mapping[int, Sequence[Any]]:
    found: dict[int, list[Any]] = {}
    statement = (
        select(recipients).where(recipients.c.message_pk.in_(pks)).order_by(recipients.c.message_pk, recipients.c.n)
    )
    for row in connection.execute(statement) if pks else ():
        found.setdefault(row.message_pk, []).append(row)
    return found


def _details(row: Row[Any], people: Sequence[Any], now: float) -> Details:
    state = MessageState(row.state)
    ts = row.finished_ts if state.final else row.first_attempt_ts
    fields = json.loads(row.fields)
    for hidden in ("raw", INLINE):
        fields.pop(hidden, None)
    body_removed_ts = fields.pop(BODY_REMOVED, None)
    waiting = state in WAITING_STATES
    limited = state is MessageState.READY and row.limited_until is not None and row.limited_until > now
    return Details(
        pk=row.pk,
        id=row.id,
        tenant_id=row.tenant_id,
        account_id=row.account_id,
        priority=row.priority,
        batch_code=row.batch_code,
        state=state,
        attempts=row.attempts,
        created_ts=row.created_ts,
        due_ts=row.limited_until if limited else row.due if waiting else None,
        deferred_reason=_deferred_reason(row, state, limited=limited) if waiting else None,
        finished_ts=row.finished_ts,
        reported_ts=row.reported_ts,
        reply=row.reply,
        fields=fields,
        body_removed_ts=body_removed_ts,
        recipients=tuple(
            recipient_of((r.n, r.address, r.kind, r.state, r.reply, r.ts), state, row.reply, ts) for r in people
        ),
    )


def _deferred_reason(row: Row[Any], state: MessageState, *, limited: bool) -> str | None:
    if state is MessageState.HELD and row.crashes >= MOST_CRASHES:
        held: str | None = row.reply
        return held
    if row.hold_reason is not None:
        return f"account on hold: {row.hold_reason}"
    if limited:
        return f"{RATE_LIMITED}: no more than {row.limited_reason}"
    if state is MessageState.HELD:
        return "batch suspended"
    return row.reply if row.attempts else None
