"""`config set` and `config show`, and what `start` and `restart` make of the settings of an instance."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

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
    children = []
    started = subprocess.Popen

    def remembered(*given: Any, **options: Any) -> Any:
        children.append(started(*given, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", remembered)
    chosen = instance("box", machine.environment)
    with pytest.raises(InstanceError) as refused:
        running.start(chosen, Wanted(), machine.environment, None)
    found = chosen.running()
    assert found is not None
    assert re.search(rf"still runs \(pid {found.pid}\).*mail-proxy stop box ends it", str(refused.value))
    assert chosen.stop(30, force=False)
    children[0].wait()


def test_times_in_sentences_are_known_on_all_days_and_at_all_hours() -> None:
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for hours in range(366 * 24):
        utc = (began + timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S UTC")
        assert "UTC" not in in_local_time(f"It waits until {utc}."), utc


async def test_a_key_that_does_not_open_the_database_is_not_taken(machine: Machine) -> None:
    folder = machine.home / "box"
    assert (await machine.run("start", "box", "--background")).code == 0
    before = (folder / "config.toml").read_text()
    told = "was made with another encryption key, and would not open"
    for words in (("ENCRYPTION_KEY=-",), ("ENCRYPTION_KEY=" + "cd" * 32, "ENCRYPTION_KEYS_OLD=" + "ef" * 32)):
        refused = await machine.run("box", "config", "set", *words, stdin="ab" * 32)
        assert (refused.code, told in refused.err, "process list" in refused.err) == (1, True, len(words) > 1), refused
    assert (folder / "config.toml").read_text() == before

    config = before + f'encryption_key = "{"ab" * 32}"\n'
    (folder / "config.toml").write_text(config)  # by hand: nobody has looked
    refused = await machine.run("restart", "box")
    assert (refused.code, "mail-proxy box config set ENCRYPTION_KEY=-" in refused.err) == (2, True), refused
    (folder / "config.toml").write_text(before + "max_retries = 0\n")
    refused = await machine.run("restart", "box")
    assert (refused.code, "max_retries must be at least 1" in refused.err) == (2, True), refused
    assert (await machine.run("status", "box")).code == 0  # it runs as before

    (folder / "config.toml").write_text(before)
    old = (folder / "encryption.key").read_text().strip()
    stdin = f"{'ab' * 32}\n{old}\n"
    taken = await machine.run("box", "config", "set", "ENCRYPTION_KEY=-", "ENCRYPTION_KEYS_OLD=-", stdin=stdin)
    assert (taken.code, "process list" in taken.err) == (0, False), taken
    assert (await machine.run("restart", "box")).code == 0


async def test_secrets_in_clear_are_warned_of_and_nothing_else(machine: Machine) -> None:
    said = await machine.run(
        "box", "config", "set", "CLIENT_SYNC_TOKEN=", "MAX_RETRIES=3", "DB_PATH=postgresql://m:s3cret@127.0.0.1/x"
    )
    warned = re.findall(r"mail-proxy: (\w+) was in the process list", said.err)
    assert (said.code, warned) == (0, ["DB_PATH"]), said


async def test_a_message_that_waits_is_replaced_and_a_backup_only_by_force(machine: Machine, tmp_path: Path) -> None:
    assert (await machine.run("start", "box", "--background")).code == 0
    assert (await machine.run("box", "tenants", "add", "acme")).code == 0
    assert (await machine.run("box", "acme", "accounts", "add", "main", "--host", "h.example")).code == 0
    letter = "From: a@acme.example\nTo: {}@example.org\nSubject: x\n\nHi\n"
    send = ("box", "acme", "send", "-", "--id", "M1", "--at", "2099-01-01")
    assert (await machine.run(*send, stdin=letter.format("b"))).out == "M1 is queued.\n"
    assert (await machine.run(*send, stdin=letter.format("c"))).out == "M1 is replaced.\n"
    file = tmp_path / "box.tar"
    file.write_text("of yesterday")
    refused = await machine.run("box", "backup", str(file))
    assert (refused.code, "Say --force where nobody can be asked" in refused.err) == (1, True), refused
    assert file.read_text() == "of yesterday"
    assert (await machine.run("box", "backup", "--force", str(file))).code == 0


async def test_where_the_key_is_or_that_it_is_lost_is_told(machine: Machine, tmp_path: Path) -> None:
    assert (await machine.run("start", "box", "--background")).code == 0
    assert (await machine.run("box", "tenants", "add", "acme")).code == 0
    folder, file = machine.home / "box", tmp_path / "box.tar"
    backup = ("box", "backup", str(file), "--force")
    whole = await machine.run(*backup)
    assert (whole.code, whole.err.count("\n")) == (0, 1), whole
    key = folder / "encryption.key"
    kept = key.read_text()
    key.unlink()
    missing = f"{key} is missing: put the file back from your copy"
    how = "give the key: mail-proxy box config set ENCRYPTION_KEY=-. "
    for runs in (True, False):
        if not runs:
            assert (await machine.run("stop", "box")).code == 0
        without = await machine.run(*backup)
        assert (without.code, "the encryption key is not in it, as" in without.err) == (1, True), without
        assert missing in without.err
        assert how in without.err
        with tarfile.open(file) as archive:
            assert archive.getnames() == ["mail_service.db", "config.toml"]
        refused = await machine.run("restart", "box")
        assert (refused.code, missing in refused.err, how in refused.err) == (2, True, True), refused
        assert "docs/operations.md says what to do" in refused.err

    assert (await machine.run("box", "config", "set", "ENCRYPTION_KEY=-", stdin=kept)).code == 0
    given = await machine.run(*backup)
    assert (given.code, "is in it, in config.toml, which a restore does not put back" in given.err) == (0, True), given
    taken_out = await machine.run("box", "config", "set", "ENCRYPTION_KEY=")
    assert (taken_out.code, missing in taken_out.err) == (1, True), taken_out
    assert (await machine.run("start", "box", "--background")).code == 0
