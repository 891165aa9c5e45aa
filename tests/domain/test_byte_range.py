"""Parts of files, as RFC 9110 section 14 writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.byte_range import ByteRange, Unsatisfiable, asked_range


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("bytes=0-0", ByteRange(0, 0)),
        ("bytes=2-5", ByteRange(2, 5)),
        ("bytes=7-", ByteRange(7, 9)),
        ("bytes=7-100", ByteRange(7, 9)),
        ("bytes=-3", ByteRange(7, 9)),
        ("bytes=-30", ByteRange(0, 9)),
        ("Bytes = 2-5", ByteRange(2, 5)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 400 + "-", None),
    ],
)
def test_a_range_of_ten_bytes(header: str | None, wanted: ByteRange | None) -> None:
    assert asked_range(header, 10) == wanted


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)])
def test_nothing_of_the_file(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        asked_range(header, size)


@given(st.text(max_size=30), st.integers(0, 1000))
def test_whatever_is_asked_a_range_lies_within_the_file(text: str, size: int) -> None:
    try:
        found = asked_range(f"bytes={text}", size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found.first <= found.last < size
