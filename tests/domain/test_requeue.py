"""Which messages go back into the queue by command, and for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import Identity, MessageState
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.domain.recipient import Recipient, RecipientKind, RecipientState
from mail_proxy.domain.requeue import Requeued, Skipped, requeue

NOW = 1000.0


def message(*states: str, **changes: object) -> Claimed:
    recipients = tuple(
        Recipient(
            n, f"{n}@example.net", RecipientKind.TO, RecipientState(state), "250 ok" if state == "sent" else "550", 7.0
        )
        for n, state in enumerate(states)
    )
    claimed = Claimed(
        1, "t", "acme", 1, "main", 2, None, 3, 1.0, 2.0, None, "{}", Identity("M1", "m@x", 1.0), recipients
    )
    return replace(claimed, **changes)  # type: ignore[arg-type]  # names and types are the caller's business


@pytest.mark.parametrize(
    ("state", "recipients", "again", "everybody"),
    [
        ("failed", ["failed", "failed"], [0, 1], True),
        ("expired", ["failed", "expired"], [0, 1], True),
        ("sent", ["sent", "failed", "expired"], [1, 2], False),
        ("sent", ["cancelled", "sent", "failed"], [2], False),
    ],
)
def test_those_wait_again_whom_it_failed_to_reach(
    state: str, recipients: list[str], again: list[int], everybody: bool
) -> None:  # G7
    decision = requeue(message(*recipients), MessageState(state), NOW)
    assert isinstance(decision, Requeued)
    assert [each.n for each in decision.recipients] == again
    assert {(each.state.value, each.reply, each.ts) for each in decision.recipients} == {("waiting", "550", None)}
    assert decision.everybody is everybody


@pytest.mark.parametrize(
    ("state", "recipients", "reason"),
    [
        ("sent", ["sent"], Skipped.NOT_FAILED),
        ("sent", ["sent", "cancelled"], Skipped.NOT_FAILED),
        ("ready", ["waiting"], Skipped.NOT_FAILED),
        ("scheduled", ["failed", "waiting"], Skipped.NOT_FAILED),
        ("sending", ["failed", "waiting"], Skipped.NOT_FAILED),
        ("cancelled", ["cancelled"], Skipped.CANCELLED),
        ("cancelled", ["failed", "cancelled"], Skipped.CANCELLED),
    ],
)
def test_others_do_not(state: str, recipients: list[str], reason: Skipped) -> None:
    assert requeue(message(*recipients), MessageState(state), NOW) is reason


def test_what_its_client_let_expire_stays_so() -> None:
    assert requeue(message("failed", expires_ts=NOW), MessageState.EXPIRED, NOW) is Skipped.EXPIRED
    decision = requeue(message("failed", expires_ts=NOW + 1), MessageState.FAILED, NOW)
    assert isinstance(decision, Requeued)
    assert decision.expires_ts == NOW + 1


@pytest.mark.parametrize(("fields", "expires_ts"), [("{}", None), ('{"expires_ts":2000}', 2000.0), ("{", None)])
def test_what_was_held_as_poison_has_the_time_that_its_client_gave_it(fields: str, expires_ts: float | None) -> None:
    poison = message("expired", crashes=MOST_CRASHES, expires_ts=NOW - 1, fields=fields)
    decision = requeue(poison, MessageState.EXPIRED, NOW)
    assert isinstance(decision, Requeued)
    assert decision.expires_ts == expires_ts
