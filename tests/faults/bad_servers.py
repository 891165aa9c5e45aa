"""Mail servers that refuse, leave, hang or talk nonsense at each step, once; afterwards they are as they should be."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.acceptance.tenants import new_tenant
from tests.faults.load import all_ended
from tests.faults.tally import Books, Tally, books
from tests.support.instance import Instance, a_message
from tests.support.smtp_servers import Dialogue, Peer, Said, scripted_server

SETTINGS = {
    "MAX_RETRIES": "8",
    "SMTP_COMMAND_TIMEOUT": "1",
    "SMTP_DATA_TIMEOUT": "1",
    "SMTP_DOT_TIMEOUT": "1",
    "MAX_CONCURRENT_SENDS": "400",
}
"""Of the instance, so that it loses patience soon."""
STEPS = ("greeting", "ehlo", "mail", "rcpt", "data", "dot")
LATE = 0.5
_ID = re.compile(rb"(?m)^X-Genro-Mail-ID: (\S+)\r$")


async def drop(peer: Peer) -> None:
    """Close the connection."""
    peer.drop()


async def hang(peer: Peer) -> None:
    """Say nothing any more."""
    await peer.hear_end()


async def endless(peer: Peer) -> None:
    """Give a reply that never ends."""
    while not peer.gone.done():
        peer.say_bytes(b"250-and so on\r\n" * 100)
        await asyncio.sleep(0.001)


async def garbage(peer: Peer) -> None:
    """Speak another protocol."""
    peer.say_bytes(b"\x16\x03\x01\x02\x00 HTTP/1.1 400\r\n")
    await peer.hear_end()


async def late(peer: Peer) -> None:
    """Take the message after a while."""
    await asyncio.sleep(LATE)
    peer.say("250 2.0.0 taken at last")


async def leave_in_the_content(peer: Peer) -> None:
    """Close the connection while the message is on its way."""
    peer.say("354 go ahead")
    await peer.hear()
    peer.drop()


@dataclass
class Once:
    """Say something once, and "ok" instead when the client tries again in the same session, or leave."""

    said: str
    then: str | None = "250 2.0.0 ok"
    over: bool = False

    async def __call__(self, peer: Peer) -> None:
        """Reply."""
        if not self.over:
            peer.say(self.said)
        elif self.then is not None:
            peer.say(self.then)
        else:
            peer.drop()
        self.over = True


@dataclass(frozen=True, slots=True)
class Case:
    """A server that misbehaves once, and what is to become of the message that met it."""

    name: str
    step: str
    said: Said
    state: str = "sent"
    doubtful: bool = False
    """Nobody can know whether the message was taken."""  # G4
    taken: bool = False
    """It was."""

    @property
    def end(self) -> tuple[str, bool, int]:
        """The message's state, whether its history says `uncertain`, and how often it came."""
        if self.state != "sent":
            return self.state, self.doubtful, 0
        return self.state, self.doubtful, 2 if self.doubtful and self.taken else 1

    def dialogue(self) -> Dialogue:
        """What the first client meets."""
        said = self.said
        if isinstance(said, str) and self.step in {"mail", "rcpt", "data", "dot"}:
            said = Once(said, None if self.step == "data" else Once.then)
        made = Dialogue(rcpt=lambda _: said) if self.step == "rcpt" else Dialogue()
        if self.step != "rcpt":
            setattr(made, self.step, said)
        return made


def _cases() -> tuple[Case, ...]:
    cases = [Case("late", "dot", late, taken=True), Case("content", "data", leave_in_the_content, doubtful=True)]
    for step in STEPS:
        in_transaction, at_dot = step not in {"greeting", "ehlo"}, step == "dot"
        cases += [
            Case(f"{step}-450", step, "450 4.2.0 later"),
            Case(f"{step}-421", step, "421 4.3.2 closing"),
            Case(f"{step}-550", step, "550 5.1.1 never", "failed" if in_transaction else "sent"),
            *(
                Case(f"{step}-{said.__name__}", step, said, doubtful=at_dot, taken=at_dot)
                for said in (drop, hang, endless, garbage)
            ),
        ]
    return tuple(cases)


CASES = _cases()


async def misbehaving(instance: Instance, seed: int = 0, cases: Sequence[Case] = CASES) -> Tally:
    """Send one message by each server and hold what came of it against what was to come."""
    await instance.start()
    bad, good = {case: case.dialogue() for case in cases}, {case: Dialogue() for case in cases}
    url = instance.settings["DB_PATH"]
    async with AsyncExitStack() as stack:
        acme = await stack.enter_async_context(new_tenant(instance))
        for case in cases:
            server = await stack.enter_async_context(scripted_server(bad[case], good[case]))
            await acme.put_account(case.name, server.port, max_connections=1)
        await acme.client.submit(*(a_message(case.name, account_id=case.name) for case in cases))
        await all_ended(url)
        kept = books(url)
    came: Counter[str] = Counter()
    for case in cases:
        came.update(_ids(good[case]))
        refused = 1 if case.step == "dot" and not case.taken else 0
        came.update(_ids(bad[case])[refused:])
    wrong = [
        (case.name, found, expected) for case in cases if (found := _found(case, kept, came)) != (expected := case.end)
    ]
    assert not wrong, wrong
    missing = [case.name for case in cases if case.state == "sent" and not came[case.name]]
    copies = sum(count - 1 for count in came.values())
    name = f"{len(cases)} servers that misbehave once"
    return Tally(name, seed, len(cases), len(missing), copies, len(kept.uncertain))


def _found(case: Case, kept: Books, came: Counter[str]) -> tuple[str, bool, int]:
    return kept.states[case.name], case.name in kept.uncertain, came[case.name]


def _ids(dialogue: Dialogue) -> list[str]:
    return [mail_id.decode() for content in dialogue.messages for mail_id in _ID.findall(content)]
