"""What systemd is told: that it serves, that it lives, that it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import NewInstance
from tests.support.instance import Instance, eventually


class Told:
    """A socket such as systemd listens on."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._states: list[str] = []

    @property
    def states(self) -> list[str]:
        """All that came so far."""
        while True:
            try:
                self._states.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._states

    def close(self) -> None:
        """Leave nothing behind."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[Told, str]]:
    path = tmp_path / "notify"
    told = Told(path)
    yield told, str(path)
    told.close()


async def test_it_is_told_of_each_turn_of_a_life(manager: tuple[Told, str], new_instance: NewInstance) -> None:
    told, path = manager
    instance = new_instance()
    instance.variables = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
    await instance.start()
    await eventually(lambda: "READY=1" in told.states, "it says that it serves")
    await eventually(lambda: told.states.count("WATCHDOG=1") > 5, "it goes on saying that it lives")
    instance.freeze()
    said = len(told.states)
    await asyncio.sleep(0.5)
    assert len(told.states) == said  # one that hangs says nothing
    instance.thaw()
    assert await instance.stop() == 0
    assert told.states[-1] != "READY=1"
    assert "STOPPING=1" in told.states


async def test_workers_are_ready_when_all_of_them_are(
    manager: tuple[Told, str], postgres_url: str, tmp_path: Path
) -> None:
    told, path = manager
    folder = tmp_path / "workers"
    folder.mkdir()
    instance = Instance(folder, postgres_url, WORKERS="2")
    instance.variables = {"NOTIFY_SOCKET": path}
    try:
        await instance.start()
        await eventually(lambda: "READY=1" in told.states, "it says that it serves")
        assert told.states.count("READY=1") == 1
        assert len(instance.logged("worker serving")) == 2
        assert await instance.stop() == 0
        assert "STOPPING=1" not in told.states  # a worker that ends is not the service's end
    finally:
        instance.close()


async def test_nobody_there_keeps_nobody_from_serving(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance()
    instance.variables = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "nonsense"}
    await instance.start()
    async with instance.client() as client:
        assert (await client.ask("GET", "/health")).status_code == 200
    assert instance.logged("the service manager cannot be told", state="READY=1")
    assert await instance.stop() == 0
