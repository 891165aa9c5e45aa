"""A client for applications that hand their mail to the service. It needs httpx alone, and nothing of the server."""

from .asynchronous import AsyncMailProxyClient
from .errors import (
    ClientError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NoAnswer,
    NotFound,
    Problem,
    Refusal,
    Rejected,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
)
from .synchronous import MailProxyClient
from .webhooks import NotGenuine, verify_webhook

__all__ = [
    "AsyncMailProxyClient",
    "ClientError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "MailProxyClient",
    "NoAnswer",
    "NotFound",
    "NotGenuine",
    "Problem",
    "Refusal",
    "Rejected",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "Unavailable",
    "verify_webhook",
]
