"""Sealing what is secret, and what is sealed already."""

from __future__ import annotations

from typing import Protocol

from mail_proxy.domain.sealing import Resealed, SealCursor, SealStanding

CHECK_PLACE = "settings.encryption_check"
"""Where the value stands that shows which key the database is sealed with."""


class SealBroken(Exception):
    """A sealed text cannot be opened: it was sealed with another key or for another place, or it was changed."""


class WrongKey(Exception):
    """The database is sealed with an encryption key that this instance does not have."""


class Cipher(Protocol):
    """Seals secrets for the database, bound to the place where they stand."""  # G16

    @property
    def key_id(self) -> str:
        """Which key is this instance's own; tells nothing about the key."""
        ...

    @property
    def key_ids(self) -> frozenset[str]:
        """The keys that it can open with: its own and old ones."""
        ...

    def head(self, key_id: str) -> str:
        """How every text begins that is sealed with that key, and no other."""
        ...

    def key_of(self, sealed: str) -> str:
        """The key that a text was sealed with; raises `SealBroken` for what is not sealed."""
        ...

    def mark(self, text: str) -> str:
        """Return what stands for a text and shows nothing of it: the same for the same text, with the same own key."""
        ...

    def seal(self, text: str, place: str, key_id: str | None = None) -> str:
        """Encrypt a text with this instance's own key, or one of its others.

        `place` (table, column, tenant, id) must be given again to open it. Raises `SealBroken` for a key that it does
        not have.
        """
        ...

    def open(self, sealed: str, place: str) -> str:
        """Decrypt; raises `SealBroken` for an unknown key, a changed text or another place; never answers garbage."""
        ...


class Seals(Protocol):
    """Which keys the secrets in the database are sealed with, and the way to another key.

    The database goes by one key at a time, also when several instances have others as their own meanwhile: whoever
    writes a secret seals it with that one. All raise `StoreUnavailable`.
    """  # G16

    def mark(self, text: str) -> str:
        """See `Cipher.mark`."""
        ...

    async def may_go_on(self) -> bool:
        """True when the database goes by this instance's own key.

        Raises `WrongKey` when it goes by a key that this instance does not have at all.
        """
        ...

    async def adopt(self) -> bool:
        """Make this instance's own key the database's, if every instance that is there has it as its own."""
        ...

    async def reseal(self, after: SealCursor | None, limit: int) -> Resealed:
        """Seal up to `limit` secrets anew that are sealed with other keys than the database's.

        `after` is where the last call ended. A secret that somebody changes meanwhile keeps its newer value.
        """
        ...

    async def standing(self) -> SealStanding:
        """Say how far the secrets have come. Reads all of them."""
        ...
