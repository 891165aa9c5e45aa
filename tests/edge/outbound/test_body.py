"""Bodies of answers: whole, compressed, and made to burst."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mail_proxy.outbound.body import BodyCorrupt, BodyOverflow, BodyReader

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

MEGABYTE = 1_000_000


def read(coding: str, data: bytes, cap: int, step: int = 1000) -> bytes:
    reader = BodyReader(coding, cap)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
    return reader.finish()


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("coding", ENCODERS)
@PATIENT
@given(data=st.binary(max_size=3000), step=st.integers(1, 4000))
def test_a_body_up_to_its_cap_comes_through_in_any_pieces(coding: str, data: bytes, step: int) -> None:
    encoded = ENCODERS[coding](data)
    assert read(coding, encoded, max(len(data), 1), step) == data
    if len(data) > 1:
        with pytest.raises(BodyOverflow):
            read(coding, encoded, len(data) - 1, step)


@PATIENT
@given(st.binary(max_size=3000))
def test_deflate_without_its_header_is_understood(data: bytes) -> None:
    assert read("deflate", raw_deflate(data), 3000) == data


def test_strung_together_gzip_files_are_one_body() -> None:
    assert read("gzip", gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0), 100, step=7) == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_than_its_cap(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(200 * MEGABYTE))
    tracemalloc.start()
    try:
        with pytest.raises(BodyOverflow):
            read(coding, bomb, MEGABYTE, step=65536)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * MEGABYTE


def test_compressed_nothing_without_end_is_cut() -> None:
    with pytest.raises(BodyOverflow):
        read("gzip", gzip.compress(b"", mtime=0) * 10_000, 1000)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, deflate", "nonsense"])
def test_a_coding_that_was_not_asked_for_is_refused(coding: str) -> None:
    with pytest.raises(BodyCorrupt):
        BodyReader(coding, 1000)


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0) + b"trailing"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-4] + b"\0\0\0\0"),
        ("deflate", b"\xff\xff\xff\xff"),
        ("deflate", zlib.compress(b"x" * 1000)[:-2]),
    ],
)
def test_a_damaged_body_is_no_body(coding: str, data: bytes) -> None:
    with pytest.raises(BodyCorrupt):
        read(coding, data, MEGABYTE)


def test_an_empty_answer_may_name_a_coding() -> None:
    assert read("gzip", b"", 10) == b""
