"""Logs: one line an event, for people (`text`) or machines (`json`). Nothing that was received can break a line.

A server's reply, a client's id or an exception may hold line breaks and terminal escape sequences; whatever is not
printable is escaped, in both formats. In text a backslash begins an escape, and one that was received is doubled; a
value with a space, a quote or `=` is in quotes. So what was received can neither end them nor look like another field.
Lines of the libraries that use `logging` come out in the same way.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger
from typing_extensions import override

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
MASK = "********"

_SECRET_NAME = re.compile(r"password|secret|token|authorization|api_key|credential", re.IGNORECASE)
_TOO_LOUD = {
    **dict.fromkeys(("sqlalchemy", "alembic", "aiosmtplib", "asyncio", "aiohttp.access"), logging.WARNING),
    **dict.fromkeys(("uvicorn.error", "uvicorn.access"), logging.ERROR),  # it warns of each request that is none
}
"""Libraries whose lines below a level only repeat what is logged here, or could be had by anybody in any number."""
_SPOKEN_FOR = ("opentelemetry.sdk", "opentelemetry.exporter")
"""Libraries of which all that matters is logged here."""

_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}
_RESET = "\x1b[0m"


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format_: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
) -> None:
    """Send all logs of the process to one stream (default: stdout), in colour where it is a terminal."""
    out = sys.stdout if stream is None else stream
    render = as_json if format_ == "json" else as_text(colour=out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Foreign(shared, render))
    logging.basicConfig(handlers=[handler], level=LEVELS[level], force=True)
    for name, least in _TOO_LOUD.items():
        logging.getLogger(name).setLevel(max(LEVELS[level], least))
    for name in _SPOKEN_FOR:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def as_json(_logger: WrappedLogger | None, _method: str, event: EventDict) -> str:
    """Render an event as one JSON object in ASCII: time, level and event first."""
    ordered = {name: event.pop(name, None) for name in ("timestamp", "level", "event")}
    return json.dumps({**ordered, **event}, default=str, separators=(",", ":")).replace("\x7f", "\\u007f")


def as_text(*, colour: bool) -> Callable[[WrappedLogger | None, str, EventDict], str]:
    """Return a renderer for people: `time level event name=value …` on one line."""

    def render(_logger: WrappedLogger | None, _method: str, event: EventDict) -> str:
        time, level = str(event.pop("timestamp", "")), str(event.pop("level", ""))
        said = str(event.pop("event", ""))  # a library's may have in it what was received; ours are plain words
        words = [_quoted(said) if '"' in said or "=" in said else escaped(said)]
        trace = event.pop("exception", None)
        words += [f"{escaped(name)}={_quoted(value)}" for name, value in event.items()]
        if trace is not None:
            words.append(f"exception={_quoted(trace)}")
        shown = f"{level:<8}"
        if colour:
            time, shown = f"\x1b[2m{time}{_RESET}", f"\x1b[{_COLOURS.get(level, '0')}m{shown}{_RESET}"
        return f"{time} {shown} {' '.join(words)}"

    return render


def mask_secrets(_logger: WrappedLogger | None, _method: str, event: EventDict) -> EventDict:
    """Put asterisks in the place of whatever is named like a secret, but for numbers of them."""
    for name, value in event.items():
        if _SECRET_NAME.search(name) and not isinstance(value, int):
            event[name] = MASK
    return event


def escaped(text: str) -> str:
    """Return the text on one line, with everything that a terminal would act upon written as an escape.

    No two texts become the same.
    """
    text = text.replace("\\", "\\\\")
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _quoted(value: object) -> str:
    text = escaped(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or re.search(r'[ "=]', text) else text


class _Foreign(logging.Formatter):
    """Renders the lines of libraries like our own."""

    def __init__(self, processors: list[Processor], render: Callable[[Any, str, EventDict], str]) -> None:
        super().__init__()
        self._processors = processors
        self._render = render

    @override
    def format(self, record: logging.LogRecord) -> str:
        event: Any = {"event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        method = record.levelname.lower()
        for process in self._processors:
            event = process(None, method, event)
        return self._render(None, method, event)
