"""How many connections there may be, and which of them make place for a new one. No socket is touched here."""  # G11

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import structlog

IDLE_LONG = 5.0
"""Seconds after which an idle connection may have to make place for a new one."""
HEAD_SHORT = 1.0
"""Seconds that a request's headers take at the most where nobody dawdles: who takes longer makes place first."""
RESERVED = 64
"""Connections beyond the limit that are there for `OPEN_PATHS`. Of those that say nothing the oldest gives way."""
MOST_BEYOND = 2 * RESERVED
"""Connections beyond the limit with those that are only left to read their refusal; what comes then is cut off."""

log = structlog.get_logger(__name__)


class Connection(Protocol):
    """A connection, as far as its place is concerned."""

    address: str
    """The network of its other end, which one client has for itself."""

    def __hash__(self) -> int:
        """Each is itself alone."""
        ...

    def unsent(self) -> int:
        """Bytes of answers that the other end has not made room for yet."""
        ...

    def give_way(self) -> None:
        """Close one beyond the limit that has not asked for anything."""
        ...

    def make_place(self) -> None:
        """Close, and leave the count at once."""
        ...


class Crowd:
    """Connections that wait for the same thing. The longest waiting of the address that has the most goes first.

    Every step costs the same, however many there are.
    """

    def __init__(self) -> None:
        self.most = 0
        """How many the address has that has the most."""
        self._since: dict[Connection, float] = {}
        self._of: dict[str, dict[Connection, None]] = {}
        self._by_number: dict[int, dict[str, None]] = {}
        """The addresses that have so many."""

    def add(self, connection: Connection, now: float) -> None:
        """Have a connection wait from now on, unless it does already."""
        if connection not in self._since:
            self._since[connection] = now
            self._count(connection.address, +1, connection)

    def discard(self, connection: Connection) -> None:
        """Have a connection wait no longer, if it does."""
        if self._since.pop(connection, None) is not None:
            self._count(connection.address, -1, connection)

    def first(self, now: float) -> tuple[Connection | None, float]:
        """Return the one that goes first, and for how long it has waited."""
        if not self.most:
            return None, 0.0
        connection = next(iter(self._of[next(iter(self._by_number[self.most]))]))
        return connection, now - self._since[connection]

    def _count(self, address: str, step: int, connection: Connection) -> None:
        of = self._of.setdefault(address, {})
        before = len(of)
        if step > 0:
            of[connection] = None
        else:
            del of[connection]
        if before:
            same = self._by_number[before]
            del same[address]
            if not same:
                del self._by_number[before]
        if of:
            self._by_number.setdefault(len(of), {})[address] = None
        else:
            del self._of[address]
        if len(of) > self.most or self.most not in self._by_number:
            self.most = len(of)


@dataclass(slots=True)
class Places:
    """The connections of one server: how many there may be, and which of them make place for a new one, in what order.

    One whose request came whole and is being answered never does.
    """

    limit: int
    taken: int = 0
    idle: dict[Connection, float] = field(default_factory=dict)
    """Those that have been answered, the longest first; since when, by the loop's clock."""
    heads: Crowd = field(default_factory=Crowd)
    """Those that have no request in progress and are not idle: its headers do not come, or it has been refused."""
    bodies: Crowd = field(default_factory=Crowd)
    """Those whose request's body is still to come."""
    unread: dict[Connection, float] = field(default_factory=dict)
    """Those that have been answered, with a part of the answer still to be taken; since when."""
    silent: dict[Connection, None] = field(default_factory=dict)
    """Those beyond the limit that have not asked for anything, the oldest first."""
    crowded: bool = False

    def take(self, connection: Connection, now: float) -> bool:
        """Count a new connection; True if it is one beyond the limit."""
        self.taken += 1
        if self.taken <= self.limit or self.make_one(now):
            return False
        self.tell(crowded=True)
        if len(self.silent) >= RESERVED:
            next(iter(self.silent)).give_way()
        self.silent[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self.taken -= 1
        self.be_busy(connection)
        self.silent.pop(connection, None)
        if self.crowded and self.taken < self.limit * 9 // 10:
            self.tell(crowded=False)

    def be_busy(self, connection: Connection) -> None:
        """Have a connection make no place."""
        self.idle.pop(connection, None)
        self.unread.pop(connection, None)
        self.heads.discard(connection)
        self.bodies.discard(connection)

    def make_one(self, now: float) -> bool:
        """Close a connection that can make place; True if there was one."""
        idle = self._idle_long(now)
        chosen = idle or self._waiting(now) or self._unread_long(now)
        if chosen is None:
            return False
        if chosen is not idle:
            self.tell(crowded=True)
        chosen.make_place()
        return True

    def _idle_long(self, now: float) -> Connection | None:
        while self.idle:
            connection, since = next(iter(self.idle.items()))
            if now - since < IDLE_LONG:
                break
            if not connection.unsent():
                return connection
            del self.idle[connection]
            self.unread[connection] = since
        return None

    def _unread_long(self, now: float) -> Connection | None:
        connection, since = next(iter(self.unread.items()), (None, now))
        return connection if now - since >= IDLE_LONG else None

    def _waiting(self, now: float) -> Connection | None:
        head, waited = self.heads.first(now)
        body, _ = self.bodies.first(now)
        # Who has only just come is not cut off before it can ask, as long as it is not one of very many.
        if body is not None and waited < HEAD_SHORT and self.heads.most <= self.bodies.most:
            return body
        return head or body

    def tell(self, *, crowded: bool) -> None:
        """Log when the limit is reached, and when there is room again."""
        if crowded is not self.crowded:
            self.crowded = crowded
            if crowded:
                log.warning("connections are refused", limit=self.limit)
            else:
                log.info("connections are taken again", limit=self.limit)
