"""`mail-proxy NAME bench`: what this instance does on this machine, measured with messages that nobody gets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from types import FrameType

import click

from mail_proxy.cli.counting import Counter, counting
from mail_proxy.cli.http_load import SIZE, Client, Messages, Refused, clients, submit
from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.place import Reached, reachable, speaks, token_of
from mail_proxy.cli.named.tree import MEASURES
from mail_proxy.cli.options import AS_JSON, examples
from mail_proxy.cli.showing import console, show_json

BATCH = 100
WARM = 200
SINGLES = 300
PATIENCE = 60.0
"""Seconds without a message that came through, after which the measurement is given up."""

MARK = "made by mail-proxy bench, which removes it"
"""What a measurement's tenant is called; its machine and process follow, which tell what is left of one."""
_ID = re.compile(rf"{MEASURES}(-\d+)?\Z")
SETTLED = 0.2
"""Seconds after which the tenant is looked at again: another machine may have taken the same id."""
FIGURES = {
    "one_client_p50_ms": "one client, one message a request: median, ms",
    "one_client_p99_ms": "one client, one message a request: slowest of a hundred, ms",
    "clients_taken_per_second": "{clients} clients, one message a request: taken a second",
    "batches_taken_per_second": f"batches of {BATCH}: taken a second",
    "batches_sent_per_second": f"batches of {BATCH}: sent a second",
    "batches_reported_per_second": f"batches of {BATCH}: sent and reported a second",
}
"""What is measured, by its name in JSON, as people read it."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """What is asked of the instance."""

    messages: int
    clients: int
    accounts: int
    connections: int
    size: int


@click.command(
    MEASURES,
    short_help="Measure what this instance does on this machine.",
    epilog=examples(
        "mail-proxy myserver bench",
        "mail-proxy myserver bench --messages 10000 --accounts 10",
        "mail-proxy myserver bench --host 10.0.0.5 --json",
    ),
)
@click.option("--messages", type=click.IntRange(BATCH, 1_000_000), default=5000, show_default=True, metavar="COUNT")
@click.option(
    "--clients", "client_count", type=click.IntRange(1, 500), default=32, show_default=True, help="Clients at a time."
)
@click.option("--accounts", type=click.IntRange(1, 1000), default=1, show_default=True, help="SMTP accounts.")
@click.option("--connections", type=click.IntRange(1, 100), default=4, show_default=True, help="Of each account.")
@click.option("--size", type=click.IntRange(1, 1_000_000), default=SIZE, show_default=True, help="Bytes of a body.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where the mail server that throws everything away listens: an address of this machine that every instance "
    "on the same database can reach.",
)
@AS_JSON
@speaks
def bench(
    reached: Reached,
    *,
    messages: int,
    client_count: int,
    accounts: int,
    connections: int,
    size: int,
    host: str,
    as_json: bool,
) -> None:
    """Measure how many messages the running instance takes in, sends and reports a second.

    They are those of a tenant, `bench`, that is made for it. They go to a mail server that throws them away, and are
    reported to an endpoint that only counts; both, and the load, are part of this command, and take their share of the
    machine. Other tenants' mail goes on meanwhile, more slowly. In the end, also after Ctrl-C, SIGTERM and SIGHUP, the
    tenant is removed with its accounts and messages; what a killed one has left, the next one removes. The command log
    keeps its entries, and /metrics the series of the tenant until a restart.
    """
    reached.must_run("and nothing can be measured")
    load = Load(messages, client_count, accounts, connections, size)
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        try:
            sink, callback = (stack.enter_context(counting(kind, host)) for kind in ("sink", "callback"))
        except OSError as error:
            raise InstanceError(f"{error}; --host wants an address of this machine") from None
        tenant_id = stack.enter_context(_tenant(reached, load, host, sink, callback))
        tell = stack.enter_context(_progress())
        figures = asyncio.run(_measure(reached, load, tenant_id, sink, callback, tell))
    if as_json:
        show_json(figures)
        return
    lines = {FIGURES[name].format(clients=client_count): value for name, value in figures.items()}
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name.ljust(width)}  {value:>10,.1f}" if value < 100 else f"{name.ljust(width)}  {value:>10,.0f}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the command as Ctrl-C does, with exit code 128 + n; later ones change nothing."""
    wanted = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in wanted:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {each: signal.signal(each, end) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _tenant(reached: Reached, load: Load, host: str, sink: Counter, callback: Counter) -> Iterator[str]:
    """Make a tenant with accounts for a measurement, and remove it with all that is its own."""
    shown_host = f"[{host}]" if ":" in host else host
    tenant_id, name = "", _name(os.getpid())
    try:
        for tenant_id in _free_ids(_without_remains(reached)):
            reached.proxy.tenants.add(tenant_id, name=name, client_base_url=f"http://{shown_host}:{callback.port}")
            time.sleep(SETTLED)
            if _is_called(reached, tenant_id, name):
                break
        accounts = reached.proxy.of_tenant(tenant_id).accounts
        for n in range(load.accounts):
            address = {"host": host, "port": sink.port, "use_tls": False}
            accounts.put(f"account{n}", **address, max_connections=load.connections)
        yield tenant_id
    finally:
        if tenant_id and _is_called(reached, tenant_id, name):
            reached.proxy.tenants.delete(tenant_id, force=True)


def _name(pid: int | str) -> str:
    """Return what the tenant is called of the measurement that this process of this machine makes."""
    return f"{MARK} ({socket.gethostname()}, process {pid})"


def _is_called(reached: Reached, tenant_id: str, name: str) -> bool:
    """Say whether a tenant is there and has this name."""
    from mail_proxy.client import NotFound  # noqa: PLC0415 - takes a while

    try:
        return bool(reached.proxy.tenants.get(tenant_id)["name"] == name)
    except NotFound:
        return False


def _without_remains(reached: Reached) -> Sequence[str]:
    """Remove what measurements of this machine have left that were killed; return the ids of all other tenants."""
    ours = re.compile(re.escape(_name("PID")).replace("PID", r"(\d+)"))
    others = []
    for each in reached.proxy.tenants.list():
        made_by = ours.fullmatch(each["name"] or "")
        if made_by and _ID.match(each["id"]) and not _runs(int(made_by[1])):
            reached.proxy.tenants.delete(each["id"], force=True)
        else:
            others.append(each["id"])
    return others


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _free_ids(taken: Sequence[str]) -> Iterator[str]:
    """Return the same ids each time, as far as they are free: each is a place of those that the metrics have."""
    ids = (MEASURES if n == 1 else f"{MEASURES}-{n}" for n in count(1))
    return (each for each in ids if each not in taken)


async def _measure(
    reached: Reached, load: Load, tenant_id: str, sink: Counter, callback: Counter, tell: Tell
) -> dict[str, float]:
    running = reached.place.instance.running()
    if running is None:
        raise InstanceError(f"{reached.name} has stopped")
    source = Messages([f"account{n}" for n in range(load.accounts)], tenant_id, load.size)
    figures: dict[str, float] = {}
    try:
        async with clients(reachable(running.address), token_of(reached.place.instance), load.clients) as many:
            done = WARM
            await submit(many[:2], _batches(source, WARM))
            await _came(callback, done, tell, "warming up")
            took = await submit(many[:1], ([each] for each in source.take(SINGLES)))
            figures["one_client_p50_ms"] = took[len(took) // 2]
            figures["one_client_p99_ms"] = took[int(len(took) * 0.99) - 1]
            done += SINGLES
            await _came(callback, done, tell, "one client")
            figures["clients_taken_per_second"] = await _rate(
                many, [[each] for each in source.take(load.messages // 4)], load.messages // 4
            )
            done += load.messages // 4
            await _came(callback, done, tell, f"{load.clients} clients")
            began = time.monotonic()
            rounded = load.messages // BATCH * BATCH
            figures["batches_taken_per_second"] = await _rate(many[:2], _batches(source, rounded), rounded)
            figures["batches_sent_per_second"] = rounded / (await _came(sink, done + rounded, tell) - began)
            figures["batches_reported_per_second"] = rounded / (
                await _came(callback, done + rounded, tell, "batches") - began
            )
    except Refused as error:
        raise InstanceError(f"the measurement was ended: {error}") from None
    return figures


def _batches(source: Messages, count: int) -> Iterator[list[dict[str, object]]]:
    return (source.take(BATCH) for _ in range(count // BATCH))


async def _rate(many: Sequence[Client], batches: Iterable[list[dict[str, object]]], count: int) -> float:
    began = time.monotonic()
    await submit(many, batches)
    return count / (time.monotonic() - began)


async def _came(counter: Counter, count: int, tell: Tell, what: str = "") -> float:
    """Return when (monotonic) so many have come; raises `InstanceError` when no more come."""
    last, since = counter.count, time.monotonic()
    while (now := counter.count) < count:
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise InstanceError(f"nothing came for {PATIENCE:.0f} s, {now} of {count} had: see the instance's log")
        if what:
            tell(f"{what}: {now} of {count}")
        await asyncio.sleep(0.005)
    return time.monotonic()


@contextmanager
def _progress() -> Iterator[Tell]:
    """Give what shows how far it is: on a terminal; in a pipe nothing."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    with console(stderr=True).status("") as status:
        yield status.update
