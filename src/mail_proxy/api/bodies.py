"""Bodies, read strictly: bounded in size, time and depth; no duplicate keys, no NaN, no field that nobody knows."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from mail_proxy.api.body_memory import BIG_FROM, Room
from mail_proxy.api.errors import BadEncoding, TooSlow
from mail_proxy.api.notes import notes_of
from mail_proxy.api.redaction import shown_body
from mail_proxy.api.services import Services, services_of
from mail_proxy.api.validation import MAX_PROBLEMS, problems
from mail_proxy.domain.errors import Invalid, Problem, TooLarge
from mail_proxy.domain.reply import printable

ModelT = TypeVar("ModelT", bound=BaseModel)

PATIENCE = 30.0
"""Seconds without a byte of the body before it is given up."""
GRACE = 60.0
"""Seconds that a body may take in any case."""
SLOWEST = 16_000
"""Bytes a second that have to come beyond that."""
MAX_DEPTH = 32
MAX_DIGITS = 40
MAX_VALUES = 200_000
"""Values (texts, numbers, lists, objects) of a body that is no submission."""
SMALL = 1_000_000
"""Bytes that a body may have that is no submission: it is parsed on the event loop."""
LISTS = 4_000_000
"""The same for a list of ids: twice what a thousand of the longest take."""
LESS = 100
"""How many times fewer values other bodies have than a submission: enough for as many ids as it may have messages."""
HEAVY = 200_000
"""Bytes from which a body is read on a thread of its own."""
PIECE = 1_000_000
"""Characters that are looked at before other threads get a turn; an even number, so that no piece is half an escape."""


async def read_body(request: Request, limit: int | None, room: Room) -> bytes | bytearray:
    """Return the body; raises `TooLarge` as soon as it is known to be, `TooSlow`, `TooBusy` and `BadEncoding`."""
    length = _announced(request, limit)
    if length > room.size:
        await room.grow(length)
    now = asyncio.get_running_loop().time
    begun = now()
    body: bytes | bytearray = b""
    while True:
        left = begun + GRACE + len(body) / SLOWEST - now()
        event = await _within(min(PATIENCE, left), request.receive)
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = event.get("body", b"")
        size = len(body) + len(chunk)
        if limit is not None and size > limit:
            raise _too_large(limit)
        if size > room.size:
            await room.grow_without_end(limit)
        if not body:
            body = chunk
        elif chunk:
            if isinstance(body, bytes):
                body = bytearray(body)  # a list of small chunks could take many times their bytes
            body += chunk
        if not event.get("more_body", False):
            return body


def _announced(request: Request, limit: int | None) -> int:
    """Return how long the body is said to be, 0 where that is not said."""
    announced = request.headers.get("content-length", "")
    length = int(announced[:20]) if announced.isdigit() else 0
    if limit is not None and length > limit:
        raise _too_large(limit)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise BadEncoding("A compressed body is not accepted.")
    return length


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
        raise TooSlow(
            f"The body did not arrive in time: no byte for {PATIENCE:g} s, or less than {SLOWEST:g} bytes a second."
        ) from None
    finally:
        alarm.cancel()


async def read_json(request: Request, services: Services, room: Room) -> object:
    """Return a submission's JSON value; raises `Invalid` for what is no JSON, and as `read_body` does.

    `room` has to be kept for as long as the value is.
    """
    settings = services.settings
    body = await read_body(request, settings.max_request_bytes, room)
    if len(body) <= HEAVY:
        return parse_json(body, settings.max_values)
    if len(body) <= BIG_FROM:
        return await asyncio.to_thread(parse_json, body, settings.max_values)
    async with services.body_memory.parsing:
        return await asyncio.to_thread(parse_json, body, settings.max_values)


async def read_model(
    request: Request, model: type[ModelT], limit: int | None, *, optional: bool = False, most: int = SMALL
) -> ModelT:
    """Return the body as a model; raises `Invalid` naming each field that is wrong. `optional`: it may be empty."""
    body = await _read_small(request, limit, most)
    values = services_of(request).settings.max_values // LESS
    given = validated(model, {} if optional and not body.strip() else parse_json(body, values))
    notes_of(request.scope).payload = shown_body(given)
    return given


async def read_small_json(request: Request, limit: int | None) -> dict[str, object]:
    """Return the body as an object whose fields are not looked at yet; raises `Invalid`, and as `read_body` does."""
    value = parse_json(await _read_small(request, limit), services_of(request).settings.max_values // LESS)
    if not isinstance(value, dict):
        raise Invalid(Problem("body", "must be an object"))
    return value


async def refuse_body(request: Request, limit: int | None) -> None:
    """Raise `Invalid` for a body where none belongs; an empty object is as good as none."""
    body = (await _read_small(request, limit)).strip()
    if body and parse_json(body) != {}:
        raise Invalid(Problem("body", "this request has no body"))


async def _read_small(request: Request, limit: int | None, most: int = SMALL) -> bytes | bytearray:
    """Return a body that is no submission. It has room while it comes; what becomes of it is done at once."""
    notes = notes_of(request.scope)
    with services_of(request).body_memory.room(None if notes.by_admin else notes.tenant_id) as room:
        return await read_body(request, min(limit or most, most), room)


def parse_json(body: bytes | bytearray, max_values: int = MAX_VALUES) -> object:
    """Parse JSON (RFC 8259) from UTF-8, without what the standard library adds to it.

    Raises `TooLarge` for more values than that: each takes memory of its own, and millions of them take the interpreter
    from everybody else for seconds.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(Problem("body", f"is not UTF-8 at byte {error.start}")) from None
    if _has_more_values(text, max_values):
        raise TooLarge(f"A body has at most {max_values} values here; send less at a time.")
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
    fields = {field.alias or name for name, field in model.model_fields.items()}
    unknown = list(islice((name for name in value if name not in fields), MAX_PROBLEMS))
    if unknown:  # found here, as to be told of each of thousands would take its time
        raise Invalid(*(Problem(printable(name, 80) or "body", "is not known here") for name in unknown))
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = problems(error.errors(include_url=False, include_context=True, include_input=False))
        raise Invalid(*found) from None


def _has_more_values(text: str, limit: int) -> bool:
    """True for a text of JSON with more values than that, found without making any of them.

    It goes by pieces, as counting keeps the interpreter from everybody else. A value takes two characters, with the
    comma or the bracket beside it, so most texts need not be counted at all.
    """
    if len(text) < 2 * limit:
        return False
    pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
    return _more_than(limit, pieces) and _more_than(limit, _outside_of_texts(text))


def _more_than(limit: int, pieces: Iterable[str]) -> bool:
    """Count the marks of values: a comma stands before each but the first in something that is not empty."""
    marks = 0
    for piece in pieces:
        opened = piece.count("[") + piece.count("{")
        marks += piece.count(",") + opened - piece.count("[]") - piece.count("{}")
        if marks > limit:
            return True
    return False


def _outside_of_texts(text: str) -> Iterator[str]:
    start = inside = 0
    while start < len(text):
        piece = text[start : start + PIECE]
        if (len(piece) - len(piece.rstrip("\\"))) % 2 and start + len(piece) < len(text):
            piece = piece[:-1]  # what it escapes is in the next piece
        start += len(piece)
        parts = piece.replace("\\\\", "").replace('\\"', "").split('"')
        yield "\n".join(parts[inside::2])
        inside ^= (len(parts) - 1) % 2


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
