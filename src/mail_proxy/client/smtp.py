"""In the place of `smtplib.SMTP`: the same methods for sending, over the service.

    with SMTP("http://127.0.0.1:8000", token) as smtp:
        smtp.send_message(message)

When `send_message` returns, the message is written down, and the service does the rest.
"""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from email.message import Message
from types import TracebackType

from typing_extensions import Self

from .complete import recipients_of, sender_of, submission
from .errors import NoAnswer, Refusal, Rejected
from .synchronous import MailProxyClient


class SMTP:
    """Sends as `smtplib.SMTP` does, and raises what that raises, so that `except smtplib.SMTPException` still holds."""

    def __init__(self, url: str, token: str, **options: object) -> None:
        """`options`: fields of each message, such as `account_id`, `priority` or `batch_code`."""
        self._proxy = MailProxyClient(url, token)
        self._options = options

    def send_message(
        self, message: Message, from_addr: str | None = None, to_addrs: str | Sequence[str] | None = None
    ) -> dict[str, tuple[int, bytes]]:
        """Submit a message of the `email` package. `Bcc` is taken out on the way. Returns {}: nobody is refused yet."""
        sender = sender_of(message) if from_addr is None else from_addr
        recipients = recipients_of(message) if to_addrs is None else to_addrs
        return self.sendmail(sender, recipients, message.as_bytes())

    def sendmail(self, from_addr: str, to_addrs: str | Sequence[str], msg: bytes | str) -> dict[str, tuple[int, bytes]]:
        """Submit the bytes of a message. Returns {}: nobody is refused yet."""
        recipients = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        content = msg if isinstance(msg, bytes) else msg.encode("ascii")
        try:
            self._proxy.messages.add(submission(content, from_addr, recipients, **self._options))
        except Rejected as error:
            raise _rejected(error, from_addr, recipients) from error
        except Refusal as error:
            if error.status in {401, 403}:
                raise smtplib.SMTPAuthenticationError(535, str(error)) from error
            raise smtplib.SMTPResponseException(451 if error.status >= 500 else 554, str(error)) from error
        except NoAnswer as error:
            raise smtplib.SMTPServerDisconnected(str(error)) from error
        return {}

    def quit(self) -> None:
        """End the connections."""
        self._proxy.close()

    close = quit  # noqa: A003 - smtplib has both names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.quit()


def _rejected(error: Rejected, sender: str, recipients: Sequence[str]) -> smtplib.SMTPException:
    first = error.receipt["rejected"][0]
    text = f"{first['field']}: {first['reason']}"
    match first["field"]:
        case "to":
            return smtplib.SMTPRecipientsRefused({each: (553, text.encode()) for each in recipients})
        case "from":
            return smtplib.SMTPSenderRefused(553, text.encode(), sender)
        case _:
            return smtplib.SMTPDataError(554, text)
