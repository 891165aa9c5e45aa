"""What commands make of options: fields of the API, checked one by one while somebody is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel


def given(**fields: object) -> dict[str, object]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def checker(model: type[BaseModel]) -> Callable[[str, object], str | None]:
    """Return what says what is wrong with a value of one of a request's fields, in the words of the API."""
    from pydantic import ValidationError  # noqa: PLC0415

    from mail_proxy.api.validation import problems  # noqa: PLC0415 - takes a while

    def check(field: str, value: object) -> str | None:
        try:
            model.__pydantic_validator__.validate_assignment(model.model_construct(), field, value)
        except ValidationError as error:
            return problems(error.errors())[0].problem
        return None

    return check


def number(text: str) -> object:
    """Read a whole number; raises `ValueError`."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def yes_or_no(text: str) -> object:
    """Read yes or no; raises `ValueError`."""
    words: Mapping[str, bool] = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
    try:
        return words[text.lower()]
    except KeyError:
        raise ValueError("must be yes or no") from None
