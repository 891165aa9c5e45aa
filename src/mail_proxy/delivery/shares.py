"""Dividing the sending slots among tenants, so that nobody's hung servers take them all."""  # G11

from __future__ import annotations

from collections import Counter


class Slots:
    """So many transactions at a time; a tenant may hold as many slots as are still free, never more.

    One tenant alone gets half of the slots, two get a third each, and there is always one left for a newcomer.
    """

    def __init__(self, total: int) -> None:
        self._total = max(total, 2)
        self._used: Counter[str] = Counter()
        self._in_use = 0

    def take(self, tenant_id: str) -> bool:
        """Take a slot for the tenant if its share allows."""
        free = self._total - self._in_use
        if free <= 0 or self._used[tenant_id] >= free:
            return False
        self._used[tenant_id] += 1
        self._in_use += 1
        return True

    def give_back(self, tenant_id: str) -> None:
        """Return a slot."""
        self._in_use -= 1
        self._used[tenant_id] -= 1
        if not self._used[tenant_id]:
            del self._used[tenant_id]

    @property
    def any_free(self) -> bool:
        """True while somebody may get one."""
        return self._in_use < self._total

    @property
    def in_use(self) -> int:
        """Slots that are taken."""
        return self._in_use
