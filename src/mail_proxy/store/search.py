"""Finding a page of a tenant's messages, newest first, at a cost that does not grow with what there is.

Lists that indexes keep in order of time are walked from a place on, and merged where more than one is needed: what a
tenant has lies in a list of what is not finished, and in one for each way to end. What no list is for is asked of each
message that a walk comes by, and after so many of them the search answers what it has found, and where to go on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    or_,
    select,
    text,
    true,
)
from sqlalchemy import literal_column as sql
from sqlalchemy.dialects.postgresql import JSON

from mail_proxy.domain.message import FINAL_STATES, WAITING_STATES, MessageState
from mail_proxy.domain.search import TextFilter, Texts, fits
from mail_proxy.ports.archive import MessageFilter, Place
from mail_proxy.store.keyset import LAST, backwards, each_value
from mail_proxy.store.rows import among, pack, packed, selected, unpack
from mail_proxy.store.schema import ANY_MESSAGE, accounts, contents, messages, recipients

READ_AT_MOST = 10_000
"""Rows of messages, and of recipients that are searched, after which a search answers."""
TEXT_AT_MOST = 8_000_000
"""Characters of submissions after which a search in them answers."""
_ROWS_AT_ONCE = 500
_TEXT_AT_ONCE = 1_000_000

TOP = Place(1e18, LAST)
"""Above every message."""
_BOTTOM = (-1e18, 0)

UNFINISHED = "unfinished"
"""The list of what is not finished; the others are called by the state in which a message ended."""
SENT = MessageState.SENT.value
ALL_LISTS = frozenset({UNFINISHED, *(state.value for state in FINAL_STATES)})
_WAITING = [state.value for state in sorted(WAITING_STATES)]
_IS_SENDING = messages.c.state == sql("'sending'")


class Candidate(NamedTuple):
    """A message that a walk came by. `suits`: as far as its row says it is wanted."""

    created_ts: float
    pk: int
    suits: int = 1
    size: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Messages that are wanted, newest first, and the place to go on below; None at the end."""

    pks: Sequence[int]
    below: Place | None


@dataclass(frozen=True, slots=True)
class Route:
    """Which lists are walked, each by its condition, and what is asked of each message besides."""

    lists: Sequence[ColumnElement[bool]]
    besides: Sequence[ColumnElement[bool]] = ()


def find(
    connection: Connection,
    dialect: str,
    tenant_id: str,
    wanted: MessageFilter,
    below: Place | None,
    *,
    limit: int,
    now: float,
) -> Found:
    """Find up to `limit` messages below a place. All that is read is seen at one moment."""
    route = _route(connection, dialect, tenant_id, wanted, now)
    if wanted.created_to is not None:
        below = min(below or TOP, Place(wanted.created_to, 0))
    reader = Reader(connection, _walks(dialect, route, wanted), below or TOP, limit + 1)
    candidates = reader.candidates()
    chosen: list[int] = []
    last: Place | None = None
    text_read, together = 0, limit + 1
    while group := list(_group(candidates, together)):
        together = _more(together)
        pks: Sequence[int] = [each.pk for each in group]
        if wanted.texts:
            text_read += sum(each.size for each in group)
            pks = _with_texts(reader, dialect, wanted.texts, pks)
        kept = frozenset(pks)
        for each in group:
            if len(chosen) == limit:
                return Found(chosen, last)
            last = Place(each.created_ts, each.pk)
            if each.pk in kept:
                chosen.append(each.pk)
        if text_read >= TEXT_AT_MOST:
            return Found(chosen, last)
    return Found(chosen, reader.below)


# -- which lists ---------------------------------------------------------------------------------------------------


def _route(connection: Connection, dialect: str, tenant_id: str, wanted: MessageFilter, now: float) -> Route:
    """Choose lists that hold all that is wanted, and say what they do not decide.

    What did not go well, what is being sent and what waits are short lists as a rule. What is left is what was sent:
    there a batch, or an account, is less than all.
    """
    of_tenant = and_(messages.c.tenant_id == tenant_id, text(f"messages.{ANY_MESSAGE}"))
    names = _lists(wanted)
    besides: dict[str, ColumnElement[bool]] = {}
    if wanted.priority is not None:
        besides["priority"] = messages.c.priority == wanted.priority
    if wanted.account_id is not None:
        besides["account"] = messages.c.account_id == wanted.account_id
    if wanted.batch_code is not None:
        besides["batch"] = messages.c.batch_code == wanted.batch_code
    if wanted.state == "waiting":
        besides["state"] = messages.c.state.in_(_WAITING)
    if wanted.status in {"pending", "deferred"}:
        besides["status"] = _is_put_off(dialect, tenant_id, now, wanted=wanted.status == "deferred")

    if not names:
        lists: list[ColumnElement[bool]] = []
    elif wanted.state == "sending":
        claiming = connection.execute(select(each_value(messages.c.instance_id, _IS_SENDING))).scalars().all()
        lists = [and_(_IS_SENDING, messages.c.instance_id == each, of_tenant) for each in claiming]
    elif SENT in names and "batch" in besides:
        lists = [and_(of_tenant, besides.pop("batch"), messages.c.batch_code.is_not(None))]
        besides |= _is_in(names)
    elif SENT in names and "account" in besides:
        lists = [and_(of_tenant, besides.pop("account"))]
        besides |= _is_in(names)
    else:
        lists = [_list(of_tenant, name) for name in sorted(names)]
    return Route(lists, tuple(besides.values()))


def _lists(wanted: MessageFilter) -> frozenset[str]:
    """Return the lists that what is wanted can be in, as far as its state says."""
    names = ALL_LISTS
    if wanted.active_only:
        names &= {UNFINISHED}
    if wanted.state is not None:
        names &= {UNFINISHED if wanted.state in {"waiting", "sending"} else wanted.state}
    if wanted.status == "error":
        names &= {MessageState.FAILED.value, MessageState.EXPIRED.value}
    elif wanted.status is not None:
        names &= {UNFINISHED if wanted.status in {"pending", "deferred"} else wanted.status}
    return names


def _list(of_tenant: ColumnElement[bool], name: str) -> ColumnElement[bool]:
    if name == UNFINISHED:
        return and_(of_tenant, messages.c.finished_ts.is_(None))
    return and_(of_tenant, messages.c.state == name, messages.c.finished_ts.is_not(None))


def _is_in(names: frozenset[str]) -> dict[str, ColumnElement[bool]]:
    return {} if names == ALL_LISTS else {"ending": messages.c.state.in_(sorted(names))}


def _is_put_off(dialect: str, tenant_id: str, now: float, *, wanted: bool) -> ColumnElement[bool]:
    # which accounts are limited is looked up once, not for each message
    held_up = select(accounts.c.pk).where(accounts.c.tenant_id == tenant_id, accounts.c.limited_until > now)
    limited = and_(messages.c.state == MessageState.READY.value, selected(dialect, messages.c.account_pk, held_up))
    later = and_(messages.c.state.in_(_WAITING), func.coalesce(or_(messages.c.due > now, limited), false()))
    return later if wanted else ~later


# -- walking them --------------------------------------------------------------------------------------------------


def _walks(dialect: str, route: Route, wanted: MessageFilter) -> Sequence[Sequence[Select[tuple[str]]]]:
    """For each list the statements that read it from a place on, one behind the other."""
    # what is in every list's index, which is then all that is read
    columns: list[ColumnElement[Any]] = [*_exactly(dialect, messages.c.created_ts), messages.c.pk]
    if route.besides or wanted.texts:
        suits = cast(and_(*route.besides), Integer) if route.besides else sql("1")
        columns += [suits.label("suits"), messages.c.size]
    since = true() if wanted.created_from is None else messages.c.created_ts >= wanted.created_from
    place = (bindparam("time", type_=Double), bindparam("number", type_=BigInteger))
    walks = backwards(dialect, (messages.c.created_ts, messages.c.pk), *place)
    return [
        [
            packed(
                dialect,
                select(*columns)
                .where(condition, walk.condition, since)
                .order_by(*walk.order)
                .limit(bindparam("limit", type_=Integer))
                .subquery("listed"),
            )
            for walk in walks
        ]
        for condition in route.lists
    ]


def _exactly(dialect: str, time: ColumnElement[float]) -> Sequence[ColumnElement[Any]]:
    """Two numbers whose sum is that time: SQLite writes fifteen digits into JSON, and a time may have more."""
    whole: ColumnElement[Any] = cast(time, Integer) if dialect == "sqlite" else time
    return whole.label("whole"), (time - whole).label("fraction")


@dataclass(slots=True)
class _Walked:
    """One list, read as far as `place`."""

    statements: Sequence[Select[tuple[str]]]
    place: Place
    at_once: int
    ended: bool = False
    read: deque[Candidate] = field(default_factory=deque)


class Reader:
    """Reads lists, a few rows at a time and then more, merged into one; never more than `READ_AT_MOST` rows in all."""

    def __init__(
        self, connection: Connection, walks: Sequence[Sequence[Select[tuple[str]]]], start: Place, at_once: int
    ) -> None:
        self.connection = connection
        self.below: Place | None = None
        """Set once as much as may be read has been: all candidates above have been given, those below have not."""
        # so that each list has been begun when half of it is spent, and what is found lies below where it began
        at_once = max(1, min(at_once, READ_AT_MOST // (2 * max(1, len(walks)))))
        self._walks = [_Walked(statements, start, at_once) for statements in walks]
        self._left = READ_AT_MOST

    def spend(self, rows: int) -> None:
        """Take note of rows that were read for the candidates."""
        self._left -= rows

    def candidates(self) -> Iterator[Candidate]:
        """Give what suits of the lists, newest first."""
        while self._walks:
            foremost = max(self._walks, key=_next)
            if not foremost.read:
                if foremost.ended:
                    return
                if not self._read_on(foremost):
                    self.below = foremost.place
                    return
                continue
            others = max((_next(walked) for walked in self._walks if walked is not foremost), default=_BOTTOM)
            while foremost.read and foremost.read[0][:2] > others:
                yield foremost.read.popleft()

    def _read_on(self, walked: _Walked) -> bool:
        """Read the next rows of a list; False when no more may be read."""
        asked = min(walked.at_once, self._left)
        if asked <= 0:
            return False
        walked.at_once = _more(walked.at_once)
        rows: list[list[Any]] = []
        for statement in walked.statements:
            wanted = {"time": walked.place.created_ts, "number": walked.place.pk, "limit": asked - len(rows)}
            if wanted["limit"]:
                rows += unpack(self.connection.execute(statement, wanted).scalar())
        if rows:
            whole, fraction, number, *_ = rows[-1]
            walked.place = Place(whole + fraction, number)
        candidates = (Candidate(whole + fraction, *rest) for whole, fraction, *rest in rows)
        walked.read += (each for each in candidates if each.suits)
        walked.ended = len(rows) < asked
        self._left -= len(rows)
        return True


def _next(walked: _Walked) -> tuple[float, int]:
    """Where the next candidate of a list is; where none was read yet, it is below this."""
    if walked.read:
        return walked.read[0][:2]
    return _BOTTOM if walked.ended else (walked.place.created_ts, walked.place.pk)


def _more(rows: int) -> int:
    """Return how many rows are read next where so many were not enough."""
    return max(rows, min(rows * 4, _ROWS_AT_ONCE))


def _group(candidates: Iterator[Candidate], most: int) -> Iterator[Candidate]:
    """Take up to so many candidates, fewer where they are big: their texts are in memory at once."""
    size = 0
    for each in islice(candidates, most):
        yield each
        size += each.size
        if size >= _TEXT_AT_ONCE:
            return


# -- looking into texts --------------------------------------------------------------------------------------------


def _with_texts(reader: Reader, dialect: str, wanted: TextFilter, pks: Sequence[int]) -> Sequence[int]:
    """Return those whose texts are wanted."""
    if not pks:
        return ()
    given = {"pks": pack(pks)}
    people: dict[int, list[str]] = {}
    if wanted.recipient is not None:
        rows = unpack(reader.connection.execute(_people(dialect), given).scalar())
        for pk, address in rows:
            people.setdefault(pk, []).append(address)
        reader.spend(len(rows))
    names = _submitted_names(wanted)
    if not names:
        return [pk for pk in pks if fits(wanted, Texts(people.get(pk, ())))]
    rows = unpack(reader.connection.execute(_submitted(dialect, names), given).scalar())
    kept = []
    for pk, *values in rows:
        texts = dict(zip(names, values, strict=True))
        metadata = _object(texts.get("metadata"))
        subject = texts.get("subject") or texts.get("raw_subject")
        if fits(wanted, Texts(people.get(pk, ()), texts.get("from"), subject, metadata)):
            kept.append(pk)
    return kept


_NUL = r"(?<!\\)((?:\\\\)*)\\u0000"
"""The escape for NUL, not what follows an escaped backslash."""


@cache
def _people(dialect: str) -> Select[tuple[str]]:
    of_them = select(recipients.c.message_pk, recipients.c.address).where(among(dialect, recipients.c.message_pk))
    return packed(dialect, of_them.subquery("people"))


def _submitted_names(wanted: TextFilter) -> tuple[str, ...]:
    by_subject = wanted.subject is not None
    asked = {
        "from": wanted.sender is not None,
        "metadata": wanted.metadata,
        "subject": by_subject,
        "raw_subject": by_subject,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


@cache
def _submitted(dialect: str, names: tuple[str, ...]) -> Select[tuple[str]]:
    fields: ColumnElement[Any] = contents.c.fields
    if dialect == "sqlite":
        values = [func.json_extract(fields, f"$.{name}").label(name) for name in names]
    else:
        # PostgreSQL reads no JSON in which there is a NUL
        without = func.regexp_replace(fields, _NUL, r"\1\\ufffd", "g")
        whole = cast(case((func.strpos(fields, "\\u0000") > 0, without), else_=fields), JSON)
        values = [whole.op("->>")(name).label(name) for name in names]
    of_them = select(contents.c.message_pk, *values).where(among(dialect, contents.c.message_pk))
    return packed(dialect, of_them.subquery("submitted"))


def _object(value: object) -> Mapping[str, object] | None:
    """Read an object that came as JSON within JSON, or as a part of it."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else None
