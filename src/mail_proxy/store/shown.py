"""Submissions without some of their members, which may be a hundred megabytes: the database takes them out itself."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Text, case
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

from mail_proxy.domain.attachment import INLINE
from mail_proxy.store.schema import contents, messages

WIDE = 16 * 1024
"""Bytes of a submission from which it is worth the database's while to look into it."""
_NUL, _FOR_NUL = r"\u0000", r"\ufdd0"
"""PostgreSQL reads no JSON in which there is a NUL: meanwhile it is written as what stands for no character at all."""


class Without(FunctionElement[str]):
    """A JSON text of an object without some of its members; the others keep their order and their spelling."""

    name = "without"
    type: TypeEngine[str] = Text()
    inherit_cache: bool | None = True
    _traverse_internals = [  # noqa: RUF012 - as SQLAlchemy declares it
        *FunctionElement._traverse_internals,  # noqa: SLF001 - what makes two of these the same statement
        ("names", InternalTraversal.dp_plain_obj),
    ]

    def __init__(self, text: ColumnElement[str], *names: str) -> None:
        super().__init__(text)
        self.names = names


@compiles(Without, "sqlite")
def _on_sqlite(element: Without, compiler: SQLCompiler, **kw: object) -> str:
    paths = ", ".join(f"'$.{name}'" for name in element.names)
    return f"json_remove({compiler.process(element.clauses, **kw)}, {paths})"


@compiles(Without, "postgresql")
def _on_postgresql(element: Without, compiler: SQLCompiler, **kw: object) -> str:
    text = compiler.process(element.clauses, **kw)
    # jsonb would spell numbers anew
    members = f"json_each(CAST(replace({text}, '{_NUL}', '{_FOR_NUL}') AS json))"
    names = ", ".join(f"'{name}'" for name in element.names)
    # No caller's text is in it: what is filled in is SQL that SQLAlchemy has written, and names of ours.
    kept = f"(SELECT json_object_agg(key, value) FROM {members} WHERE key NOT IN ({names}))::text"  # noqa: S608
    return f"(CASE WHEN strpos({text}, '{_NUL}') > 0 THEN replace({kept}, '{_FOR_NUL}', '{_NUL}') ELSE {kept} END)"


def shown_fields() -> ColumnElement[str]:
    """The submission of a message's content as it is shown, as JSON text, for a select that has both tables."""
    return case((messages.c.size > WIDE, Without(contents.c.fields, "raw", INLINE)), else_=contents.c.fields)
