"""A receiver, and clients of both kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mail_proxy.outbound.client import OutboundClient
from mail_proxy.outbound.guard import Guarded, Trusted
from tests.support.callback_server import CallbackServer


@pytest.fixture
async def server() -> AsyncIterator[CallbackServer]:
    async with CallbackServer() as running:
        yield running


@pytest.fixture
async def trusted() -> AsyncIterator[OutboundClient]:
    async with OutboundClient(Trusted()) as client:
        yield client


@pytest.fixture
async def guarded() -> AsyncIterator[OutboundClient]:
    async with OutboundClient(Guarded()) as client:
        yield client
