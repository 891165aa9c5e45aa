"""How long a message takes to be read, checked and composed, beside the standard library's way of composing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP

from mail_proxy.domain.compose import compose
from mail_proxy.domain.message import Identity
from mail_proxy.domain.submission import build_message
from mail_proxy.intake.receipt import Rejected
from mail_proxy.intake.validation import check

NOW = 1_760_000_000.0
ROUNDS = 20
IDENTITY = Identity("order-1042", "0123456789abcdef@shop.example", NOW)

_TEXT = "Dear customer, your order has left our house and is on its way to you.\n" * 14
_PLAIN: dict[str, object] = {
    "id": "order-1042",
    "from": "Acme Shop <shop@shop.example>",
    "to": ["Anna Rossi <anna@example.org>"],
    "subject": "Your order 1042 is on its way",
    "body": _TEXT,
}
_ENCODED = _PLAIN | {
    "to": ["Änne Größl <anna@example.org>"],
    "subject": "Ihre Bestellung 1042 ist für Sie unterwegs",
    "body": _TEXT + "Schöne Grüße\n",
}
_ALTERNATIVE = _PLAIN | {"body": None, "text": _TEXT, "html": f"<p>{_TEXT}</p>"}


def run(calls: int = 500) -> dict[str, float]:
    """Measure each step for a message of 1 kB, in milliseconds a message: the best of several rounds."""
    return {
        "compose_plain_ms": _best(_composing(_PLAIN), calls),
        "compose_encoded_ms": _best(_composing(_ENCODED), calls),
        "compose_alternative_ms": _best(_composing(_ALTERNATIVE), calls),
        "compose_plain_by_standard_library_ms": _best(_standard_library, calls // 10 or 1),
        "read_stored_fields_ms": _best(lambda: build_message(_PLAIN), calls),
        "check_submission_ms": _best(_checked, calls),
    }


def _composing(fields: dict[str, object]) -> Callable[[], object]:
    message = build_message(fields)
    return lambda: compose(message, IDENTITY)


def _standard_library() -> bytes:
    message = EmailMessage(policy=SMTP)
    message["Date"] = "Thu, 09 Oct 2025 08:53:20 +0000"
    message["From"] = _PLAIN["from"]
    message["To"] = "Anna Rossi <anna@example.org>"
    message["Subject"] = _PLAIN["subject"]
    message["Message-ID"] = f"<{IDENTITY.message_id}>"
    message["X-Genro-Mail-ID"] = IDENTITY.mail_id
    message.set_content(_TEXT)
    return message.as_bytes()


def _checked() -> None:
    result = check(0, _PLAIN, NOW)
    assert not isinstance(result, Rejected), result


def _best(work: Callable[[], object], calls: int) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        best = min(best, time.perf_counter() - start)
    return best / calls * 1000


if __name__ == "__main__":
    for name, milliseconds in run().items():
        print(f"{name:40} {milliseconds:.4f}")
