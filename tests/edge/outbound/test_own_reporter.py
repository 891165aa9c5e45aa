"""Reporters of users: what they are given, what their answers come to, and that nothing they do ends the service."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from collections import UserDict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from mail_proxy.domain.tenant import Tenant
from mail_proxy.outbound.own_reporter import OwnReporterSink, ReporterRefused, load
from mail_proxy.reporters import Report
from mail_proxy.reporting.answer import Acknowledged, understand

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
PAYLOAD = json.dumps({"delivery_report": [{"event_id": "7", "id": "M1"}]}).encode()
EMPTY = b'{"delivery_report":[]}'
TIMEOUT = 0.3


def _deep() -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for _ in range(100_000):
        answer = {"deeper": answer}
    return answer


async def test_it_is_given_tenant_id_entries_and_body() -> None:
    given: list[Report] = []

    async def keep(report: Report) -> None:
        given.append(report)

    sink = OwnReporterSink(keep)
    for number, payload in enumerate((PAYLOAD, EMPTY)):
        assert understand(await sink.deliver(ACME, payload, f"report_{number}")) == Acknowledged()
    assert sink.has_endpoint(ACME)
    first, empty = given
    assert (first.tenant_id, first.id, first.body) == ("acme", "report_0", PAYLOAD)
    assert list(first.entries) == [{"event_id": "7", "id": "M1"}]
    assert (empty.id, list(empty.entries)) == ("report_1", [])


class _Called:
    async def __call__(self, report: Report) -> dict[str, Any]:
        return {"error": [report.entries[0]["id"]]}


def _plain(report: Report) -> dict[str, Any]:
    assert threading.current_thread() is not threading.main_thread()
    return {"error": [report.entries[0]["id"]]}


async def _with_more(_more: int, report: Report) -> UserDict[str, Any]:
    return UserDict({"error": [report.entries[0]["id"]]})


@pytest.mark.parametrize("reporter", [_plain, _Called(), partial(_with_more, 1)], ids=["plain", "object", "partial"])
async def test_whatever_can_be_called_answers_as_an_endpoint_does(reporter: Any) -> None:
    answer = await OwnReporterSink(reporter).deliver(ACME, PAYLOAD, "report_1")
    assert understand(answer) == Acknowledged(frozenset({"M1"}))


def _raise(error: BaseException) -> NoReturn:
    raise error


async def _coroutine() -> None: ...


BAD: dict[str, tuple[Any, str]] = {
    "raises": (lambda _: _raise(ValueError("the secret")), "the reporter raised ValueError"),
    "exits": (lambda _: sys.exit(3), "the reporter raised SystemExit"),
    "a list": (lambda _: [], "the reporter answered with list, which is neither a mapping nor None"),
    "true": (lambda _: True, "the reporter answered with bool, which is neither a mapping nor None"),
    "a coroutine": (
        lambda _: _coroutine(),
        "the reporter answered with coroutine, which is neither a mapping nor None",
    ),
    "no JSON": (lambda _: {"error": {1, 2}}, "what the reporter answered is no JSON (TypeError)"),
    "NaN": (lambda _: {"queued": float("nan")}, "what the reporter answered is no JSON (ValueError)"),
    "deep": (lambda _: _deep(), "what the reporter answered is no JSON (RecursionError)"),
    "long": (lambda _: {"more": "x" * 2000}, "the reporter's answer is longer than 1000 bytes"),
    "cancels": (lambda _: _raise(asyncio.CancelledError()), "the reporter "),
}


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize("bad", BAD)
async def test_what_goes_wrong_is_a_failure_in_words_and_the_next_call_goes_on(bad: str, is_async: bool) -> None:
    behave, words = BAD[bad]
    calls: list[str] = []

    def plain(report: Report) -> Any:
        calls.append(report.id)
        return behave(report) if len(calls) == 1 else None

    async def in_loop(report: Report) -> Any:
        return plain(report)

    sink = OwnReporterSink(in_loop if is_async else plain, max_bytes=1000)
    with capture_logs() as logged:
        answer = await sink.deliver(ACME, PAYLOAD, "report_1")
    assert answer.status is None
    assert answer.error is not None
    assert answer.error.startswith(words)
    assert not isinstance(understand(answer), Acknowledged)
    assert "secret" not in answer.error
    if bad == "raises":  # the words are for the log alone
        assert [line["error"] for line in logged] == ["ValueError: the secret"]
    assert understand(await sink.deliver(ACME, PAYLOAD, "report_1")) == Acknowledged()


async def test_a_function_that_does_not_come_back_is_given_up_and_no_second_one_is_called_beside_it() -> None:
    way_out, calls = threading.Event(), []

    def hang(report: Report) -> None:
        calls.append(report.tenant_id)
        if report.tenant_id == "acme":
            way_out.wait(10)

    sink = OwnReporterSink(hang, timeout=TIMEOUT)
    assert (await sink.deliver(ACME, PAYLOAD, "report_1")).error == "the reporter did not answer in 0.3 s"
    again = (await sink.deliver(ACME, PAYLOAD, "report_1")).error
    assert again == "the reporter has not come back from an earlier call for this tenant"
    assert understand(await sink.deliver(GLOBEX, PAYLOAD, "report_1")) == Acknowledged()  # G11
    way_out.set()
    while (await sink.deliver(ACME, PAYLOAD, "report_1")).error is not None:  # noqa: ASYNC110 - the thread tells nobody
        await asyncio.sleep(0.01)
    assert calls == ["acme", "globex", "acme"]


async def test_a_coroutine_that_takes_no_cancellation_is_left_behind_and_the_caller_may_leave_as_well() -> None:
    way_out, begun = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Report) -> None:
        begun.set()
        while not way_out.is_set():
            try:
                await way_out.wait()
            except asyncio.CancelledError:
                continue

    sink = OwnReporterSink(stubborn, timeout=TIMEOUT)
    assert (await sink.deliver(ACME, PAYLOAD, "report_1")).error == "the reporter did not answer in 0.3 s"
    begun.clear()
    caller = asyncio.create_task(sink.deliver(GLOBEX, PAYLOAD, "report_1"))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    way_out.set()
    await sink.close()


def _install(folder: Path, module: str) -> None:
    (folder / "users_reporters.py").write_text(module)
    info = folder / "users_reporters-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: users-reporters\nVersion: 1\n")
    points = "\n".join(f"{name} = users_reporters:{name}" for name in ("good", "number", "kind", "missing"))
    (info / "entry_points.txt").write_text(f"[genro_mail_proxy.reporters]\n{points}\n")


def test_an_installed_reporter_is_found_and_what_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path, "number = 1\nclass kind: ...\ndef good(report): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_reporters", raising=False)
    importlib.invalidate_caches()
    assert load("good").__name__ == "good"
    neither = "is neither a function nor an object that can be called"
    for name, words in {
        "absent": "GMP_REPORTER names 'absent', and no installed package has it; "
        "there is: good, http, kind, missing, number",
        "number": f"GMP_REPORTER names 'number', and users_reporters:number {neither}",
        "kind": f"GMP_REPORTER names 'kind', and users_reporters:kind {neither}",
        "missing": "GMP_REPORTER names 'missing', and users_reporters:missing cannot be imported: AttributeError: "
        "module 'users_reporters' has no attribute 'missing'",
    }.items():
        with pytest.raises(ReporterRefused) as refused:
            load(name)
        assert str(refused.value) == words
