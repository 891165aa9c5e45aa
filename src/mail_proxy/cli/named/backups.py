"""`mail-proxy NAME backup` and `restore`: an instance on SQLite in one file, and back."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from mail_proxy.cli.asking import confirm
from mail_proxy.cli.files import written_whole
from mail_proxy.cli.instances import Instance, InstanceError
from mail_proxy.cli.named.configuring import key_is_given
from mail_proxy.cli.named.place import Place, current_place
from mail_proxy.cli.options import examples
from mail_proxy.cli.told import told

DATABASE, KEY, CONFIG = "mail_service.db", "encryption.key", "config.toml"
OF_WHAT_WAS_BEFORE = ("-wal", "-shm")
"""What belongs to a database and to no other, by how the names end."""


@click.command(
    short_help="Write a backup, also while it runs.",
    epilog=examples("mail-proxy myserver backup myserver.tar", "mail-proxy myserver backup /backups/$(date +%F).tar"),
)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace a file that is there, without asking.")
@told
def backup(*, file: str, force: bool) -> None:
    """Write the database as it is at this moment, the encryption key and config.toml into one file, a tar archive.

    With that file anybody can read the instance's mail and passwords: keep it as you keep those. Attachments that lie
    in folders are not in it.
    """
    place = current_place()
    chosen, database = place.instance, _sqlite(place)
    if not force and file != "-" and Path(file).is_file():
        confirm(f"{file} is there already. Replace it?")
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix=".backup-") as folder:
        copy = Path(folder) / DATABASE
        _copied(database, copy)
        key_is_in_it = (chosen.folder / KEY).is_file()
        with written_whole(file) as out, tarfile.open(fileobj=out, mode="w") as archive:
            for path, name in ((copy, DATABASE), (chosen.folder / KEY, KEY), (chosen.config, CONFIG)):
                if path.is_file():
                    archive.add(path, name, filter=_nobodys)
    if file != "-":
        click.echo(f"{file} has {chosen.name} as it is now ({Path(file).stat().st_size / 1e6:.1f} MB).", err=True)
    _tell_of_key(place, key_is_in_it=key_is_in_it)


@click.command(
    short_help="Put a backup in the place of what there is.",
    epilog=examples("mail-proxy myserver restore myserver.tar"),
)
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@click.option("--force", is_flag=True, help="Without asking.")
@told
def restore(*, file: str, force: bool) -> None:
    """Put the database and the key of a backup in the place of the instance's own, which stay beside them as `.before`.

    The instance must not run. It keeps its config.toml. A database of yesterday does not know what was sent since:
    messages that were waiting then are sent again.
    """
    place = current_place()
    chosen, database = place.instance, _sqlite(place)
    running = chosen.running()
    if running is not None:
        raise InstanceError(f"{chosen.name} runs (pid {running.pid}); stop it first: mail-proxy stop {chosen.name}")
    descriptor = chosen.take("no address: a backup is being restored")  # nobody starts it meanwhile
    try:
        with tempfile.TemporaryDirectory(dir=chosen.folder, prefix=".restore-") as folder:
            found = _unpacked(Path(file), Path(folder))
            if not force:
                confirm(f"Replace the messages, tenants and accounts of {chosen.name} by those in {file}?")
            _put_in_place(chosen, database, found)
    finally:
        os.close(descriptor)
    click.echo(f"{chosen.name} is as it was. What it had before is in {database}.before")
    click.echo(
        "Messages that were waiting at that time go out when it starts. To look at them first: "
        f"mail-proxy {chosen.name} config set SCHEDULER_ACTIVE=false",
        err=True,
    )


def _tell_of_key(place: Place, *, key_is_in_it: bool) -> None:
    """Say where the encryption key is that a backup needs. Raises `InstanceError` where it is nowhere."""
    chosen = place.instance
    if str(chosen.settings().get("encryption_key", "")).strip():
        click.echo(
            "The encryption key is in it, in config.toml, which a restore does not put back: another instance needs "
            "it afterwards, by mail-proxy NAME config set ENCRYPTION_KEY=-",
            err=True,
        )
    elif not key_is_in_it and key_is_given(place):
        click.echo("The encryption key is not in it, as it is given by a setting: keep it elsewhere.", err=True)
    elif not key_is_in_it:
        raise InstanceError(
            f"the encryption key is not in it, as {chosen.folder / KEY} is missing: put the file back from your copy, "
            f"or give the key: mail-proxy {chosen.name} config set ENCRYPTION_KEY=-. What runs has it still, and does "
            "not start again without it. If it is lost: docs/operations.md says what to do"
        )


def _sqlite(place: Place) -> Path:
    database = place.database
    if database is None:
        raise InstanceError(f"{place.instance.name} is on PostgreSQL: use pg_dump and pg_restore, and keep the key too")
    return database


def _copied(database: Path, copy: Path) -> None:
    from mail_proxy.domain.errors import StoreUnavailable  # noqa: PLC0415
    from mail_proxy.store.copying import copy_database  # noqa: PLC0415 - few commands need it

    if not database.is_file():
        raise InstanceError(f"there is no database yet at {database}")
    try:
        copy_database(database, copy)
    except StoreUnavailable as error:
        raise InstanceError(error.sentence) from None


def _unpacked(file: Path, folder: Path) -> Sequence[Path]:
    """Return what a backup has, unpacked into a folder; raises `InstanceError`. Other names in it are passed over."""
    from mail_proxy.store.copying import problem_with  # noqa: PLC0415

    found: list[Path] = []
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if member.name in {DATABASE, KEY} and member.isfile():
                    content = archive.extractfile(member)
                    path = folder / member.name
                    with _new(path) as out:
                        while content is not None and (piece := content.read(1 << 20)):
                            out.write(piece)
                    found.append(path)
    except (tarfile.TarError, EOFError):
        raise InstanceError(f"{file} is no backup of mail-proxy, or not whole") from None
    except OSError as error:
        raise InstanceError(f"{file} cannot be unpacked: {error.strerror or error}") from None
    if folder / DATABASE not in found:
        raise InstanceError(f"{file} has no database: it is no backup of an instance")
    problem = problem_with(folder / DATABASE)
    if problem is not None:
        raise InstanceError(f"{file} cannot be used: {problem}")
    return found


def _put_in_place(chosen: Instance, database: Path, found: Sequence[Path]) -> None:
    """Give what there is a second name, and put what was unpacked in its place: each in one step, the key first.

    A crash in between leaves the old database whole, or the new one: never none, which would be taken for a first
    start, and never one without its key, which does not start.
    """
    places = {DATABASE: database, KEY: chosen.folder / KEY}
    if database.exists():
        _make_whole(database)
    for each in sorted(found, key=lambda path: path.name != KEY):
        place = places[each.name]
        before = place.with_name(place.name + ".before")
        before.unlink(missing_ok=True)
        if place.exists():
            os.link(place, before)
        each.replace(place)
    for journal in chosen.folder.glob("flight-*.log"):  # of what was before
        journal.unlink()
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_whole(database: Path) -> None:
    """Bring what a WAL holds into its database: beside another one it would be taken for that one's."""
    from mail_proxy.domain.errors import StoreUnavailable  # noqa: PLC0415
    from mail_proxy.store.copying import make_whole  # noqa: PLC0415

    try:
        make_whole(database)
    except StoreUnavailable:  # a damaged one is what a restore is for
        for end in OF_WHAT_WAS_BEFORE:
            aside = database.with_name(database.name + end)
            if aside.exists():
                aside.replace(database.with_name(database.name + ".before" + end))


@contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out whose the files were."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member
