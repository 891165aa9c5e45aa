"""Messages, histories and receipts as they are shown."""

from __future__ import annotations

import json

from mail_proxy.domain.command_log import Logged
from mail_proxy.domain.explanation import Explanation, Standing
from mail_proxy.domain.message import Details, MessageState
from mail_proxy.domain.report import recipient_view
from mail_proxy.domain.settlement import error_code
from mail_proxy.intake.receipt import Receipt
from mail_proxy.ports.archive import PastEvent
from mail_proxy.reporting.overview import TenantSync

_ENDED_BADLY = frozenset({MessageState.FAILED, MessageState.EXPIRED, MessageState.CANCELLED})


def historic_status(details: Details, now: float) -> str:
    """Return the older word for where a message stands."""
    match details.state:
        case MessageState.SENT:
            return "sent"
        case MessageState.CANCELLED:
            return "cancelled"
        case MessageState.FAILED | MessageState.EXPIRED:
            return "error"
        case MessageState.SENDING:
            return "pending"
        case MessageState.READY | MessageState.SCHEDULED | MessageState.HELD:
            return "deferred" if details.due_ts is not None and details.due_ts > now else "pending"


def message_view(details: Details, now: float) -> dict[str, object]:
    """Return a message for JSON."""
    failed = details.state in _ENDED_BADLY
    return {
        "pk": str(details.pk),
        "id": details.id,
        "tenant_id": details.tenant_id,
        "account_id": details.account_id,
        "priority": details.priority,
        "batch_code": details.batch_code,
        "state": details.state.public,
        "status": historic_status(details, now),
        "attempts": details.attempts,
        "created_ts": details.created_ts,
        "deferred_ts": details.due_ts,
        "deferred_reason": details.deferred_reason,
        "sent_ts": details.finished_ts if details.state is MessageState.SENT else None,
        "error_ts": details.finished_ts if failed else None,
        "error": details.reply if failed else None,
        "error_code": error_code(details.reply) if failed else None,
        "reported_ts": details.reported_ts,
        "metadata": details.fields.get("metadata"),
        "message": dict(details.fields),
        "body_removed_ts": details.body_removed_ts,
        "recipients": [recipient_view(recipient) for recipient in details.recipients],
    }


def explanation_view(standing: Standing, explanation: Explanation) -> dict[str, object]:
    """Return why a message has not been sent yet for JSON."""
    return {
        "id": standing.id,
        "tenant_id": standing.tenant_id,
        "account_id": standing.account_id,
        "state": standing.state.public,
        "sentence": explanation.sentence,
        "holds": [
            {"reason": each.reason.value, "since": each.since, "until": each.until, "text": each.text}
            for each in explanation.obstacles
        ],
        "ahead": None if standing.ahead is None else standing.ahead.count,
        "ahead_is_at_least": standing.ahead is not None and standing.ahead.at_least,
        "attempts": standing.attempts,
        "last_reply": standing.reply,
        "expires_ts": standing.expires_ts,
    }


def sync_view(sync: TenantSync) -> dict[str, object]:
    """Return how reporting to a tenant goes for JSON."""
    return {
        "tenant_id": sync.tenant_id,
        "last_sync_ts": sync.status.last_sync_ts,
        "next_sync_due": sync.status.next_sync_due,
        "in_dnd": sync.status.in_dnd,
        "pending_events": sync.pending_events,
        "pending_events_is_at_least": sync.at_least,
        "consecutive_failures": sync.status.consecutive_failures,
        "last_error": sync.status.last_error,
    }


def event_view(event: PastEvent) -> dict[str, object]:
    """Return one line of a message's history for JSON."""
    return {
        "event_id": None if event.event_id is None else str(event.event_id),
        "type": event.type.value,
        "ts": event.ts,
        "reported_ts": event.reported_ts,
        "report": None if event.entry is None else json.loads(event.entry),
    }


def receipt_view(receipt: Receipt) -> dict[str, object]:
    """Return the answer to a submission for JSON."""
    return {
        "ok": receipt.ok,
        "queued": receipt.queued,
        "duplicates": receipt.duplicates,
        "replaced": receipt.replaced,
        "rejected": [
            {"index": each.index, "id": each.id, "field": each.field, "reason": each.reason, "code": each.code}
            for each in receipt.rejected
        ],
    }


def entry_view(logged: Logged) -> dict[str, object]:
    """Return an entry of the command log for JSON."""
    entry, details = logged.entry, json.loads(logged.entry.details)
    return {
        "id": str(logged.at.pk),
        "ts": entry.ts,
        "caller": "admin" if entry.by_admin else "tenant",
        "tenant_id": entry.tenant_id,
        "method": entry.method,
        "route": entry.route,
        "path": details.get("path", {}),
        "query": details.get("query", {}),
        "payload": details.get("payload"),
        "result": details.get("result", {}),
        "status": entry.status,
        "code": entry.code,
        "address": entry.address,
    }
