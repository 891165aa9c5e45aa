"""Accounts that may have ready messages, so that claiming for them is wanted: as they were told of, then in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from mail_proxy.delivery.in_turn import InTurn
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.directory import Directory


class Wanted:
    """Whoever hears of messages tells it here, and wakes the dispatcher."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """What the dispatcher sleeps on."""
        self._news: dict[int, None] = {}  # before it is known whose they are
        self.in_turn = InTurn()
        self.urgent: set[int] = set()
        """Those that have a message of priority `immediate`."""

    @property
    def any(self) -> bool:
        """True while there is an account to claim for, or to look at."""
        return bool(self.in_turn or self._news)

    def note(self, account_pks: Iterable[int]) -> None:
        """Take note of accounts, for a dispatcher that is awake."""
        self._news.update(dict.fromkeys(account_pks))

    def tell(self, account_pks: Iterable[int]) -> None:
        """Take note of accounts, and wake the dispatcher for them."""
        self.note(account_pks)
        if self._news:
            self.wake.set()

    def want(self, account_pk: int) -> None:
        """Say that an account may be claimed for again."""
        self.tell((account_pk,))

    async def sort(self, directory: Directory) -> Iterable[int]:
        """Learn whose the accounts are that were told of, so that tenants can take turns; return those that are gone.

        Raises `StoreUnavailable`, and knows them still.
        """
        if not self._news:
            return ()
        news, self._news = self._news, {}
        try:
            owners = await directory.owners_of(list(news))
        except StoreUnavailable:
            self._news = news | self._news
            raise
        for account_pk, tenant_id in owners.items():
            self.in_turn.add(tenant_id, account_pk)
        return news.keys() - owners.keys()

    def forget(self, account_pk: int) -> None:
        """Claim nothing for an account until it is told of again."""
        self.in_turn.discard(account_pk)
        self.urgent.discard(account_pk)
