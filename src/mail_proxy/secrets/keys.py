"""Where the encryption key comes from: given by the operator, or, beside an SQLite file, made at the first start."""

from __future__ import annotations

import binascii
import os
import re
import stat
import tempfile
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Sequence
from pathlib import Path

from mail_proxy.domain.secret import Secret
from mail_proxy.secrets.cipher import KEY_BYTES

KEY_FILE_NAME = "encryption.key"
_HEX = re.compile(rf"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}\Z")
OLD_KEYS = "GMP_ENCRYPTION_KEYS_OLD"
_HOW_TO_MAKE_ONE = "openssl rand -base64 32"


class KeyRefused(Exception):
    """There is no encryption key, or none that can be used; the text says what to do."""


def parse_key(text: str, name: str = "GMP_ENCRYPTION_KEY") -> bytes:
    """Read a key of 32 bytes in hex or base64 (also the URL-safe kind, padding optional).

    Raises `KeyRefused` for anything else. A passphrase is not stretched into a key: it would look as strong as one.
    """
    text = text.strip()
    if _HEX.match(text):
        return bytes.fromhex(text)
    try:
        plain = text.rstrip("=").replace("+", "-").replace("/", "_")
        key = urlsafe_b64decode(plain + "=" * (-len(plain) % 4)) if re.fullmatch(r"[\w-]*", plain, re.ASCII) else b""
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise KeyRefused(f"The encryption key ({name}) must be {KEY_BYTES} bytes in base64 or hex: {_HOW_TO_MAKE_ONE}")
    return key


def old_keys(configured: Sequence[Secret]) -> list[bytes]:
    """Return the keys that only open what was sealed with them. Raises `KeyRefused`."""
    return [parse_key(each.reveal(), OLD_KEYS) for each in configured]


def obtain_key(configured: Secret | None, folder: Path | None, *, first_start: bool) -> bytes:
    """Return the key that was given, else the one in the folder, which is made there at the first start.

    `folder` is None on PostgreSQL where no key lies in it: every instance has to be given the same one. `first_start`:
    there is no database yet. Raises `KeyRefused`.
    """  # G16
    if configured is not None:
        return parse_key(configured.reveal())
    if folder is None:
        raise KeyRefused(
            "GMP_ENCRYPTION_KEY is required with PostgreSQL: every instance needs the same 32 bytes in base64 or "
            f"hex. Make them with: {_HOW_TO_MAKE_ONE}"
        )
    path = folder / KEY_FILE_NAME
    if not path.exists():
        if not first_start:
            raise KeyRefused(
                f"The database is there but {path} is missing: put the file back from your copy or a backup, or set "
                "GMP_ENCRYPTION_KEY to the key. If it is lost: docs/operations.md says what to do."
            )
        _create(path)
    return _read(path)


def make_key_file(folder: Path, key: bytes | None = None) -> bool:
    """Write a key into a folder, a new one unless it is given; False where there is one already.

    Raises `KeyRefused`.
    """
    path = folder / KEY_FILE_NAME
    if path.exists():
        return False
    _create(path, key)
    return True


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRefused(f"{path} cannot be read: {error}") from None
    # The group is let in: Kubernetes gives files of a volume to the pod's group (fsGroup) at every start.
    if mode & stat.S_IRWXO:
        raise KeyRefused(f"{path} can be read by every user of this machine: chmod 600 {path}")
    try:
        return parse_key(text)
    except KeyRefused:
        raise KeyRefused(f"{path} holds no encryption key: put the right file back.") from None


def _create(path: Path, key: bytes | None = None) -> None:
    """Make a key file, whole or not at all; of two processes that try at once one wins, and both use its key."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".encryption-key-")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(b64encode(key or os.urandom(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, path)  # fails where the file is there already, unlike a rename
        except FileExistsError:
            pass
        finally:
            Path(scratch).unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise KeyRefused(f"An encryption key cannot be made in {path.parent}: {error}") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
