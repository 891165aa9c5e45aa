"""Every call that may change something leaves an entry in the command log, whichever route it takes."""

from __future__ import annotations

import json
from itertools import count
from typing import Any
from uuid import uuid4

import structlog
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mail_proxy.api.notes import address_of, notes_of, route_of
from mail_proxy.api.redaction import details, shown_answer, shown_path, shown_query
from mail_proxy.api.services import Services
from mail_proxy.domain.command_log import Entry
from mail_proxy.domain.tenant import id_problem

CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
LONGEST_READ = 100_000
"""Bytes of an answer that are looked into for its code and its numbers."""
KEY_CHANGES = {
    ("POST", "/tenant"): "tenant made with an API key",
    ("DELETE", "/tenant/{tenant_id}"): "tenant removed with its API key",
    ("POST", "/tenant/{tenant_id}/api-key"): "API key made",
    ("DELETE", "/tenant/{tenant_id}/api-key"): "API key revoked",
    ("POST", "/tenant/{tenant_id}/signing-secret"): "signing secret made",
    ("DELETE", "/tenant/{tenant_id}/signing-secret"): "signing secret forgotten",
    ("POST", "/instance/api-token"): "admin token changed",
}
log = structlog.get_logger(__name__)

_NO_QUERY = QueryParams()


class Audited:
    """Serves calls, and has an entry taken down of each that came with a valid token, before it is answered.

    What changed something is answered when its entry is written, if `waits`.
    """

    def __init__(self, app: ASGIApp, services: Services, *, waits: bool) -> None:
        self._app = app
        self._services = services
        self._waits = waits
        self._run, self._numbers = uuid4().hex, count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call. Its answer is held back until its body begins, which says what came of it."""
        beginning: Message | None = None
        recorded = False

        async def watched(message: Message) -> None:
            nonlocal beginning, recorded
            if message["type"] == "http.response.start":
                beginning = message
                return
            if beginning is not None and not recorded:
                recorded = True
                try:
                    await self._record(scope, beginning["status"], message.get("body", b""))
                except Exception:
                    # what was done is answered as done, whatever is wrong with how it is taken down
                    log.exception("an entry of the command log cannot be made", route=route_of(scope))
                await send(beginning)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException:
            if not recorded and notes_of(scope).known:  # what was begun may be done all the same
                self._services.audit.note(self._entry(scope, None, {}))
            raise

    async def _record(self, scope: Scope, status: int, body: bytes) -> None:
        notes = notes_of(scope)
        if not notes.known:
            return
        answer: dict[str, Any] = {}
        if (notes.result is None or status >= 400) and len(body) <= LONGEST_READ:
            answer = _read(body)
        entry = self._entry(scope, status, answer)
        if self._waits and status < 400:
            await self._services.audit.record(entry)
        else:
            self._services.audit.note(entry)
        change = KEY_CHANGES.get((entry.method, entry.route)) if self._waits else None
        if change is not None and status < 400 and (entry.route != "/tenant" or "api_key" in answer):
            self._services.security_log.key_changed(change, entry.tenant_id, entry.address)

    def _entry(self, scope: Scope, status: int | None, answer: dict[str, Any]) -> Entry:
        notes, path = notes_of(scope), scope.get("path_params", {})
        query = QueryParams(scope["query_string"]) if scope["query_string"] else _NO_QUERY
        tenant_id = notes.tenant_id
        if tenant_id is None:  # refused before it was known whether there is one
            named = path.get("tenant_id") or query.get("tenant_id")
            tenant_id = None if named is None or id_problem(named) else named
        code = answer.get("code")
        return Entry(
            key=f"{self._run}-{next(self._numbers)}",
            ts=round(self._services.clock.now(), 3),  # as exactly as every database writes it in JSON
            by_admin=notes.by_admin,
            tenant_id=tenant_id,
            method=scope["method"],
            route=route_of(scope),
            status=status,
            code=code if isinstance(code, str) else None,
            address=address_of(scope),
            details=details(
                path=shown_path(path),
                query=shown_query(query.items()),
                payload=notes.payload,
                result=notes.result or shown_answer(answer),
            ),
        )


def _read(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
