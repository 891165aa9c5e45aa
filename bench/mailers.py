"""What others do with the same messages and the same sink: a Postfix relay, an aiosmtplib loop, smtplib.

The loops keep nothing: a message that is lost on the way is lost. The relay writes each down before it takes it, as
the product does, and tells nobody what became of it.
"""

from __future__ import annotations

import asyncio
import smtplib
import time
from email.message import EmailMessage

import aiosmtplib

from bench.processes import MailCounter, wait_for
from bench.smtp_tools import postfix, smtp_source
from mail_proxy.cli.http_load import SIZE

CONNECTIONS = 4
WARM = 200


def message(number: int) -> EmailMessage:
    """Return a message of the size that all are measured with."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "sender@example.com", f"user{number}@example.net", f"Order {number}"
    made.set_content(("lorem ipsum dolor sit amet " * (SIZE // 27 + 1))[:SIZE])
    return made


def relay(sink: MailCounter, messages: int, connections: int = CONNECTIONS) -> float:
    """Return messages a second through Postfix: from the first that it is given until the sink has the last."""
    with postfix(sink.port, connections) as port:
        before = sink.count
        smtp_source(port, WARM, 10)  # the first ones start its processes
        wait_for(sink, before + WARM)
        began = time.monotonic()
        smtp_source(port, messages, 10)
        return messages / (wait_for(sink, before + WARM + messages) - began)


def direct(sink: MailCounter, messages: int) -> float:
    """Return messages a second from `smtp-source` straight to the sink: the limit of the machine."""
    began = time.monotonic()
    smtp_source(sink.port, messages, CONNECTIONS)
    return messages / (time.monotonic() - began)


def each_by_smtplib(port: int, messages: int) -> float:
    """Return messages a second with a connection each, as in a web application's request."""
    began = time.monotonic()
    for number in range(messages):
        with smtplib.SMTP("127.0.0.1", port, local_hostname="bench.example") as client:
            client.send_message(message(number))
    return messages / (time.monotonic() - began)


def aiosmtplib_loop(port: int, messages: int, connections: int = CONNECTIONS) -> float:
    """Return messages a second over connections that are kept."""

    async def work(numbers: range) -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="bench.example") as client:
            for number in numbers:
                await client.send_message(message(number))

    async def all_of_them() -> float:
        began = time.monotonic()
        await asyncio.gather(*(work(range(at, messages, connections)) for at in range(connections)))
        return messages / (time.monotonic() - began)

    return asyncio.run(all_of_them())
