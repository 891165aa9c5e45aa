"""Whether an encryption key opens the database of an instance: asked before anything goes by it."""  # G16

from __future__ import annotations

from collections.abc import Sequence

from mail_proxy.domain.secret import Secret
from mail_proxy.ports.secrets import WrongKey
from mail_proxy.runtime.setting_values import SqliteFile
from mail_proxy.runtime.settings import Settings
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused, obtain_key, old_keys
from mail_proxy.store.glance import key_check


def problem_with_key(settings: Settings, configured: Secret | None, old: Sequence[Secret]) -> str | None:
    """Say why an instance would not start with this key, or without one with that in its folder.

    None where it would, and where its database is not there yet or cannot be asked.
    """
    database = settings.database
    held = key_check(database.path if isinstance(database, SqliteFile) else database.url.reveal())
    if held is None:
        return None
    in_folder = isinstance(database, SqliteFile) or (settings.data_folder / KEY_FILE_NAME).exists()
    try:
        key = obtain_key(configured, settings.data_folder if in_folder else None, first_start=False)
        check_key(AesGcmCipher(key, old_keys(old)), held)
    except (KeyRefused, WrongKey) as error:
        return str(error)
    return None
