"""The flight journal: which final dots have gone out, and what came back, until the database has it.

It is written without fsync, so it survives the process and not the machine. It makes second copies rarer; with the
file deleted nothing is lost, only more attempts count as uncertain.

    {"boot": "…", "instance": "…"}            the first line
    ["begin", pk, token]                      a sender has taken it up
    ["back", pk, token]                       and put it back untried
    ["dot", pk, token]                        about to go out
    ["reply", pk, token, [[n, stage, code, enhanced, text], …]]
"""  # G4

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.json_text import to_text
from mail_proxy.domain.reply import Reply

CUT_ABOVE = 8_000_000
"""Bytes after which the journal is begun anew."""
READ_AT_MOST = 64_000_000
"""Bytes; a longer one was not written by this software, and nothing in it is believed."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class JournalLocked(Exception):
    """Another process writes this journal."""


class JournalUnwritable(Exception):
    """The journal cannot be written: no final dot may go out."""


@dataclass(frozen=True, slots=True)
class Flights:
    """What a journal tells about the claims of the instance that wrote it.

    `reliable` is false when the machine was started anew since, or nothing can be read: then every claim of that
    instance is uncertain.
    """

    instance_id: str | None = None
    reliable: bool = False
    dots: frozenset[tuple[int, str]] = frozenset()
    replies: Mapping[tuple[int, str], Mapping[int, Answer]] = field(default_factory=dict)
    begun: frozenset[tuple[int, str]] = frozenset()
    """What senders had in their hands, dots and replies included."""  # G13

    def reply_to(self, claimed: Claimed) -> Mapping[int, Answer] | None:
        """What the server said about a claim's recipients, or None."""
        return self.replies.get((claimed.pk, claimed.token))

    def dot_went_out(self, claimed: Claimed) -> bool:
        """True when a claim's final dot went out, or was about to."""
        return (claimed.pk, claimed.token) in self.dots

    def was_begun(self, claimed: Claimed) -> bool:
        """True when a sender may have had the claim in its hands when that instance ended."""  # G13
        return not self.reliable or (claimed.pk, claimed.token) in self.begun


def boot_id() -> str:
    """Name this run of the machine; empty where the system does not tell, and then no journal is believed."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class FlightJournal:
    """One worker's journal. Not thread-safe; a record is one `write`."""

    def __init__(
        self, path: Path, instance_id: str, boot: str, cut_above: int = CUT_ABOVE, *, sends: bool = True
    ) -> None:
        """Lock the file; what it holds stays until `begin`. Raises `JournalLocked` or `JournalUnwritable`.

        Who sends nothing (`sends`) leaves it to others, and can write nothing into it.
        """
        self.path = path
        self._head = json.dumps({"boot": boot, "instance": instance_id}).encode() + b"\n"
        self._boot = boot
        self._cut_above = cut_above
        self._in_flight: dict[tuple[int, str], bytes] = {}
        """The last record of each message that was begun and that the database does not know the outcome of."""
        self._file = _opened(path, os.O_RDWR | os.O_CREAT if sends else os.O_RDONLY | os.O_CREAT)
        try:
            if sends:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise JournalLocked(
                f"{path} is in use by another mail-proxy: give each instance a data folder of its own (GMP_DATA_DIR)"
            ) from None
        self._size = 0
        self._torn = False
        self._locked = sends

    def read(self) -> Flights:
        """Return what the last run wrote. A torn last line is what the crash left, and is passed over."""
        if os.fstat(self._file).st_size > READ_AT_MOST:
            return Flights()
        os.lseek(self._file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._file), "rb") as file:
            return _flights(file.read().splitlines(keepends=True), self._boot)

    def begin(self) -> None:
        """Start the journal anew, with what is still in flight; raises `JournalUnwritable` and leaves the old one.

        The new file takes the old one's place in one step, so that a crash finds one or the other.
        """
        if not self._locked:
            raise JournalUnwritable(f"{self.path} is somebody else's: who does not send does not write there")
        content = b"".join((self._head, *self._in_flight.values()))
        anew = self.path.with_name(self.path.name + ".new")
        file = _opened(anew, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(file, content)
            anew.replace(self.path)
        except OSError as error:
            os.close(file)
            raise JournalUnwritable(f"{self.path}: {error.strerror}") from error
        os.close(self._file)
        self._file, self._size, self._torn = file, len(content), False

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._size

    @property
    def full(self) -> bool:
        """True when it should be begun anew, without the flights that the database knows the end of."""
        return self._size > self._cut_above or self._torn

    def took_up(self, pk: int, token: str) -> None:
        """Note that a sender takes a message up. Raises `JournalUnwritable`: then nothing may be begun."""  # G13
        if self.full:
            self.begin()
        record = b'["begin",%d,"%s"]\n' % (pk, token.encode())
        self._write(record)
        self._in_flight[pk, token] = record

    def put_back(self, pk: int, token: str) -> None:
        """Note that a message which was taken up waits again, untried: a crash from now on is none of its doing."""
        if self._in_flight.pop((pk, token), None) is not None:
            with suppress(JournalUnwritable):  # then a crash too many may be counted
                self._write(b'["back",%d,"%s"]\n' % (pk, token.encode()))

    def dot(self, pk: int, token: str) -> None:
        """Note that a message's final dot is about to go out. Raises `JournalUnwritable`: then it must not."""
        record = b'["dot",%d,"%s"]\n' % (pk, token.encode())
        self._write(record)
        self._in_flight[pk, token] = record

    def reply(self, pk: int, token: str, attempt: Attempt) -> None:
        """Note what the server said about each recipient; where that cannot be written, the dot stays uncertain."""
        answers = [
            [n, answer.stage.value, answer.reply.code, answer.reply.enhanced, answer.reply.text]
            for n, answer in attempt.answers.items()
        ]
        record = to_text(["reply", pk, token, answers]).encode("utf-8", "replace") + b"\n"
        if (pk, token) in self._in_flight:
            self._in_flight[pk, token] = record
        self._write(record)

    def settled(self, pk: int, token: str) -> None:
        """Take note that the database has the outcome: the record is not needed any more."""
        self._in_flight.pop((pk, token), None)

    def close(self) -> None:
        """Give the file up."""
        os.close(self._file)

    def _write(self, record: bytes) -> None:
        if self._torn:
            raise JournalUnwritable(f"{self.path} ends in the middle of a record")
        try:
            written = os.write(self._file, record)
        except OSError as error:
            raise JournalUnwritable(f"{self.path}: {error.strerror}") from error
        self._size += written
        if written < len(record):
            self._torn = True
            raise JournalUnwritable(f"{self.path}: the disk is full")


def _write_all(file: int, content: bytes) -> None:
    if os.write(file, content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _opened(path: Path, flags: int) -> int:
    """Open a regular file for this user only; a link or a device in its place is refused."""
    try:
        file = os.open(path, os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    except OSError as error:
        raise JournalUnwritable(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise JournalUnwritable(f"{path} is no regular file")
    return file


def _flights(lines: list[bytes], boot: str) -> Flights:
    if not lines:
        return Flights()
    try:
        head = json.loads(lines[0])
        instance_id = str(head["instance"])
        reliable = bool(boot) and head["boot"] == boot
    except (ValueError, KeyError, TypeError):
        return Flights()
    begun: set[tuple[int, str]] = set()
    dots: set[tuple[int, str]] = set()
    replies: dict[tuple[int, str], Mapping[int, Answer]] = {}
    try:
        for line in lines[1:]:
            if line.endswith(b"\n"):
                kind, pk, token, *rest = json.loads(line)
                match kind:
                    case "begin":
                        begun.add((pk, token))
                    case "back":
                        begun.discard((pk, token))
                    case "dot":
                        dots.add((pk, token))
                    case "reply":
                        dots.add((pk, token))
                        replies[pk, token] = {n: _answer(said) for n, *said in rest[0]}
                    case _:
                        return Flights(instance_id)
    except (ValueError, TypeError, IndexError):  # not what this software writes: nothing in it is believed
        return Flights(instance_id)
    return Flights(instance_id, reliable, frozenset(dots), replies, frozenset(begun | dots))


def _answer(said: list[Any]) -> Answer:
    stage, code, enhanced, text = said
    return Answer(Reply(code, enhanced, text), Stage(stage))
