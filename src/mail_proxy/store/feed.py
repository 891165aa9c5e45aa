"""A tenant's events one after the other, told or not, and how far back they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import BigInteger, Connection, Integer, Text, bindparam, func, select, text

from mail_proxy.domain.report import Event, EventType, StoredEvent
from mail_proxy.ports.outbox import Stretch
from mail_proxy.store.database import Database
from mail_proxy.store.keyset import downwards, upwards
from mail_proxy.store.rows import pack, packed, unpack, unpacked
from mail_proxy.store.schema import ANY_EVENT, events, feed_horizons

_AT_ONCE = 101
"""Events read by one statement, so that no more than a few too many are in memory where they are big. For a page of the
usual hundred one more is looked for, to know whether there is more.
"""


class StoreFeed:
    """Keeps the `Feed` port on SQLite and PostgreSQL.

    Ids become visible in their order (`settle.WriteEvents`), and retention raises the horizon in the transaction that
    removes: what one look at both shows has no gap above the horizon, and never gets one below its end.
    """

    def __init__(self, database: Database) -> None:
        dialect = database.dialect
        self._database = database
        numbers = (events.c.tenant_id, events.c.event_id)
        walk = upwards(dialect, numbers, bindparam("tenant", type_=Text), bindparam("after", type_=BigInteger))
        following = (
            select(
                events.c.event_id, events.c.tenant_id, events.c.message_pk, events.c.type, events.c.ts, events.c.entry
            )
            .where(walk.condition, text(f"events.{ANY_EVENT}"))
            .order_by(*walk.order)
            .limit(bindparam("limit", type_=Integer))
        )
        self.following = packed(dialect, following.subquery("following"))
        asked = unpacked(dialect, {"tenant_id": Text()}, "tenants")
        down = downwards(dialect, numbers, asked.c.tenant_id)
        last = (
            select(events.c.event_id)
            .where(down.condition, text(f"events.{ANY_EVENT}"))
            .order_by(*down.order)
            .limit(1)
            .correlate(asked)
            .scalar_subquery()
        )
        horizon = (
            select(feed_horizons.c.event_id)
            .where(feed_horizons.c.tenant_id == asked.c.tenant_id)
            .correlate(asked)
            .scalar_subquery()
        )
        ends = select(
            asked.c.tenant_id,
            func.coalesce(horizon, 0).label("horizon"),
            func.coalesce(last, 0).label("last"),
        )
        self.ends_of = packed(dialect, ends.subquery("ends"))

    async def stretch(self, tenant_id: str, after: int | None, limit: int, max_chars: int) -> Stretch:
        """See `Feed.stretch`."""

        def look(connection: Connection) -> Stretch:
            horizon, end = self._ends(connection, [tenant_id])[tenant_id]
            begin = horizon if after is None else after
            found: Sequence[StoredEvent] = ()
            if horizon <= begin < end:
                found = self._following(connection, tenant_id, begin, limit, max_chars)
            return Stretch(found, horizon, end)

        return await self._database.read(look)

    async def ends(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        """See `Feed.ends`."""
        ends = await self._database.read(lambda connection: self._ends(connection, tenant_ids))
        return {tenant_id: end for tenant_id, (_, end) in ends.items()}

    def _ends(self, connection: Connection, tenant_ids: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        rows = unpack(connection.execute(self.ends_of, {"tenants": pack((each,) for each in tenant_ids)}).scalar())
        return {tenant_id: (horizon, max(horizon, last)) for tenant_id, horizon, last in rows}

    def _following(
        self, connection: Connection, tenant_id: str, after: int, limit: int, max_chars: int
    ) -> Sequence[StoredEvent]:
        found: list[StoredEvent] = []
        chars = 0
        while len(found) < limit and chars <= max_chars:
            asked = min(_AT_ONCE, limit - len(found))
            wanted = {"tenant": tenant_id, "limit": asked, "after": found[-1].event_id if found else after}
            rows = unpack(connection.execute(self.following, wanted).scalar())
            for event_id, tenant, message_pk, type_, ts, entry in rows:
                found.append(StoredEvent(event_id, Event(tenant, message_pk, EventType(type_), ts, entry)))
                chars += len(entry)
            if len(rows) < asked:
                break
        return found
