"""What the libraries below say when a session cannot be opened, in our words."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import aiosmtplib

from mail_proxy.domain.attempt import AccountRefused, HostFailed, Step
from mail_proxy.domain.reply import Reply, printable

OpeningFailure = HostFailed | AccountRefused


class NotOpened(Exception):
    """No session: `failure` says who is at fault, `step` how far it came."""

    def __init__(self, failure: OpeningFailure, step: Step) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.step = step


def failure_of(error: Exception, step: Step) -> OpeningFailure | None:
    """Translate an error of aiosmtplib, ssl or the operating system; None for any other, which is a bug of ours.

    The account is at fault when the server refuses the login for good, or when there is no TLS to be had with it (G8);
    the host is for everything else.
    """
    match error:
        case aiosmtplib.SMTPConnectError() | aiosmtplib.SMTPServerDisconnected() if isinstance(
            error.__cause__, OSError
        ):
            # aiosmtplib wraps what the operating system and ssl say while connecting.
            return failure_of(error.__cause__, step)
        case ssl.SSLError():
            return _tls_failure(error, step)
        case aiosmtplib.SMTPResponseException():
            return _refusal(error, step)
        case aiosmtplib.SMTPException():
            return HostFailed(_sentence(step, error.args[0] if error.args else type(error).__name__))
        case UnicodeError() if step is Step.CONNECT:
            return AccountRefused(_sentence(step, "the host is not a host name"))
        case socket.gaierror():
            return HostFailed(_sentence(step, f"the host's name was not resolved: {error.strerror or error}"))
        case asyncio.TimeoutError() | TimeoutError():
            return HostFailed(_sentence(step, "no answer in time"))
        case OSError(errno=int(number)):
            return HostFailed(_sentence(step, os.strerror(number)))
        case EOFError() | OSError():
            return HostFailed(_sentence(step, str(error) or type(error).__name__))
        case _:
            return None


def _tls_failure(error: ssl.SSLError, step: Step) -> OpeningFailure:
    match error:
        case ssl.SSLCertVerificationError():
            reason = getattr(error, "verify_message", None) or str(error)
            return AccountRefused(_sentence(step, f"the server's certificate is not valid: {reason}"))
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
            return HostFailed(_sentence(step, "the connection ended during the TLS handshake"))
        case _:
            reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
            return AccountRefused(
                _sentence(step, f"no TLS of version 1.2 or newer with this server and port: {reason}")
            )


def _refusal(error: aiosmtplib.SMTPResponseException, step: Step) -> OpeningFailure:
    if not 200 <= error.code < 600:
        return HostFailed(_sentence(step, f"what came is no SMTP reply: {error.message}"))
    reply = Reply.parse(error.code, error.message)
    text = _sentence(step, f"the server said {reply}")
    # RFC 4954 section 6: 535, 534, 530, 538, and the plain 5xx of a server that has no such login.
    greeting = isinstance(error, aiosmtplib.SMTPConnectResponseError)
    if step in {Step.LOGIN, Step.TLS} and reply.permanent and not greeting:
        return AccountRefused(text, reply)
    return HostFailed(text, reply)


def _sentence(step: Step, what: object) -> str:
    return printable(f"{step.value}: {what}")
