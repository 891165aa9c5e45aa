"""What one attempt at sending a message told us, before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from mail_proxy.domain.reply import Reply
from mail_proxy.domain.value import value


@value
class Envelope:
    """Who a transaction is from and to. `recipients` are (n, address) of those that are still to be served.

    `transactions` is how many may be made of it at the most; None: as many as the recipients need.
    """

    sender: str
    recipients: tuple[tuple[int, str], ...]
    transactions: int | None = None


class Stage(str, Enum):
    """The command that a reply answers."""

    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "DOT"


TOO_MANY_RECIPIENTS = 552
"""RFC 5321 section 4.5.3.1.10: a 552 to RCPT is to be read as 452."""


@value
class Answer:
    """The server's last word on one recipient, and to which command it came."""

    reply: Reply
    stage: Stage

    @property
    def accepted(self) -> bool:
        """True when the server took the message for this recipient."""
        return self.stage is Stage.DOT and self.reply.accepted

    @property
    def permanent(self) -> bool:
        """True when trying again is pointless. Judged by code, never by wording."""  # G8
        if self.stage is Stage.RCPT and self.reply.code == TOO_MANY_RECIPIENTS:
            return False
        return self.reply.permanent


class Step(str, Enum):
    """How far the opening of a session had come, in words for a person."""

    TOKEN = "getting an access token"  # noqa: S105 - words, no password
    CONNECT = "connecting"
    GREETING = "waiting for the greeting"
    TLS = "starting TLS"
    HELLO = "EHLO"
    LOGIN = "logging in"


@dataclass(frozen=True, slots=True)
class HostFailed:
    """The host cannot be talked to: connect, DNS, greeting, EHLO, 421, or loss before the final dot.

    Costs the message that met it an attempt, and opens the account's breaker. `shared`: this message was not tried:
    another one met it, whose session this one was waiting for, or it was met before the mail server was asked.
    """

    text: str
    reply: Reply | None = None
    step: Step | None = field(default=None, compare=False)
    """Where the opening of a session ended, as far as a probe tells."""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class AccountRefused:
    """Login, certificate or STARTTLS: the account is at fault, never its messages."""  # G8

    text: str
    reply: Reply | None = None
    step: Step | None = field(default=None, compare=False)
    """Where the opening of a session ended, as far as a probe tells."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Anything else, a bug included: temporary, with the exception's name."""  # G13

    text: str


@dataclass(frozen=True, slots=True)
class NotFetched:
    """An attachment could not be fetched, so nothing was sent. Neither account nor host is at fault.

    `permanent`: trying again is pointless, and the message fails.
    """

    text: str
    permanent: bool


class Phase(str, Enum):
    """What an attempt spends its time on, as metrics and logs call it: opening a session, then a transaction."""

    TOKEN = "token"  # noqa: S105 - a word, no password
    CONNECT = "connect"
    GREETING = "greeting"
    TLS = "tls"
    HELLO = "hello"
    LOGIN = "login"
    ENVELOPE = "envelope"
    """From MAIL to the go-ahead for the content, or to what took its place."""
    CONTENT = "content"
    """Until all but the final dot has been handed over, and may go out."""
    DOT = "dot"
    """From the final dot to the server's word on the message."""


@value
class Trace:
    """How an attempt went, for logs and metrics; nothing is decided by it."""

    seconds: Mapping[Phase, float] = field(default_factory=dict)
    """Only what this attempt went through: a session that was there already took no time to open."""
    tls: str | None = None
    """The version of TLS that the last session had; None: none, or there was no session."""
    sessions: int = 0
    """How many sessions were opened for it."""


Failure: TypeAlias = HostFailed | AccountRefused | Interrupted | NotFetched


@value
class Attempt:
    """One attempt: the last word on each recipient that got one, and what ended the attempt early, if anything did.

    `answers[n]` is the reply to the final dot for a recipient that was accepted, else the one that refused it.
    Recipients in `uncertain` were in a transaction whose final dot went out without an answer (G4). Those in neither
    were not tried. `transactions` counts the SMTP transactions begun.
    """

    answers: Mapping[int, Answer] = field(default_factory=dict)
    uncertain: frozenset[int] = frozenset()
    failure: Failure | None = None
    transactions: int = 0
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Probed:
    """A login without a message got through (connect, TLS, EHLO, AUTH, QUIT)."""

    tls_version: str | None
    steps: tuple[Step, ...] = field(default=(), compare=False)
    """What was gone through, in order."""


ProbeResult: TypeAlias = Probed | HostFailed | AccountRefused
