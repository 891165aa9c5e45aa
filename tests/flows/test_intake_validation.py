"""One submitted item by itself: each rule, and which field and code a refusal names."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.message import Priority
from mail_proxy.domain.submission import MAX_HEADERS, MAX_RECIPIENTS, NOT_WITH_RAW, build_message
from mail_proxy.intake.receipt import Rejected
from mail_proxy.intake.submission import BatchIn, MessageIn
from mail_proxy.intake.validation import MAX_DEPTH, Accepted, check, digest
from tests.flows.intake_fakes import item

NOW = 1_760_000_000.0
RAW = "RnJvbTogYUBiLmMNCg0KeA0K"
ONLY_RAW: dict[str, object] = {"subject": ..., "body": ...}


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def accepted(**changes: object) -> Accepted:
    result = check(0, item(**changes), NOW)
    assert isinstance(result, Accepted), result
    return result


def rejected(submitted: object) -> Rejected:
    result = check(3, submitted, NOW)
    assert isinstance(result, Rejected)
    assert result.index == 3
    assert result.reason.isprintable()
    assert len(result.reason) < 400
    json.dumps([result.id, result.field, result.reason], ensure_ascii=False).encode("utf-8")
    return result


@pytest.mark.parametrize("id_", ["M1", "ü", "a b", "x" * 255, "日本", "a?b#c%", "..."])
def test_an_id_is_any_printable_text_without_a_slash(id_: str) -> None:
    assert accepted(id=id_).id == id_


@pytest.mark.parametrize(
    "id_",
    [
        ...,
        None,
        "",
        ".",
        "..",
        "x" * 256,
        "a/b",
        "a\nb",
        "a\0",
        "a\x1b[0m",
        "a\u200d",
        "a\ud800",
        5,
        True,
        ["a"],
        {"a": 1},
    ],
)
def test_another_id_is_refused_as_such(id_: object) -> None:
    refused = rejected(item(id=id_))
    assert (refused.field, refused.code) == ("id", "id_invalid")
    assert refused.id is None or (isinstance(id_, str) and len(refused.id) <= 255)


@pytest.mark.parametrize("submitted", [None, 1, "text", [], [item()], True, 1.5])
def test_an_item_that_is_no_object_is_refused(submitted: object) -> None:
    refused = rejected(submitted)
    assert (refused.id, refused.field, refused.code) == (None, None, "invalid")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("from", {"from_": ...}),
        ("from", {"from_": None}),
        ("from", {"from_": ["shop@example.com"]}),
        ("from", {"from_": "shop"}),
        ("to", {"to": ...}),
        ("to", {"to": 5}),
        ("to", {"to": [5]}),
        ("to", {"to": [["anna@example.org"]]}),
        ("to", {"to": nested(5000)}),
        ("to", {"to": {"anna@example.org": 1}}),
        ("to", {"to": ["a@b.c"] * (MAX_RECIPIENTS + 1)}),
        ("to", {"to": "a@b.c," * 100_000}),
        ("to", {"to": "a@b\r\nRCPT TO:<x@y.z>"}),
        ("cc", {"cc": "@a,@b:c@d"}),
        ("cc", {"cc": ["é@ex ample.org"]}),
        ("bcc", {"bcc": ["a@b\ud800.c"]}),
        ("bcc", {"bcc": ["a\u202eb@example.org"]}),
        ("bcc", {"bcc": ["a@bü\u2028cher.example"]}),
        ("bcc", {"bcc": ["a@⒈com"]}),
        ("reply_to", {"reply_to": '"a> X"@example.org'}),
        ("return_path", {"return_path": "b@büc_her.example"}),
        ("return_path", {"return_path": "Ä <b@bücher.example>"}),
        ("subject", {"subject": ...}),
        ("subject", {"subject": None}),
        ("subject", {"subject": "a\r\nBcc: x@y.z"}),
        ("subject", {"subject": "x" * 2001}),
        ("subject", {"subject": "\ud800"}),
        ("subject", {"subject": "a\0"}),
        ("body", {"body": ...}),
        ("body", {"body": 5}),
        ("body", {"body": "\udfff"}),
        ("body", {"body": "x", "text": "y"}),
        ("html", {"body": ..., "html": "\ud800"}),
        ("content_type", {"content_type": "text/html"}),
        ("content_type", {"content_type": 1}),
        ("message_id", {"message_id": "x"}),
        ("headers", {"headers": []}),
        ("headers", {"headers": {"X-A": None}}),
        ("headers", {"headers": {"X-A": nested(5000)}}),
        ("headers", {"headers": {"X-A": "a\0"}}),
        ("headers", {"headers": {"Subject": "a"}}),
        ("headers", {"headers": {"X\ud800": "a"}}),
        ("headers", {"headers": {f"X-{n}": "" for n in range(MAX_HEADERS + 1)}}),
        ("priority", {"priority": 4}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": 1.0}),
        ("priority", {"priority": True}),
        ("priority", {"priority": "1"}),
        ("priority", {"priority": "HIGH"}),
        ("priority", {"priority": "urgent"}),
        ("priority", {"priority": 10**400}),
        ("deferred_ts", {"deferred_ts": "1760000000"}),
        ("deferred_ts", {"deferred_ts": True}),
        ("deferred_ts", {"deferred_ts": -1}),
        ("deferred_ts", {"deferred_ts": 2e10}),
        ("deferred_ts", {"deferred_ts": math.inf}),
        ("deferred_ts", {"deferred_ts": math.nan}),
        ("deferred_ts", {"deferred_ts": 10**400}),
        ("expires_ts", {"expires_ts": NOW + 10, "deferred_ts": NOW + 10}),
        ("batch_code", {"batch_code": ""}),
        ("batch_code", {"batch_code": "x" * 256}),
        ("batch_code", {"batch_code": "a\0"}),
        ("batch_code", {"batch_code": 7}),
        ("account_id", {"account_id": 7}),
        ("account_id", {"account_id": "\ud800"}),
        ("metadata", {"metadata": []}),
        ("metadata", {"metadata": "x"}),
        ("metadata", {"metadata": {"a": "x" * 4096}}),
        ("metadata", {"metadata": {"a": "é" * 2048}}),
        ("metadata", {"metadata": {"a": [None] * 1000}}),
        ("metadata", {"metadata": {"a": [None] * 1_000_000}}),
        ("metadata", {"metadata": {str(n): n for n in range(1000)}}),
        ("metadata", {"metadata": {"a": nested(MAX_DEPTH)}}),
        ("metadata", {"metadata": {"a": nested(5000)}}),
        ("metadata", {"metadata": {"a": "\0"}}),
        ("metadata", {"metadata": {"\0": 1}}),
        ("metadata", {"metadata": {"a": ["\ud800"]}}),
        ("metadata", {"metadata": {"a": math.nan}}),
        ("metadata", {"metadata": {"a": -math.inf}}),
        ("metadata", {"metadata": {"a": 10**400}}),
        ("raw", {"raw": "RnJvbTo", **ONLY_RAW}),
        ("raw", {"raw": 5, **ONLY_RAW}),
        ("raw", {"raw": "", **ONLY_RAW}),
        ("raw", {"raw": "\ud800", **ONLY_RAW}),
        ("subject", {"raw": RAW}),
        ("body", {"raw": RAW, "subject": ...}),
        ("to", {"raw": RAW, **ONLY_RAW, "to": []}),
        ("from", {"raw": RAW, **ONLY_RAW, "from_": ...}),
        ("sender", {"sender": "x"}),
        ("from_", {"from__": "shop@example.com", "from_": ...}),
    ],
)
def test_a_refusal_names_the_field(field: str, changes: dict[str, object]) -> None:
    submitted = item(**changes)
    if field == "from_":
        submitted["from_"] = "shop@example.com"
    start = time.process_time()
    refused = rejected(submitted)
    assert (refused.id, refused.field, refused.code) == ("M1", field, "invalid")
    assert time.process_time() - start < 0.5


def test_milliseconds_are_recognised_and_said_so() -> None:
    for field in ("deferred_ts", "expires_ts"):
        assert "milliseconds" in rejected(item(**{field: 1_760_000_000_000})).reason


@pytest.mark.parametrize("name", ["\ud800", "\x1b[31mred", "a\nb", "x" * 100_000, ""])
def test_an_unknown_field_is_refused_by_a_name_that_can_be_shown(name: str) -> None:
    refused = rejected(item() | {name: 1})
    assert refused.field is None or (refused.field.isprintable() and len(refused.field) <= 80)


def test_nulls_count_as_absent_and_are_not_stored() -> None:
    optional = {name: None for name in MessageIn.model_fields if name not in {"id", "from_", "to", "subject", "body"}}
    assert accepted(**optional) == accepted()


@pytest.mark.parametrize(("given_priority", "priority"), [(0, 0), (3, 3), ("immediate", 0), ("low", 3), (None, None)])
def test_a_priority_is_a_number_or_a_word(given_priority: object, priority: int | None) -> None:
    assert accepted(priority=given_priority).priority == priority


def test_times_are_whole_or_broken_seconds() -> None:
    result = accepted(deferred_ts=1_760_000_005, expires_ts=1_760_000_010.5)
    assert (result.deferred_ts, result.expires_ts) == (1_760_000_005.0, 1_760_000_010.5)


def test_metadata_up_to_four_kilobytes_comes_through_as_it_is() -> None:
    metadata = {"text": "é" * 1000, "list": [1, 2.5, None, True, {"deep": nested(10)}], "zero": 0, "big": 2**63 - 1}
    assert json.loads(accepted(metadata=metadata).fields)["metadata"] == metadata
    assert accepted(metadata={"a": "x" * (4096 - len('{"a":""}'))}).id == "M1"
    assert accepted(metadata={"a": nested(MAX_DEPTH - 1)}).id == "M1"


@pytest.mark.parametrize("field", ["body", "text", "html"])
def test_nul_in_a_body_is_replaced_before_it_is_stored(field: str) -> None:
    changes: dict[str, object] = {"body": ..., field: "a\0b"}
    result = accepted(**changes)
    assert json.loads(result.fields)[field] == "a\ufffdb"
    assert (result.message.text or result.message.html) == "a\ufffdb"


# Addresses that are not plain


@pytest.mark.parametrize(
    ("given_address", "stored"),
    [
        ("anna@bücher.example", "anna@xn--bcher-kva.example"),
        ("Änne <änne@bücher.example>", '"Änne" <änne@xn--bcher-kva.example>'),
        ("anna@BÜCHER.test", "anna@xn--bcher-kva.test"),
        ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        ("a\u0308nne@example.org", "änne@example.org"),
        ("änne@mail.local", "änne@mail.local"),
        ("Änne Ö. <anna@example.org>", "Änne Ö. <anna@example.org>"),
        ('"anna rossi"@example.org', '"anna rossi"@example.org'),
        ('"anna"@bücher.example', "anna@xn--bcher-kva.example"),
    ],
)
def test_an_international_address_is_stored_with_its_domain_in_ascii(given_address: str, stored: str) -> None:
    result = accepted(from_=given_address, to=["x@y.z", given_address], reply_to=f"x@y.z, {given_address}")
    fields = json.loads(result.fields)
    assert fields["from"] == stored
    assert fields["to"] == ["x@y.z", stored]
    assert build_message(fields) == result.message
    assert result.message.sender == result.message.to[1] == result.message.reply_to[1]
    assert result.message.sender.domain.isascii()


def test_a_comma_list_is_rewritten_only_where_it_has_to_be() -> None:
    result = accepted(to='"Ä, B" <a@b.c>, d@é.example,"x y"@z.org')
    assert result.message.to == (Mailbox("a@b.c", "Ä, B"), Mailbox("d@xn--9ca.example"), Mailbox('"x y"@z.org'))
    assert json.loads(result.fields)["to"] == '"Ä, B" <a@b.c>, d@xn--9ca.example, "x y"@z.org'


def test_an_international_return_path_is_stored_in_ascii() -> None:
    for given_path in ("b@bücher.example", "<b@bücher.example>"):
        assert accepted(return_path=given_path).message.return_path == "b@xn--bcher-kva.example"


@given(st.text(st.one_of(st.characters(), st.sampled_from('"<>@., é日\u0308')), max_size=40))
def test_no_address_is_too_strange_to_be_answered(text: str) -> None:
    result = check(0, item(from_=text, to=[text], return_path=text), NOW)
    if isinstance(result, Accepted):
        assert build_message(json.loads(result.fields)) == result.message
        assert result.message.sender.domain.isascii()


# Any JSON at all

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=20)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
field_names = st.sampled_from(sorted(field.alias or name for name, field in MessageIn.model_fields.items()))


@given(st.dictionaries(field_names, json_values, max_size=4))
def test_any_json_in_any_field_is_taken_or_refused(changes: dict[str, Any]) -> None:
    result = check(0, item() | changes, NOW)
    if isinstance(result, Rejected):
        rejected_field = (result.field or "").partition("[")[0]
        assert rejected_field in {*changes, "to", "body", "content_type", "expires_ts", "subject"}
        result.reason.encode("utf-8")
    else:
        result.fields.encode("utf-8")
        assert "\0" not in result.fields
        assert "\\u0000" not in result.fields
        assert build_message(json.loads(result.fields)) == result.message


# The digest


def test_the_digest_does_not_depend_on_the_order_of_keys_nulls_or_the_tenants_name() -> None:
    one = {"id": "a", "headers": {"x": "1", "y": "2"}, "tenant_id": "acme", "cc": None}
    other = {"headers": {"y": "2", "x": "1"}, "id": "a"}
    assert digest(one) == digest(other)
    assert digest(one) != digest({"id": "a", "headers": {"x": "1", "y": "3"}})
    assert len(digest(one)) == 64


def test_digests_are_the_same_in_every_version() -> None:
    told = {
        "id": "a",
        "from": "Zoë <zoe@example.com>",
        "to": ["b@example.net"],
        "metadata": {"z": 1, "a": [True, None, 0.1, 1e22, -7, 2**60], "é": '\u2028\x7f\\"', "deep": {"b": {}, "a": []}},
        "deferred_ts": 1_800_000_000.25,
    }
    assert digest(told) == "8e7e8e446b83cc02161a5ab96d99a60a4b214a7be065f5cb139c17c5210aa88f"


def test_the_digest_covers_a_complete_message() -> None:
    assert accepted(raw=RAW, **ONLY_RAW).digest == accepted(raw=RAW, **ONLY_RAW).digest
    assert accepted(raw=RAW, **ONLY_RAW).digest != accepted(raw=RAW[:-4] + "eA0K", **ONLY_RAW, cc="c@d.e").digest
    assert digest({"raw": RAW}) != digest({"raw": RAW[:-8] + "Cgp4"}) != digest({"raw": {"sha256": ""}})


def test_of_a_complete_message_the_size_is_stored_beside_it() -> None:
    result = accepted(raw=RAW, **ONLY_RAW)
    fields = json.loads(result.fields)
    assert (fields["raw"], fields["raw_size"]) == (RAW, 18)
    assert result.message.raw is not None
    assert result.message.raw.body == ()
    assert build_message(fields).raw == replace(result.message.raw, body=(b"\r\nx\r\n",))


# The documentation


@pytest.mark.parametrize("model", [MessageIn, BatchIn])
def test_every_field_is_documented(model: type[MessageIn | BatchIn]) -> None:
    schema = model.model_json_schema()
    assert schema["additionalProperties"] is False
    for name, field in schema["properties"].items():
        assert field.get("description"), name
        assert field.get("examples") or name == "messages", name


def test_the_examples_make_a_message_that_is_taken() -> None:
    properties = MessageIn.model_json_schema()["properties"]
    example = {name: field["examples"][0] for name, field in properties.items()}
    for unwanted in ("text", "html", "deferred_ts", "expires_ts"):
        del example[unwanted]
    raw = example.pop("raw")
    assert isinstance(check(0, example, NOW), Accepted)
    for unwanted in NOT_WITH_RAW:
        example.pop(unwanted, None)
    assert isinstance(check(0, {**example, "raw": raw}, NOW), Accepted)


def test_a_batch_passes_its_items_on_unlooked_at_and_documents_them() -> None:
    batch = BatchIn.model_validate({"messages": [1, {"x": 2}], "default_priority": "immediate"})
    assert list(batch.messages) == [1, {"x": 2}]
    assert batch.priority is Priority.IMMEDIATE
    assert BatchIn.model_validate({"messages": []}).priority is None
    assert "subject" in json.dumps(BatchIn.model_json_schema())
