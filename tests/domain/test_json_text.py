"""JSON that this software writes for itself: the same values come back, whatever they hold."""

from __future__ import annotations

import json
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.json_text import from_text, to_text

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


class Colour(str, Enum):
    RED = "red"


@given(VALUES)
def test_what_is_written_is_read_again(value: object) -> None:
    assert from_text(to_text(value)) == value


@given(VALUES)
def test_it_is_the_standard_librarys_json(value: object) -> None:
    assert json.loads(to_text(value)) == value
    assert from_text(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True], "é": "ü"}, '{"a":[1,2.5,null,true],"é":"ü"}'),
        ((1, "two"), '[1,"two"]'),
        (Colour.RED, '"red"'),
        (1 << 70, "1180591620717411303424"),
        ("\ud800", '"\ud800"'),
        ("\0", '"\\u0000"'),
    ],
)
def test_it_is_compact_and_takes_what_others_refuse(value: object, text: str) -> None:
    assert to_text(value) == text


@pytest.mark.parametrize("text", ["", "{", '{"a":}', "[1,]"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line|char|column"):
        from_text(text)
