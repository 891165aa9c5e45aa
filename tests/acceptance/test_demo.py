"""`mail-proxy demo`: for a person at a terminal, and in a pipe."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import time
from pathlib import Path

from mail_proxy.cli.demonstration import first_message
from tests.support.instance import eventually, launch, run

SECONDS = 30
ESCAPE = "\x1b"


def environment(folder: Path) -> dict[str, str]:
    """Return where the demo may leave something, to see that it does not."""
    for name in ("home", "temporary", "here"):
        (folder / name).mkdir(parents=True)
    return {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "TERM": "xterm-256color"}


def check(output: str, folder: Path) -> None:
    """Hold the timeline against what a demo has to show."""
    assert [path for path in folder.rglob("*") if path.parent != folder] == []
    lines = output.splitlines()
    timeline = [found for line in lines if (found := re.match(r" *(\d+) ms  (\w+) +(\w*) ", line))]
    times = [int(found[1]) for found in timeline]
    assert times == sorted(times)
    shown = {(found[2], found[3]) for found in timeline}
    assert {what for what, _ in shown} >= {"queued", "deferred", "sent", "failed", "reported"}
    for message_id in ("plain", "later", "mixed"):
        assert {("sent", message_id), ("reported", message_id)} <= shown
    assert {id_ for what, id_ in shown if what == "failed"} == {"mixed"}
    assert {id_ for what, id_ in shown if what == "deferred"} == {"later"}
    # What was deferred goes out when its time has come, after the others.
    assert min(int(found[1]) for found in timeline if found[2] == "sent" and found[3] == "later") >= 2900
    (refusal,) = [line for line in lines if "failed" in line]
    assert "nobody@example.net" in refusal
    assert "550 5.1.1" in refusal
    assert "/docs" in output
    assert "The first message with curl: README.md" in output


async def test_the_demo_writes_plain_lines_in_a_pipe_and_in_colour_on_a_terminal(tmp_path: Path) -> None:
    piped, shown = await asyncio.gather(_in_a_pipe(tmp_path / "pipe"), _on_a_terminal(tmp_path / "terminal"))
    assert ESCAPE not in piped
    check(piped, tmp_path / "pipe")
    assert ESCAPE in shown
    check(re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r\n", "\n"), tmp_path / "terminal")


def test_an_installed_demo_names_what_is_there(tmp_path: Path) -> None:
    installed = tmp_path / "lib" / "site-packages" / "mail_proxy"
    installed.mkdir(parents=True)
    assert first_message(installed) == "on the same page"


async def _in_a_pipe(folder: Path) -> str:
    variables = environment(folder)
    ended = await run("demo", environment=variables, folder=folder / "here", seconds=SECONDS)
    assert (ended.code, ended.stderr) == (0, "")
    return ended.stdout


async def _on_a_terminal(folder: Path) -> str:
    shown = bytearray()
    began = time.monotonic()
    ours, its = pty.openpty()
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def read() -> None:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other side is closed
            data = b""
        shown.extend(data)
        if not data:
            loop.remove_reader(ours)
            over.set()

    process = launch("demo", environment=environment(folder), folder=folder / "here", stdout=its, stderr=its)
    os.close(its)
    loop.add_reader(ours, read)
    try:
        await eventually(lambda: process.poll() is not None, "the demo ends", SECONDS)
        await asyncio.wait_for(over.wait(), 5)
    finally:
        process.kill()
        process.wait()
        loop.remove_reader(ours)
        os.close(ours)
    assert process.returncode == 0, shown
    assert time.monotonic() - began < SECONDS
    return shown.decode()
