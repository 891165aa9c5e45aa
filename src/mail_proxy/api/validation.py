"""What pydantic finds wrong, in plain words. Values are never repeated: they may be secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mail_proxy.domain.errors import Problem
from mail_proxy.domain.reply import printable

MAX_PROBLEMS = 20


def problems(errors: Sequence[Mapping[str, Any]], skip: int = 0) -> tuple[Problem, ...]:
    """Name each field that is wrong once, and what it should be.

    `errors` are pydantic's own; `skip` parts of each place are left out, such as FastAPI's `query`.
    """
    found: dict[str, Problem] = {}
    for error in errors:
        parts = [str(part) for part in error["loc"][skip:]]
        # parts that are no names are alternatives of a union
        field = printable(".".join(part for part in parts if part in parts[:1] or part.isidentifier()), 80) or "body"
        found.setdefault(field, Problem(field, _plain(error, field)))
    return tuple(found.values())[:MAX_PROBLEMS]


_PLAIN = {
    "missing": "is required",
    "extra_forbidden": "is not known here",
    "string_type": "must be a text",
    "string_unicode": "must not contain half of a surrogate pair",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number, neither infinite nor NaN",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def _plain(error: Mapping[str, Any], field: str) -> str:
    if field.endswith("priority"):
        return "must be 0 to 3, or immediate, high, medium, low"
    facts = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(facts["error"])
        case "string_too_long":
            return f"must have at most {facts['max_length']} characters"
        case "string_too_short":
            return f"must have at least {facts['min_length']} character(s)"
        case "greater_than_equal":
            return f"must be at least {facts['ge']:g}"
        case "less_than_equal":
            return f"must be at most {facts['le']:g}"
        case "literal_error":
            return f"must be {facts['expected']}".replace("'", "")
        case kind:
            return _PLAIN.get(kind, "is not valid")
