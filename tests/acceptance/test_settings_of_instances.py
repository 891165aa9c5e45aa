"""`config set` and `config show`, and what `start` and `restart` make of the settings of an instance."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from mail_proxy.cli import running
from mail_proxy.cli.instances import InstanceError, Wanted, instance, make
from mail_proxy.cli.showing import in_local_time
from tests.docs.session import free_port
from tests.support.machine import Machine


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine with one instance, `box`, that was made and never started."""
    machine = Machine(tmp_path / "home")
    make(instance("box", machine.environment), Wanted(port=free_port()), ())
    yield machine
    await machine.stop()


async def test_an_empty_value_is_the_default_and_numbers_are_numbers(machine: Machine) -> None:
    config = machine.home / "box" / "config.toml"
    port = free_port()
    said = await machine.run("box", "config", "set", "HOST=", f"PORT={port}", "MAX_AGE=60", "TEST_MODE=yes")
    assert said.code == 0, said
    text = config.read_text()
    assert "host" not in text
    assert {f"port = {port}", "max_age = 60", "test_mode = true"} <= set(text.splitlines())
    config.write_text(text.replace(f"port = {port}", f'port = "{port}"') + 'host = ""\n')  # written by hand
    started = await machine.run("start", "box", "--background")
    assert f"box runs: http://127.0.0.1:{port} " in started.out, started
    suspended = await machine.run("box", "config", "set", "SCHEDULER_ACTIVE=false")
    assert suspended.out == "Sending is suspended, from now on.\n"
    assert (await machine.run("box", "config", "set", "SCHEDULER_ACTIVE=")).out == "Sending is active, from now on.\n"


async def test_a_start_that_gives_up_ends_what_it_began(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SECONDS_TO_START", 0.0)
    chosen = instance("box", machine.environment)
    with pytest.raises(InstanceError, match="and was ended; look into"):
        running.start(chosen, Wanted(), machine.environment, None)
    assert chosen.running() is None


async def test_a_start_that_gives_up_says_how_to_end_what_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_address: str) -> bool:
        monkeypatch.setattr(running, "SECONDS_TO_START", 0.0)
        return False

    monkeypatch.setattr(running, "is_ready", never)
    chosen = instance("box", machine.environment)
    with pytest.raises(InstanceError) as refused:
        running.start(chosen, Wanted(), machine.environment, None)
    found = chosen.running()
    assert found is not None
    assert re.search(rf"still runs \(pid {found.pid}\).*mail-proxy stop box ends it", str(refused.value))


def test_times_in_sentences_are_known_on_all_days_and_at_all_hours() -> None:
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for hours in range(366 * 24):
        utc = (began + timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S UTC")
        assert "UTC" not in in_local_time(f"It waits until {utc}."), utc
