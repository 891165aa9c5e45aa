"""`mail-proxy start` and its like, as child processes: with a home of their own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.sinks import reserved_port, running_sink
from tests.docs.session import free_port
from tests.support.instance import COMMAND, eventually
from tests.support.machine import Machine


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path / "home")
    yield machine
    await machine.stop()


async def test_an_instance_from_its_start_to_its_end(machine: Machine) -> None:
    assert (await machine.run("list")).err == "There are no instances yet: mail-proxy start NAME makes one.\n"
    started = await machine.run("start", "acme", "--background", "--port", str(free_port()))
    assert started.code == 0, started
    token = re.findall(r"Its admin token, also in \S+: (\S+)", started.out)[0]
    address = re.findall(r"acme runs: (\S+) \(pid", started.out)[0]
    async with httpx.AsyncClient(base_url=address, headers={"X-API-Token": token}) as client:
        assert (await client.get("/status")).json()["instance"] == "acme"
    folder = machine.home / "acme"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}
    assert set(modes.values()) == {0o600}
    assert {"config.toml", "server.pid", "server.log", "mail_service.db", "encryption.key"} <= modes.keys()
    (row,) = await machine.listed()
    assert (row["name"], row["state"], row["address"], row["pending"]) == ("acme", "running", address, 0)
    again = await machine.run("start", "acme")
    assert (again.code, again.err) == (1, f"mail-proxy: acme runs already: pid {row['pid']}, {address}\n")
    assert (await machine.run("delete", "acme", "--force")).code == 1
    lines = (await machine.run("list")).out.splitlines()
    assert lines[1].split("\t")[:3] == ["acme", "running", address]
    assert (await machine.run("restart", "acme")).code == 0
    (row,) = await machine.listed()
    assert row["address"] == address  # its port is in its file
    stopped = await machine.run("stop", "acme")
    assert (stopped.code, stopped.out) == (0, "acme has ended.\n")
    status = await machine.run("status", "acme")
    assert (status.code, "stopped" in status.out) == (1, True)
    assert (await machine.run("stop", "acme")).err == "mail-proxy: acme does not run.\n"
    asked = await machine.run("delete", "acme")
    assert (asked.code, "say --force where nobody can be asked" in asked.err) == (1, True)
    assert (await machine.run("delete", "acme", "--force")).out == "acme is removed.\n"
    assert not folder.exists()


async def test_after_a_kill_it_can_be_started_again_at_once(machine: Machine) -> None:
    await machine.run("start", "acme", "--background")
    (row,) = await machine.listed()
    os.kill(int(str(row["pid"])), signal.SIGKILL)
    await eventually(lambda: not Path("/proc", str(row["pid"])).exists(), "it is gone")
    assert (await machine.listed())[0]["state"] == "stopped"
    assert (await machine.run("start", "acme", "--background")).code == 0


async def test_of_two_starts_at_once_one_wins_and_the_other_says_who(machine: Machine) -> None:
    first, second = await asyncio.gather(*(machine.run("start", "acme", "--background") for _ in range(2)))
    assert sorted([first.code, second.code]) == [0, 1], (first, second)
    lost = first if first.code else second
    assert re.search(r"runs already: pid \d+|has just been made|is being started", lost.err), lost
    (row,) = await machine.listed()
    assert row["state"] == "running"


async def test_instances_take_ports_of_their_own_and_settings_are_told_once(machine: Machine) -> None:
    one = await machine.run("start", "one", "--background", "--set", "MAX_RETRIES=3", "--set", "GMP_MAX_BATCH=7")
    two = await machine.run("start", "two", "--background")
    assert (one.code, two.code) == (0, 0)
    rows = {str(each["name"]): each for each in await machine.listed()}
    assert rows["one"]["address"] != rows["two"]["address"]
    token = re.findall(r"config.toml: (\S+)", one.out)[0]
    async with httpx.AsyncClient(base_url=str(rows["one"]["address"]), headers={"X-API-Token": token}) as client:
        shown = {each["name"]: each["value"] for each in (await client.get("/instance")).json()["settings"]}
    assert (shown["max_retries"], shown["max_batch"]) == (3, 7)
    pids = [str(each["pid"]) for each in rows.values()]
    assert [pid for pid in pids if token in _command_line(pid)] == []


def _command_line(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


async def test_in_the_foreground_ctrl_c_ends_it(machine: Machine) -> None:
    child = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "start", "acme"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=machine.environment
    )
    assert child.stdout is not None
    while b"serving" not in (line := await asyncio.wait_for(child.stdout.readline(), 30)):
        assert line, await child.communicate()
    child.send_signal(signal.SIGINT)
    await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0
    assert (await machine.listed())[0]["state"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("start", "../x"), 1, "is no name of an instance"),
        (("start", "list"), 1, "'list' is a word of the command line; choose another name"),
        (("stop", "nobody"), 1, "there is no instance nobody; there are none yet\n"),
        (("nobody", "status"), 2, "no instance 'nobody': mail-proxy start nobody makes it. See"),
        (("myserver", "status"), 2, "no instance 'myserver': mail-proxy start myserver makes it; did you mean serve?"),
        (("--", "no/name", "status"), 2, "there is no command and no instance 'no/name'. See"),
        (("start", "acme", "--set", "x"), 2, "--set x: write --set NAME=VALUE"),
        (("start", "acme", "--background", "--set", "NO_SUCH=1"), 2, "mail-proxy: NO_SUCH is not a setting"),
        (("start", "acme", "--set", "ENCRYPTION_KEY=short"), 2, "must be 32 bytes"),
        (("start", "acme", "--workers", "2"), 2, "one process owns an SQLite file"),
        (("start", "acme", "--host", "192.0.2.1"), 1, "give an address of this machine with --host"),
        (("start", "acme", "--port", "0"), 2, "--port"),
        (("start", "acme", "--set", "MAX_RETRIES=abc"), 2, "MAX_RETRIES must be a whole number"),
        (("start", "acme", "--set", "PORT=8025"), 2, "--set PORT: use --port"),
        (("start", "acme", "--set", "HOST=::1"), 2, "--set HOST: use --host"),
        (("start", "acme", "--set", "DB_PATH=x.db"), 2, "--set DB_PATH: use --database-url"),
        (("start", "acme", "--set", "API_TOKEN=t"), 2, "mail-proxy acme token --regenerate makes a new one"),
        (("start", "acme", "--set"), 2, "requires an argument. See mail-proxy start --help"),
        (("start",), 2, "NAME"),
    ],
)
async def test_what_cannot_be_done_is_told_in_a_sentence(
    machine: Machine, arguments: tuple[str, ...], code: int, told: str
) -> None:
    said = await machine.run(*arguments)
    assert (said.code, told in said.err) == (code, True), said
    assert "Traceback" not in said.err
    assert not (machine.home / "acme").exists()  # nothing is half made


@pytest.mark.parametrize("background", [(), ("--background",)], ids=["foreground", "background"])
async def test_a_new_instance_is_not_made_for_a_port_that_is_taken(
    machine: Machine, background: tuple[str, ...]
) -> None:
    with reserved_port() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        said = await machine.run("start", "acme", "--port", str(port), *background)
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
    assert re.search(rf"cannot listen on 127.0.0.1:{port}: .*; give a free one with --port\n", said.err), said
    assert await machine.listed() == []


async def test_on_postgresql_the_first_start_makes_the_key_and_the_others_are_given_it(
    machine: Machine, postgres_url: str
) -> None:
    one = await machine.run("start", "one", "--background", "--database-url", postgres_url)
    assert one.code == 0, one
    key = machine.home / "one" / "encryption.key"
    assert f"Its encryption key is made in {key}: keep a copy of it elsewhere.\n" in one.out
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    assert (await machine.run("one", "tenants", "add", "acme")).code == 0
    assert (await machine.run("restart", "one")).code == 0
    assert key.read_text() == before

    two = await machine.run(
        "start", "two", "--background", "--database-url", postgres_url, GMP_ENCRYPTION_KEY=before.strip()
    )
    assert two.code == 2
    assert "the encryption key in the environment is not looked at" in two.err
    assert f"The database is there but {machine.home / 'two' / 'encryption.key'} is missing: put the file" in two.err
    assert "mail-proxy two config set ENCRYPTION_KEY=-" in two.err
    assert "GMP_" not in two.err
    assert "mail-proxy start two tries again, mail-proxy delete two takes it away" in two.err
    assert (await machine.run("two", "config", "set", "ENCRYPTION_KEY=-", stdin=before)).code == 0
    again = await machine.run("start", "two", "--background")
    assert again.code == 0, again
    assert "acme" in (await machine.run("two", "tenants", "list")).out
    await machine.run("stop", "two")
    assert "acme" in (await machine.run("two", "tenants", "list")).out

    told = await machine.run(
        *("start", "three", "--background", "--database-url", postgres_url, "--set", f"ENCRYPTION_KEY={before.strip()}")
    )
    assert told.code == 0, told
    given = machine.home / "three" / "encryption.key"
    assert (stat.S_IMODE(given.stat().st_mode), given.read_text()) == (0o600, before)
    assert f"The encryption key is written into {given}: keep a copy" in told.out
    assert "ENCRYPTION_KEY was in the process list" in told.err
    assert "encryption_key\t********\tencryption.key" in (await machine.run("three", "config", "show")).out
    other = await machine.run("start", "three", "--database-url", postgres_url + "x")
    assert (other.code, "runs already" in other.err) == (1, True), other
    await machine.run("stop", "three")
    other = await machine.run("start", "three", "--database-url", postgres_url + "x")
    assert (other.code, "three config set DB_PATH=- changes it for good" in other.err) == (1, True), other
    refused = await machine.run("one", "config", "set", "ENCRYPTION_KEY=-", stdin="ab" * 32)
    assert (refused.code, "was made with another encryption key" in refused.err) == (1, True), refused


async def test_a_lost_key_of_a_database_on_postgresql_is_told_and_no_new_one_is_made(
    machine: Machine, postgres_url: str
) -> None:
    one = await machine.run("start", "one", "--background", "--database-url", postgres_url)
    assert one.code == 0, one
    assert (await machine.run("one", "tenants", "add", "acme")).code == 0
    key = machine.home / "one" / "encryption.key"
    copy = key.read_text()
    key.unlink()
    kept = await machine.run("restart", "one")
    assert (kept.code, (await machine.listed())[0]["state"]) == (2, "running"), kept
    assert (await machine.run("stop", "one")).code == 0
    told = f"The database is there but {key} is missing: put the file back from your copy, or give the key"
    for command in (
        ("start", "one", "--background"),
        ("start", "one"),
        ("start", "one", "--reload"),
        ("restart", "one"),
        ("one", "tenants", "list"),
    ):
        said = await machine.run(*command)
        assert (said.code, told in said.err, said.err.count("\n")) == (1 if "list" in command else 2, True, 1), said
        assert "mail-proxy one config set ENCRYPTION_KEY=-" in said.err
        assert not key.exists(), command
    key.touch(0o600)
    key.write_text(copy)
    assert (await machine.run("start", "one", "--background")).code == 0
    assert "acme" in (await machine.run("one", "tenants", "list")).out


async def test_what_a_stopped_instance_sends_is_followed_while_others_on_its_database_send_it(
    machine: Machine, postgres_url: str, tmp_path: Path
) -> None:
    letter = tmp_path / "letter.eml"
    letter.write_text("From: shop@acme.example\nTo: anna@example.org\nSubject: Hello\n\nHi\n")
    assert (await machine.run("start", "one", "--background", "--database-url", postgres_url)).code == 0
    key = (machine.home / "one" / "encryption.key").read_text()
    assert (await machine.run("start", "two", "--background", "--database-url", postgres_url)).code == 2
    assert (await machine.run("two", "config", "set", "ENCRYPTION_KEY=-", stdin=key)).code == 0
    assert (await machine.run("one", "tenants", "add", "acme")).code == 0
    async with running_sink() as sink:
        account = ("--host", "127.0.0.1", "--port", str(sink.port), "--default")
        assert (await machine.run("one", "acme", "accounts", "add", "main", *account)).code == 0
        sent = await machine.run("two", "acme", "send", str(letter), "--id", "M1", "--wait")
        assert (sent.code, "M1 is sent after" in sent.out) == (0, True), sent
        assert "two does not run: other instances on its database may send it." in sent.err
        assert [each.mail_id for each in sink.arrivals] == ["M1"]

        # Whoever follows keeps neither other commands waiting, nor the instance from starting.
        assert (await machine.run("one", "acme", "suspend")).code == 0
        following = asyncio.create_task(machine.run("two", "acme", "send", str(letter), "--id", "M2", "--wait"))
        for _ in range(30):
            if "M2" in (await machine.run("one", "acme", "messages", "list")).out:
                break
        listed = await machine.run("two", "acme", "messages", "list")
        assert (listed.code, "M2" in listed.out) == (0, True), listed
        started = await machine.run("start", "two", "--background")
        assert started.code == 0, started
        assert (await machine.run("one", "acme", "activate")).code == 0
        sent = await following
        assert (sent.code, "M2 is sent after" in sent.out) == (0, True), sent
        assert len(sink.arrivals) == 2


async def test_no_key_is_made_for_a_database_that_cannot_be_asked(machine: Machine) -> None:
    with reserved_port() as closed:
        url = f"postgresql://mail@127.0.0.1:{closed.getsockname()[1]}/mail"
        said = await machine.run("start", "one", "--background", "--database-url", url)
    assert (said.code, "mail-proxy: one did not start: the database cannot be used now" in said.err) == (1, True), said
    assert "mail-proxy start one tries again, mail-proxy delete one takes it away" in said.err
    assert not (machine.home / "one" / "encryption.key").exists()


async def test_settings_are_shown_and_set_of_an_instance_that_cannot_start_yet(machine: Machine) -> None:
    folder = machine.home / "big"
    folder.mkdir(parents=True)
    config = folder / "config.toml"
    config.touch(0o600)
    config.write_text('db_path = "postgresql://mail:s3cret@127.0.0.1:1/mail"\nmax_retries = 3\n')
    shown = await machine.run("big", "config", "show")
    assert (shown.code, "has no api_token" in shown.err) == (0, True), shown
    assert "max_retries\t3\tconfig.toml" in shown.out
    assert "s3cret" not in shown.out
    config.write_text(config.read_text() + 'api_token = "t"\n')
    asked = await machine.run("big", "tenants", "list")
    assert asked.code == 1
    assert "big has no encryption key yet: mail-proxy start big makes one" in asked.err
    assert "encryption_key\t-\tdefault" in (await machine.run("big", "config", "show")).out
    for value in ("x" * 64, "short"):
        refused = await machine.run("big", "config", "set", "ENCRYPTION_KEY=-", stdin=value)
        assert (refused.code, "must be 32 bytes" in refused.err) == (1, True), refused
    assert (await machine.run("big", "config", "set", "ENCRYPTION_KEY=-", stdin="ab" * 32)).code == 0
    assert (await machine.run("big", "config", "set", "MAX_RETRIES=x")).code == 1
    shown = await machine.run("big", "config", "show", "encryption_key", "max_retries", "retry_delays")
    assert (shown.code, "What its database says is not shown." in shown.err) == (0, True), shown
    assert shown.out.splitlines()[1:3] == [
        "max_retries\t3\tconfig.toml",
        "retry_delays\t60, 300, 900, 3600, 7200, 14400\tdefault",
    ]


async def test_a_name_that_looks_alike_is_suggested(machine: Machine) -> None:
    await machine.run("start", "acme", "--background")
    assert (await machine.run("status", "amce")).err == "mail-proxy: there is no instance amce; did you mean acme?\n"
    for command in (("status",), ("stop",), ("delete", "--force")):
        said = await machine.run(*command, "nosuch")
        assert said.err == "mail-proxy: there is no instance nosuch; there is acme\n"
    for n in range(6):
        shutil.copytree(machine.home / "acme", machine.home / f"acme{n}", ignore=lambda *_: ["server.pid"])
    said = await machine.run("stop", "nosuch")
    assert said.err.endswith("; there are acme, acme0, acme1, acme2, acme3, …: mail-proxy list shows all of them\n")


async def test_a_port_that_is_taken_is_passed_over_for_this_run(machine: Machine) -> None:
    port = free_port()
    await machine.run("start", "acme", "--background", "--port", str(port))
    await machine.run("stop", "acme")
    server = await asyncio.start_server(lambda _, client: client.transport.abort(), "127.0.0.1", port)
    async with server:
        said = await machine.run("start", "acme", "--background")
        assert said.code == 0, said
        assert said.err == f"Port {port} was taken; the next start tries it again.\n"
        asked = await machine.run("restart", "acme")
        assert asked.code == 0, asked
    await machine.run("stop", "acme")
    assert f"http://127.0.0.1:{port} " in (await machine.run("start", "acme", "--background")).out


async def test_with_reload_it_is_started_anew_when_its_settings_change(machine: Machine) -> None:
    child = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "start", "acme", "--reload"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=machine.environment,
    )

    async def serving() -> None:
        assert child.stdout is not None
        while b"serving" not in (line := await asyncio.wait_for(child.stdout.readline(), 30)):
            assert line

    await serving()
    before = (await machine.listed())[0]["pid"]
    assert (await machine.run("acme", "config", "set", "MAX_RETRIES=1")).code == 0
    await serving()
    assert (await machine.listed())[0]["pid"] != before
    assert "max_retries\t1\tconfig.toml" in (await machine.run("acme", "config", "show", "max_retries")).out
    child.terminate()
    await asyncio.wait_for(child.communicate(), 30)
    assert child.returncode == 0
    assert (await machine.listed())[0]["state"] == "stopped"
