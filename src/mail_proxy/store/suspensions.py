"""What of each tenant is held: read, and changed by what is different only.

The messages themselves are not touched: a claim sets those of a suspended batch aside when it meets them, and `Unhold`
puts them back while the suspension is `ending`. So holding and freeing cost the same for one message and for a million.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, exists, literal, not_, select, true, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mail_proxy.domain.tenant import Suspension
from mail_proxy.store.operation import Transaction
from mail_proxy.store.schema import POISON_BATCH, suspended_batches, tenants


def suspended_batches_of(connection: Connection, tenant_ids: Sequence[str]) -> Mapping[str, frozenset[str]]:
    """Return the batches that are held, for each tenant that has some."""
    held: dict[str, frozenset[str]] = {}
    statement = select(suspended_batches.c.tenant_id, suspended_batches.c.batch_code).where(
        not_(suspended_batches.c.ending), suspended_batches.c.tenant_id.in_(tenant_ids)
    )
    for tenant_id, batch_code in connection.execute(statement) if tenant_ids else ():
        held[tenant_id] = held.get(tenant_id, frozenset()) | {batch_code}
    return held


def read_suspension(connection: Connection, tenant_id: str) -> Suspension | None:
    """Return what of a tenant is held, None if it is unknown."""
    whole = connection.execute(select(tenants.c.suspended).where(tenants.c.id == tenant_id)).scalar()
    if whole is None:
        return None
    return Suspension(whole, suspended_batches_of(connection, [tenant_id]).get(tenant_id, frozenset()))


def write_suspension(transaction: Transaction, tenant_id: str, before: Suspension, after: Suspension) -> None:
    """Write down what is held from now on; what is freed is `ending` until its messages are back in the queue."""
    connection = transaction.connection
    if after.whole_tenant != before.whole_tenant:
        connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(suspended=after.whole_tenant))
    freed = sorted(before.batches - after.batches)
    if freed:
        connection.execute(
            update(suspended_batches)
            .where(suspended_batches.c.tenant_id == tenant_id, suspended_batches.c.batch_code.in_(freed))
            .values(ending=True)
        )
    upsert = postgresql_insert if transaction.dialect == "postgresql" else sqlite_insert
    rows = [
        {"tenant_id": tenant_id, "batch_code": batch, "ending": False}
        for batch in sorted(after.batches - before.batches)
    ]
    if rows:
        again = upsert(suspended_batches).on_conflict_do_update(
            index_elements=["tenant_id", "batch_code"], set_={"ending": False}
        )
        connection.execute(again, rows)


def free_poison(transaction: Transaction, tenant_id: str) -> None:
    """Have `Unhold` put back what is held of a tenant as poison."""  # G13
    upsert = postgresql_insert if transaction.dialect == "postgresql" else sqlite_insert
    known = exists().where(tenants.c.id == tenant_id)
    row = select(literal(tenant_id), literal(POISON_BATCH), true()).where(known)
    transaction.connection.execute(
        upsert(suspended_batches)
        .from_select(["tenant_id", "batch_code", "ending"], row)
        .on_conflict_do_nothing(index_elements=["tenant_id", "batch_code"])
    )
