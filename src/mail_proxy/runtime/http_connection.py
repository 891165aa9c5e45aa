"""One HTTP connection, bounded: in what it may send, how long it may take, how much it may leave unread, and how many.

uvicorn reads and answers; this adds what it does not bound. Whatever is refused here is answered in the shape of every
other failure, as long as an answer can be told apart from that of another request; else the connection is closed.
"""  # G11

from __future__ import annotations

import sys
from asyncio import TimerHandle, Transport
from collections.abc import Awaitable, Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, ClassVar, cast

import structlog
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mail_proxy.domain.client_network import client_network
from mail_proxy.runtime.http_places import MOST_BEYOND, Places
from mail_proxy.runtime.http_refusal import Message, Refusal, Send, id_from, new_id
from mail_proxy.runtime.http_request import MAX_URL, NOT_HTTP, URL_TOO_LONG, RequestShape

KEEP_ALIVE = 75
"""Seconds that a client's idle connection is kept: longer than the usual load balancer keeps its own (60)."""
HEAD_PATIENCE = 15.0
"""Seconds from the connection, or from the first byte of a later request, to the end of its headers."""
RESERVED_PATIENCE = 3.0
"""The same, and for the answer to be read, on connections beyond the limit."""
LINGER = 10.0
"""Seconds that a client gets to read a refusal while it is still sending what was refused."""
PROGRESS_EVERY = 10.0
"""Seconds between looks at whether a client reads its answer."""
PROGRESS = 20_000
"""Bytes that it has to take meanwhile."""
MAX_PIPELINED = 16
"""Requests of one connection that wait for the one before."""
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})

Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application."""
Told = Callable[["str | None", str, str], None]
"""Hears of a request that was refused: the address that it came from, the code and the id of its answer."""

log = structlog.get_logger(__name__)


TOO_SLOW = Refusal(408, f"The headers of the request did not arrive within {HEAD_PATIENCE:g} s.", code="timeout")
CROWDED = Refusal(
    503,
    "Too many connections are open now; try again later.",
    code="too_many_connections",
    headers=((b"retry-after", b"5"),),
)


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection with bounds. `of(places, told)` makes the class for one server."""

    places: ClassVar[Places]
    told: Told

    @classmethod
    def of(cls, places: Places, told: Told) -> type[BoundedConnection]:
        """Return the class of connections that share these places. `told` hears what is wrong with requests."""
        return type(cls.__name__, (cls,), {"places": places, "told": staticmethod(told)})

    # Beginning and end

    @override
    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self.address = client_network(self.client[0]) if self.client else ""
        self._gone = False
        self._reserved = self.places.take(self, self.loop.time())
        self._refusal = NOT_HTTP
        self._head_alarm: TimerHandle | None = None
        self._reading_alarm: TimerHandle | None = None
        self._unread = 0
        self._discarding = self._last_answered = False
        self._shape = RequestShape()
        if self._reserved:
            self.app = cast("Any", _only_open_paths(cast("Application", self.app)))
        if self.places.taken > self.places.limit + MOST_BEYOND:
            transport.abort()
        else:
            self._await_head()
            self._take_place()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._head_has_come()
        _drop(self._reading_alarm)
        self._unset_keepalive_if_required()  # uvicorn leaves it where the connection broke
        super().connection_lost(exc)

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self.places.leave(self)

    # What comes

    @override
    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self.places.idle.pop(self, None)
        self.places.unread.pop(self, None)
        self._look_at(data)
        self._take_place()

    def _look_at(self, data: bytes) -> None:
        self._shape.piece_comes()
        super().data_received(data)
        if self._ends():
            return
        refusal = self._shape.came(data)
        if refusal is not None:
            self._refuse(refusal)
            return
        if self._head_alarm is None and (self._shape.in_head or self._between_requests()):
            self._await_head()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._be_busy()
        self._shape.begin()

    @override
    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL:
            self._stop_with(URL_TOO_LONG)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        refusal = self._shape.header(name, value)
        if refusal is not None:
            self._stop_with(refusal)
        if self._shape.in_head:  # trailers are counted and thrown away (RFC 9110 section 6.5.1)
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._shape.in_head = False
        self._head_has_come()
        self.places.silent.pop(self, None)
        if len(self.pipeline) >= MAX_PIPELINED or not self._shape.is_plain(self.parser.get_http_version()):
            self._stop_with(NOT_HTTP)
        super().on_headers_complete()
        self.cycle.transport = _Gentle(self)  # type: ignore[assignment]  # all of it that a request uses
        if self._reserved or self.parser.should_upgrade():  # no upgrade is taken, and the parser stops after it
            self.cycle.keep_alive = False

    @override
    def on_body(self, body: bytes) -> None:
        self._shape.body(len(body))
        super().on_body(body)

    # What is refused

    def _stop_with(self, refusal: Refusal) -> None:
        """Have the parser stop where it is; `send_400_response` is next."""
        self._refusal = refusal
        raise _Refused

    @override
    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that cannot go on, where the answer cannot be taken for that of another one."""
        cycle, request_id = self._latest, new_id()
        self.told(self.client[0] if self.client else None, refusal.code, request_id)
        if cycle is None or cycle.response_complete:
            self._answer_and_discard(refusal, request_id)
        elif self.pipeline or not cycle.more_body:
            # The one in progress came whole: it gets its own answer, and is the last one.
            cycle.keep_alive = False
            self._discard()
        elif cycle.response_started:
            self.transport.abort()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._answer_and_discard(refusal, request_id)

    def give_way(self) -> None:
        """Close a connection beyond the limit that has not asked for anything."""
        self.places.silent.pop(self, None)
        self._discarding = True
        self.transport.write(CROWDED.to_bytes(new_id()))
        self.transport.close()

    def make_place(self) -> None:
        """Close a connection at once that has no whole request in progress, with an answer where one is due."""
        cycle = self._latest
        if not self._discarding:
            if cycle is None or (self._shape.in_head and cycle.response_complete):
                self.transport.write(CROWDED.to_bytes(new_id()))
            elif not cycle.response_complete and not cycle.response_started:
                cycle.disconnected = True
                cycle.message_event.set()
                self.transport.write(CROWDED.to_bytes(new_id()))
        self._discarding = True
        self._leave()  # many may come before it is lost
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _answer_and_discard(self, refusal: Refusal, request_id: str) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(refusal.to_bytes(request_id))
        self._discard()
        self._close_gently()

    def _close_gently(self) -> None:
        # Closing at once would have the system tell the client that its bytes were refused, and the client would throw
        # the answer away. When it has read it, it closes.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._alarm_head(RESERVED_PATIENCE if self._reserved else LINGER, self.transport.abort)

    def close_after_answer(self) -> None:
        """Close behind the last answer; where the body is still coming, when the client has had time to read it."""
        if self.pipeline or not self.cycle.more_body or self.transport.is_closing():
            self.transport.close()
        else:
            self._last_answered = True
            self._discard()
            self._close_gently()

    def _discard(self) -> None:
        self._discarding = True
        self.places.silent.pop(self, None)
        self._head_has_come()
        self._be_busy()
        self._take_place()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _ends(self) -> bool:
        """True once nothing that comes is looked at any more."""
        return self._discarding or self.transport.is_closing()

    # How long it takes

    @property
    def _latest(self) -> RequestResponseCycle | None:
        """The request whose headers have come last."""
        return self.cycle

    def _between_requests(self) -> bool:
        cycle = self._latest
        return (cycle is None or (cycle.response_complete and not cycle.more_body)) and not self._shape.in_head

    def _take_place(self) -> None:
        """Say what it waits for, and so when it makes place for another connection."""
        if self._gone or self._reserved:
            return
        cycle = self._latest
        heads, bodies, now = self.places.heads, self.places.bodies, self.loop.time()
        if cycle is not None and not cycle.response_complete and not cycle.disconnected:
            if cycle.more_body and not self.pipeline:
                heads.discard(self)
                bodies.add(self, now)
            else:
                self.places.be_busy(self)
        elif self._discarding or self._shape.in_head or self._head_alarm is not None:
            bodies.discard(self)
            heads.add(self, now)
        else:
            heads.discard(self)
            bodies.discard(self)

    def _await_head(self) -> None:
        self._alarm_head(RESERVED_PATIENCE if self._reserved else HEAD_PATIENCE, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_alarm = None
        cycle = self._latest
        if cycle is not None and not cycle.response_complete:
            self._await_head()  # it waits for the answer before
        elif self._shape.in_head:
            self._refuse(TOO_SLOW)
        else:
            self.transport.close()

    def _head_has_come(self) -> None:
        _drop(self._head_alarm)
        self._head_alarm = None

    def _alarm_head(self, seconds: float, then: Callable[[], None]) -> None:
        _drop(self._head_alarm)
        self._head_alarm = self.loop.call_later(seconds, then)

    # What is answered

    @override
    def on_response_complete(self) -> None:
        cycle = self.cycle
        unfinished = cycle.response_complete and cycle.more_body
        if self._last_answered:
            self._watch_reading()
            return
        super().on_response_complete()
        self._watch_reading()
        if self._ends():
            if not self._gone and self._reading_alarm is not None:
                self.places.be_busy(self)
                self.places.unread[self] = self.loop.time()
            return
        if unfinished:
            # Nobody wants the rest of the body: it has a while to come to its end, then the connection goes.
            self._be_busy()
            self._alarm_head(LINGER, self.transport.abort)
            self._take_place()
        elif self._between_requests() and self._head_alarm is None:
            self.places.be_busy(self)
            self.places.idle[self] = self.loop.time()
        else:
            self._take_place()

    @override
    def on_message_complete(self) -> None:
        unwanted = self.cycle.response_complete
        super().on_message_complete()
        if unwanted:
            self.cycle.more_body = False
            self._head_has_come()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self.places.idle[self] = self.loop.time()

    def _be_busy(self) -> None:
        self.places.idle.pop(self, None)
        self.places.unread.pop(self, None)
        self._unset_keepalive_if_required()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def _watch_reading(self) -> None:
        """Look from now on at whether the client takes what it asked for, unless all of it is on its way."""
        _drop(self._reading_alarm)
        self._reading_alarm = None
        if self.transport.get_write_buffer_size():
            self._unread = self._not_taken()
            self._reading_alarm = self.loop.call_later(PROGRESS_EVERY, self._look_at_reading)

    def _look_at_reading(self) -> None:
        if self._not_taken() > self._unread - PROGRESS and self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._watch_reading()

    def unsent(self) -> int:
        """See `Connection.unsent`."""
        unsent: int = self.transport.get_write_buffer_size()
        return unsent

    def _not_taken(self) -> int:
        """Return the bytes that the client's machine has not taken, those in the system's buffer as well."""
        ours = self.transport.get_write_buffer_size()
        connected = self.transport.get_extra_info("socket")
        try:
            return ours + int.from_bytes(ioctl(connected.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:  # not on every platform
            return ours


def _only_open_paths(app: Application) -> Application:
    async def reserved(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await app(scope, receive, send)
        else:
            await CROWDED.send(send, id_from(scope["headers"]))

    return reserved


class _Gentle:
    """What a request in progress has of its transport."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: BoundedConnection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.close_after_answer


class _Refused(Exception):
    """Raised through the parser, which ends with it."""


def _drop(alarm: TimerHandle | None) -> None:
    if alarm is not None:
        alarm.cancel()
