"""Endpoints that answer wrongly in every way, as tenants of one instance beside one that answers as it should."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.test_bounds import resident
from tests.support.certificates import Authority, create_authority
from tests.support.instance import Client, a_message, eventually

HOST = r"127\.0\.0\.1:\d+"
TOO_LONG = rf"the answer of {HOST} is longer than 256000 bytes"
NO_JSON = r"HTTP 200, but the answer is not JSON"
TLS = rf"the certificate of {HOST} is not trusted"

REFUSED = {
    "500": r"HTTP 500",
    "429": r"HTTP 429: the endpoint is asked too often",
    "302": r"HTTP 302: redirects are not followed",
    "307": r"HTTP 307: redirects are not followed",
    "410": r"HTTP 410: the endpoint is gone",
    "html": NO_JSON,
    "not-ok": r"HTTP 200, but the answer says that it is not ok",
    "a-list": r"HTTP 200, but the answer is not a JSON object",
    "endless": TOO_LONG,
    "endless-json": TOO_LONG,
    "gigabyte": TOO_LONG,
    "gigabyte-promised": rf"the answer of {HOST} is incomplete",
    "gzip-bomb": TOO_LONG,
    "endless-header": rf"{HOST} does not answer in HTTP",
    "no-http": rf"{HOST} does not answer in HTTP",
    "reset": rf"{HOST} ended the connection without an answer|the connection to {HOST} broke: .+",
    "deep": NO_JSON,
    "deep-and-whole": NO_JSON,
    "huge-number": NO_JSON,
    "strange-tls": rf"{TLS}: unable to get local issuer certificate",
    "self-signed-tls": rf"{TLS}: self.signed certificate",
    "other-name-tls": rf"{TLS}: .*(mismatch|not valid for).*",
    "expired-tls": rf"{TLS}: certificate has expired",
}
"""What `sync-status` says of each kind of which nothing counts as acknowledged."""
UNANSWERED = {"drip", "hang"}
"""They are given up after 30 s, which tests/conformance/test_report_sink.py shows with less."""
ACKNOWLEDGED = {"odd-queued", "far-next-sync"}
"""Only a field of theirs is wrong, which is passed over."""
MEGABYTES = 100
"""More than all these answers may cost."""


@contextmanager
def hostile_endpoints(folder: Path, authority: Authority) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """Run them; yield where each kind is, and their process."""
    strangers = folder / "strangers"
    strangers.mkdir()
    stranger = create_authority(strangers)
    certificates = {
        "good": authority.server_certificate("127.0.0.1"),
        "other-name": authority.server_certificate("elsewhere.example"),
        "expired": authority.server_certificate("127.0.0.1", expired=True),
        "strange": stranger.server_certificate("127.0.0.1"),
        "self-signed": stranger.own_certificate(),
    }
    for name, certificate in certificates.items():
        (folder / f"{name}.pem").write_bytes(certificate.read_bytes())
    command = [sys.executable, "-m", "tests.support.hostile_endpoints", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def test_no_wrong_answer_is_taken_for_one_and_each_is_told_again_once_it_is_right(
    new_instance: NewInstance, authority: Authority, tmp_path: Path
) -> None:
    instance = new_instance()
    instance.variables["SSL_CERT_FILE"] = str(authority.path)
    folder = tmp_path / "endpoints"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        urls, endpoints = stack.enter_context(hostile_endpoints(folder, authority))
        assert urls.keys() == REFUSED.keys() | UNANSWERED | ACKNOWLEDGED | {"good"}
        await instance.start()
        sink = await stack.enter_async_context(running_sink())
        admin = await stack.enter_async_context(instance.client())
        for kind, url in urls.items():
            account = {"id": "main", "tenant_id": kind, "host": "127.0.0.1", "port": sink.port}
            await admin.post("/tenant", {"id": kind, "client_base_url": url})
            await admin.post("/account", account)
        before = resident(instance, "VmRSS")

        # A message for everybody, and more and more for the good one.
        await admin.submit(*(a_message("M", tenant_id=kind) for kind in urls))
        said: dict[str, dict[str, Any]] = {}
        for n in range(200):
            await admin.submit(a_message(f"G{n}", tenant_id="good"))
            said = await _statuses(admin)
            if _all_have_answered(said) and _told(folder).keys() >= UNANSWERED:
                break
        told = _told(folder)
        for kind, words in REFUSED.items():
            assert re.fullmatch(words, said[kind]["last_error"] or ""), (kind, said[kind])
        assert {kind for kind in REFUSED.keys() | UNANSWERED if said[kind]["pending_events"] != 1} == set()
        assert told.keys() >= UNANSWERED
        assert await _reported(admin, urls) == ACKNOWLEDGED | {"good"}
        # Who asks for a pause gets it, who is gone is left alone, and a wish of a billion years disturbs nothing.
        assert said["429"]["next_sync_due"] > time.time() + 3000
        assert said["410"]["next_sync_due"] is None
        assert said["far-next-sync"]["in_dnd"]
        # G11
        await eventually(lambda: len(_told(folder)["good"]) == n + 2, "the good one is told everything")

        endpoints.send_signal(signal.SIGUSR1)
        assert endpoints.stdout is not None
        assert await asyncio.to_thread(endpoints.stdout.readline) == b"good\n"
        await admin.post("/commands/run-now")
        for _ in range(300):
            if all(each["pending_events"] == 0 for each in (await _statuses(admin)).values()):
                break
            await asyncio.sleep(0.05)
        said = await _statuses(admin)
        assert {kind: each["last_error"] for kind, each in said.items() if each["last_error"]} == {}
        assert await _reported(admin, urls) == set(urls)
        assert resident(instance, "VmHWM") - before < MEGABYTES
    again = _told(folder)
    for kind in urls.keys() - {"good"}:
        assert len(set(again[kind])) == 1, kind  # one event, under one id for ever
        assert len(again[kind]) >= (1 if kind in ACKNOWLEDGED or kind.endswith("-tls") else 2), kind
    assert len(set(again["good"])) == len(again["good"])
    assert (folder / "redirected.jsonl").read_text() == ""


def _all_have_answered(said: dict[str, dict[str, Any]]) -> bool:
    """Say whether everybody's one event was told and its answer weighed; which comes first is chance."""
    refused = all(said[kind]["consecutive_failures"] for kind in REFUSED)
    acknowledged = all(said[kind]["pending_events"] == 0 for kind in ACKNOWLEDGED)
    return refused and acknowledged and bool(said["far-next-sync"]["in_dnd"])


async def _statuses(admin: Client) -> dict[str, dict[str, Any]]:
    statuses = (await admin.get("/tenants/sync-status", limit=1000))["tenants"]
    return {each["tenant_id"]: each for each in statuses}


async def _reported(admin: Client, kinds: Iterable[str]) -> set[str]:
    """Kinds whose message `M` counts as reported."""
    messages = {kind: await admin.get("/messages/M", tenant_id=kind) for kind in kinds}
    return {kind for kind, message in messages.items() if message["reported_ts"] is not None}


def _told(folder: Path) -> dict[str, list[str]]:
    """Return the ids of the events that came, by kind, repeated ones included."""
    told: dict[str, list[str]] = {}
    for line in (folder / "told.jsonl").read_text().splitlines():
        entry = json.loads(line)
        told.setdefault(entry["tenant_id"], []).append(entry["event_id"])
    return told
