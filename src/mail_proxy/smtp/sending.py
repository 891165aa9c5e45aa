"""One message on its way: who is left to send to, and what was said about the others."""

from __future__ import annotations

from collections.abc import Mapping

from mail_proxy.domain.attempt import Answer, Attempt, Envelope, Failure, Stage, Trace
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.extensions import NO_UTF8, Extensions
from mail_proxy.smtp.recipients import Recipients
from mail_proxy.smtp.stopwatch import Stopwatch
from mail_proxy.smtp.transaction import Result


class Sending:
    """Gathers what one or more transactions tell into one attempt."""

    def __init__(self, envelope: Envelope, wire: Wire, recipients_limit: int) -> None:
        self.limit_seen: int | None = None
        """How many recipients the server took, once it is sure that it refused others for their number."""
        self.envelope = envelope
        self.wire = wire
        self._recipients_limit = recipients_limit
        self._left: Recipients = envelope.recipients
        self._answers: dict[int, Answer] = {}
        self.uncertain: frozenset[int] = frozenset()
        self._transactions = 0
        self._completed = 0
        """Transactions that the session outlived."""
        self.took = Stopwatch()
        self._tls: str | None = None
        self._sessions = 0
        self._suspicion: tuple[int, int] | None = None
        """The first recipient that may have been one too many, and how many were taken before it."""

    @property
    def finished(self) -> bool:
        """True when nobody is left to send to."""
        return not self._left

    @property
    def begun(self) -> bool:
        """True when something is known about a recipient."""
        return bool(self._answers)

    def on_session(self, tls: str | None, opening: Stopwatch | None) -> None:
        """Take note of the session that it goes on with, and of what it took to open it, if that was for this one."""
        self._tls = tls
        if opening is not None:
            self._sessions += 1
            for phase, seconds in opening.seconds.items():
                self.took.seconds[phase] = self.took.seconds.get(phase, 0.0) + seconds

    def next_batch(self, extensions: Extensions, known_limit: int | None) -> Recipients:
        """Return the recipients of the next transaction, none if no further one may be made.

        Answers those itself that the server cannot serve.
        """
        if self.envelope.transactions is not None and self._completed >= self.envelope.transactions:
            return ()
        refusal = extensions.refusal(self.wire, utf8=not self.envelope.sender.isascii())
        if refusal is not None:
            self._answer(dict.fromkeys((n for n, _ in self._left), refusal))
        elif not extensions.utf8:
            self._answer({n: NO_UTF8 for n, address in self._left if not address.isascii()})
        limit = self._recipients_limit if known_limit is None else min(known_limit, self._recipients_limit)
        return self._left[:limit]

    def note(self, result: Result) -> None:
        """Take over what a transaction told."""
        self._transactions += result.begun
        self._completed += result.begun and result.loss is None
        self.uncertain |= result.uncertain
        answers = dict(result.answers)
        if result.for_all is not None:
            answers.update((n, result.for_all) for n, _ in self._left if n not in answers)
        self._judge_limit(result, answers)
        self._answer(answers)

    def ended(self, failure: Failure | None) -> Attempt:
        """Return what was learnt; a failure counts only for those that are left."""
        return Attempt(
            self._answers,
            self.uncertain,
            None if self.finished else failure,
            self._transactions,
            Trace(self.took.seconds, self._tls, self._sessions),
        )

    def _answer(self, answers: Mapping[int, Answer]) -> None:
        if answers or self.uncertain:
            self._answers.update(answers)
            self._left = tuple(r for r in self._left if r[0] not in self._answers and r[0] not in self.uncertain)

    def _judge_limit(self, result: Result, answers: Mapping[int, Answer]) -> None:
        """Believe in a limit only when a recipient that was refused behind others is then taken as the first."""
        if self._suspicion is not None and result.loss is None:
            n, limit = self._suspicion
            answer = answers.get(n)
            if answer is not None and answer.stage in {Stage.DATA, Stage.DOT}:
                self.limit_seen = limit
        self._suspicion = (result.too_many[0][0], result.accepted) if result.too_many else None
