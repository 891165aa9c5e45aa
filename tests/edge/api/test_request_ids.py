"""Every request has an id, in its answer and in what is logged for it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from mail_proxy.api import request_ids
from mail_proxy.runtime.logs import configure_logging


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """All that is logged, as JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    monkeypatch.setattr(request_ids, "log", structlog.get_logger())  # an older one goes by an older configuration
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def requests(log: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event"] == "request"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/health", 200), ("GET", "/messages", 422), ("POST", "/commands/add-messages", 422), ("GET", "/no", 404)],
)
async def test_the_callers_id_comes_back_and_is_in_the_log(
    admin: httpx.AsyncClient, log: io.StringIO, method: str, path: str, status: int
) -> None:
    answer = await admin.request(method, path, headers={"X-Request-ID": "shop:42/a_b.c-d+e=f@g"}, content=b"nonsense")
    assert answer.headers.get_list("x-request-id") == ["shop:42/a_b.c-d+e=f@g"]
    (line,) = requests(log)
    assert line["request_id"] == "shop:42/a_b.c-d+e=f@g"
    assert (line["level"], line["method"], line["path"]) == ("debug", method, path)
    assert line["status"] == answer.status_code
    assert answer.status_code == status
    assert line["ms"] >= 0


@pytest.mark.parametrize("given", [None, "", "two words", "a" * 129, "back\\slash", "\x1b[2J", "ü"])
async def test_others_get_a_new_one(admin: httpx.AsyncClient, log: io.StringIO, given: str | None) -> None:
    headers = [] if given is None else [(b"X-Request-ID", given.encode())]
    one, two = [await admin.get("/health", headers=headers) for _ in range(2)]
    ids = [one.headers["x-request-id"], two.headers["x-request-id"]]
    assert all(len(each) == 32 and each.isalnum() for each in ids)
    assert ids[0] != ids[1]
    assert [line["request_id"] for line in requests(log)] == ids


@pytest.mark.parametrize("path", ["/files/{}", "/mail/files/{}", "/files/{}/more", "/files//{}"])
async def test_who_reads_the_log_cannot_have_the_file_of_a_link(
    admin: httpx.AsyncClient, log: io.StringIO, path: str
) -> None:
    for method in ("GET", "HEAD", "POST"):
        await admin.request(method, path.format("the-token-of-a-link"))
    assert [line["path"].rpartition("/")[2] for line in requests(log)] == ["********"] * 3
    assert "the-token-of-a-link" not in str(requests(log))


async def test_lines_outside_of_a_request_have_none(admin: httpx.AsyncClient, log: io.StringIO) -> None:
    await admin.get("/health", headers={"X-Request-ID": "mine"})
    structlog.get_logger().info("later")
    assert "request_id" not in json.loads(log.getvalue().splitlines()[-1])
