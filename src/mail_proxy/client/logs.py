"""Log records by mail, grouped, so that a flood of errors is a few mails and holds nothing up.

logging.getLogger().addHandler(
MailHandler(url, token, sender="app@acme.example", to=["ops@acme.example"], level=logging.ERROR)
)

record ──▶ its kind (logger, level, text, place) ──▶ counted ──▶ one mail with all kinds, every `interval` seconds
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .errors import ClientError
from .synchronous import MailProxyClient

MOST_KINDS = 100
"""Kinds of records that one mail tells; of further ones only their number."""
MOST_CHARACTERS = 20_000
"""Of one record's text."""
_OURS = ("httpx", "httpcore", "mail_proxy_client", "mail_proxy.client")
"""Loggers whose records are passed over: sending a mail makes some, and there would be no end."""

Kind: TypeAlias = "tuple[str, int, str, str, int]"


@dataclass
class _Seen:
    text: str
    """The first record of its kind, formatted."""
    first: float
    last: float
    count: int = 1


class MailHandler(logging.Handler):
    """Sends records by the service: the first at once, then all that has come every `interval` seconds, in one mail.

    Nothing waits for the network but a thread of its own. While the service is away, counting goes on, and the mail
    goes when it is back; `close`, which `logging` calls at the end of the program, waits `patience` seconds for it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        sender: str,
        to: Sequence[str],
        subject: str | None = None,
        level: int = logging.ERROR,
        interval: float = 300.0,
        patience: float = 5.0,
        **options: object,
    ) -> None:
        """`options`: fields of each message, such as `account_id`. `subject`: by default their number and the host."""
        super().__init__(level)
        self._proxy = MailProxyClient(url, token, retries=0, timeout=max(patience, 1.0))
        self._fields = {"from": sender, "to": list(to), **options}
        self._subject = subject
        self._interval = interval
        self._patience = patience
        self._seen: dict[Kind, _Seen] = {}
        self._beyond = 0
        self._news = threading.Condition()
        self._ending = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        if any(record.name == each or record.name.startswith(f"{each}.") for each in _OURS):
            return
        try:
            kind = (record.name, record.levelno, str(record.msg)[:500], record.pathname, record.lineno)
            with self._news:
                self._count(kind, record)
                if self._thread is None and not self._ending:
                    self._thread = threading.Thread(target=self._run, name="mail of log records", daemon=True)
                    self._thread.start()
                self._news.notify()
        except Exception:  # noqa: BLE001 - as `logging` wants it: a log call never raises
            self.handleError(record)

    def flush(self) -> None:
        """Nothing: what is counted goes in its time, and at the end."""

    def close(self) -> None:
        """Send what is left, for `patience` seconds at the most."""
        with self._news:
            self._ending = True
            self._news.notify()
        if self._thread is not None:
            self._thread.join(self._patience)
        if self._thread is None or not self._thread.is_alive():  # else it still has the connection, and ends with it
            self._proxy.close()
        super().close()

    def _count(self, kind: Kind, record: logging.LogRecord) -> None:
        found = self._seen.get(kind)
        if found is not None:
            found.count += 1
            found.last = record.created
        elif len(self._seen) >= MOST_KINDS:
            self._beyond += 1
        else:
            self._seen[kind] = _Seen(self.format(record)[:MOST_CHARACTERS], record.created, record.created)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._seen or self._ending)
                ending = self._ending
                mail, put_back = self._taken()
            if mail is not None and not self._sent(mail):
                put_back()
            if ending:
                return
            with self._news:
                self._news.wait_for(lambda: self._ending, self._interval)

    def _taken(self) -> tuple[dict[str, object] | None, Callable[[], None]]:
        """Take what was counted, as a mail, and a way to put it back."""
        if not self._seen:
            return None, lambda: None
        seen, beyond = self._seen, self._beyond
        self._seen, self._beyond = {}, 0

        def put_back() -> None:
            with self._news:
                for kind, each in self._seen.items():
                    held = seen.setdefault(kind, each)
                    if held is not each:
                        held.count += each.count
                        held.last = each.last
                self._beyond += beyond
                self._seen = seen

        return self._mail(list(seen.values()), beyond), put_back

    def _mail(self, seen: Sequence[_Seen], beyond: int) -> dict[str, object]:
        total = sum(each.count for each in seen) + beyond
        what = "1 log record" if total == 1 else f"{total} log records"
        parts = [f"{_times(each)}\n{each.text}" for each in seen]
        if beyond:
            parts.append(f"{beyond} more, of other kinds.")
        subject = self._subject or f"{what} of {socket.gethostname()}"
        return {**self._fields, "subject": subject, "body": "\n\n".join(parts) + "\n"}

    def _sent(self, mail: dict[str, object]) -> bool:
        try:
            self._proxy.messages.add(mail)
        except ClientError as error:
            logging.getLogger(__name__).warning("log records cannot be mailed now: %s", error)
            return False
        return True


def _times(seen: _Seen) -> str:
    first = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen.first))
    if seen.count == 1:
        return first
    return f"{seen.count} times, from {first} to {time.strftime('%H:%M:%S', time.localtime(seen.last))}; the first:"
