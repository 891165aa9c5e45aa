"""What rate limits have let through: reserved by claims, counted by settlements, shared by all instances.

A reservation is the mark `reserved` on a message that is being sent; the settlement takes it away and writes down how
many transactions were made of it, in the same transaction. So nothing can be reserved without being in somebody's
hands, whoever crashes.
"""  # G10

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    Text,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mail_proxy.domain.rate_limit import (
    LimitBehavior,
    Limits,
    Room,
    Used,
    Windows,
    counts_until,
    room,
    tightest,
)
from mail_proxy.store.prepared import Prepared
from mail_proxy.store.rows import among, pack, packed, unpack, unpacked
from mail_proxy.store.schema import accounts, messages, tenants, usage


def steady_time() -> Callable[[], float]:
    """Return a clock that starts at the wall clock's time and never jumps."""  # G14
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


@dataclass(frozen=True, slots=True)
class UsageSettings:
    """How long windows last, and the clock that SQLite's are counted by; PostgreSQL's own clock counts there."""

    windows: Windows = field(default_factory=Windows)
    now: Callable[[], float] = field(default_factory=steady_time)


@dataclass(frozen=True, slots=True)
class LimitedAccount:
    """An account that a limit holds for: its own, its tenant's, or both."""

    pk: int
    tenant_id: str
    own: Limits
    of_tenant: Limits
    behavior: LimitBehavior
    limited_until: float | None


@dataclass(slots=True)
class Reservations:
    """The limited accounts that a claim asks for, locked, and what they and their tenants have used."""

    now: float
    windows: Windows
    accounts: Mapping[int, LimitedAccount]
    in_flight: Counter[str] = field(default_factory=Counter)
    used: dict[str, list[Used]] = field(default_factory=dict)

    def used_up(self, account: LimitedAccount) -> bool:
        """True when a window is full of what was settled; what is in flight may still come to nothing."""
        return self.room(account, in_flight=False)[0].free <= 0

    def room(self, account: LimitedAccount, *, in_flight: bool = True) -> tuple[Room, str]:
        """Return how many transactions may begin now, and the words for the limit that says no."""
        return tightest(
            (
                f"{whose}{limit.most} per {limit.name}",
                room(
                    limit,
                    self.in_flight[scope] if in_flight else 0,
                    self.used.get(f"{scope}/{limit.name}", ()),
                    self.now,
                ),
            )
            for scope, whose, limits in self._scopes(account)
            for limit in limits.by_window(self.windows)
        )

    def reserve(self, account: LimitedAccount, transactions: int) -> None:
        """Take note of what this claim takes."""
        for scope, _, _ in self._scopes(account):
            self.in_flight[scope] += transactions

    def _scopes(self, account: LimitedAccount) -> Sequence[tuple[str, str, Limits]]:
        return (
            (account_scope(account.pk), "", account.own),
            (tenant_scope(account.tenant_id), "the tenant's ", account.of_tenant),
        )


def account_scope(pk: int) -> str:
    """Name what an account uses."""
    return f"account/{pk}"


def tenant_scope(tenant_id: str) -> str:
    """Name what a tenant uses over all its accounts."""
    return f"tenant/{tenant_id}"


def forget_usage(connection: Connection, *scopes: str) -> None:
    """Remove what accounts and tenants have used that are no more."""
    if scopes:
        names = [f"{scope}/{name}" for scope in scopes for name in ("minute", "hour", "day")]
        connection.execute(delete(usage).where(usage.c.scope.in_(names)))


class Usage:
    """Reads and writes what limits count, inside the transactions of claims and settlements."""

    def __init__(self, dialect: str, settings: UsageSettings) -> None:
        self._dialect = dialect
        self._settings = settings
        windows = settings.windows
        self._lengths = {"minute": windows.minute, "hour": windows.hour, "day": windows.day}
        # looked up for each account; PostgreSQL might keep a whole table in memory for a join
        tenant_per_hour, tenant_per_day = (
            select(column).where(tenants.c.id == accounts.c.tenant_id).correlate(accounts).scalar_subquery()
            for column in (tenants.c.limit_per_hour, tenants.c.limit_per_day)
        )
        limited = (
            select(
                accounts.c.pk,
                accounts.c.tenant_id,
                accounts.c.limit_per_minute,
                accounts.c.limit_per_hour,
                accounts.c.limit_per_day,
                tenant_per_hour.label("tenant_per_hour"),
                tenant_per_day.label("tenant_per_day"),
                accounts.c.limit_behavior,
                accounts.c.limited_until,
            )
            .where(among(dialect, accounts.c.pk))
            .where(
                or_(
                    accounts.c.limit_per_minute.is_not(None),
                    accounts.c.limit_per_hour.is_not(None),
                    accounts.c.limit_per_day.is_not(None),
                    tenant_per_hour.is_not(None),
                    tenant_per_day.is_not(None),
                )
            )
        )
        self.limited = Prepared(packed(dialect, limited.subquery("limited")))
        self.database_time = select(func.extract("epoch", func.clock_timestamp()).cast(Double))
        self.lock = (
            # one at a time and in order, so that claims for several accounts cannot wait for each other
            select(accounts.c.pk)
            .where(accounts.c.pk == bindparam("account", type_=BigInteger))
            .with_for_update(key_share=True)
        )
        self.lock_tenant = (
            select(tenants.c.id).where(tenants.c.id == bindparam("tenant", type_=Text)).with_for_update(key_share=True)
        )
        reserved = select(messages.c.tenant_id, messages.c.account_pk).where(
            text("reserved"), among(dialect, messages.c.tenant_id, "tenants")
        )
        self.reserved = packed(dialect, reserved.subquery("in_flight"))
        counted = select(usage.c.scope, usage.c.until, usage.c.used).where(among(dialect, usage.c.scope, "scopes"))
        self.counted = packed(dialect, counted.subquery("counted"))
        into = postgresql_insert if dialect == "postgresql" else sqlite_insert
        new = unpacked(dialect, {"scope": Text(), "until": Double(), "used": Integer()})
        adding = into(usage).from_select(["scope", "until", "used"], select(*new.c).where(true()))
        self.add = adding.on_conflict_do_update(
            index_elements=["scope", "until"], set_={"used": usage.c.used + adding.excluded.used}
        )
        self.forget = delete(usage).where(
            among(dialect, usage.c.scope, "scopes"), usage.c.until <= bindparam("now", type_=Double)
        )
        self.take_back = (
            delete(usage)
            .where(among(dialect, usage.c.scope, "scopes"), usage.c.until > bindparam("latest", type_=Double))
            .returning(usage.c.scope, usage.c.used)
        )
        self.tell_account = (
            update(accounts)
            .where(accounts.c.pk == bindparam("account", type_=BigInteger))
            .values(
                limited_until=bindparam("until", type_=Double),
                limited_reason=bindparam("reason", type_=Text),
            )
        )

    def hold(self, connection: Connection, account_pks: Iterable[int]) -> Reservations | None:
        """Return what the limited ones among these accounts have used, and keep others from claiming for them.

        None where none of them is limited, which costs one statement.
        """
        found = self.limited.rows(connection, {"pks": pack(sorted(set(account_pks)))})
        if not found:
            return None
        limited = {row[0]: _limited_account(row) for row in found}
        if self._dialect == "postgresql":
            for tenant_id in sorted({each.tenant_id for each in limited.values() if each.of_tenant.any}):
                connection.execute(self.lock_tenant, {"tenant": tenant_id})
            for pk in sorted(limited):
                connection.execute(self.lock, {"account": pk})
        return self._read(connection, limited)

    def _read(self, connection: Connection, limited: Mapping[int, LimitedAccount]) -> Reservations:
        """Read what is in flight before what was settled: what is settled meanwhile counts twice, never not at all."""
        held = Reservations(self._now(connection), self._settings.windows, limited)
        of = sorted({each.tenant_id for each in limited.values()})
        for tenant_id, account_pk in unpack(connection.execute(self.reserved, {"tenants": pack(of)}).scalar()):
            held.in_flight[tenant_scope(tenant_id)] += 1
            held.in_flight[account_scope(account_pk)] += 1
        scopes = [f"{account_scope(pk)}/{name}" for pk in limited for name in ("minute", "hour", "day")]
        scopes += [f"{tenant_scope(tenant_id)}/{name}" for tenant_id in of for name in ("hour", "day")]
        counted = unpack(connection.execute(self.counted, {"scopes": pack(scopes)}).scalar())
        for scope, until, used in self._put_right(connection, counted, held.now):
            held.used.setdefault(scope, []).append(Used(until, used))
        return held

    def _put_right(self, connection: Connection, counted: list[list[Any]], now: float) -> list[list[Any]]:
        """Let records from before the clock was set back count for a window from now, not until it has caught up.

        Others may count meanwhile: what they have settled since `now` is no such record, and what is moved is what is
        taken away in the same statement.
        """
        if not self._ahead(counted, now):
            return counted
        now = self._now(connection)
        ahead = self._ahead(counted, now)
        if not ahead:  # G14
            return counted
        right = [[scope, until, used] for scope, until, used in counted if (scope, until) not in ahead]
        moved: Counter[tuple[str, float]] = Counter()
        for name, seconds in self._lengths.items():
            latest = counts_until(now, seconds)
            scopes = pack(sorted({scope for scope, _ in ahead if _window_of(scope) == name}))
            for scope, used in connection.execute(self.take_back, {"scopes": scopes, "latest": latest}):
                moved[scope, latest] += used
        connection.execute(self.add, {"rows": pack(sorted((*place, used) for place, used in moved.items()))})
        return right + [[*place, used] for place, used in moved.items()]

    def _ahead(self, counted: list[list[Any]], now: float) -> set[tuple[str, float]]:
        """Return the records that count for longer than one of now would."""
        latest = {name: counts_until(now, seconds) for name, seconds in self._lengths.items()}
        return {(scope, until) for scope, until, _ in counted if until > latest[_window_of(scope)]}

    def say(self, connection: Connection, account: LimitedAccount, until: float, reason: str) -> None:
        """Write on the account until when its limit holds, so that its messages need not be rewritten."""
        if account.limited_until is None or abs(account.limited_until - until) > 0.001:
            connection.execute(self.tell_account, {"account": account.pk, "until": until, "reason": reason})

    def spend(self, connection: Connection, transactions: Mapping[tuple[str, int], int]) -> None:
        """Count transactions that were settled, by (tenant, account)."""
        if not transactions:
            return
        now = self._now(connection)
        spent: Counter[tuple[str, float]] = Counter()
        for (tenant_id, account_pk), times in transactions.items():
            for name, seconds in self._lengths.items():
                spent[f"{account_scope(account_pk)}/{name}", counts_until(now, seconds)] += times
                if name != "minute":
                    spent[f"{tenant_scope(tenant_id)}/{name}", counts_until(now, seconds)] += times
        rows = sorted((scope, until, times) for (scope, until), times in spent.items() if times)
        scopes = pack(sorted({scope for scope, _ in spent}))
        # In order, like every other one who writes here, so that two of them cannot wait for each other.
        if rows:
            connection.execute(self.add, {"rows": pack(rows)})
        connection.execute(self.forget, {"scopes": scopes, "now": now})

    def _now(self, connection: Connection) -> float:
        if self._dialect == "sqlite":
            return self._settings.now()
        now: float = connection.execute(self.database_time).scalar_one()
        return now


def _window_of(scope: str) -> str:
    return scope.rpartition("/")[2]


def _limited_account(row: Sequence[Any]) -> LimitedAccount:
    pk, tenant_id, per_minute, per_hour, per_day, tenant_per_hour, tenant_per_day, behavior, limited_until = row
    return LimitedAccount(
        pk=pk,
        tenant_id=tenant_id,
        own=Limits(per_minute, per_hour, per_day),
        of_tenant=Limits(None, tenant_per_hour, tenant_per_day),
        behavior=LimitBehavior(behavior),
        limited_until=limited_until,
    )
