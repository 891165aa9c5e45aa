"""Submissions as they are shown: without what may be a hundred megabytes, which the database takes out itself."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Text, case
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from mail_proxy.store.schema import contents, messages

WIDE = 16 * 1024
"""Bytes of a submission from which it is worth the database's while to look into it."""


class _WithoutRaw(FunctionElement[str]):
    """A JSON text without its members `raw` and `inline`; the others keep their order and their spelling."""

    name = "without_raw"
    type: TypeEngine[str] = Text()
    inherit_cache: bool | None = True


@compiles(_WithoutRaw, "sqlite")
def _on_sqlite(element: _WithoutRaw, compiler: SQLCompiler, **kw: object) -> str:
    return f"json_remove({compiler.process(element.clauses, **kw)}, '$.raw', '$.inline')"


@compiles(_WithoutRaw, "postgresql")
def _on_postgresql(element: _WithoutRaw, compiler: SQLCompiler, **kw: object) -> str:
    # jsonb would spell numbers anew
    members = f"json_each(CAST({compiler.process(element.clauses, **kw)} AS json))"
    # No caller's text is in it: what is filled in is SQL that SQLAlchemy has written.
    return f"(SELECT json_object_agg(key, value) FROM {members} WHERE key NOT IN ('raw', 'inline'))::text"  # noqa: S608


def shown_fields() -> ColumnElement[str]:
    """The submission of a message's content as it is shown, as JSON text, for a select that has both tables."""
    return case((messages.c.size > WIDE, _WithoutRaw(contents.c.fields)), else_=contents.c.fields)
