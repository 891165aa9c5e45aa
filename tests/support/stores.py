"""Real stores for tests: an SQLite file or a PostgreSQL database, opened as the service opens them."""

from __future__ import annotations

import itertools
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from mail_proxy.domain.account import Account
from mail_proxy.domain.command_log import Entry
from mail_proxy.domain.message import Identity, NewMessage
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.secrets import SealBroken
from mail_proxy.store.opening import database_url, prepare, sqlite_file
from mail_proxy.store.sealed import CHECK
from mail_proxy.store.store import Store, open_store

_numbers = itertools.count(1)


class PlainCipher:
    """Marks instead of encrypting, so that a store's test sees which place each secret is bound to."""

    key_id = "plain"
    key_ids = frozenset({"plain"})

    def head(self, key_id: str) -> str:
        """Return what all begin with."""
        return "sealed["

    def key_of(self, sealed: str) -> str:
        """Return the one key that there is."""
        return self.key_id

    def mark(self, text: str) -> str:
        """Return what tells it from other texts."""
        return f"mark[{text}]"

    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        """Return the text with its place in front."""
        return f"sealed[{place}]{text}"

    def open(self, sealed: str, place: str) -> str:
        """Return the text if it was sealed for this place."""
        head = f"sealed[{place}]"
        if not sealed.startswith(head):
            raise SealBroken(f"not sealed for {place}")
        return sealed[len(head) :]


@dataclass(slots=True)
class SetClock:
    """A clock that stands still until a test moves it."""

    time: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        """Return the time that was set."""
        return self.time

    def monotonic(self) -> float:
        """Return the time that was set."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.slept.append(seconds)
        self.time += seconds


def ready_made(url: str) -> str:
    """Make an SQLite file that is not there yet by copying one with nothing but the schema; return the URL.

    The migrations take longer. A file that is there, and another database, is left as it is.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        file.write_bytes(_new_file())
    return url


@cache
def _new_file() -> bytes:
    """Return the content of a file that was migrated and knows no key yet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "new.db"
        prepare(database_url(str(file)), lambda held: held or "").engine.dispose()
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("DELETE FROM settings WHERE name = ?", (CHECK,))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()


async def open_test_store(url: str, *, instance_id: str | None = None, clock: SetClock | None = None) -> Store:
    """Open a store as the service does, with a cipher that shows what it was given."""
    return await open_store(
        url,
        instance_id=instance_id or f"test-{next(_numbers)}",
        address="127.0.0.1:0",
        cipher=PlainCipher(),
        check_key=lambda held: held or "checked",
        clock=clock or SetClock(),
    )


def a_message(id_: str, account: Account, **changes: object) -> NewMessage:
    """Build a message for one recipient; any field of `NewMessage` can be given."""
    message = NewMessage(
        tenant_id=account.tenant_id,
        account_pk=account.pk,
        account_id=account.id,
        id=id_,
        fields=json.dumps({"id": id_, "from": "a@example.com", "to": ["b@example.net"], "subject": "S", "body": "B"}),
        digest=f"digest of {id_}",
        priority=2,
        recipients=(("b@example.net", RecipientKind.TO),),
        identity=Identity(id_, f"{id_}@example.com", 1_800_000_000.0),
        created_ts=1_800_000_000.0,
    )
    return replace(message, **changes)  # type: ignore[arg-type]  # names and types are the caller's business


async def with_account(store: Store, tenant_id: str = "acme", account_id: str = "main", **changes: object) -> Account:
    """Make a tenant, if it is new, and an account of it."""
    if await store.directory.tenant(tenant_id) is None:
        await store.directory.put_tenant(Tenant(tenant_id, created_ts=1.0), None)
    account = Account(0, tenant_id, account_id, "mail.example.com", 25)
    return await store.directory.put_account(replace(account, **changes))  # type: ignore[arg-type]


async def enqueue(store: Store, *messages: NewMessage) -> Sequence[str]:
    """Enqueue messages and return the verdicts as words."""
    taken = await store.queue.enqueue(messages, store.directory.version)
    return [each.code or each.verdict.value for each in taken]


def an_entry(number: int, **changes: object) -> Entry:
    """Build an entry of the command log; the number is in its key and its time."""
    entry = Entry(
        key=f"key-{number}",
        ts=1_800_000_000.0 + number,
        by_admin=True,
        tenant_id="acme",
        method="POST",
        route="/tenant",
        status=200,
        code=None,
        address="192.0.2.1",
        details="{}",
    )
    return replace(entry, **changes)  # type: ignore[arg-type]  # names and types are the caller's business
