"""How many messages a second leave by SMTP, to a server of ours in another process on the same machine."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import uvloop

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Envelope
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.capture import SmtpCatcher
from mail_proxy.smtp.pool import SmtpTransport

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: `cpu` is this process's processor time a message, in microseconds."""

    loop: str
    connections: int
    messages_per_second: float
    cpu: float


def run(messages: int = 10_000) -> dict[str, float]:
    """Return messages a second on the fast event loop, over one and over four connections."""
    return {f"{n} connections": measure("uvloop", n, messages).messages_per_second for n in (1, 4)}


def measure(loop_name: str, connections: int, messages: int = 20_000, size: int = 1024) -> Figure:
    """Send that many messages over that many connections and return the rate."""
    with _catcher_process() as port, closing(LOOPS[loop_name]()) as loop:
        seconds, cpu = loop.run_until_complete(_send(port, connections, messages, size))
    return Figure(loop_name, connections, messages / seconds, cpu / messages * 1e6)


async def _send(port: int, connections: int, messages: int, size: int) -> tuple[float, float]:
    account = Account(1, "bench", "main", "127.0.0.1", port, max_connections=connections)
    line = b"x" * 76 + b"\r\n"
    content = b"Subject: bench\r\n\r\n" + line * (size // len(line))
    wire = Wire((content,), len(content))
    transport = SmtpTransport(local_hostname="bench.example")

    async def before_dot() -> None:
        """As cheap as it gets."""

    async def work(count: int) -> None:
        for n in range(count):
            envelope = Envelope("sender@bench.example", ((0, f"r{n}@bench.example"),))
            attempt = await transport.send(account, envelope, wire, before_dot)
            assert attempt.answers[0].accepted, attempt

    try:
        await work(100)
        started, cpu_started = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work(messages // connections) for _ in range(connections)))
        return time.perf_counter() - started, time.process_time() - cpu_started
    finally:
        await transport.close()


@contextmanager
def _catcher_process() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.smtp", "--catcher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


async def _catch() -> None:
    """Serve until standard input ends, which it does with the process that started this one."""

    def forget(_sender: str, _recipients: tuple[str, ...], _content: bytes) -> None:
        """Take it and keep nothing."""

    async with SmtpCatcher(forget) as catcher:
        print(catcher.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Print a table, or serve as the other side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--catcher", action="store_true", help="be the server of a measurement")
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    if options.catcher:
        uvloop.run(_catch())
        return
    for loop_name in LOOPS:
        for connections in (1, 4):
            figure = measure(loop_name, connections, options.messages)
            print(
                f"{figure.loop:8} {figure.connections} connections: {figure.messages_per_second:7.0f} messages/s, "
                f"{figure.cpu:5.0f} µs of processor each"
            )


if __name__ == "__main__":
    main()
