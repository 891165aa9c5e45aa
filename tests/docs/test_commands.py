"""The commands of the pages do what the pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import Block, page
from tests.docs.session import Server, Session, as_shown, eventually, follow, free_port, listens, session
from tests.support.callback_server import CallbackServer

_ONE_MORE = (
    '{"messages": [{"id": "one-more", "from": "a@example.com", "to": "b@example.net", "subject": "S", "body": "B"}]}'
)


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Session]:
    """A reader with ports and folders of their own."""
    smtp, reports = free_port(), free_port()
    instead = {
        "127.0.0.1:2525": f"127.0.0.1:{smtp}",
        '"port": 2525': f'"port": {smtp}',
        "127.0.0.1:9000": f"127.0.0.1:{reports}",
        '("127.0.0.1", 9000)': f'("127.0.0.1", {reports})',
        "/tmp/first-message": str(tmp_path / "data"),  # noqa: S108 - what stands in the page, not what is used
        "/tmp/getting-started": str(tmp_path / "data"),  # noqa: S108
        "/tmp/operations": str(tmp_path / "data"),  # noqa: S108
    }
    with session(tmp_path, instead) as opened:
        yield opened


def test_the_readme_leads_to_a_first_message(reading: Session) -> None:
    readme = page("README.md")
    follow(readme, reading, lambda server: _until_it_serves(reading, server))
    mail_server, instance = reading.servers
    eventually(lambda: "Subject: Your order 1042" in mail_server.text, "the mail server has the message")
    metrics = reading.run(next(block for block in readme.blocks if "/metrics" in block.text))
    assert 'gmp_sent_total{account_id="main",tenant_id="acme"} 1.0' in metrics
    assert _ends_in_good_order(instance)


def test_getting_started_leads_to_reports(reading: Session) -> None:
    (receiver,) = (block for block in page("docs/reports.md").blocks if block.mark == "receiver.py")
    (reading.folder / "receiver.py").write_text(reading.text(receiver), encoding="utf-8")
    follow(page("docs/getting-started.md"), reading, lambda server: _until_it_serves(reading, server))
    mail_server, reports, instance = reading.servers
    assert (reading.folder / "acme.json").stat().st_mode & 0o777 == 0o600
    (another_token,) = (block for block in page("docs/getting-started.md").blocks if block.mark == "again")
    reading.run(another_token)
    for id_ in ("order-1042", "reminder-7", "code-99", "spring-1", "invoice-2026-17"):
        eventually(lambda: f"{id_} sent\n" in reports.text, f"{id_} is reported: {reports.text}")  # noqa: B023
        assert mail_server.text.count(f"X-Genro-Mail-ID: {id_}\n") == 1
    assert len(reports.text.splitlines()) == 5
    (poller,) = (block for block in page("docs/reports.md").blocks if block.mark == "poller.py")
    (reading.folder / "poller.py").write_text(reading.text(poller), encoding="utf-8")
    feed = reading.start(Block("sh", "TOKEN=change-me python3 poller.py", None))
    eventually(
        lambda: sorted(feed.text.splitlines()) == sorted(reports.text.splitlines()), f"all are read: {feed.text}"
    )
    reading.run(Block("sh", f"curl -H \"$KEY\" $API/commands/add-messages -d '{_ONE_MORE}'", None))
    eventually(lambda: feed.text.endswith("one-more sent\n"), f"who waits is answered: {feed.text}")
    assert len(feed.text.splitlines()) == 6
    assert _ends_in_good_order(instance)
    with pytest.raises(subprocess.TimeoutExpired):  # who polls does not end with the service
        feed.process.wait(1.0)
    start = [each.text for each in page("docs/getting-started.md").blocks if each.mark == "start"][-1]
    port = reading.instead["127.0.0.1:8000"].rpartition(":")[2]
    again = reading.start(Block("sh", f"GMP_PORT={port} {start}", None))
    _until_it_serves(reading, again)
    reading.run(
        Block("sh", f"curl -H \"$KEY\" $API/commands/add-messages -d '{_ONE_MORE}'".replace("one-more", "x"), None)
    )
    eventually(lambda: feed.text.endswith("x sent\n"), f"and reads on: {feed.text}")
    assert _ends_in_good_order(again)


def test_the_receiver_refuses_strangers_and_takes_an_event_once(reading: Session) -> None:
    (receiver,) = (block for block in page("docs/reports.md").blocks if block.mark == "receiver.py")
    (reading.folder / "receiver.py").write_text(reading.text(receiver), encoding="utf-8")
    (start,) = (block for block in page("docs/getting-started.md").blocks if "receiver.py" in block.text)
    server = reading.start(start)
    port = reading.instead["127.0.0.1:9000"].rpartition(":")[2]
    eventually(lambda: listens(int(port)), "the receiver listens")
    report = '{"delivery_report": [{"event_id": "1", "id": "M1", "event": "sent"}]}'
    authorization = "Authorization: Bearer the-token-of-my-endpoint"
    assert '"ok": false' in _curl(
        f"127.0.0.1:{port}/mail-proxy/sync", "-d", report, "-H", "Authorization: Bearer wrong"
    )
    for _ in range(2):
        assert _curl(f"127.0.0.1:{port}/mail-proxy/sync", "-d", report, "-H", authorization) == '{"ok": true}'
    asked = '{"storage_path": "doc_id=123"}'
    assert _curl(f"127.0.0.1:{port}/mail-proxy/attachments", "-d", asked, "-H", authorization) == '{"ok": false}'
    assert "Traceback" not in server.text
    assert server.text == "M1 sent\n"


async def test_the_stand_in_for_curl_asks_as_curl_does() -> None:
    import asyncio  # noqa: PLC0415

    async with CallbackServer() as server:
        words = ("-sS", "-w", "\\n", "-X", "PUT", "-H", "X-API-Token: t", "-d", "{}")
        answer = await asyncio.to_thread(_curl, f"{server.url}/a?b=c", *words)
        assert answer == '{"ok": true}\n'
        (request,) = server.requests
    assert (request.method, request.path, request.body) == ("PUT", "/a?b=c", b"{}")
    assert request.headers["x-api-token"] == "t"


def test_an_answer_is_held_against_what_is_shown() -> None:
    real = {"id": "M1", "sent_ts": 5.0, "recipients": [{"code": 250}], "more": 1}
    assert as_shown({"id": "M1", "sent_ts": 1.0, "recipients": [{"code": 250}]}, real)
    assert not as_shown({"id": "M2"}, real)
    assert not as_shown({"sent_ts": None}, real)
    assert not as_shown({"recipients": []}, real)
    assert not as_shown({"error": None}, real)


def _until_it_serves(reading: Session, server: Server) -> None:
    """Wait for whichever server it is: an instance says its address, the others listen where they were told to."""
    command = " ".join(map(str, server.process.args)) if isinstance(server.process.args, list) else ""
    if "mail-proxy" in command:
        eventually(lambda: "address=" in server.text, f"the instance serves: {server.text}")
        (address,) = re.findall(r" address=http://(\S+)", server.text)
        reading.instead["127.0.0.1:8000"] = address
    else:
        told = reading.instead["127.0.0.1:9000" if "receiver.py" in command else "127.0.0.1:2525"]
        eventually(lambda: listens(int(told.rpartition(":")[2])), f"{command} listens: {server.text}")


def _ends_in_good_order(instance: Server) -> bool:
    return instance.stop() == 0 and "Traceback" not in instance.text and "exception=" not in instance.text


def _curl(*arguments: str) -> str:
    stand_in = Path(__file__).with_name("curl.py")
    done = subprocess.run(
        [sys.executable, stand_in, *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout
