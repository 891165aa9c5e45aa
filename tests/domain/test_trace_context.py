"""What of a caller's trace is believed, and where it stands in what is stored."""

from __future__ import annotations

import pytest

from mail_proxy.domain.json_text import to_text
from mail_proxy.domain.trace_context import of_fields, traceparent
from mail_proxy.intake.validation import Accepted, check

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        PARENT.upper(),
        PARENT + "-extra",
        PARENT[:-1],
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_counts_as_absent(text: str | None) -> None:
    assert traceparent(text) is None


def test_it_is_found_at_the_end_of_a_submission_and_nowhere_else() -> None:
    item = {
        "id": "M1",
        "from": "a@example.com",
        "to": "b@example.net",
        "subject": f'"traceparent":"{PARENT}"',
        "body": f'{{"traceparent":"{PARENT}"}}',
        "headers": {"traceparent": PARENT},
        "metadata": {"traceparent": PARENT},
    }
    without, with_it = check(0, item, 0.0), check(0, item, 0.0, traceparent=PARENT.replace("-01", "-00"))
    assert isinstance(without, Accepted)
    assert isinstance(with_it, Accepted)
    assert of_fields(without.fields) is None
    assert of_fields(with_it.fields) == PARENT.replace("-01", "-00")
    assert without.digest == with_it.digest  # the same message, whoever asks
    for fields in ("", "{}", '"}', to_text({"traceparent": "no"}), to_text({"traceparent": "0" * 55}), PARENT):
        assert of_fields(fields) is None
