"""Seals secrets for the database with AES-256-GCM (NIST SP 800-38D).

A sealed text is `ENC1:<key id>:<base64 of nonce and ciphertext>`. The key id tells which key is needed without telling
anything about it; the place where the text stands is authenticated with it, so that a sealed password that somebody
copies to another account, column or tenant does not open there.
"""  # G16

from __future__ import annotations

import binascii
import hashlib
import os
from base64 import b64decode, b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from mail_proxy.ports import Cipher

SCHEME = "ENC1"
KEY_BYTES = 32
NONCE_BYTES = 12
_CHECK_PLACE = "settings.encryption_check"
_CHECK_TEXT = "this database is sealed with this key"


class SealBroken(Exception):
    """A sealed text cannot be opened: it was sealed with another key or for another place, or it was changed."""


class WrongKey(Exception):
    """The database was sealed with another encryption key than the one this instance has."""


class AesGcmCipher(Cipher):
    """Keeps the `Cipher` port with one key of 32 bytes.

    A nonce is random and never used twice: one key is good for 2**32 secrets (SP 800-38D section 8.3), and a secret is
    sealed only when somebody sets it.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"an AES-256 key has {KEY_BYTES} bytes")
        self._aes = AESGCM(key)
        self.key_id = hashlib.sha256(b"mail-proxy key id\0" + key).hexdigest()[:8]

    @override
    def seal(self, text: str, place: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._aes.encrypt(nonce, text.encode("utf-8"), self._associated(place))
        return f"{SCHEME}:{self.key_id}:{b64encode(sealed).decode('ascii')}"

    @override
    def open(self, sealed: str, place: str) -> str:
        scheme, _, rest = sealed.partition(":")
        key_id, found, encoded = rest.partition(":")
        if scheme != SCHEME or not found:
            raise SealBroken(f"{place}: not a sealed text")
        if key_id != self.key_id:
            raise SealBroken(f"{place}: sealed with key {key_id!r}, this instance has key {self.key_id!r}")
        try:
            raw = b64decode(encoded, validate=True)
            opened = self._aes.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._associated(place))
        except (InvalidTag, binascii.Error, ValueError):
            raise SealBroken(f"{place}: the sealed text was changed, or belongs to another place") from None
        return opened.decode("utf-8")

    def _associated(self, place: str) -> bytes:
        return f"{SCHEME}:{self.key_id}:{place}".encode()

    @override
    def __repr__(self) -> str:
        return f"AesGcmCipher(key_id={self.key_id!r})"


def check_key(cipher: Cipher, held: str | None) -> str:
    """Return the check value for the database: a new one where it holds none, else the held one.

    Raises `WrongKey` where the held one was made with another key: the instance must not start.
    """
    if held is None:
        return cipher.seal(_CHECK_TEXT, _CHECK_PLACE)
    try:
        if cipher.open(held, _CHECK_PLACE) == _CHECK_TEXT:
            return held
    except SealBroken:
        pass
    raise WrongKey(
        "The database was made with another encryption key. Start with that key: GMP_ENCRYPTION_KEY, or the file "
        "encryption.key that was in the data folder."
    )
