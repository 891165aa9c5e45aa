"""What the page on reports says of signatures, with reports as they go out and come in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import EarlierSecret, Signing, shown_secret, signatures
from mail_proxy.domain.tenant import Tenant
from mail_proxy.outbound.callback import HttpReportSink
from mail_proxy.outbound.client import OutboundClient
from mail_proxy.outbound.guard import Trusted
from mail_proxy.runtime.clock import SystemClock
from tests.docs.pages import page
from tests.support.callback_server import CallbackServer, Received

NEW, OLD, OTHER = (shown_secret(bytes([n]) * 32) for n in range(3))
BODY = '{"delivery_report":[{"event_id":"1","id":"M\u00fc"}]}'.encode()

Verify = Callable[..., Any]


@pytest.fixture
def receiver() -> ModuleType:
    """The module that the page shows."""
    (block,) = (each for each in page("docs/reports.md").blocks if each.mark == "verify_webhook.py")
    module = ModuleType("verify_webhook")
    exec(compile(block.text, "verify_webhook.py", "exec"), vars(module))  # noqa: S102 - it is ours
    return module


@pytest.fixture
async def arrived() -> AsyncIterator[Received]:
    """A report while another secret takes the place of an older one."""
    signing = Signing(NEW, (EarlierSecret(OLD, time.time() + 60),))
    async with CallbackServer() as server, OutboundClient(Trusted()) as client:
        sink = HttpReportSink(client, SystemClock())
        await sink.deliver(Tenant("acme", client_base_url=server.url, signing=signing), BODY, "report_1")
        yield server.requests[0]


async def test_a_report_is_taken_with_the_new_secret_and_with_the_one_before_it(
    receiver: ModuleType, arrived: Received
) -> None:
    for secrets in ((NEW,), (OLD,), (OTHER, OLD)):
        texts = [secret.reveal() for secret in secrets]
        report = receiver.verify_webhook(arrived.headers, arrived.body, *texts)
        assert report["delivery_report"][0]["id"] == "M\u00fc"


def _with(headers: Mapping[str, str], **changes: str) -> dict[str, str]:
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda it: replace(it, body=it.body.replace(b'"1"', b'"2"')), "no signature fits"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_id="report_2")), "no signature fits"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_signature="v1,AAAA")), "no signature fits"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_signature="")), "no signature fits"),
        (
            lambda it: replace(it, headers=_with(it.headers, webhook_timestamp=f"{time.time() + 250:.0f}")),
            "no signature",
        ),
        (lambda it: replace(it, headers=_with(it.headers, webhook_timestamp=f"{time.time() - 301:.0f}")), "too far"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_timestamp=f"{time.time() + 301:.0f}")), "too far"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_timestamp="soon")), "malformed"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_timestamp="9" * 400)), "malformed"),
        (lambda it: replace(it, headers=_with(it.headers, webhook_signature="v1,\udcff")), "no signature fits"),
        (lambda it: replace(it, headers={}), "missing"),
    ],
)
async def test_what_is_not_genuine_is_refused(
    receiver: ModuleType, arrived: Received, change: Callable[[Received], Received], problem: str
) -> None:
    changed = change(arrived)
    with pytest.raises(receiver.NotGenuine, match=problem):
        receiver.verify_webhook(changed.headers, changed.body, NEW.reveal(), OLD.reveal())


async def test_another_secret_has_not_signed_it(receiver: ModuleType, arrived: Received) -> None:
    with pytest.raises(receiver.NotGenuine, match="no signature fits"):
        receiver.verify_webhook(arrived.headers, arrived.body, OTHER.reveal())


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ="])
async def test_what_is_no_secret_signs_nothing(receiver: ModuleType, arrived: Received, secret: str) -> None:
    """With an empty key anybody could sign."""
    signed = signatures([Secret(secret)], "report_1", int(arrived.headers["webhook-timestamp"]), BODY)
    forged = _with(arrived.headers, webhook_signature=signed)
    with pytest.raises(ValueError, match="not a signing secret"):
        receiver.verify_webhook(forged, BODY, secret)
