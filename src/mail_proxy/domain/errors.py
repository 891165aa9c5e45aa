"""Errors that callers of the service meet.

MailProxyError
├── Invalid              a request or a field that does not validate
├── Unauthorized         no token, or one that is not (or no longer) known
├── Forbidden            a token that may not do this
├── NotFound             an id that is unknown to the caller
├── Conflict             the state of things does not allow it now
├── CursorTooOld         what follows on the cursor has been removed
├── TooLarge             more bytes or items than the settings allow
├── TooMany              more requests of a kind than are allowed in so short a time
└── StoreUnavailable     the database cannot be reached or cannot write; safe to repeat
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong, and what to do about it."""

    field: str
    problem: str


class MailProxyError(Exception):
    """An error with a stable `code` (a snake_case word) and one plain sentence."""

    code = "error"

    def __init__(self, sentence: str, *, code: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        if code is not None:
            self.code = code


class Invalid(MailProxyError):
    """The request does not validate as a whole; `problems` names each field."""

    code = "invalid"

    def __init__(self, *problems: Problem, code: str | None = None) -> None:
        super().__init__("; ".join(f"{p.field}: {p.problem}" for p in problems), code=code)
        self.problems = problems


class Unauthorized(MailProxyError):
    """There is no valid token with the request."""

    code = "unauthorized"


class Forbidden(MailProxyError):
    """The token is valid but may not do this: `admin_only` or `wrong_tenant`."""

    code = "admin_only"


class NotFound(MailProxyError):
    """The id is unknown, or belongs to somebody else: the two are never told apart."""

    code = "not_found"


class Conflict(MailProxyError):
    """The request is fine, but not in the present state of things."""

    code = "conflict"


class CursorTooOld(MailProxyError):
    """Events that follow on a cursor have been removed; the feed can be read from `oldest` on."""

    code = "cursor_too_old"

    def __init__(self, oldest: int) -> None:
        super().__init__(
            f"Events after this cursor are older than the retention and were removed; what is kept follows on {oldest}."
        )
        self.oldest = oldest


class Gone(MailProxyError):
    """It was there, and has ended."""

    code = "gone"


class TooLarge(MailProxyError):
    """The body or the batch is over the limit."""

    code = "too_large"


class TooMany(MailProxyError):
    """The same was asked for too often, or is under way; `retry_after` says in how many seconds to come back."""

    code = "too_many_tests"

    def __init__(self, sentence: str, *, code: str, retry_after: float) -> None:
        super().__init__(sentence, code=code)
        self.retry_after = retry_after


class StoreBroken(Exception):
    """What the store wrote last is no longer known, and never will be: the process has to end."""  # G12


class StoreUnavailable(MailProxyError):
    """The database does not answer or cannot write. The call can be repeated.

    Nothing of it was stored, unless the answer itself was lost, or awaited too long: then repeating it finds what was.
    """  # G12

    code = "store_unavailable"
