"""The connection itself, between two sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mail_proxy.smtp.connection import Connection, ConnectionLost, LossKind


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
    connection = Connection(transport)
    with theirs:
        yield connection, theirs
        connection.abort()
        await connection.closed


async def a_moment() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_writer_that_may_go_on_has_not_been_answered() -> None:
    async with connected() as (connection, server):
        asking = asyncio.ensure_future(connection.ask(b"NOOP\r\n", 1, 5))
        await a_moment()
        connection.pause_writing()
        connection.resume_writing()
        await a_moment()
        assert not asking.done()
        server.send(b"250 ok\r\n")
        assert [reply.code for reply in await asking] == [250]


async def test_waits_of_different_lengths_share_one_timer() -> None:
    """A short wait after a long one ends in its own time, and a long one after a short one is not cut."""
    async with connected() as (connection, server):
        asking = asyncio.ensure_future(connection.ask(b"NOOP\r\nNOOP\r\n", 2, 0.05))
        await a_moment()
        server.send(b"250 ok\r\n")
        with pytest.raises(ConnectionLost) as ended:
            await asking
        assert ended.value.loss.kind is LossKind.TIMEOUT
        assert [reply.code for reply in ended.value.received] == [250]
    async with connected() as (connection, server):
        for patience in (600.0, 5.0, 0.3, 300.0):
            asking = asyncio.ensure_future(connection.ask(b"NOOP\r\n", 1, patience))
            await a_moment()
            server.send(b"250 ok\r\n")
            await asking
        waiting = asyncio.ensure_future(connection.ask(b"NOOP\r\n", 1, 300.0))
        with pytest.raises(asyncio.TimeoutError):
            # The timer of the wait that was shortest fires meanwhile, and finds nothing to do.
            await asyncio.wait_for(asyncio.shield(waiting), 0.5)
        server.send(b"250 ok\r\n")
        await waiting
        with pytest.raises(ConnectionLost, match=r"no answer within 0\.05 s"):
            await connection.ask(b"NOOP\r\n", 1, 0.05)


async def test_a_connection_that_ended_before_it_was_taken_over_says_so() -> None:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(asyncio.Protocol, sock=ours)
    transport.close()
    connection = Connection(transport)
    theirs.close()
    await connection.closed
    assert not connection.usable
    with pytest.raises(ConnectionLost):
        await connection.ask(b"NOOP\r\n", 1, 5)


@pytest.mark.parametrize(
    "use",
    [
        lambda connection: connection.ask(b"NOOP\r\n", 1, 5),
        lambda connection: connection.feed(b"some of a message", 5),
    ],
)
async def test_once_ended_it_gives_the_same_reason_each_time(use: Callable[[Connection], object]) -> None:
    async with connected() as (connection, server):
        server.send(b"421 4.4.2 idle\r\n")
        await a_moment()
        for _ in range(2):
            with pytest.raises(ConnectionLost) as ended:
                await use(connection)  # type: ignore[misc]
            assert ended.value.loss.kind is LossKind.CLOSED
            assert str(ended.value.loss.reply) == "421 4.4.2 idle"
