"""The admin token: given by the environment for good, or by `config.toml`, where it can be changed while running.

All processes that share the file go by what it says now: it is looked at with each request, which costs a microsecond.
So a new token counts for each of them from the moment when it is on disk, and the old one for none.
"""  # G16

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from mail_proxy.domain.errors import Conflict
from mail_proxy.runtime.config_file import NAME, ConfigChanged, ConfigFile, ConfigRefused, ConfigUnsure, Seen
from mail_proxy.runtime.setting_values import is_token
from mail_proxy.runtime.settings import Settings
from mail_proxy.secrets import tokens

SETTING = "api_token"

log = structlog.get_logger(__name__)


class AdminToken:
    """Knows the digest of the token that counts now."""

    def __init__(self, settings: Settings) -> None:
        self._source = settings.source(SETTING)
        self._seen: Seen | None = None
        path = settings.config_file if self._source == NAME else None
        self._file = None if path is None else ConfigFile(path)
        # A worker that is started anew has the settings of its parent, whose token may be one of long ago: of the file
        # it counts what it says now, or nothing.
        self._digest = tokens.digest(settings.api_token.reveal()) if path is None else ""
        self._look()

    @property
    def file(self) -> Path | None:
        """The file that the token is kept in; None where it cannot be changed."""
        return None if self._file is None else self._file.path

    def digest(self) -> str:
        """Return the SHA-256 of the token that counts at this moment."""
        if self._file is not None and self._file.seen() != self._seen:
            self._look()
        return self._digest

    async def renew(self, shown: str) -> str:
        """Make a new token, which counts from now on instead of the old one, and return it.

        `shown` is the digest of the token that the caller came with. Raises `Conflict` where the token is not kept in
        `config.toml`, where that cannot be changed, and where somebody else has just made a new token.
        """
        file = self._file
        if file is None:
            raise Conflict(
                f"The admin token comes from the {self._source} (GMP_API_TOKEN): change it there, and restart.",
                code="token_is_fixed",
            )
        token = tokens.new_token()
        try:
            # shielded: what was begun comes to its end, whoever goes away meanwhile
            await asyncio.shield(asyncio.to_thread(file.replace, SETTING, token, lambda held: _is(held, shown)))
        except ConfigChanged:
            raise Conflict(
                f"{file.path} holds another admin token than this one, or none: somebody has changed it.",
                code="token_changed",
            ) from None
        except (ConfigRefused, ConfigUnsure) as refused:
            raise Conflict(str(refused), code="config_not_writable") from None
        except OSError as error:
            reason = f"{file.path} cannot be written ({error.strerror}); the admin token stays as it was."
            raise Conflict(reason, code="config_not_writable") from None
        self._look()
        log.warning("admin token changed", file=str(file.path))
        return token

    def _look(self) -> None:
        """Take over what the file says; where it says nothing that can be used, what it said before counts."""
        if self._file is None:
            return
        self._seen = self._file.seen()  # before it is read: a change in between is seen the next time
        try:
            held = self._file.read().get(SETTING)
        except ConfigRefused as refused:
            log.warning("admin token stays as it was", reason=str(refused))
            return
        if not isinstance(held, str) or not is_token(held.strip()):
            log.warning("admin token stays as it was", reason=f"{self._file.path} holds no {SETTING} that can be one")
            return
        self._digest = tokens.digest(held.strip())


def _is(held: object, digest: str) -> bool:
    return isinstance(held, str) and tokens.same(tokens.digest(held.strip()), digest)
