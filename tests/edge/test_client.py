"""The client where the service or the network fails: what is repeated, what is not, and what is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mail_proxy.client import (
    AsyncMailProxyClient,
    Conflict,
    Gone,
    NoAnswer,
    NotGenuine,
    Refusal,
    TooMany,
    Unavailable,
    verify_webhook,
)
from mail_proxy.client.exchange import Call, NotReached, Patience, path, understand
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import signatures
from tests.support.callback_server import CallbackServer, Manner, Reply

ROOT = Path(__file__).parents[2]
RECEIPT = b'{"ok":true,"queued":1,"duplicates":[],"replaced":[],"rejected":[]}'
LATER = Reply(503, b'{"ok":false,"error":"later","code":"store_unavailable"}', headers={"Retry-After": "0"})


def client(server: CallbackServer, retries: int = 3) -> AsyncMailProxyClient:
    return AsyncMailProxyClient(server.url, "t", retries=retries, timeout=5)


@pytest.mark.parametrize("first", [LATER, Reply(200, RECEIPT, manner=Manner.RESET)], ids=["503", "no answer"])
async def test_a_submission_is_repeated_with_the_same_ids(first: Reply) -> None:
    async with CallbackServer() as server, client(server) as proxy:
        server.script(first, Reply(200, RECEIPT))
        assert (await proxy.messages.add({"from": "a@example.com"}))["queued"] == 1
        assert len(server.requests) == 2
        assert server.requests[0].body == server.requests[1].body
        assert b'"id":' in server.requests[0].body


async def test_what_must_not_be_done_twice_is_not_repeated_where_it_may_have_been_done() -> None:
    async with CallbackServer() as server, client(server) as proxy:
        server.script(Reply(200, b"{}", manner=Manner.RESET), Reply(200, b'{"ok":true,"removed":1}'))
        with pytest.raises(NoAnswer):
            await proxy.messages.delete("M1")
        assert len(server.requests) == 1


async def test_retries_come_to_an_end() -> None:
    async with CallbackServer() as server, client(server, retries=2) as proxy:
        server.by_default = LATER
        with pytest.raises(Unavailable, match="later") as failed:
            await proxy.status()
        assert (failed.value.status, failed.value.code) == (503, "store_unavailable")
        assert len(server.requests) == 3


async def test_where_nobody_listens_it_says_so() -> None:
    async with AsyncMailProxyClient("http://127.0.0.1:1", "t", retries=0) as proxy:
        with pytest.raises(NoAnswer, match=r"127\.0\.0\.1:1 cannot be reached .*is the service running\?"):
            await proxy.status()


@pytest.mark.parametrize(
    ("error", "repeats", "again"),
    [
        (NotReached("x"), False, True),
        (NoAnswer("x"), False, False),
        (NoAnswer("x"), True, True),
        (Unavailable("x", status=503, code="x"), True, True),
        (TooMany("x", status=429, code="x", retry_after=2), False, True),
        (TooMany("x", status=429, code="x", retry_after=3600), True, False),
        (Conflict("x", status=409, code="x"), True, False),
    ],
)
def test_it_is_asked_again_where_that_is_safe_and_may_help(error: Refusal, *, repeats: bool, again: bool) -> None:
    pause = Patience().pause(Call("POST", "/x", repeats=repeats), 0, error)
    assert (pause is not None) == again


def test_answers_become_what_their_status_and_fields_say() -> None:
    assert understand(200, {}, b'{"ok":true}') == {"ok": True}
    with pytest.raises(Gone) as gone:
        understand(410, {}, b'{"ok":false,"error":"e","code":"cursor_too_old","oldest_cursor":"77"}')
    assert gone.value.oldest_cursor == "77"
    with pytest.raises(Unavailable, match="answered 502, and not in JSON") as proxied:
        understand(502, {"retry-after": "soon"}, b"<html>")
    assert (proxied.value.code, proxied.value.retry_after) == ("http_error", None)
    with pytest.raises(Refusal):
        understand(200, {}, b"[]")


def test_ids_are_written_into_paths_whatever_they_have() -> None:
    assert path("/messages/{id}/explain", id="a/b?c=ü #") == "/messages/a%2Fb%3Fc%3D%C3%BC%20%23/explain"


def test_a_report_is_taken_from_the_service_alone() -> None:
    secret, body = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", b'{"delivery_report": []}'
    headers = {
        "Webhook-Id": "msg_1",
        "webhook-timestamp": "1800000000",
        "webhook-signature": signatures([Secret(secret)], "msg_1", 1_800_000_000, body),
    }
    assert verify_webhook(headers, body, secret, now=1_800_000_100) == {"delivery_report": []}
    with pytest.raises(NotGenuine, match="no signature fits"):
        verify_webhook(headers, body + b" ", secret, now=1_800_000_100)
    with pytest.raises(NotGenuine, match="too far"):
        verify_webhook(headers, body, secret, now=1_800_000_500)
    with pytest.raises(NotGenuine, match="missing"):
        verify_webhook({}, body, secret)
    with pytest.raises(ValueError, match="not a signing secret"):
        verify_webhook(headers, body, "", now=1_800_000_100)


def test_the_synchronous_client_is_made_of_the_asynchronous_one() -> None:
    spec = spec_from_file_location("make_sync_client", ROOT / "tools" / "make_sync_client.py")
    assert spec is not None
    assert spec.loader is not None
    maker = module_from_spec(spec)
    spec.loader.exec_module(maker)
    made = maker.synchronous(maker.SOURCE.read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(maker.MADE), "-"]
    formatted = subprocess.run(command, input=made, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert maker.MADE.read_text(encoding="utf-8") == formatted, "run make format"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with what the client's own wheel has."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT / "client", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("genro_mail_proxy_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    return tmp_path / "installed"


async def test_the_distribution_of_the_client_needs_nothing_of_the_server(installed: Path) -> None:
    assert (installed / "mail_proxy_client" / "py.typed").is_file()
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from mail_proxy_client import MailProxyClient;"
        "print(MailProxyClient(sys.argv[2], 't').messages.add({'id': 'M1'})['queued']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[3].split())))"
    )
    server_side = "mail_proxy fastapi pydantic sqlalchemy starlette aiohttp aiosmtplib structlog uvicorn"
    async with CallbackServer() as server:
        server.by_default = Reply(200, RECEIPT)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", program, str(installed), server.url, server_side),
            stdout=subprocess.PIPE,
        )
        output, _ = await child.communicate()
    assert output.decode().split("\n")[:2] == ["1", "[]"]
