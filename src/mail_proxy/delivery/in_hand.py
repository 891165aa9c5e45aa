"""How many bytes of submissions this instance may have in its hands: claimed and waiting, or being sent."""  # G11

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mail_proxy.domain.claim import Claimed

LIGHT = 200_000
"""Bytes up to which a message counts among the light ones, which have room of their own."""
_LIGHT_PART = 5
"""One part in so many is for light messages."""


class Room:
    """A tenant may take more as long as it holds less than is free: alone half, two a third each, and so on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used: Counter[str] = Counter()
        self._in_use = 0
        self._waiting: dict[str, dict[int, None]] = {}

    def open_to(self, tenant_id: str) -> bool:
        """True where the tenant may take more."""
        return self._used[tenant_id] < self._most - self._in_use

    def take(self, tenant_id: str, size: int) -> None:
        """Count bytes in."""
        self._used[tenant_id] += size
        self._in_use += size

    def give_back(self, tenant_id: str, size: int) -> None:
        """Count bytes out."""
        self._in_use -= size
        self._used[tenant_id] -= size
        if not self._used[tenant_id]:
            del self._used[tenant_id]

    def wait(self, tenant_id: str, account_pk: int) -> None:
        """Keep an account until its tenant may take more."""
        self._waiting.setdefault(tenant_id, {})[account_pk] = None

    def let_in(self) -> Sequence[int]:
        """Return the accounts that wait no longer."""
        tenants = [tenant_id for tenant_id in self._waiting if self.open_to(tenant_id)]
        return [account_pk for tenant_id in tenants for account_pk in self._waiting.pop(tenant_id)]


class InHand:
    """Says who may claim more, and keeps those who may not until they may.

    Room is looked at before a claim, so what is in hand goes over `most` by what one claim takes (`HELPING`) and one
    message: any message goes, however large, when its tenant's turn comes.
    """

    def __init__(self, most: int) -> None:
        self._light = Room(most // _LIGHT_PART)
        self._heavy = Room(most - most // _LIGHT_PART)
        self._behind_heavy: set[int] = set()
        self.bytes = 0
        """Of all submissions in hand."""

    def heaviest(self, tenant_id: str, account_pk: int) -> int | None:
        """Return the size up to which messages of an account may be claimed: None for any, 0 for nothing at all.

        After 0 the account waits: `give_back` names it when there is something that it may claim.
        """
        if not self._light.open_to(tenant_id):
            self._light.wait(tenant_id, account_pk)
            return 0
        if self._heavy.open_to(tenant_id):
            self._behind_heavy.discard(account_pk)
            return None
        if account_pk in self._behind_heavy:
            self._heavy.wait(tenant_id, account_pk)
            return 0
        return LIGHT

    def left_heavy(self, account_pk: int) -> None:
        """Take note that a heavy message is the account's next: there is no use in asking for light ones."""
        self._behind_heavy.add(account_pk)

    def look_again(self, account_pk: int) -> None:
        """Forget what is the account's next: something overtakes it, or the account has gone."""
        self._behind_heavy.discard(account_pk)

    def take(self, claimed: Claimed) -> None:
        """Count a message in."""
        size = len(claimed.fields)
        self.bytes += size
        self._room_of(size).take(claimed.tenant_id, size)

    def give_back(self, claimed: Claimed) -> Sequence[int]:
        """Count a message out that is done, or was put back in the queue; return accounts that wait no longer."""
        size = len(claimed.fields)
        self.bytes -= size
        room = self._room_of(size)
        room.give_back(claimed.tenant_id, size)
        return room.let_in()

    def _room_of(self, size: int) -> Room:
        return self._light if size <= LIGHT else self._heavy
