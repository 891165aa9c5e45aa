"""Django's mail by the service: `EMAIL_BACKEND = "mail_proxy_client.django.EmailBackend"`.

    MAIL_PROXY = {"URL": "http://127.0.0.1:8000", "TOKEN": "the-token-of-your-tenant"}

Other members of `MAIL_PROXY` are fields of each message: `"account_id": "main"`, `"priority": "high"`. Headers
`X-Mail-Proxy-Id`, `X-Mail-Proxy-Priority` and `X-Mail-Proxy-Batch` of a message say its own, and do not go out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.message import sanitize_address

from .complete import submission
from .errors import ClientError, Rejected
from .synchronous import MailProxyClient

OWN_HEADERS = {"X-Mail-Proxy-Id": "id", "X-Mail-Proxy-Priority": "priority", "X-Mail-Proxy-Batch": "batch_code"}


class EmailBackend(BaseEmailBackend):  # type: ignore[misc]  # Django has no types
    """Hands messages to the service; when `send()` returns they are written down."""

    def __init__(self, fail_silently: bool = False, **kwargs: Any) -> None:  # noqa: ANN401, FBT001, FBT002 - Django's own
        super().__init__(fail_silently=fail_silently, **kwargs)
        given: dict[str, Any] = dict(getattr(settings, "MAIL_PROXY", {}))
        try:
            self._url, self._token = given.pop("URL"), given.pop("TOKEN")
        except KeyError as error:
            raise ImproperlyConfigured(f"MAIL_PROXY in the settings needs {error}") from None
        self._fields = given
        self._proxy: MailProxyClient | None = None

    def open(self) -> bool:
        """Begin to keep connections; True where that is new."""
        if self._proxy is not None:
            return False
        self._proxy = MailProxyClient(self._url, self._token)
        return True

    def close(self) -> None:
        """End them."""
        proxy, self._proxy = self._proxy, None
        if proxy is not None:
            proxy.close()

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Submit messages in one request; return how many were taken. Raises `ClientError` unless `fail_silently`."""
        wanted = [each for each in email_messages if each.recipients()]
        if not wanted:
            return 0
        is_new = self.open()
        assert self._proxy is not None  # noqa: S101 - `open` has made it
        try:
            receipt = self._proxy.messages.add(*map(self._submission, wanted))
        except Rejected as error:
            if not self.fail_silently:
                raise
            receipt = error.receipt
        except ClientError:
            if not self.fail_silently:
                raise
            return 0
        finally:
            if is_new:
                self.close()
        return len(wanted) - len(receipt["rejected"])

    def _submission(self, message: EmailMessage) -> dict[str, Any]:
        own = {name: message.extra_headers.get(header) for header, name in OWN_HEADERS.items()}
        written = message.message()
        for header in OWN_HEADERS:
            del written[header]
        encoding = message.encoding or settings.DEFAULT_CHARSET
        people = {
            name: [sanitize_address(each, encoding) for each in getattr(message, name)] for name in ("to", "cc", "bcc")
        }
        sender = sanitize_address(message.from_email, encoding)
        fields = {**self._fields, **{name: value for name, value in own.items() if value is not None}}
        return {
            **submission(written.as_bytes(), sender, people["to"], **fields),
            "cc": people["cc"],
            "bcc": people["bcc"],
        }
