"""Walking an index step by step, so that what is passed over costs nothing.

A tenant's rows are walked in the order of their numbers, from any place on. PostgreSQL would rather walk the primary
key and pass over the rows of others, where it guesses that there are few. Asked for an order by tenant and number, and
not told that the tenant is always the same, it has only the index on both. SQLite goes by that index anyway, but starts
at the right place only when it is told.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Subquery, literal, select, tuple_

LAST = 2**63 - 1
"""Above every number that a database gives."""


class Walk(NamedTuple):
    """A condition and an order, for the same statement."""

    condition: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...]


def upwards(
    dialect: str,
    columns: tuple[ColumnElement[str], ColumnElement[int]],
    tenant_id: ColumnElement[str],
    after: ColumnElement[int],
) -> Walk:
    """Walk the rows of a tenant whose number is above `after`, lowest first. `columns` are tenant and number."""
    tenant, number = columns
    if dialect == "sqlite":
        return Walk((tenant == tenant_id) & (number > after), (number,))
    return Walk((tuple_(tenant, number) > tuple_(tenant_id, after)) & (tenant <= tenant_id), (tenant, number))


def downwards(
    dialect: str,
    columns: tuple[ColumnElement[str], ColumnElement[int]],
    tenant_id: ColumnElement[str],
) -> Walk:
    """Walk all rows of a tenant, highest number first. `columns` are tenant and number."""
    tenant, number = columns
    if dialect == "sqlite":
        return Walk(tenant == tenant_id, (number.desc(),))
    top = tuple_(tenant_id, literal(LAST, BigInteger))
    return Walk((tuple_(tenant, number) <= top) & (tenant >= tenant_id), (tenant.desc(), number.desc()))


def backwards(
    dialect: str,
    columns: tuple[ColumnElement[float], ColumnElement[int]],
    time: ColumnElement[float],
    number: ColumnElement[int],
) -> tuple[Walk, ...]:
    """Walk the rows before a time and number, newest first; of one list, which an index keeps in this order.

    On SQLite in two walks, one behind the other: rows of that very time, and older ones. It does not look for both in
    an index at once.
    """
    times, numbers = columns
    order = (times.desc(), numbers.desc())
    if dialect == "sqlite":
        return Walk((times == time) & (numbers < number), order), Walk(times < time, order)
    return (Walk(tuple_(times, numbers) < tuple_(time, number), order),)


def each_value(column: ColumnElement[Any], condition: ColumnElement[bool]) -> Subquery:
    """A table of the values that a column has under a condition, each once: one step in its index for each of them."""
    first = select(column).where(condition, column.is_not(None)).order_by(column).limit(1)
    walk = select(first.scalar_subquery().label("value")).cte("walk", recursive=True)
    following = first.where(column > walk.c.value).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.value.is_not(None)))
    return select(walk.c.value).where(walk.c.value.is_not(None)).subquery("walked")
