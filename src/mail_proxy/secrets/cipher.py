"""Seals secrets for the database with AES-256-GCM (NIST SP 800-38D).

A sealed text is `ENC1:<key id>:<base64 of nonce and ciphertext>`. The key id tells which key is needed without telling
anything about it; the place where the text stands is authenticated with it, so that a sealed password that somebody
copies to another account, column or tenant does not open there.
"""  # G16

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typing_extensions import override

from mail_proxy.ports.secrets import CHECK_PLACE, Cipher, SealBroken, WrongKey

SCHEME = "ENC1"
KEY_BYTES = 32
NONCE_BYTES = 12
_CHECK_TEXT = "this database is sealed with this key"


class AesGcmCipher(Cipher):
    """Keeps the `Cipher` port with keys of 32 bytes: this instance's own, and old ones that open what they sealed.

    A nonce is random and never used twice: one key is good for 2**32 secrets (SP 800-38D section 8.3), and a secret is
    sealed only when somebody sets it, and once more when the key is changed.
    """

    def __init__(self, key: bytes, old: Sequence[bytes] = ()) -> None:
        self._ciphers: dict[str, AESGCM] = {}
        for each in (key, *old):
            if len(each) != KEY_BYTES:
                raise ValueError(f"an AES-256 key has {KEY_BYTES} bytes")
            self._ciphers.setdefault(_id_of(each), AESGCM(each))
        self._key_id = _id_of(key)
        self._marking_key = hashlib.sha256(b"mail-proxy marks\0" + key).digest()

    @property
    @override
    def key_id(self) -> str:
        return self._key_id

    @property
    @override
    def key_ids(self) -> frozenset[str]:
        return frozenset(self._ciphers)

    @override
    def head(self, key_id: str) -> str:
        return f"{SCHEME}:{key_id}:"

    @override
    def key_of(self, sealed: str) -> str:
        scheme, _, rest = sealed.partition(":")
        key_id, found, _ = rest.partition(":")
        if scheme != SCHEME or not found:
            raise SealBroken("not a sealed text")
        return key_id

    @override
    def mark(self, text: str) -> str:
        keyed = hmac.new(self._marking_key, text.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return keyed.hexdigest()[:32]

    @override
    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        key_id = key_id or self._key_id
        if key_id not in self._ciphers:
            raise SealBroken(f"{place}: to be sealed with key {key_id!r}, this instance has {self._said()}")
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._ciphers[key_id].encrypt(nonce, text.encode("utf-8"), _associated(key_id, place))
        return self.head(key_id) + b64encode(sealed).decode("ascii")

    @override
    def open(self, sealed: str, place: str) -> str:
        try:
            key_id = self.key_of(sealed)
        except SealBroken as broken:
            raise SealBroken(f"{place}: {broken}") from None
        if key_id not in self._ciphers:
            raise SealBroken(f"{place}: sealed with key {key_id!r}, this instance has {self._said()}")
        try:
            raw = b64decode(sealed.rpartition(":")[2], validate=True)
            opened = self._ciphers[key_id].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _associated(key_id, place))
        except (InvalidTag, binascii.Error, ValueError):
            raise SealBroken(f"{place}: the sealed text was changed, or belongs to another place") from None
        return opened.decode("utf-8")

    def _said(self) -> str:
        return " and ".join(f"key {each!r}" for each in self._ciphers)

    @override
    def __repr__(self) -> str:
        return f"AesGcmCipher(key_id={self._key_id!r})"


def _id_of(key: bytes) -> str:
    return hashlib.sha256(b"mail-proxy key id\0" + key).hexdigest()[:8]


def _associated(key_id: str, place: str) -> bytes:
    return f"{SCHEME}:{key_id}:{place}".encode()


def check_key(cipher: Cipher, held: str | None) -> str:
    """Return the check value for the database: a new one where it holds none, else the held one.

    Raises `WrongKey` where the held one was made with a key that the cipher does not have, neither as its own nor as
    an old one: the instance must not start.
    """
    if held is None:
        return cipher.seal(_CHECK_TEXT, CHECK_PLACE)
    try:
        if cipher.open(held, CHECK_PLACE) == _CHECK_TEXT:
            return held
    except SealBroken:
        pass
    raise WrongKey(
        "The database was made with another encryption key. Start with that key, which its other instances have: "
        "GMP_ENCRYPTION_KEY, the file encryption.key in the data folder, or mail-proxy NAME config set "
        "ENCRYPTION_KEY=-. To change the key, give that one in GMP_ENCRYPTION_KEYS_OLD."
    )
