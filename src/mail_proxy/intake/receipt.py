"""What is answered to a submission: every item exactly once."""  # G2

from __future__ import annotations

from dataclasses import dataclass, field

from mail_proxy.domain.reply import printable

SHOWN_FIELD = 80


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that was not taken: which one, the field at fault, one plain sentence, and a stable word.

    | code | what it says |
    |---|---|
    | `invalid` | a field does not validate |
    | `id_invalid` | the `id` itself is missing or does not validate |
    | `tenant_required` | `tenant_id` is needed, because more than one tenant could be meant |
    | `unknown_tenant` | there is no such tenant |
    | `tenant_inactive` | the tenant is switched off |
    | `unknown_account` | the tenant has no such account |
    | `no_default_account` | no `account_id` was given, and the tenant has no default account and not exactly one |
    | `already_taken` | other content under an id that is being sent, or waits after an attempt |
    | `already_sent`, `already_failed`, `already_expired`, `already_cancelled` | the same, and that one is finished |
    """

    index: int
    id: str | None
    """None where the item has none that could be shown."""
    field: str | None
    reason: str
    code: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a batch: how many were queued, which were known, which took another's place, which were refused."""

    queued: int = 0
    duplicates: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    tenant_ids: frozenset[str] = field(default=frozenset(), compare=False)
    """The tenants of all that was not rejected before it came to the queue."""

    @property
    def ok(self) -> bool:
        """False only if nothing was taken and something was rejected."""
        return not self.rejected or bool(self.queued or self.duplicates or self.replaced)


def shown_id(item: object, limit: int) -> str | None:
    """Return the id of a rejected item so that it can be answered: printable, and cut where it is too long."""
    if not isinstance(item, dict):
        return None
    id_ = item.get("id")
    return (id_ if _answerable(id_, limit) else printable(id_, limit)) if isinstance(id_, str) else None


def shown_field(name: str) -> str:
    """Return a field's name, which may be any text, so that it can be answered."""
    return printable(name, SHOWN_FIELD)


def _answerable(text: str, limit: int) -> bool:
    return len(text) <= limit and text.isprintable()


_ALREADY = {
    "already_taken": "another message with this id is on its way already",
    "already_sent": "another message with this id was sent already",
    "already_failed": "another message with this id failed already",
    "already_expired": "another message with this id has expired already",
    "already_cancelled": "another message with this id was cancelled already",
}


def refusal(code: str | None) -> tuple[str, str]:
    """Put the queue's refusal into words: (sentence, code)."""
    code = code or "already_taken"
    return _ALREADY.get(code, "another message with this id is there already"), code
