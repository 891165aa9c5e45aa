"""Counting what waits, for people: a look at the whole queue in the background, and a short one in a request."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
)

from mail_proxy.domain.backlog import MANY, Survey
from mail_proxy.domain.message import Priority
from mail_proxy.store.keyset import each_value
from mail_proxy.store.rows import packed, selected, unpack
from mail_proxy.store.schema import accounts, messages

_IS_READY = messages.c.state == literal_column("'ready'")


class Surveying:
    """Counts the whole queue by an index, without a row for each message or each tenant ever leaving the database."""

    def __init__(self, dialect: str) -> None:
        self._counts = packed(dialect, _counts().subquery("counts"))
        self._oldest = _oldest()

    def run(self, connection: Connection, many: int) -> Survey:
        """Count; tenants and batches with fewer than `many` messages are left out, so that memory stays bounded."""
        rows = unpack(connection.execute(self._counts, {"many": many}).scalar())
        firsts = [ts for ts in connection.execute(self._oldest).one() if ts is not None]
        return Survey(
            pending=next(n for tenant_id, _, n in rows if tenant_id is None),
            by_tenant={tenant_id: n for tenant_id, batch, n in rows if tenant_id is not None and batch is None},
            by_batch={(tenant_id, batch): n for tenant_id, batch, n in rows if batch is not None},
            oldest_ready_ts=min(firsts, default=None),
        )


def _counts() -> Select[Any]:
    """(tenant, batch, count): all together as (NULL, NULL), then tenants as (tenant, NULL), then batches."""
    counted = (
        select(messages.c.account_pk, messages.c.batch_code, func.count().label("n"))
        .where(messages.c.finished_ts.is_(None))
        .group_by(messages.c.account_pk, messages.c.batch_code)
        .cte("counted")
    )
    total = cast(func.coalesce(func.sum(counted.c.n), 0), BigInteger)
    many = func.sum(counted.c.n) >= bindparam("many", type_=Integer)
    owned = select(accounts.c.tenant_id, counted.c.batch_code, total.label("n")).join(
        counted, counted.c.account_pk == accounts.c.pk
    )
    by_batch = owned.where(counted.c.batch_code.is_not(None)).group_by(accounts.c.tenant_id, counted.c.batch_code)
    by_tenant = owned.with_only_columns(accounts.c.tenant_id, _no_text(), total).group_by(accounts.c.tenant_id)
    everything = select(_no_text().label("tenant_id"), _no_text().label("batch_code"), total.label("n")).select_from(
        counted
    )
    together = everything.union_all(by_tenant.having(many), by_batch.having(many)).subquery("together")
    return select(together)


def _no_text() -> Any:  # noqa: ANN401 - SQLAlchemy's own type of a cast NULL says no more
    return cast(null(), Text)


def _oldest() -> Select[Any]:
    """When the oldest ready message of each priority was accepted: the first of each account, by the queue's index."""
    waiting = each_value(messages.c.account_pk, _IS_READY)
    first = select(messages.c.created_ts).where(_IS_READY, messages.c.account_pk == waiting.c.value)
    firsts = [
        first.where(messages.c.priority == literal_column(str(int(priority))))
        .order_by(messages.c.pk)
        .limit(1)
        .correlate(waiting)
        .scalar_subquery()
        for priority in Priority
    ]
    return select(*(func.min(each).label(f"first_{n}") for n, each in enumerate(firsts))).select_from(waiting)


def count_unfinished(dialect: str, tenant_id: str, batch_code: str | None = None) -> Select[Any]:
    """Count a tenant's unfinished messages up to `MANY`, account by account: each has an account that exists."""
    owned = select(accounts.c.pk).where(accounts.c.tenant_id == tenant_id)
    some = select(messages.c.account_pk).where(
        selected(dialect, messages.c.account_pk, owned), messages.c.finished_ts.is_(None)
    )
    if batch_code is not None:
        some = some.where(messages.c.batch_code == batch_code)
    return select(func.count()).select_from(some.limit(MANY).subquery("some"))
