"""The commands of an instance and its tenants: by its API while it runs, on its store while it does not."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from mail_proxy.cli.named.measuring import MARK
from tests.acceptance.sinks import running_sink
from tests.support.instance import COMMAND, eventually
from tests.support.machine import Machine, Said, Terminal

LETTER = b"""From: Shop <shop@acme.example>
To: Anna <anna@example.org>
Subject: Hello
Date: Wed, 25 Nov 2026 12:00:00 +0000
Message-ID: <1@acme.example>

Hi
"""


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """A machine with one instance, `box`, that was started once."""
    machine = Machine(tmp_path / "home")
    (tmp_path / "letter.eml").write_bytes(LETTER)
    assert (await machine.run("start", "box", "--background")).code == 0
    yield machine
    await machine.stop()


async def done(machine: Machine, *arguments: str, stdin: str | None = None) -> Said:
    said = await machine.run("box", *arguments, stdin=stdin)
    assert said.code == 0, (arguments, said)
    return said


@pytest.mark.timeout(400)  # dozens of commands, each a process
@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
async def test_tenants_accounts_and_messages_come_to_the_same_either_way(
    machine: Machine, tmp_path: Path, *, runs: bool
) -> None:
    if not runs:
        await machine.run("stop", "box")
    letter = str(tmp_path / "letter.eml")
    made = await done(machine, "tenants", "add", "acme", "--name", "ACME Corp", "--rate-limit-hourly", "1000")
    key = re.findall(r"nothing can show it again: (\S+)", made.out)[0]
    await done(machine, "tenants", "update", "acme", "--rate-limit-daily", "5000", "--base-url", "https://acme.example")
    tenant = json.loads((await done(machine, "tenants", "show", "acme", "--json")).out)
    assert tenant["rate_limits"] == {"hourly": 1000, "daily": 5000}
    assert (tenant["name"], tenant["client_base_url"]) == ("ACME Corp", "https://acme.example")
    given = ("--host", "127.0.0.1", "--port", "2525", "--limit-hour", "7", "--limit-behavior", "reject")
    await done(machine, "acme", "accounts", "add", "main", *given)
    rows = list(csv.DictReader(io.StringIO((await done(machine, "acme", "accounts", "list", "--csv")).out)))
    assert [(each["id"], each["port"], each["per_hour"], each["per_day"]) for each in rows] == [
        ("main", "2525", "7", "")
    ]
    assert (await done(machine, "acme", "suspend")).out == "acme is suspended; 0 messages are not finished.\n"
    queued = await machine.run("box", "acme", "send", letter, "--id", "L1", "--at", "+1h")
    assert (queued.code, queued.out) == (0, "L1 is queued.\n")
    assert ("does not run" in queued.err) is not runs
    (message,) = json.loads((await done(machine, "acme", "messages", "list", "--json")).out)
    assert (message["id"], message["status"]) == ("L1", "deferred")
    assert message["recipients"][0]["address"] == "anna@example.org"
    assert "tenant_suspended: " in (await done(machine, "acme", "messages", "explain", "L1")).out
    stats = (await done(machine, "stats")).out.splitlines()
    assert dict(zip(*(line.split("\t") for line in stats), strict=True))["pending_messages"] == "1"
    refused = await machine.run("box", "tenants", "delete", "acme", "--force")
    assert refused.code == 0, refused  # what waits goes with it
    routes = [json.loads(line)["route"] for line in (await done(machine, "command-log", "export")).out.splitlines()]
    assert routes[0] == "/tenant"
    assert len(routes) == 6
    settings = json.loads((await done(machine, "config", "show", "max_retries", "api_token", "--json")).out)
    assert [each["value"] for each in settings] == [None, 5] or [each["source"] for each in settings]
    assert key not in (await done(machine, "info", "--json")).out


async def test_a_running_instance_is_measured_and_left_as_it_was(machine: Machine) -> None:
    measured = await done(machine, "bench", "--messages", "200", "--clients", "4", "--accounts", "2", "--json")
    figures = json.loads(measured.out)
    assert set(figures) == {
        *("one_client_p50_ms", "one_client_p99_ms", "clients_taken_per_second"),
        *("batches_taken_per_second", "batches_sent_per_second", "batches_reported_per_second"),
    }
    assert all(value > 0 for value in figures.values())
    assert json.loads((await done(machine, "tenants", "list", "--json")).out) == []
    # A tenant may be called so: what is behind it tells.
    await done(machine, "tenants", "add", "bench")
    assert (await done(machine, "bench", "accounts", "list", "--json")).out == "[]\n"
    refused = await machine.run("box", "bench", "--host", "192.0.2.1")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == "mail-proxy: nothing can listen on 192.0.2.1; --host wants an address of this machine\n"
    await machine.run("stop", "box")
    stopped = await machine.run("box", "bench")
    assert (stopped.code, "box does not run, and nothing can be measured" in stopped.err) == (1, True)


async def measuring(machine: Machine, tenant_id: str = "bench") -> asyncio.subprocess.Process:
    """Run a measurement, and return once it has messages of a tenant on their way; it stands still then."""
    child = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "box", "bench", "--messages", "10000", "--clients", "4"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=machine.environment,
        start_new_session=True,
    )
    database = machine.home / "box" / "mail_service.db"
    with closing(sqlite3.connect(database)) as connection:
        taken = "SELECT count(*) FROM messages WHERE tenant_id = ?"
        await eventually(lambda: connection.execute(taken, (tenant_id,)).fetchone() > (0,), "it is measured", 60)
    child.send_signal(signal.SIGSTOP)
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_measurement_that_is_ended_leaves_nothing(
    machine: Machine, tmp_path: Path, number: signal.Signals
) -> None:
    child = await measuring(machine)
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)
    out, err = await asyncio.wait_for(child.communicate(), 60)
    assert (child.returncode, out, b"Traceback" in err) == (128 + number, b"", False), err
    assert json.loads((await done(machine, "tenants", "list", "--json")).out) == []


async def test_what_a_killed_measurement_has_left_is_removed_by_the_next_one_and_nothing_else(machine: Machine) -> None:
    child = await measuring(machine)
    await done(machine, "tenants", "add", "bench-7", "--base-url", "http://127.0.0.1:1", "--name", "my own")
    elsewhere = f"{MARK} (another-machine, process {child.pid})"
    await done(machine, "tenants", "add", "bench-8", "--name", elsewhere)
    beside = await measuring(machine, "bench-2")  # one that still runs is left alone
    child.kill()
    await child.communicate()
    measured = await done(machine, "bench", "--messages", "200", "--json")
    assert json.loads(measured.out)["batches_reported_per_second"] > 0
    ids = [each["id"] for each in json.loads((await done(machine, "tenants", "list", "--json")).out)]
    assert ids == ["bench-2", "bench-7", "bench-8"]
    beside.terminate()
    beside.send_signal(signal.SIGCONT)
    await beside.communicate()
    log = [json.loads(line) for line in (await done(machine, "command-log", "export")).out.splitlines()]
    assert [each["path"]["tenant_id"] for each in log if each["method"] == "DELETE"] == ["bench", "bench", "bench-2"]


async def test_what_is_wrong_is_told_in_a_sentence_with_what_to_do(machine: Machine) -> None:
    await done(machine, "tenants", "add", "acme")
    for words, code, told in [
        ("send letter.eml", 2, "'send' stands behind the name of an instance: mail-proxy NAME TENANT send. See"),
        ("info box", 2, "'info' stands behind the name of an instance: mail-proxy NAME info or mail-proxy NAME TENANT"),
        ("box watch", 2, "'watch' stands behind the id of a tenant: mail-proxy box TENANT watch. See mail-proxy box"),
        ("box tenants remove acme", 2, "there is no command 'remove'; did you mean delete? See mail-proxy box tenants"),
        ("box logs", 2, "box has no command and no tenant 'logs'. See mail-proxy box --help"),
        ("bxo info", 2, "there is no command and no instance 'bxo'; did you mean box? See mail-proxy --help"),
        ("box tenant list", 2, "there is no command 'tenant'; did you mean tenants? See mail-proxy box --help"),
        ("box status", 2, "there is no command 'status'; did you mean: mail-proxy status box? See mail-proxy box"),
        ("box delete --force", 2, "there is no command 'delete'; did you mean: mail-proxy delete box? See mail-proxy"),
        ("box acme account", 2, "there is no command 'account'; did you mean accounts? See mail-proxy box acme --help"),
        ("box acmee info", 1, "box has no tenant acmee; did you mean acme?"),
        ("box tenants show nobody", 1, "box has no tenant nobody; mail-proxy box tenants list shows"),
        ("box tenants add acme", 1, "there is a tenant acme already; tenants update acme changes it"),
        ("box tenants add", 2, "Missing argument 'ID'. See mail-proxy box tenants add --help"),
        ("box tenants update acme --base-url x", 1, "--base-url: must be a URL that starts with http:// or https://"),
        ("box acme accounts add main", 2, "Missing option '--host'. See mail-proxy box acme accounts add --help"),
        ("box acme accounts add main --host h.example --port 99999", 1, "--port: must be at most 65535"),
        ("box acme messages show M1", 1, "acme has no message M1; mail-proxy box acme messages list shows"),
        ("box acme messages retry", 2, "say which: IDs, or --all, --account or --batch. See mail-proxy box acme"),
        ("box config set MAX_RETRY=1", 1, "MAX_RETRY is not a setting. Did you mean MAX_RETRIES?"),
        ("box config set MAX_RETRIES", 2, "MAX_RETRIES: write NAME=VALUE, such as MAX_RETRIES=3"),
        ("box config set API_TOKEN=x", 1, "API_TOKEN is not set here: token --regenerate makes a new one"),
        ("box command-log list --since soon", 2, "--since: 'soon' is no time: write 2026-07-01, 2026-07-01T12:00:00Z"),
        ("box tenants delete acme", 1, "Remove acme with its accounts, messages and history? Say --force where"),
    ]:
        said = await machine.run(*words.split())
        assert (said.code, said.out, said.err.count("\n")) == (code, "", 1), said
        assert said.err.startswith(f"mail-proxy: {told}"), said
    await machine.run("stop", "box")
    for words in ("run-now", "acme watch"):
        said = await machine.run("box", *words.split())
        assert (said.code, said.err.count("\n")) == (1, 1)
        assert said.err.endswith(": mail-proxy start box --background\n")


async def test_a_file_is_sent_and_followed_to_its_end(machine: Machine, tmp_path: Path) -> None:
    async with running_sink() as sink:
        await done(machine, "tenants", "add", "acme")
        await done(machine, "acme", "accounts", "add", "main", "--host", "127.0.0.1", "--port", str(sink.port))
        assert (await done(machine, "acme", "accounts", "test", "main")).out.startswith("It works: connect, ")
        watching = await asyncio.create_subprocess_exec(
            *(str(COMMAND), "box", "acme", "watch", "--all", "--json"),
            stdout=subprocess.PIPE,
            env=machine.environment,
        )
        said = await done(machine, "acme", "send", str(tmp_path / "letter.eml"), "--id", "L1", "--wait")
        assert re.fullmatch(r"L1 is queued.\nL1 is sent after \d+\.\d s\n", said.out), said
        assert watching.stdout is not None
        event = json.loads(await asyncio.wait_for(watching.stdout.readline(), 20))
        assert (event["id"], event["event"]) == ("L1", "sent")
        watching.kill()
        await watching.wait()
        again = await done(machine, "acme", "send", str(tmp_path / "letter.eml"), "--id", "L1", "--wait")
        assert again.out.startswith("L1 is known already.\n")
        (received,) = sink.arrivals
        assert b"Message-ID: <1@acme.example>\r\n" in received.content
    piped = await machine.run("box", "acme", "send", "-", stdin="Subject: nobody\n\nHi\n")
    assert (piped.code, piped.err) == (1, "mail-proxy: - has no From: say --from ADDRESS\n")


async def test_a_second_account_without_a_default_is_told_where_it_is_made_and_where_it_is_missed(
    machine: Machine, tmp_path: Path
) -> None:
    await done(machine, "tenants", "add", "acme")
    first, second = [
        (await done(machine, "acme", "accounts", "add", name, "--host", "127.0.0.1", "--port", "1")).err
        for name in ("main", "other")
    ]
    hint = "mail-proxy box acme accounts update ID --default"
    assert hint not in first
    assert f"messages that name no account are not taken. To choose one: {hint}\n" in second
    refused = await machine.run("box", "acme", "send", str(tmp_path / "letter.eml"))
    assert refused.code == 1
    assert "--account: is required: the tenant has several accounts, none of them the default" in refused.err
    assert refused.err.endswith(f"; say --account ID, or choose one: {hint}\n")
    await done(machine, "acme", "accounts", "update", "other", "--default")
    await done(machine, "acme", "suspend")
    sent = await done(machine, "acme", "send", str(tmp_path / "letter.eml"), "--id", "L1", "--at", "2020-01-01")
    assert re.search(r"--at: 2020-01-01 00:00:00\S+ is past: it goes out at once\n", sent.err)
    assert (await done(machine, "acme", "accounts", "add", "third", "--host", "h.example")).err.count("\n") == 1
    retried = await machine.run("box", "acme", "messages", "retry", "L1")
    assert (retried.out, retried.err) == (
        "0 are in the queue again.\n",
        "mail-proxy: 1 is not: it has not failed\n",
    )
    retried = await machine.run("box", "acme", "messages", "retry", "L1", "L2", "L3")
    assert retried.err == "mail-proxy: 3 are not: 1 has not failed, 2 were not found\n"
    deleted = await done(machine, "acme", "messages", "delete", "L1", "--force")
    assert deleted.out == "1 is cancelled or gone.\n"


async def test_what_refuses_a_deletion_names_options_and_what_it_leaves_behind(
    machine: Machine, tmp_path: Path
) -> None:
    await done(machine, "tenants", "add", "acme")
    for name in ("main", "second", "third"):
        await done(machine, "acme", "accounts", "add", name, "--host", "127.0.0.1", "--port", "1")
    await done(machine, "acme", "accounts", "update", "main", "--default")
    await done(machine, "acme", "send", str(tmp_path / "letter.eml"), "--id", "L1", "--at", "+1h")
    piped = await machine.run("box", "acme", "accounts", "delete", "main")
    assert piped.err.endswith("nobody can be asked; it also cancels the messages that wait for it\n"), piped
    piped = await machine.run("box", "tenants", "delete", "acme")
    assert piped.err.endswith("nobody can be asked; it also removes what is unfinished or unreported\n"), piped

    def refused(*words: str) -> str:
        with Terminal(machine, "box", *words) as terminal:
            terminal.answer("[y/N]: ", "y")
            assert terminal.end() == 1
            return terminal.shown

    account = await asyncio.to_thread(refused, "acme", "accounts", "delete", "main")
    assert "messages wait for account 'main'; let them go out, or delete it with --force" in account
    tenant = await asyncio.to_thread(refused, "tenants", "delete", "acme")
    assert "has 1 message that is not finished, and 0 events that were not reported: wait for them, or" in tenant
    assert "delete it with --force." in tenant
    deleted = await done(machine, "acme", "accounts", "delete", "main", "--force")
    assert deleted.err.startswith("None of the 2 accounts of acme is the default: "), deleted
    assert (await done(machine, "acme", "accounts", "delete", "third", "--force")).err == ""


async def test_who_did_not_get_a_message_is_told_and_how_it_is_sent_once_more(machine: Machine, tmp_path: Path) -> None:
    async with running_sink() as sink:
        sink.rcpt = lambda address: "550 5.1.1 no such user here" if address.startswith("no@") else None
        await done(machine, "tenants", "add", "acme")
        await done(machine, "acme", "accounts", "add", "main", "--host", "127.0.0.1", "--port", str(sink.port))
        to = ("--to", "no@example.org", "--to", "yes@example.org")
        await machine.run("box", "acme", "send", str(tmp_path / "letter.eml"), "--id", "L 1", *to, "--wait")
        said = await done(machine, "acme", "messages", "explain", "L 1")
    sentence, last, missed = said.out.splitlines()
    assert sentence.endswith(", but not to 1 of its recipients (550 5.1.1 no such user here).")
    assert last.startswith("  Last word, after 1 attempt: 250 ")
    assert missed == "  no@example.org failed: 550 5.1.1 no such user here"
    assert said.err == "To send it once more to whoever does not have it: mail-proxy box acme messages retry 'L 1'\n"


async def test_whoever_waits_is_told_once_what_holds_the_message(machine: Machine, tmp_path: Path) -> None:
    async with running_sink() as sink:
        await done(machine, "tenants", "add", "acme")
        await done(machine, "acme", "accounts", "add", "main", "--host", "127.0.0.1", "--port", str(sink.port))
        await done(machine, "acme", "suspend")
        child = await asyncio.create_subprocess_exec(
            *(str(COMMAND), "box", "acme", "send", str(tmp_path / "letter.eml"), "--wait"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=machine.environment,
        )
        assert child.stderr is not None
        told = await asyncio.wait_for(child.stderr.readline(), 20)
        assert told == b"It waits: Its tenant is suspended. Ctrl-C ends the waiting.\n"
        await done(machine, "acme", "activate")
        out, err = await asyncio.wait_for(child.communicate(), 30)
        assert (child.returncode, b" is sent after " in out, b"It waits" in err) == (0, True, False)


async def test_times_of_an_explanation_are_in_the_zone_of_the_machine(machine: Machine, tmp_path: Path) -> None:
    await done(machine, "tenants", "add", "acme")
    await done(machine, "acme", "accounts", "add", "main", "--host", "h.example")
    at = "2099-01-01T12:00:00Z"
    await done(machine, "acme", "send", str(tmp_path / "letter.eml"), "--id", "L1", "--at", at)
    said = await machine.run("box", "acme", "messages", "explain", "L1", TZ="Asia/Tokyo")
    assert said.out.splitlines()[0] == "It is not to be sent before 2099-01-01 21:00:00+09:00."
    assert " UTC" not in said.out


async def test_what_is_left_out_of_a_change_has_no_default(machine: Machine) -> None:
    for words in ("acme accounts", "tenants"):
        assert "[default: " in (await done(machine, *words.split(), "add", "--help")).out
        assert "[default: " not in (await done(machine, *words.split(), "update", "--help")).out


async def test_a_new_token_counts_at_once_and_settings_from_the_next_start(machine: Machine) -> None:
    before = (await done(machine, "token")).out.strip()
    made = await done(machine, "token", "--regenerate")
    now = (await done(machine, "token")).out.strip()
    assert made.out.strip() == now != before
    await done(machine, "info")
    assert "restart box" in (await done(machine, "config", "set", "MAX_RETRIES=3", "INSTANCE_NAME=mailer")).err
    waits = await done(machine, "config", "show", "max_retries", "port")
    assert waits.err == "mail-proxy: max_retries: 3 from the next start on: mail-proxy restart box\n"
    assert (
        await done(machine, "config", "set", "SCHEDULER_ACTIVE=false")
    ).out == "Sending is suspended, from now on.\n"
    secret = await done(machine, "config", "set", "METRICS_TOKEN=-", stdin="a-token-of-the-metrics\n")
    assert "process list" not in secret.err
    await machine.run("restart", "box")
    rows = json.loads((await done(machine, "config", "show", "--json")).out)
    shown = {each["name"]: (each["value"], each["source"]) for each in rows}
    assert shown["max_retries"] == (3, "config.toml")
    assert shown["metrics_token"] == (None, "config.toml")
    assert "scheduler_active\tno\tdatabase" in (await done(machine, "config", "show")).out
    assert "********" in (await done(machine, "config", "show", "metrics_token")).out
    info = json.loads((await done(machine, "info", "--json")).out)
    assert (info["instance"], info["scheduler_active"]) == ("mailer", False)


async def test_secrets_on_the_command_line_are_warned_of_and_stdin_is_not(machine: Machine) -> None:
    await done(machine, "tenants", "add", "acme")
    given = ("acme", "accounts", "add", "a", "--host", "h.example", "--user", "u", "--password")
    assert "was in the process list" in (await done(machine, *given, "s3cret")).err
    given = ("acme", "accounts", "add", "b", "--host", "h.example", "--user", "u", "--password")
    said = await done(machine, *given, "-", stdin="s3cret\n")
    assert "process list" not in said.err
    assert json.loads((await done(machine, "acme", "accounts", "show", "b", "--json")).out)["has_password"]


async def test_text_from_outside_moves_no_cursor_and_is_no_formula(machine: Machine) -> None:
    await done(machine, "tenants", "add", "acme", "--name", "=1+1")
    await done(machine, "acme", "accounts", "add", "main", "--host", "h.example")
    hostile = "\x1b[2J\u202e\x9b"
    await done(
        machine,
        "connect",
        stdin="proxy.messages.add({'id': 'M', 'from': 'a@acme.example', 'to': 'b@example.org', 'subject': 'S', "
        f"'body': {hostile!r}, 'metadata': {{'k': {hostile!r}}}}})",
    )
    for form in ((), ("--json",)):
        out = (await done(machine, "acme", "messages", "show", "M", *form)).out
        assert set(out) & set(hostile) <= set("[2J")
        assert "\\u001b[2J\\u202e\\u009b" in out
    (row,) = csv.DictReader(io.StringIO((await done(machine, "tenants", "list", "--csv")).out))
    assert row["name"] == "'=1+1"


async def test_a_backup_while_it_runs_brings_everything_back(machine: Machine, tmp_path: Path) -> None:
    await done(machine, "tenants", "add", "acme")
    file = tmp_path / "box.tar"
    await done(machine, "backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await done(machine, "tenants", "add", "later")
    running = await machine.run("box", "restore", str(file), "--force")
    assert (running.code, "; stop it first: mail-proxy stop box\n" in running.err) == (1, True)
    os.kill(int(str((await machine.listed())[0]["pid"])), signal.SIGKILL)  # its last changes are in the WAL alone
    folder = machine.home / "box"
    await eventually(lambda: (folder / "mail_service.db-wal").stat().st_size > 0, "there is a WAL")
    key = machine.home / "box" / "encryption.key"
    text = key.read_text()
    await done(machine, "restore", str(file), "--force")
    ids = [each["id"] for each in json.loads((await done(machine, "tenants", "list", "--json")).out)]
    assert ids == ["acme"]
    assert key.read_text() == text
    with closing(sqlite3.connect(machine.home / "box" / "mail_service.db.before")) as before:
        assert before.execute("SELECT count(*) FROM tenants").fetchone() == (2,)
    assert not list(folder.glob("*-wal"))
    assert (await machine.run("start", "box", "--background")).code == 0

    broken = tmp_path / "broken.tar"
    with tarfile.open(broken, "w") as archive:
        member = tarfile.TarInfo("../../mail_service.db")
        archive.addfile(member)
    await machine.run("stop", "box")
    for name, content in {"broken.tar": None, "no.tar": b"x" * 100, "cut.tar": file.read_bytes()[:5000]}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        said = await machine.run("box", "restore", str(tmp_path / name), "--force")
        assert (said.code, said.err.count("\n")) == (1, 1), said
    assert [each["id"] for each in json.loads((await done(machine, "tenants", "list", "--json")).out)] == ["acme"]


async def test_commands_on_a_stopped_instance_and_a_start_take_turns(machine: Machine) -> None:
    await machine.run("stop", "box")
    said = await asyncio.gather(
        *(machine.run("box", "tenants", "add", f"t{n}") for n in range(3)), machine.run("start", "box", "--background")
    )
    assert [each.code for each in said] == [0] * 4, said
    ids = [each["id"] for each in json.loads((await done(machine, "tenants", "list", "--json")).out)]
    assert ids == ["t0", "t1", "t2"]


async def test_forms_ask_check_hide_and_write_what_was_agreed_to(machine: Machine) -> None:
    def tenant() -> str:
        with Terminal(machine, "box", "tenants", "add") as terminal:
            terminal.answer("ID", "list")
            terminal.answer("is a word of the command line", "acme")
            terminal.answer("Name", "ACME Corp")
            terminal.answer("URL", "ftp://x")
            terminal.answer("must be a URL that starts", "https://acme.example")
            terminal.answer("Path for reports [/mail-proxy/sync]", "")
            terminal.answer("Path for attachments", "")
            terminal.answer("Login there", "bearer")
            terminal.answer("Token", "a-very-secret-token")
            terminal.answer("an hour", "100")
            terminal.answer("a day", "many")
            terminal.answer("must be a whole number", "")
            terminal.answer("Make it? [Y/n]", "")
            assert terminal.end() == 0
            return terminal.shown

    shown = await asyncio.to_thread(tenant)
    assert "acme is made." in shown
    assert "a-very-secret-token" not in shown
    made = json.loads((await done(machine, "tenants", "show", "acme", "--json")).out)
    assert (made["client_auth"]["method"], made["client_auth"]["has_token"]) == ("bearer", True)
    assert (made["name"], made["rate_limits"]["hourly"]) == ("ACME Corp", 100)

    def account(end: str) -> tuple[int, str]:
        with Terminal(machine, "box", "acme", "accounts", "add") as terminal:
            terminal.answer("ID [main]", "")
            terminal.answer("SMTP server", "127.0.0.1")
            terminal.answer("Port [587]", "1")
            terminal.answer("User", "mailer")
            terminal.answer("Password", "pa55word")
            terminal.answer("Encryption", "none")
            terminal.answer("a minute", "")
            terminal.answer("an hour", "")
            terminal.answer("a day", "")
            if end == "^C":
                terminal.interrupt("Make it?")
            else:
                terminal.answer("Make it?", "y")
                terminal.answer("Try it", "y")
            code = terminal.end()
            return code, terminal.shown

    code, shown = await asyncio.to_thread(account, "^C")
    assert (code, "is made" in shown) == (130, False)
    assert json.loads((await done(machine, "acme", "accounts", "list", "--json")).out) == []
    code, shown = await asyncio.to_thread(account, "y")
    assert (code, "pa55word" in shown) == (0, False)
    assert re.search(r"It does not work.*: connecting: Connection refused", shown), shown


async def test_a_terminal_gets_colours_unless_it_wants_none(machine: Machine) -> None:
    def shown(**variables: str) -> str:
        with Terminal(machine, "list", **variables) as terminal:
            assert terminal.end() == 0
            return terminal.shown

    assert "\x1b[" in await asyncio.to_thread(shown)
    assert "\x1b[" not in await asyncio.to_thread(lambda: shown(NO_COLOR="1"))


async def test_the_shell_has_the_instance_in_it(machine: Machine) -> None:
    await done(machine, "tenants", "add", "acme", "--name", "ACME Corp")
    piped = await done(machine, "connect", stdin="print([each['id'] for each in proxy.tenants.list()])\n")
    assert piped.out == "['acme']\n"

    def typed() -> str:
        with Terminal(machine, "box", "connect") as terminal:
            terminal.answer(">>> ", "proxy.tenants.list()")
            terminal.answer("ACME Corp", "proxy.stats()")
            terminal.answer("pending_messages", "proxy.messages.get('M1')")
            terminal.answer("NotFound: ", "new_account('acme')")
            terminal.answer("ID [main]", "\x04")
            terminal.answer("Nothing was made.", "exit()")
            assert terminal.end() == 0
            return terminal.shown

    assert "Traceback" not in await asyncio.to_thread(typed)


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
async def test_bash_completes_names_of_instances_tenants_and_accounts(machine: Machine, *, runs: bool) -> None:
    await done(machine, "tenants", "add", "acme")
    await done(machine, "acme", "accounts", "add", "main", "--host", "h.example")
    if not runs:
        await machine.run("stop", "box")
    bash = shutil.which("bash")
    assert bash is not None
    for words, expected in {
        "mail-proxy bo": "box",
        "mail-proxy sta": "start status",
        "mail-proxy box ac": "acme",
        "mail-proxy box ten": "tenants",
        "mail-proxy box tenants show ": "acme",
        "mail-proxy box acme accounts test m": "main",
        "mail-proxy box acme send --pri": "--priority",
        "mail-proxy box acme send --priority h": "high",
    }.items():
        script = f"""
            eval "$(mail-proxy completion bash)"
            COMP_WORDS=({words} {'""' if words.endswith(" ") else ""}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            _mail_proxy_completion mail-proxy; echo "${{COMPREPLY[*]}}"
        """
        path = f"{COMMAND.parent}:{os.environ['PATH']}"
        child = await asyncio.create_subprocess_exec(
            *(bash, "--norc", "-c", script), stdout=subprocess.PIPE, env={**machine.environment, "PATH": path}
        )
        out, _ = await child.communicate()
        assert out.decode().strip() == expected, words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_there_is_a_script_for_each_shell(tmp_path: Path, shell: str) -> None:
    said = await Machine(tmp_path).run("completion", shell)
    assert (said.code, "_MAIL_PROXY_COMPLETE" in said.out) == (0, True)
