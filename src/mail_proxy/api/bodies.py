"""Bodies, read strictly: bounded in size, time and depth; no duplicate keys, no NaN, no field that nobody knows."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from mail_proxy.administration.requests import Request as Administered
from mail_proxy.api.errors import BadEncoding, TooSlow
from mail_proxy.api.notes import notes_of
from mail_proxy.api.redaction import shown_body
from mail_proxy.api.validation import problems
from mail_proxy.domain.errors import Invalid, Problem, TooLarge
from mail_proxy.domain.reply import printable

ModelT = TypeVar("ModelT", bound=BaseModel)

PATIENCE = 30.0
"""Seconds without a byte of the body before it is given up."""
MAX_DEPTH = 32
MAX_DIGITS = 40
SMALL = 1_000_000
"""Bytes that a body may have that is no submission: it is parsed on the event loop."""
LISTS = 4_000_000
"""The same for a list of ids: twice what a thousand of the longest take."""
HEAVY = 200_000
"""Bytes from which a body is read on a thread of its own."""


async def read_body(request: Request, limit: int | None) -> bytes:
    """Return the body; raises `TooLarge` as soon as it is known to be, `TooSlow` and `BadEncoding`."""
    announced = request.headers.get("content-length", "")
    if limit is not None and announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadEncoding("A compressed body is not accepted.")
    chunks: list[bytes] = []
    size = 0
    while True:
        event = await _within(PATIENCE, request.receive)
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = event.get("body", b"")
        size += len(chunk)
        if limit is not None and size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not event.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _within(seconds: float, receive: Receive) -> Message:
    """Return the next event, or raise `TooSlow`. A cancel scope would do the same at 14 microseconds, this takes 2."""
    task = asyncio.current_task()
    expired = False

    def give_up() -> None:
        nonlocal expired
        expired = True
        if task is not None:
            task.cancel()

    alarm = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await receive()
    except asyncio.CancelledError:
        if not expired:
            raise  # somebody else ended the request
        if task is not None and sys.version_info >= (3, 11):
            task.uncancel()
        raise TooSlow(f"The body did not arrive: no byte for {seconds:g} s.") from None
    finally:
        alarm.cancel()


async def read_json(request: Request, limit: int | None) -> object:
    """Return the body's JSON value; raises `Invalid` for what is no JSON, and as `read_body` does."""
    body = await read_body(request, limit)
    return await asyncio.to_thread(parse_json, body) if len(body) > HEAVY else parse_json(body)


async def read_model(
    request: Request, model: type[ModelT], limit: int | None, *, optional: bool = False, most: int = SMALL
) -> ModelT:
    """Return the body as a model; raises `Invalid` naming each field that is wrong. `optional`: it may be empty."""
    body = await read_body(request, min(limit or most, most))
    given = validated(model, {} if optional and not body.strip() else parse_json(body))
    notes_of(request.scope).payload = shown_body(given)
    return given


async def read_small_json(request: Request, limit: int | None) -> dict[str, object]:
    """Return the body as an object whose fields are not looked at yet; raises `Invalid`, and as `read_body` does."""
    value = parse_json(await read_body(request, min(limit or SMALL, SMALL)))
    if not isinstance(value, dict):
        raise Invalid(Problem("body", "must be an object"))
    return value


async def refuse_body(request: Request, limit: int | None) -> None:
    """Raise `Invalid` for a body where none belongs; an empty object is as good as none."""
    body = (await read_body(request, min(limit or SMALL, SMALL))).strip()
    if body and parse_json(body) != {}:
        raise Invalid(Problem("body", "this request has no body"))


def parse_json(body: bytes) -> object:
    """Parse JSON (RFC 8259) from UTF-8, without what the standard library adds to it."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(Problem("body", f"is not UTF-8 at byte {error.start}")) from None
    try:
        value: object = _decoder.decode(text)
    except _Refused as refused:
        raise Invalid(Problem("body", str(refused))) from None
    except json.JSONDecodeError as error:
        raise Invalid(Problem("body", f"is not JSON at line {error.lineno} column {error.colno}")) from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise _too_deep()
    return value


def validated(model: type[ModelT], value: object) -> ModelT:
    """Return a value as a model; raises `Invalid`."""
    if not isinstance(value, dict):
        raise Invalid(Problem("body", "must be an object"))
    later = model.later if issubclass(model, Administered) else {}
    try:
        return model.model_validate({name: v for name, v in value.items() if v is not None or name not in later})
    except ValidationError as error:
        found = problems(error.errors(include_url=False, include_context=True, include_input=False))
        raise Invalid(*(Problem(p.field, later.get(p.field, p.problem)) for p in found)) from None


class _Refused(Exception):
    """JSON by the letter, but not what anybody can mean."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _Refused(f"has the key {printable(name, 80)!r} twice in one object")
    return value


def _constant(name: str) -> object:
    raise _Refused(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused("holds a number that is too long")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _Refused("holds a number that is too large")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _too_deep() -> Invalid:
    return Invalid(Problem("body", "is nested too deeply"))


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"A body has at most {limit} bytes here.")
