"""Reporters of your own: what a package that takes the place of HTTP is given, and what it answers.

A reporter is a function, or an object that can be called, of the entry point group `genro_mail_proxy.reporters`;
`GMP_REPORTER` names it. This module is the whole of the interface, and imports nothing else of this package.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

GROUP = "genro_mail_proxy.reporters"


@dataclass(frozen=True, slots=True)
class Report:
    """What an endpoint would be sent. `entries` are empty where the tenant is only asked whether it has something."""

    tenant_id: str
    id: str
    """Names this report, as `webhook-id` does for endpoints: the same where the very same one is told again."""
    entries: Sequence[Mapping[str, Any]]
    """The events in their order; the `event_id` of each stays the same however often it is told."""
    body: bytes
    """The same as JSON: `{"delivery_report": [entry, …]}`."""


Answer: TypeAlias = "Mapping[str, Any] | None"
"""What an endpoint would answer, such as `{"error": ["M1"]}`. None: everything is acknowledged."""

Reporter: TypeAlias = "Callable[[Report], Answer] | Callable[[Report], Awaitable[Answer]]"
"""An `async def` runs in the service's event loop, which it must not hold up; a plain function in a thread.

An exception acknowledges nothing: the same events are told again later. So does what takes longer than 30 s.
"""
