"""What the client is put in the place of: smtplib, Django's mail, a log handler. Against a running service."""

from __future__ import annotations

import asyncio
import json
import logging
import smtplib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path

import pytest

from mail_proxy.client.logs import MOST_KINDS, MailHandler
from mail_proxy.client.smtp import SMTP
from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.docs.pages import page
from tests.support.callback_server import CallbackServer, Reply
from tests.support.instance import Instance, eventually

RECEIPT = b'{"ok":true,"queued":1,"duplicates":[],"replaced":[],"rejected":[]}'


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("integrations"))
    yield instance
    instance.close()


@pytest.fixture
async def desk(_instance: Instance) -> AsyncIterator[tuple[str, Tenant, Sink]]:
    """The address of a running instance, a tenant with an account, and its mail server."""
    if not _instance.running:
        await _instance.start()
    async with running_sink() as sink, new_tenant(_instance, sink.port) as tenant:
        yield _instance.address, tenant, sink


def a_message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Acme Shop <shop@acme.example>"
    message["To"] = "Anna <anna@example.org>, bert@example.org"
    message["Cc"] = "carla@example.org"
    message["Bcc"] = "dora@example.org"
    message["Subject"] = "Grüße"
    message.set_content("Schöne Grüße\n.\n")
    message.add_attachment(b"\x00\xff", maintype="application", subtype="octet-stream", filename="a.bin")
    return message


# -- smtplib -----------------------------------------------------------------------------------------------------------


async def test_a_message_goes_out_as_smtplib_would_send_it(desk: tuple[str, Tenant, Sink]) -> None:
    address, tenant, sink = desk

    def send() -> object:
        with SMTP(address, tenant.token, priority="high") as smtp:
            return smtp.send_message(a_message())

    assert await asyncio.to_thread(send) == {}
    await sink.wait_for(1)
    (arrival,) = sink.arrivals
    assert sorted(arrival.recipients) == [f"{name}@example.org" for name in ("anna", "bert", "carla", "dora")]
    assert b"Bcc" not in arrival.content
    parsed = message_from_bytes(arrival.content, policy=SMTP_POLICY)
    assert isinstance(parsed, EmailMessage)
    assert parsed["Subject"] == "Grüße"
    assert parsed.get_body() is not None
    assert [part.get_filename() for part in parsed.iter_attachments()] == ["a.bin"]


@pytest.mark.parametrize(
    ("token", "sender", "recipients", "error"),
    [
        ("wrong", "shop@acme.example", ["anna@example.org"], smtplib.SMTPAuthenticationError),
        (None, "shop@acme.example", ["nobody"], smtplib.SMTPRecipientsRefused),
        (None, "nobody", ["anna@example.org"], smtplib.SMTPSenderRefused),
    ],
)
async def test_refusals_are_those_of_smtplib(
    desk: tuple[str, Tenant, Sink], token: str | None, sender: str, recipients: list[str], error: type[Exception]
) -> None:
    address, tenant, _ = desk
    content = b"From: shop@acme.example\r\nSubject: S\r\n\r\nB\r\n"

    def send() -> None:
        with SMTP(address, token or tenant.token) as smtp:
            smtp.sendmail(sender, recipients, content)

    with pytest.raises(error):
        await asyncio.to_thread(send)


async def test_a_message_that_is_none_and_a_service_that_is_away(desk: tuple[str, Tenant, Sink]) -> None:
    address, tenant, _ = desk
    with SMTP(address, tenant.token) as smtp, pytest.raises(smtplib.SMTPDataError, match="raw"):
        await asyncio.to_thread(smtp.sendmail, "a@example.com", "b@example.org", b"no message\x00")
    gone = SMTP("http://127.0.0.1:1", "t")
    gone._proxy._patience = type(gone._proxy._patience)(retries=0)  # noqa: SLF001 - it would wait for some seconds
    with pytest.raises(smtplib.SMTPServerDisconnected):
        await asyncio.to_thread(gone.sendmail, "a@example.com", "b@example.org", b"From: a@example.com\r\n\r\n")
    gone.close()


# -- Django ------------------------------------------------------------------------------------------------------------

_DJANGO = r"""
import json, sys
import django
from django.conf import settings
settings.configure(
    EMAIL_BACKEND="mail_proxy.client.django.EmailBackend",
    MAIL_PROXY={"URL": sys.argv[1], "TOKEN": sys.argv[2], "batch_code": "django"},
    DEFAULT_FROM_EMAIL="Acme Shop <shop@acme.example>",
)
django.setup()
from django.core.mail import EmailMultiAlternatives, get_connection, send_mail
told = [send_mail("Hello", "Text\n.\n", None, ["Anna <anna@example.org>"], html_message="<p>Text</p>")]
message = EmailMultiAlternatives(
    "Gr\u00fc\u00dfe", "Text", to=["b@example.org"], cc=["c@example.org"], bcc=["d@example.org"],
    headers={"X-Mail-Proxy-Id": "order-1042", "X-Mail-Proxy-Priority": "high", "X-Own": "1"},
)
message.attach("a.bin", b"\x00\xff", "application/octet-stream")
told.append(message.send())
told.append(get_connection().send_messages([EmailMultiAlternatives("No recipient", "x")]))
for again in (message.send, lambda: send_mail("S", "B", "nobody", ["anna@example.org"])):
    try:
        again()
    except Exception as error:
        told.append(type(error).__name__)
told.append(send_mail("S", "B", "nobody", ["anna@example.org"], fail_silently=True))
print(json.dumps(told))
"""


async def test_django_hands_its_mail_over(desk: tuple[str, Tenant, Sink]) -> None:
    address, tenant, sink = desk
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _DJANGO, address, tenant.token), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    # a second time under its id it is refused: Django writes it anew, with another Message-ID
    assert json.loads(output) == [1, 1, 0, "Rejected", "Rejected", 0]
    await sink.wait_for(2)
    found = {arrival.mail_id: arrival for arrival in sink.arrivals}
    order = found.pop("order-1042")
    assert sorted(order.recipients) == ["b@example.org", "c@example.org", "d@example.org"]
    parsed = message_from_bytes(order.content, policy=SMTP_POLICY)
    assert (parsed["Subject"], parsed["X-Own"], parsed["X-Mail-Proxy-Id"], parsed["Bcc"]) == ("Grüße", "1", None, None)
    assert (await tenant.client.message("order-1042"))["priority"] == 1
    assert (await tenant.client.message("order-1042"))["batch_code"] == "django"
    (other,) = found.values()
    assert b"multipart/alternative" in other.content


# -- logging -----------------------------------------------------------------------------------------------------------


def a_logger(name: str, handler: MailHandler) -> logging.Logger:
    logger = logging.getLogger(f"tests.{name}")
    logger.propagate = False
    logger.addHandler(handler)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    return logger


def mails(server: CallbackServer) -> list[dict[str, str]]:
    return [each for request in server.requests for each in json.loads(request.body)["messages"]]


async def test_a_flood_of_records_is_two_mails_that_count_them() -> None:
    async with CallbackServer() as server:
        server.by_default = Reply(200, RECEIPT)
        handler = MailHandler(server.url, "t", sender="app@acme.example", to=["ops@acme.example"], interval=0.5)
        logger = a_logger("flood", handler)

        def flood() -> None:
            for n in range(20_000):
                logger.error("order %s failed", n)
            try:
                json.loads("{")
            except ValueError:
                logger.exception("another one")
            for n in range(MOST_KINDS + 50):
                logger.error(f"kind {n}")  # noqa: G004 - each is a kind of its own
            logger.warning("below the level of the handler")
            logging.getLogger("httpx").error("of a library that sends the mail")

        await asyncio.to_thread(flood)
        await asyncio.to_thread(handler.close)
        sent = mails(server)
        assert 1 <= len(sent) <= 4
        text = "".join(each["body"] for each in sent)
        assert "ERROR tests.flood: order 0 failed" in text
        assert "JSONDecodeError" in text
        assert "more, of other kinds." in text
        assert "below the level" not in text
        assert sum(int(each["subject"].split()[0]) for each in sent) == 20_000 + 1 + MOST_KINDS + 50


async def test_while_the_service_is_away_records_are_counted_and_told_later() -> None:
    async with CallbackServer() as server:
        server.script(*[Reply(503, b"{}")] * 3)
        server.by_default = Reply(200, RECEIPT)
        handler = MailHandler(server.url, "t", sender="app@acme.example", to=["ops@acme.example"], interval=0.05)
        logger = a_logger("away", handler)
        logger.error("first")
        await eventually(lambda: len(server.requests) >= 1, "it was tried")
        logger.error("second")
        await eventually(lambda: len(server.requests) >= 4, "it was tried until it was taken")
        await asyncio.to_thread(handler.close)
        last = mails(server)[3]
        assert "first" in last["body"]
        logger.error("after the end")  # neither raises nor sends


async def test_a_program_ends_in_time_while_the_service_hangs() -> None:
    async with CallbackServer() as server:
        server.by_default = Reply(200, RECEIPT, delay=30)
        handler = MailHandler(
            server.url, "t", sender="app@acme.example", to=["ops@acme.example"], interval=60, patience=0.2
        )
        a_logger("hangs", handler).error("x")
        await eventually(lambda: bool(server.requests), "it is asked")
        await asyncio.wait_for(asyncio.to_thread(handler.close), 5)


async def test_the_examples_of_the_page_work(desk: tuple[str, Tenant, Sink], tmp_path: Path) -> None:
    address, tenant, sink = desk
    for mark in ("logging.py", "smtplib.py"):
        (block,) = (each for each in page("docs/client.md").blocks if each.mark == mark)
        text = block.text.replace("http://127.0.0.1:8000", address).replace("the-token-of-your-tenant", tenant.token)
        (tmp_path / f"example_{mark}").write_text(text, encoding="utf-8")
        child = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / f"example_{mark}"))
        assert await child.wait() == 0
    await sink.wait_for(2)
