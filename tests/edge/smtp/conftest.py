"""The suite of the SMTP package runs on both event loops: they differ in how a transport changes hands."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.timeouts import Timeouts
from tests.support.certificates import Authority, create_authority

SHORT = Timeouts(connect=5, command=5, data_block=5, dot=5, check=5, quit=1)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return create_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def _no_authorities_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes longer than most of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture
async def transport(authority: Authority) -> AsyncIterator[SmtpTransport]:
    opened = SmtpTransport(local_hostname="client.example", timeouts=SHORT, extra_ca=authority.path)
    yield opened
    await opened.close()
