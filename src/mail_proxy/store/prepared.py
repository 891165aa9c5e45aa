"""Statements of the hot path: compiled once, and given to the driver as they are.

Around each execution SQLAlchemy makes a context and a result that know all about types and columns: three times the
work that the database has with a statement of ours, which takes texts and numbers and gives one text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import ClauseElement, Connection
from sqlalchemy.engine.interfaces import DBAPIModule
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler

from mail_proxy.store.rows import unpack

Made = TypeVar("Made")
Values = Mapping[str, object]
Arguments = dict[str, object] | tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Compiled:
    text: str
    constants: Values
    """The values that the statement has itself."""
    order: Sequence[str] | None
    """The names of its parameters in their order, where the driver takes them so."""

    def arguments(self, given: Values) -> Arguments:
        """Return the parameters as the driver takes them."""
        if self.order is None:
            return {**self.constants, **given}
        constants = self.constants
        return tuple([given[name] if name in given else constants[name] for name in self.order])


_MADE: dict[tuple[object, str], Any] = {}


def once(kind: Callable[[str], Made], dialect: str) -> Made:
    """Return the statements of a kind for a dialect, the same ones each time: they hold nothing of a store.

    Building all kinds takes longer than opening the database.
    """
    if (kind, dialect) not in _MADE:
        _MADE[kind, dialect] = kind(dialect)
    made: Made = _MADE[kind, dialect]
    return made


class Prepared:
    """A statement whose parameters are texts, numbers, booleans and None, and whose results are those or JSON texts.

    Its errors are those of SQLAlchemy.
    """

    __slots__ = ("_compiled", "statement")

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, parameters: Values) -> None:
        """Execute it."""
        self._execute(connection, parameters)

    def value(self, connection: Connection, parameters: Values) -> object:
        """Return the first value of its first row, or None."""
        row = self._execute(connection, parameters).fetchone()
        return None if row is None else row[0]

    def rows(self, connection: Connection, parameters: Values) -> list[list[Any]]:
        """Return the rows in the one text of a `packed` select."""
        return unpack(self.value(connection, parameters))

    def _execute(self, connection: Connection, parameters: Values) -> _Cursor:
        dialect = connection.dialect.name
        compiled = self._compiled.get(dialect)
        if compiled is None:
            compiled = self._compiled[dialect] = _compile(self.statement, connection)
        arguments = compiled.arguments(parameters)
        if not connection.in_transaction():  # as SQLAlchemy does before the first statement
            connection.begin()
        return _execute(connection, compiled.text, arguments)


def begin(connection: Connection, text: str) -> None:
    """Begin a transaction by this statement; for the event that says that one is to begin."""
    _execute(connection, text, ())


def _execute(connection: Connection, text: str, arguments: Arguments) -> _Cursor:
    if connection.dispatch.before_cursor_execute:  # somebody wants to see what is executed
        return connection.exec_driver_sql(text, arguments)
    driver = cast("_Driver", connection.connection.driver_connection)
    try:
        return driver.execute(text, arguments)
    except connection.dialect.loaded_dbapi.Error as error:
        raise _as_sqlalchemy_tells(error, text, connection) from error


class _Cursor(Protocol):
    def fetchone(self) -> Sequence[Any] | None: ...


class _Driver(Protocol):
    """A connection of sqlite3 or psycopg."""

    def execute(self, text: str, arguments: Arguments, /) -> _Cursor: ...


def _compile(statement: ClauseElement, connection: Connection) -> _Compiled:
    compiled = statement.compile(dialect=connection.dialect)
    if not isinstance(compiled, SQLCompiler) or compiled.post_compile_params:
        raise TypeError(f"not all of it is known before it is executed (use `one_of`, not `in_`): {statement}")
    wanted = {name for name, parameter in compiled.binds.items() if parameter.required}
    values = compiled.construct_params(dict.fromkeys(wanted))
    constants = {name: value for name, value in values.items() if name not in wanted}
    return _Compiled(compiled.string, constants, compiled.positiontup)


def _as_sqlalchemy_tells(error: Exception, text: str, connection: Connection) -> BaseException:
    """Wrap a driver's error as `Connection.execute` does; a connection that is lost is not used again."""
    lost = connection.dialect.is_disconnect(
        cast("DBAPIModule.Error", error), connection.connection.driver_connection, None
    )
    if lost:
        with suppress(DBAPIError):  # so that SQLAlchemy lets go of all connections of that time
            connection.exec_driver_sql("SELECT 1")
        connection.invalidate(error)
    base: type[Exception] = connection.dialect.loaded_dbapi.Error
    return DBAPIError.instance(
        text, None, error, base, hide_parameters=True, connection_invalidated=lost, dialect=connection.dialect
    )
