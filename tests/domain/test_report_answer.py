"""What an answer to a report means, field by field."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.answer import Acknowledged, Answer, Paused, Refused, understand

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def said(fields: object, status: int = 200) -> Answer:
    return understand(SinkAnswer(status, json.dumps(fields).encode()))


@pytest.mark.parametrize(
    ("fields", "meaning"),
    [
        ({}, Acknowledged()),
        ({"ok": True}, Acknowledged()),
        ({"something": ["else"]}, Acknowledged()),
        ({"error": ["M1", "M2"]}, Acknowledged(frozenset({"M1", "M2"}))),
        ({"error": [], "not_found": ["M3"]}, Acknowledged()),
        ({"error": [17, "M1"]}, Acknowledged(frozenset({"17", "M1"}))),
        ({"error": None, "not_found": None, "queued": None, "next_sync_after": None}, Acknowledged()),
        ({"queued": 5}, Acknowledged(queued=5)),
        ({"queued": 5.0}, Acknowledged(queued=5)),
        ({"queued": 0}, Acknowledged()),
        ({"next_sync_after": 1_760_000_000}, Acknowledged(next_sync_after=1_760_000_000.0)),
        ({"next_sync_after": 1.5}, Acknowledged(next_sync_after=1.5)),
        ({"sent": 12, "error": 1, "deferred": 3}, Acknowledged()),
        ({"sent": 12, "error": 0, "deferred": 3, "queued": 4}, Acknowledged(queued=4)),
    ],
)
def test_an_object_that_does_not_object_acknowledges(fields: object, meaning: Answer) -> None:
    assert said(fields) == meaning
    assert said(fields, 201) == meaning


@pytest.mark.parametrize("ok", [False, None, 1, 0, "true", "yes", [], {}])
def test_ok_is_true_or_absent_or_nothing_is_acknowledged(ok: object) -> None:
    assert isinstance(said({"ok": ok, "error": []}), Refused)


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"error": "M1"}, ("error",)),
        ({"error": {"M1": "why"}}, ("error",)),
        ({"error": True}, ("error",)),
        ({"not_found": "M1"}, ("not_found",)),
        ({"not_found": 3}, ("not_found",)),
        ({"queued": "x"}, ("queued",)),
        ({"queued": True}, ("queued",)),
        ({"queued": -1}, ("queued",)),
        ({"queued": 1.5}, ("queued",)),
        ({"queued": [1]}, ("queued",)),
        ({"next_sync_after": "2026-01-01"}, ("next_sync_after",)),
        ({"next_sync_after": {}}, ("next_sync_after",)),
        ({"next_sync_after": 10**400}, ("next_sync_after",)),
        ({"queued": "x", "next_sync_after": False, "error": 1.5}, ("queued", "next_sync_after")),
    ],
)
def test_a_field_of_a_wrong_type_is_passed_over_and_named(fields: object, ignored: tuple[str, ...]) -> None:
    assert said(fields) == Acknowledged(ignored=ignored)


def test_an_id_of_a_wrong_type_does_not_hide_the_others() -> None:
    assert said({"error": ["M1", None, {"id": "M2"}, ["M3"], True]}) == Acknowledged(
        frozenset({"M1"}), ignored=("error",)
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome</html>",
        b"OK",
        b"{",
        b'{"ok": true',
        b'{"ok": true} trailing',
        b"{'ok': true}",
        b'{"next_sync_after": NaN}',
        b'{"queued": Infinity}',
        b'{"ok": "\xff"}',
        b"\x00",
        b'{"queued": ' + b"9" * 100_000 + b"}",
    ],
)
def test_what_is_not_json_is_no_answer(body: bytes) -> None:
    assert isinstance(understand(SinkAnswer(200, body)), Refused)


@pytest.mark.parametrize("body", [b"[]", b"true", b"null", b"1", b'"ok"', b'[{"ok": true}]'])
def test_json_that_is_no_object_is_no_answer(body: bytes) -> None:
    assert understand(SinkAnswer(200, body)) == Refused("HTTP 200, but the answer is not a JSON object")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"error":['])
def test_deep_json_is_refused_quickly(opening: bytes) -> None:
    body = opening * (1_000_000 // len(opening))
    start = time.perf_counter()
    assert isinstance(understand(SinkAnswer(200, body)), Refused)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 413, 429, 500, 503, 599, 999])
def test_only_a_2xx_acknowledges(status: int) -> None:
    answer = understand(SinkAnswer(status, b'{"ok": true}', retry_after=7.0))
    assert isinstance(answer, Refused)
    assert answer.retry_after == 7.0
    assert answer.reason.startswith(f"HTTP {status}")


def test_gone_pauses_whatever_it_says() -> None:
    assert isinstance(understand(SinkAnswer(410, b'{"ok": true}')), Paused)
    assert isinstance(understand(SinkAnswer(410, b"", error="the answer is too long")), Paused)


def test_no_answer_is_a_refusal_with_its_reason() -> None:
    assert understand(SinkAnswer(None, b"", error="connection refused")) == Refused("connection refused")


def test_half_an_answer_acknowledges_nothing() -> None:
    assert understand(SinkAnswer(200, b'{"ok": true}', error="too long")) == Refused("too long")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
fields = st.dictionaries(
    st.sampled_from(["ok", "error", "not_found", "queued", "next_sync_after", "sent"]), json_values
)


@PATIENT
@given(st.one_of(st.binary(), fields.map(lambda value: json.dumps(value).encode())), st.integers(100, 599))
def test_every_body_has_a_meaning(body: bytes, status: int) -> None:
    match understand(SinkAnswer(status, body)):
        case Acknowledged(refused_ids, queued, _, _):
            assert 200 <= status < 300
            assert queued >= 0
            told = json.loads(body)
            assert told.get("ok", True) is True
            if isinstance(told.get("error"), list):
                assert {each for each in told["error"] if isinstance(each, str)} <= refused_ids
        case Refused(reason, _):
            assert reason
        case Paused():
            assert status == 410
