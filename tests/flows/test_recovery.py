"""What follows after a crash, row by row of the flight journal's table, and where none can be written."""  # G4

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mail_proxy.delivery.journal import FlightJournal, JournalUnwritable
from mail_proxy.domain.account import Account, OnUncertain
from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.settlement import recover
from mail_proxy.domain.tenant import Tenant
from mail_proxy.store.queue import StoreQueue
from tests.flows.test_delivery import Bench
from tests.flows.test_delivery import bench as sqlite_bench
from tests.support.stores import a_message, enqueue, with_account

bench = sqlite_bench


async def left_by_a_crash(bench: Bench, account: Account, *, said: Reply | None = None, boot: str = "boot") -> None:
    """Leave three messages as a crash does: the first at its dot or answered, the second begun, the third claimed."""
    await enqueue(bench.store, *(a_message(id_, account) for id_ in ("dot", "begun", "claimed")))
    dead = StoreQueue(bench.store.database, "dead")
    taking = await dead.claim([Demand(account.pk, 3)], "old token", bench.clock.now())
    journal = FlightJournal(bench.journal, "dead", boot)
    journal.begin()
    for claimed in taking.claimed[:2]:
        journal.took_up(claimed.pk, claimed.token)
    first = taking.claimed[0]
    journal.dot(first.pk, first.token)
    if said is not None:
        journal.reply(first.pk, first.token, Attempt({0: Answer(said, Stage.DOT)}))
    journal.close()


async def told(bench: Bench, id_: str) -> list[str]:
    history = await bench.store.archive.history("acme", id_)
    assert history is not None
    return [event.type.value for event in history]


def uncertain(bench: Bench) -> float:
    lines = bench.meter.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gmp_uncertain_total{"))


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (Reply(250, "2.0.0", "taken"), MessageState.SENT),
        (Reply(554, "5.7.1", "spam"), MessageState.FAILED),
        (Reply(451, "4.3.0", "later"), MessageState.SCHEDULED),
    ],
)
async def test_a_recorded_reply_is_settled_as_it_was_said(bench: Bench, said: Reply, state: MessageState) -> None:
    account = await with_account(bench.store)
    await left_by_a_crash(bench, account, said=said)
    async with bench.delivering():
        settled = await bench.until_state("dot", state)
        await bench.until_state("begun", MessageState.SENT)
        await bench.until_state("claimed", MessageState.SENT)
    assert (settled.reply, settled.attempts) == (str(said), 1)
    assert sorted(bench.sent_ids) == ["begun", "claimed"]
    assert [(await bench.details(id_)).attempts for id_ in ("begun", "claimed")] == [1, 1]
    assert uncertain(bench) == 0


async def test_a_dot_without_reply_is_uncertain_and_only_that(bench: Bench) -> None:
    account = await with_account(bench.store)
    await left_by_a_crash(bench, account)
    async with bench.delivering():
        for id_ in ("dot", "begun", "claimed"):
            await bench.until_state(id_, MessageState.SENT)
    assert await told(bench, "dot") == ["queued", "uncertain", "sent"]
    assert await told(bench, "begun") == await told(bench, "claimed") == ["queued", "sent"]
    assert uncertain(bench) == 1
    events = await bench.store.outbox.pending("acme", 10)
    assert [event.event.type.value for event in events].count("uncertain") == 1  # G9: the tenant hears of it


def deleted(journal: Path) -> None:
    journal.unlink()


def garbage(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b"\x00\xff not a record\n")


def an_unknown_record(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b'["landed",1,"old token"]\n')


def without_head(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[20:])


def of_another_boot(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().replace(b'"boot": "boot"', b'"boot": "other"'))


@pytest.mark.parametrize("damage", [deleted, garbage, an_unknown_record, without_head, of_another_boot])
@pytest.mark.parametrize("choice", list(OnUncertain))
async def test_where_the_journal_is_not_believed_all_that_was_claimed_is_uncertain(
    bench: Bench, damage: Callable[[Path], None], choice: OnUncertain
) -> None:
    account = await with_account(bench.store, on_uncertain=choice)
    await left_by_a_crash(bench, account, said=Reply(250, None, "taken"))
    damage(bench.journal)
    ends = MessageState.SENT if choice is OnUncertain.RESEND else MessageState.FAILED
    async with bench.delivering():
        for id_ in ("dot", "begun", "claimed"):
            await bench.until_state(id_, ends)
            assert await told(bench, id_) == ["queued", "uncertain", ends.value]
    assert uncertain(bench) == 3


async def test_what_the_crash_left_torn_is_passed_over(bench: Bench) -> None:
    account = await with_account(bench.store)
    await left_by_a_crash(bench, account, said=Reply(250, None, "taken"))
    with bench.journal.open("r+b") as file:
        file.truncate(bench.journal.stat().st_size - 5)  # in the middle of the reply
    async with bench.delivering():
        await bench.until_state("claimed", MessageState.SENT)
        await bench.until_state("dot", MessageState.SENT)
    assert await told(bench, "dot") == ["queued", "uncertain", "sent"]
    assert uncertain(bench) == 1


async def test_while_the_journal_cannot_be_written_no_dot_goes_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await with_account(bench.store, max_connections=2)
    full = os.open("/dev/full", os.O_WRONLY)
    async with bench.delivering() as delivery:
        monkeypatch.setattr("mail_proxy.delivery.journal.os.write", lambda _file, data: os.writev(full, [data]))
        await bench.submit(delivery, account, *(f"M{n}" for n in range(10)))
        await bench.clock.advance(30)
        assert bench.transport.messages == []
        monkeypatch.undo()
        for n in range(10):
            await bench.until_state(f"M{n}", MessageState.SENT, seconds=1)
    os.close(full)
    assert [(await bench.details(f"M{n}")).attempts for n in range(10)] == [1] * 10


async def test_the_journal_is_cut_only_after_the_database_has_the_outcomes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlightJournal, "full", property(lambda _self: True))  # begun anew before each record
    account = await with_account(bench.store, max_connections=1)
    async with bench.delivering() as delivery:
        bench.queue.away = True
        await bench.submit(delivery, account, "M0", "M1")

        async def both() -> bool:
            return b'"captured"' in bench.journal.read_bytes()

        await bench.until(both)
        await bench.clock.advance(1)
        assert b'["reply"' in bench.journal.read_bytes()
        bench.queue.away = False
        await bench.until_state("M1", MessageState.SENT, seconds=1)
        await bench.until_state("M0", MessageState.SENT, seconds=1)
        await bench.submit(delivery, account, "M2")
        await bench.until_state("M2", MessageState.SENT, seconds=1)
        assert bench.journal.read_bytes().count(b'["reply"') == 1  # M2's: the others were dropped when it was begun


@pytest.mark.parametrize("whose", ["account", "tenant"])
async def test_without_a_journal_only_what_was_really_begun_fails(bench: Bench, whose: str) -> None:
    if whose == "tenant":
        await bench.store.directory.put_tenant(Tenant("acme", on_uncertain=OnUncertain.FAIL), None)
    own = OnUncertain.FAIL if whose == "account" else None
    account = await with_account(bench.store, max_connections=2, on_uncertain=own)
    bench.settings = replace(bench.settings, grace=0.05)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(6)))
        await bench.until_state("M1", MessageState.SENDING)
        await bench.clock.advance(10)
        dead = [bench.store.instance_id]  # as another instance sees it that finds it dead
        rescued = await StoreQueue(bench.store.database, "second").rescue(dead, 100)
        assert sorted(claimed.identity.mail_id for claimed in rescued) == ["M0", "M1"]
        settled = [recover(claimed, OnUncertain.FAIL, bench.clock.now()) for claimed in rescued]
        assert list(await bench.queue.settle(settled)) == [True, True]
        assert [(await bench.details(f"M{n}")).state for n in range(2)] == [MessageState.FAILED] * 2
        assert [(await bench.details(f"M{n}")).state for n in range(2, 6)] == [MessageState.READY] * 4
    assert await told(bench, "M0") == ["queued", "uncertain", "failed"]


def test_who_sends_nothing_takes_no_journal_away_and_writes_nothing_into_it(tmp_path: Path) -> None:
    """As a command beside an instance that starts meanwhile: both have the same folder."""  # G3
    path = tmp_path / "flight.log"
    aside = FlightJournal(path, "command", "boot", sends=False)
    journal = FlightJournal(path, "instance", "boot")
    journal.begin()
    journal.dot(1, "token")
    written = path.read_bytes()
    for write in (aside.begin, lambda: aside.dot(2, "other"), lambda: aside.took_up(2, "other")):
        with pytest.raises(JournalUnwritable):
            write()
    aside.close()
    assert path.read_bytes() == written
    journal.close()
