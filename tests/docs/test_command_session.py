"""The session in docs/cli.md is what a terminal shows."""

from __future__ import annotations

import re
from pathlib import Path

from mail_proxy.smtp.capture import SmtpCatcher
from tests.docs.pages import page
from tests.support.machine import Machine

_SAME = (
    (r"(?<=: )[\w-]{43}$", "TOKEN"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"pid \d+", "pid N"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", "TIME"),
    (r"after \d+\.\d s", "after N s"),
    (r"\d+\.\d MB", "N MB"),
    (r"^ *Port 8000 was taken; .*\n", ""),
)


async def test_the_session_goes_as_it_is_shown(tmp_path: Path) -> None:
    blocks = {block.mark: block.text for block in page("docs/cli.md").blocks}
    (tmp_path / "letter.eml").write_text(blocks["letter.eml"], encoding="utf-8")
    machine = Machine(tmp_path / "home")
    try:
        async with SmtpCatcher(lambda _sender, _recipients, _content: None, lambda _address: None) as server:
            for step in re.split(r"^\$ ", blocks["session"], flags=re.MULTILINE)[1:]:
                command, _, shown = step.partition("\n")
                said = await machine.shell(command.replace("2525", str(server.port)), tmp_path)
                said = said.replace(str(machine.home), "/home/you/.mail-proxy")
                assert _without_chance(said) == _without_chance(shown), command
    finally:
        await machine.stop()


def _without_chance(text: str) -> str:
    for pattern, instead in _SAME:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


async def test_exit_codes_tell_what_cannot_be_done_from_what_was_asked_wrongly(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "home")
    try:
        assert (await machine.run("start", "box", "--background")).code == 0
        failed = (
            ("box", "nobody", "messages", "list"),
            ("status", "nosuch"),
            ("box", "config", "set", "MAX_RETRIE=3"),
        )
        wrong = (
            ("nosuch", "tenants", "list"),
            ("box", "tenants", "lst"),
            ("box", "tenants", "list", "--colour"),
            ("box", "tenants", "add"),
            ("box", "command-log", "--since", "yesterdays"),
            ("start", "other", "--set", "MAX_RETRIE=3"),
        )
        for code, commands in ((1, failed), (2, wrong)):
            assert {command: (await machine.run(*command)).code for command in commands} == dict.fromkeys(
                commands, code
            )
        assert (await machine.run("serve", GMP_MAX_RETRIE="3")).code == 2
    finally:
        await machine.stop()
