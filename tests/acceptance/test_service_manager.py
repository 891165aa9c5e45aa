"""What systemd is told: that it serves, that it lives, that it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
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


@pytest.fixture
async def several(manager: tuple[Told, str], postgres_url: str, tmp_path: Path) -> AsyncIterator[Instance]:
    """Two workers that systemd waits 3 s for, started."""
    folder = tmp_path / "workers"
    folder.mkdir()
    instance = Instance(folder, postgres_url, WORKERS="2")
    instance.variables = {"NOTIFY_SOCKET": manager[1], "WATCHDOG_USEC": "3000000"}
    await instance.start()
    yield instance
    instance.close()


def processes(instance: Instance) -> list[int]:
    """The workers, the latest of each last."""
    return [line["pid"] for line in instance.logged("worker serving")]


async def test_the_parent_speaks_for_all_workers(manager: tuple[Told, str], several: Instance) -> None:
    told, _ = manager
    await eventually(lambda: "READY=1" in told.states, "it says that they serve")
    assert len(processes(several)) == 2
    said = told.states.count("WATCHDOG=1")
    await eventually(lambda: told.states.count("WATCHDOG=1") > said + 2, "it says that they live")
    several.freeze()  # the parent; the workers go on
    said = len(told.states)
    await asyncio.sleep(1)
    assert len(told.states) == said
    several.thaw()
    assert await several.stop() == 0
    assert told.states.count("READY=1") == told.states.count("STOPPING=1") == 1


async def test_the_service_goes_on_living_while_a_hung_worker_is_replaced(
    manager: tuple[Told, str], several: Instance
) -> None:
    told, _ = manager
    os.kill(processes(several)[0], signal.SIGSTOP)
    await eventually(lambda: len(processes(several)) == 3, "another worker takes its place", 30)
    said = told.states.count("WATCHDOG=1")
    assert said >= 10
    await eventually(lambda: told.states.count("WATCHDOG=1") > said, "it says that all live")
    assert told.states.count("READY=1") == 1
    assert await several.stop() == 0


async def test_nobody_is_taken_for_hung_who_stood_still_with_the_whole_machine(
    manager: tuple[Told, str], several: Instance
) -> None:
    told, _ = manager
    everybody = [several.pid, *processes(several)]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(4)  # longer than anybody may be silent
    said = told.states.count("WATCHDOG=1")
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    await eventually(lambda: told.states.count("WATCHDOG=1") > said + 2, "it looks at them again")
    assert await several.stop() == 0
    assert not several.logged("worker hangs and is killed")
    assert processes(several) == everybody[1:]


async def test_nobody_there_keeps_nobody_from_serving(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance()
    instance.variables = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "nonsense"}
    await instance.start()
    async with instance.client() as client:
        assert (await client.ask("GET", "/health")).status_code == 200
    assert instance.logged("the service manager cannot be told", state="READY=1")
    assert await instance.stop() == 0
