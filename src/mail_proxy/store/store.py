"""All that the store offers, opened together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select, text

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.archive import StoreArchive
from mail_proxy.store.command_log import StoreCommandLog
from mail_proxy.store.database import Database
from mail_proxy.store.directory import StoreDirectory
from mail_proxy.store.errors import FsyncFailed
from mail_proxy.store.feed import StoreFeed
from mail_proxy.store.files import StoreFileLedger
from mail_proxy.store.hints import Hints
from mail_proxy.store.message_changes import StoreMessageChanges
from mail_proxy.store.opening import FileLock, prepare, sqlite_file
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.outbox import StoreOutbox
from mail_proxy.store.queue import StoreQueue
from mail_proxy.store.rescue import LEAVE, Registration, register
from mail_proxy.store.sealed import StoreSeals, refuse_unknown_keys
from mail_proxy.store.sync_leases import StoreSyncLeases
from mail_proxy.store.sync_records import StoreSyncRecords
from mail_proxy.store.usage import UsageSettings
from mail_proxy.store.version import hold_version

_PING = select(1)
_TIME = text("SELECT extract(epoch FROM clock_timestamp())::double precision")


@dataclass(frozen=True, slots=True)
class Store:
    """An open database and the ports that it keeps."""

    database: Database
    queue: StoreQueue
    directory: StoreDirectory
    outbox: StoreOutbox
    feed: StoreFeed
    archive: StoreArchive
    files: StoreFileLedger
    message_changes: StoreMessageChanges
    command_log: StoreCommandLog
    sync_leases: StoreSyncLeases
    sync_records: StoreSyncRecords
    hints: Hints
    seals: StoreSeals
    cipher: Cipher
    instance_id: str
    lock: FileLock | None

    async def problems(self) -> list[str]:
        """Say why the database cannot be used now, in a sentence; empty when it can. Answers within 5 s."""  # G12
        database = self.database
        if database.commits.broken is not None:
            return [f"Nothing more is written: {database.commits.broken}."]
        if database.commits.trouble is not None:
            return [f"The last write failed: {database.commits.trouble}."]
        try:
            await database.read(lambda connection: connection.execute(_PING))
        except StoreUnavailable as error:
            return [f"The store cannot be read: {error.sentence}."]
        return []

    async def time(self) -> float:
        """Return Unix seconds by the clock of the PostgreSQL server."""  # G14
        now: float = await self.database.read(lambda connection: connection.execute(_TIME).scalar_one())
        return now

    async def close(self) -> None:
        """Take this instance off the list, finish the writes, and give the file up."""
        try:
            with suppress(StoreUnavailable, FsyncFailed):  # then the others find out by its counter
                await self.sync_leases.close()
                await self.database.write(Operation("leave", _leave), self.instance_id)
                await self.database.drained()
                await self.queue.put_back_unanswered()
        finally:
            await self.database.close()
            if self.lock is not None:
                self.lock.free()


async def open_store(
    url: str,
    *,
    instance_id: str,
    address: str,
    cipher: Cipher,
    check_key: Callable[[str | None], str],
    clock: Clock,
    usage: UsageSettings | None = None,
    lease: float | None = None,
) -> Store:
    """Open a database for this instance on the running event loop.

    `address` is told to a second process that wants the same SQLite file. `lease` is as in `prepare`.
    Raises as `prepare` and `FileLock.take` do.
    """
    file = sqlite_file(url)
    lock = None if file is None else FileLock.take(file, address)
    try:
        database = prepare(url, check_key, lease)
    except BaseException:
        if lock is not None:
            lock.free()
        raise
    directory = StoreDirectory(database, cipher, clock)
    leases = StoreSyncLeases(database, instance_id, clock)
    try:
        database.start()
        me = Registration(instance_id, clock.now(), cipher.key_id)
        await database.write(Operation("register", partial(_register, cipher=cipher)), me)
        await directory.open()
    except BaseException:
        await database.close()
        if lock is not None:
            lock.free()
        raise
    return Store(
        database=database,
        queue=StoreQueue(database, instance_id, usage, cipher),
        directory=directory,
        outbox=StoreOutbox(database),
        feed=StoreFeed(database),
        archive=StoreArchive(database, clock),
        files=StoreFileLedger(database, cipher),
        message_changes=StoreMessageChanges(database),
        command_log=StoreCommandLog(database),
        sync_leases=leases,
        sync_records=StoreSyncRecords(database, leases.notes),
        hints=Hints(database, instance_id, clock),
        seals=StoreSeals(database, cipher, instance_id),
        cipher=cipher,
        instance_id=instance_id,
        lock=lock,
    )


def _register(transaction: Transaction, items: Sequence[Registration], cipher: Cipher) -> Sequence[None]:
    """Put an instance on the list, unless the database has just gone to a key that it does not have."""  # G16
    connection = transaction.connection
    hold_version(connection)  # from here on nobody adopts another key without knowing of this instance
    refuse_unknown_keys(connection, cipher)
    for item in items:
        connection.execute(LEAVE, {"instance": item.id})
        register(connection, item)
    return [None] * len(items)


def _leave(transaction: Transaction, instance_ids: Sequence[str]) -> Sequence[None]:
    for instance_id in instance_ids:
        transaction.connection.execute(LEAVE, {"instance": instance_id})
    return [None] * len(instance_ids)
