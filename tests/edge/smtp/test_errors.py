"""Whatever the libraries raise while a session is opened becomes the host's or the account's failure."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import aiosmtplib
import aiosmtplib.errors
import pytest

from mail_proxy.domain.attempt import AccountRefused, HostFailed, Step
from mail_proxy.smtp.errors import failure_of

CODES = [-1, 200, 250, 334, 421, 432, 454, 500, 530, 534, 535, 538, 554, 700]


def tree(root: type[Any]) -> Iterator[type[Any]]:
    yield root
    for below in root.__subclasses__():
        yield from tree(below)


def made(kind: type[Any]) -> Iterator[Exception]:
    """Errors of a kind, as many as it has ways to be made."""
    match len(inspect.signature(kind.__init__).parameters) - 1:
        case 1 if kind is aiosmtplib.SMTPRecipientsRefused:
            yield kind([])
        case 1:
            yield kind("some text")
        case 2:
            yield from (kind(code, "5.7.8 some text") for code in CODES)
        case 3:
            yield from (kind(code, "some text", "a@example.com") for code in CODES)
        case other:
            raise AssertionError(f"{kind} is made in {other} ways")


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("kind", sorted(set(tree(aiosmtplib.SMTPException)), key=str), ids=str)
def test_every_error_of_aiosmtplib_is_translated(kind: type[Any], step: Step) -> None:
    for error in made(kind):
        failure = failure_of(error, step)
        assert failure is not None
        assert failure.text.startswith(step.value)
        code = getattr(error, "code", None)
        assert (failure.reply is not None) == (code is not None and 200 <= code < 600)
        if isinstance(failure, AccountRefused):
            assert step in {Step.LOGIN, Step.TLS}
            assert code is not None
            assert 500 <= code < 600


def test_the_tree_of_errors_is_the_one_that_was_looked_at() -> None:
    public = {value for name, value in vars(aiosmtplib.errors).items() if name.startswith("SMTP")}
    assert public == set(tree(aiosmtplib.SMTPException))


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "x"), HostFailed),
        (ConnectionResetError(), HostFailed),
        (OSError(113, "No route to host"), HostFailed),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), HostFailed),
        (TimeoutError(), HostFailed),
        (asyncio.TimeoutError(), HostFailed),
        (EOFError(), HostFailed),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), HostFailed),
        (ssl.SSLZeroReturnError(6, "closed"), HostFailed),
        (ssl.SSLSyscallError(5, "syscall"), HostFailed),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), AccountRefused),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value.__name__),
)
def test_errors_of_the_system_are_translated_also_when_aiosmtplib_wraps_them(
    error: Exception, expected: type, step: Step
) -> None:
    assert isinstance(failure := failure_of(error, step), expected)
    wrapped = aiosmtplib.SMTPConnectError("Error connecting")
    wrapped.__cause__ = error
    if isinstance(error, OSError):
        assert failure_of(wrapped, step) == failure
    else:
        assert isinstance(failure_of(wrapped, step), HostFailed)


@pytest.mark.parametrize("bug", [ValueError("x"), KeyError("x"), TypeError("x"), RuntimeError("x"), AssertionError()])
def test_a_bug_is_not_taken_for_a_failure_of_the_other_side(bug: Exception) -> None:
    assert all(failure_of(bug, step) is None for step in Step)
