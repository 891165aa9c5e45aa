"""The reference pages name all that there is, and nothing else."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mail_proxy.administration.requests import AccountIn, ClientAuthIn, TenantIn
from mail_proxy.api.queries import MessagesQuery
from mail_proxy.api.schemas.messages import MessageOut, RecipientOut
from mail_proxy.api.schemas.status import StatusAnswer
from mail_proxy.cli.commands import OF_INSTANCE, OF_TENANT, main
from mail_proxy.cli.named.tree import MEASURES
from mail_proxy.domain.recipient import Recipient, RecipientKind, RecipientState
from mail_proxy.domain.report import EventType, Outlook, Subject, entry
from mail_proxy.domain.retry import DEFAULT_DELAYS, DEFAULT_MAX_ATTEMPTS
from mail_proxy.domain.tenant import COMMAND_WORDS, ClientAuthMethod
from mail_proxy.intake.submission import MessageIn
from mail_proxy.intake.validation import Accepted, check
from mail_proxy.runtime.telemetry import PrometheusMeter
from tests.docs.pages import ROOT, Page, page, pages, table_rows
from tests.support.api import running_instance
from tests.support.contract import operations

API = page("docs/api.md")
_ROUTE = re.compile(r"`(GET|POST|PUT|DELETE) (/[\w{}/-]*)`\Z")


# The API


@pytest.fixture
async def openapi(tmp_path: Path) -> dict[str, Any]:
    """The document that the instance shows at /openapi.json."""
    async with running_instance(tmp_path) as instance:
        return instance.app.openapi()


async def test_every_route_and_no_other_is_in_the_table(openapi: dict[str, Any]) -> None:
    there = {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods}
    told = {found.groups() for row in table_rows(API.text) if (found := _ROUTE.match(row[0]))}
    assert told == there


async def test_the_table_says_who_may_call_what_as_the_document_does(openapi: dict[str, Any]) -> None:
    told = {row[0].strip("`"): row[1] for row in table_rows(API.text) if _ROUTE.match(row[0])}
    for operation in operations(openapi):
        assert {"any": "tenant"}.get(told[str(operation)], told[str(operation)]) == operation.access, operation


def test_every_row_about_hostile_input_names_the_tests_that_show_it() -> None:
    rows = [
        row
        for row in table_rows(page("docs/security.md").text)
        if row[:2] not in (["request", "answer"], ["input", "answer"])
    ]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py): (test_\w+)`", row[-1])
        assert named, row[0]
        for path, name in named:  # that they are there, tests/docs/test_pages.py sees to
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("model", [MessageIn, AccountIn, TenantIn, ClientAuthIn, MessageOut, RecipientOut])
def test_every_field_is_explained(model: type[Any]) -> None:
    fields = {field.alias or name for name, field in model.model_fields.items()}
    assert {name for name in fields if not _mentions(API, name)} == set()


def test_every_filter_of_messages_is_named() -> None:
    told = {name for row in table_rows(API.text) for name in re.findall(r"`(\w+)(?:\.KEY)?`", row[0])}
    filters = {field.alias or name for name, field in MessagesQuery.model_fields.items()} - {"tenant_id"}
    assert filters - told == set()


def test_every_code_of_a_failure_is_explained() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    codes = set(re.findall(r"""(?:\bcode = |\bcode=)"([a-z_]+)\"""", source))
    codes |= set(re.findall(r'(?:failure\(\d+,[^\n]*|Unresolved\([^\n]*|_HTTP_CODES[^\n]*), "([a-z_]+)"', source))
    codes |= set(re.findall(r'"(already_[a-z]+)"', source))
    # The base class's own, and the one of a class that every raiser gives a code of its own.
    codes -= {"error", "conflict"}
    assert len(codes) > 20
    assert {code for code in codes if not _mentions(API, code)} == set()


@pytest.mark.parametrize(
    "name", ["loops", "accounts_on_hold", "scheduler_active", "pending_messages", "uptime_seconds"]
)
def test_what_operations_says_of_the_status_is_there(name: str) -> None:
    assert name in StatusAnswer.model_fields
    assert _mentions(page("docs/operations.md"), name)


# Examples


def test_submissions_that_pages_show_are_accepted() -> None:
    shown = [json.loads(block.text) for each in pages() for block in each.blocks if block.mark == "a submission"]
    items = [item for batch in shown for item in batch["messages"]]
    assert items
    for index, item in enumerate(items):
        assert isinstance(check(index, item, now=1785492000.0), Accepted), item


def test_the_report_that_is_shown_has_the_shape_of_a_real_one() -> None:
    (text,) = (block.text for block in page("docs/reports.md").blocks if block.mark == "a report")
    entries = json.loads(text)["delivery_report"]
    assert {each["event"] for each in entries} == {"sent", "failed", "deferred"}
    for shown in entries:
        real = json.loads(_a_real_entry(shown))
        real["event_id"] = shown["event_id"]
        assert _shape(shown) == _shape(real)


@pytest.mark.parametrize("type_", [each for each in EventType if each is not EventType.QUEUED])
def test_every_field_of_a_report_is_explained(type_: EventType) -> None:
    subject = Subject("acme", "M1", 1, "main", 2, "spring", {"order": 1042})
    fields = json.loads(entry(subject, type_, 1.0, [Recipient(0, "ann@example.net", RecipientKind.TO)]))
    reports = page("docs/reports.md")
    assert _mentions(reports, type_.value)
    rows = [" ".join(row) for row in table_rows(reports.prose)]
    assert {name for name in fields if not any(f"`{name}`" in row for row in rows)} == set()


def test_every_way_to_log_in_at_an_endpoint_is_named() -> None:
    assert {
        method.value for method in ClientAuthMethod if f'"{method.value}"' not in page("docs/reports.md").text
    } == set()


def test_the_table_of_attempts_is_the_schedule() -> None:
    found = re.search(r"<!-- test: the retry table -->\n((?:\|.*\n)+)", page("docs/concepts.md").text)
    assert found is not None
    (_, *rows) = table_rows(found[1])
    expected = [["1", "at once"]] + [
        [str(n + 2), f"{delay / 60:g} min after attempt {n + 1}"]
        for n, delay in enumerate(DEFAULT_DELAYS[: DEFAULT_MAX_ATTEMPTS - 1])
    ]
    assert [row[:2] for row in rows] == expected


# Metrics, command line, log


def test_every_metric_and_no_other_is_explained() -> None:
    meter = PrometheusMeter()
    meter.pending(1, 1.0)
    meter.outages(1, 1)
    meter.behind({})
    meter.sent("acme", "main")
    text = meter.render().decode()
    spread = "|".join(re.findall(r"^# TYPE (\w+) histogram$", text, re.MULTILINE))
    samples = {line.partition(" ")[0].partition("{")[0] for line in _lines(meter) if not line.startswith("#")}
    samples = {re.sub(rf"^({spread})_(?:bucket|sum|count)$", r"\1", name) for name in samples}
    told = {
        name for row in table_rows(page("docs/metrics.md").text) for name in _metrics_in(row[0]) if "(" not in row[0]
    }
    assert {name for name in told if name.startswith("gmp_")} == {name for name in samples if name.startswith("gmp_")}
    assert samples <= told


def test_every_label_is_named() -> None:
    meter = PrometheusMeter(process=False)
    meter.behind({})
    meter.sent("acme", "main")
    labels = {label for line in _lines(meter) for label in re.findall(r"[{,](\w+)=", line)}
    assert labels == {label for label in labels if _mentions(page("docs/metrics.md"), label)}


def test_every_command_and_option_is_explained() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_cli_reference.py"))["reference"]()
    assert page("docs/cli-reference.md").text == made, "run 'make format'"
    assert made.count("\n### `") > 40
    assert made.count("```sh\n```") == 0  # each has an example
    for option in ("--help", "--version"):
        assert _mentions(page("docs/cli.md"), option)


def test_words_of_commands_are_nobodys_ids() -> None:
    words = {each.name for each in (*main.commands.values(), *OF_INSTANCE, *OF_TENANT)}
    assert words - {MEASURES} <= COMMAND_WORDS


def test_log_lines_that_operations_explains_are_written_somewhere() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    section = page("docs/operations.md").text.partition("## Logs")[2].partition("\n## ")[0]
    events = {event for row in table_rows(section) for event in re.findall(r"`([^`]+)`", row[0])} - {"event"}
    assert len(events) > 15
    assert {event for event in events if f'"{event}"' not in source} == set()


def _mentions(where: Page, name: str) -> bool:
    """True where a page has a name in code style, alone or within something longer."""
    return re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", where.prose) is not None


def _a_real_entry(shown: dict[str, Any]) -> str:
    recipients = [
        Recipient(
            n,
            each["address"],
            RecipientKind(each["kind"]),
            RecipientState(each["state"]),
            f"{each['code']} {each['enhanced_code']} {each['text']}",
            each["ts"],
        )
        for n, each in enumerate(shown["recipients"])
    ]
    subject = Subject(
        shown["tenant_id"],
        shown["id"],
        int(shown["pk"]),
        shown["account_id"],
        shown["priority"],
        shown.get("batch_code"),
        shown.get("metadata"),
    )
    outlook = Outlook("550 no", "550", 1.0, "450 later")
    return entry(subject, EventType(shown["event"]), 1.0, recipients, outlook)


def _shape(value: object) -> object:
    match value:
        case dict():
            return {name: _shape(each) for name, each in value.items()}
        case list():
            return [_shape(each) for each in value]
        case float() | int():
            return "number"
        case _:
            return type(value)


def _lines(meter: PrometheusMeter) -> Iterator[str]:
    return iter(meter.render().decode().splitlines())


def _metrics_in(cell: str) -> list[str]:
    return re.findall(r"`((?:gmp|process)_\w+)`", cell)
