"""What is noted of a call while it is answered, for the command log: on the way nobody knows all of it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from mail_proxy.api.redaction import MASK
from mail_proxy.domain.download_link import PATH as FILES

_PLACE = "mail_proxy.notes"


@dataclass(slots=True)
class Notes:
    """Noted by whoever comes to know it. Whatever is put here may be shown."""

    known: bool = False
    """The call came with a valid token."""
    by_admin: bool = False
    tenant_id: str | None = None
    """The tenant that it is about."""
    payload: dict[str, object] | None = None
    result: dict[str, object] | None = None


def notes_of(scope: Scope) -> Notes:
    """Return the notes of a request."""
    notes: Notes = scope.setdefault(_PLACE, Notes())
    return notes


def address_of(scope: Scope) -> str | None:
    """Return the other end of the connection, which may be a proxy: headers that name another one are not believed."""
    client = scope.get("client")
    return client[0] if client else None


def route_of(scope: Scope) -> str:
    """Return the path of the route that was found, with names for ids; the bare path where none was looked for."""
    return str(getattr(scope.get("route"), "path", path_of(scope)))


def path_of(scope: Scope) -> str:
    """Return the path, for a log: what is behind `/files/` opens a file to whoever reads it, and is masked."""
    before, files, token = str(scope["path"]).partition(FILES)
    return before + files + (MASK if token else "")
