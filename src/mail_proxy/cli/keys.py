"""Whether an encryption key opens the database of an instance: asked before anything goes by it."""  # G16

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.secrets import WrongKey
from mail_proxy.runtime.setting_values import SqliteFile
from mail_proxy.runtime.settings import Settings
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused, obtain_key, old_keys
from mail_proxy.store.glance import key_check
from mail_proxy.store.opening import StoreRefused


def problem_with_key(settings: Settings, configured: Secret | None, old: Sequence[Secret]) -> str | None:
    """Say why an instance would not start with this key, or without one with that in its folder.

    None where it would, and where its database is not there yet or cannot be asked.
    """
    database = settings.database
    try:
        held = key_check(database.path if isinstance(database, SqliteFile) else database.url.reveal())
    except (StoreRefused, StoreUnavailable):
        return None
    if held is None:
        return None
    if configured is None and not isinstance(database, SqliteFile) and not _key_file(settings).exists():
        return missing_key(settings)
    try:
        key = obtain_key(configured, settings.data_folder, first_start=False)
        check_key(AesGcmCipher(key, old_keys(old)), held)
    except (KeyRefused, WrongKey) as error:
        return str(error)
    return None


def lost_key(settings: Settings) -> str | None:
    """Say what to do where a database on PostgreSQL is sealed with a key, and the instance has none.

    None where it has one, and where the database has none yet. Raises `StoreUnavailable` and `StoreRefused` where the
    database cannot be asked.
    """
    database = settings.database
    if isinstance(database, SqliteFile) or settings.encryption_key is not None or _key_file(settings).exists():
        return None
    return None if key_check(database.url.reveal()) is None else missing_key(settings)


def missing_key(settings: Settings) -> str:
    """Say what to do about a key that is not in the folder of an instance, with a database that is sealed with it."""
    return (
        f"The database is there but {_key_file(settings)} is missing: put the file back from your copy, or give the "
        "key, which other instances on that database have too: mail-proxy NAME config set ENCRYPTION_KEY=-"
    )


def _key_file(settings: Settings) -> Path:
    return settings.data_folder / KEY_FILE_NAME
