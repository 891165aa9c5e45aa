"""Accounts that wait for something: tenants take turns, and the accounts of each."""  # G11

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest


class InTurn:
    """However many accounts a tenant has, another tenant's only one comes right after the next of them.

    Every step costs the same for one account as for a million, but `some`, which looks at each tenant once.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[int, None]] = {}
        self._tenant_of: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._tenant_of)

    def __contains__(self, account_pk: int) -> bool:
        return account_pk in self._tenant_of

    def add(self, tenant_id: str, account_pk: int) -> None:
        """Put an account at the end, unless it waits already."""
        if account_pk not in self._tenant_of:
            self._tenant_of[account_pk] = tenant_id
            self._of.setdefault(tenant_id, {})[account_pk] = None

    def discard(self, account_pk: int) -> None:
        """Take an account out, if it waits."""
        tenant_id = self._tenant_of.pop(account_pk, None)
        if tenant_id is not None:
            accounts = self._of[tenant_id]
            del accounts[account_pk]
            if not accounts:
                del self._of[tenant_id]

    def tenant_of(self, account_pk: int) -> str | None:
        """Return whose account it is, or None if it does not wait."""
        return self._tenant_of.get(account_pk)

    def had_its_turn(self, account_pk: int) -> None:
        """Let the others go first, if it waits: those of its tenant, and other tenants."""
        tenant_id = self._tenant_of.get(account_pk)
        if tenant_id is not None:
            accounts = self._of.pop(tenant_id)
            del accounts[account_pk]
            accounts[account_pk] = None
            self._of[tenant_id] = accounts

    def tenants(self) -> Sequence[str]:
        """Return the tenants in turn."""
        return list(self._of)

    def first_of(self, tenant_id: str) -> int | None:
        """Return the account of a tenant whose turn it is, or None if none of them waits."""
        return next(iter(self._of.get(tenant_id, ())), None)

    def some(self, most: int) -> Sequence[int]:
        """Return up to so many accounts: one of each tenant, then the next of each, and so on."""
        rows = (islice(accounts, most) for accounts in list(self._of.values()))
        return list(islice(_column_by_column(rows), most))


def _column_by_column(rows: Iterator[Iterator[int]]) -> Iterator[int]:
    for column in zip_longest(*rows):
        yield from (account_pk for account_pk in column if account_pk is not None)
