"""How many messages a second leave by SMTP, to a server in another process on the same machine."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import uvloop

from bench.processes import mail_sink
from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Envelope
from mail_proxy.domain.compose import Wire
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
    with mail_sink() as sink, closing(LOOPS[loop_name]()) as loop:
        seconds, cpu = loop.run_until_complete(_send(sink.port, connections, messages, size))
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


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    for loop_name in LOOPS:
        for connections in (1, 4):
            figure = measure(loop_name, connections, options.messages)
            print(
                f"{figure.loop:8} {figure.connections} connections: {figure.messages_per_second:7.0f} messages/s, "
                f"{figure.cpu:5.0f} µs of processor each"
            )


if __name__ == "__main__":
    main()
