"""Any bytes under any name, through a real mail server and the standard library's parser."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_proxy.attachments.spool import IN_MEMORY, Spool, SpoolSettings
from mail_proxy.delivery.in_base64 import InBase64
from mail_proxy.domain.attempt import Envelope
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.compose import compose
from mail_proxy.domain.filename import safe_name
from mail_proxy.domain.message import Identity
from mail_proxy.intake.validation import Accepted, check
from mail_proxy.ports.attachments import Fetched
from tests.edge.smtp.recording import Line, recorded_line
from tests.flows.intake_fakes import item
from tests.support.sources import Held

NAMES = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("/\\\".;=%'é🎉\r\n")), max_size=120)
LINES = st.lists(st.sampled_from([b".", b"\r\n", b".\r\n", b"\n.", b"--", b"x" * 57, b"\0", b"\xff"]), max_size=60)
CONTENTS = st.one_of(st.binary(max_size=300), LINES.map(b"".join), st.just(bytes(range(256)) * 700))


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """A way to a server that stays open."""
    with recorded_line() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


async def spooled(data: bytes, folder: Path) -> Fetched:
    spool = Spool(SpoolSettings(folder, 10**9), lambda _size: None)
    await spool.write(data)
    return await spool.finish()


@given(st.lists(st.tuples(NAMES, CONTENTS), min_size=1, max_size=4))
@settings(max_examples=25)
def test_any_bytes_under_any_name_arrive_as_they_are(line: Line, folder: Path, files: list[tuple[str, bytes]]) -> None:
    submitted = [{"filename": name.replace("{MD5:", ""), "storage_path": "doc=1"} for name, _ in files]
    accepted = check(0, item(attachments=submitted), 1_760_000_000.0)
    assert isinstance(accepted, Accepted), accepted
    sources: list[Fetched] = [
        asyncio.run(spooled(data, folder)) if n % 2 or len(data) > IN_MEMORY else Held(data, [7, 50])
        for n, (_, data) in enumerate(files)
    ]
    encoded: list[ByteSource] = [InBase64(each) for each in sources]
    wire = compose(accepted.message, Identity("M1", "m@x.example", 0.0), encoded)
    attempt, _, (seen,) = line.send(Envelope("a@example.com", ((0, "b@example.net"),)), wire)
    for each in sources:
        each.close()
    assert attempt.answers[0].accepted, attempt
    assert len(seen.content) == wire.size
    parsed = message_from_bytes(seen.content, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    assert not parsed.defects
    arrived = [(part.get_filename(), part.get_payload(decode=True)) for part in parsed.iter_attachments()]
    assert arrived == [(safe_name(name), data) for name, data in files]
