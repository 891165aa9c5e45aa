"""Credentials as headers carry them."""

from __future__ import annotations

import base64

from typing_extensions import assert_never

from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod


def authorization(auth: ClientAuth) -> tuple[tuple[str, str], ...]:
    """Return the headers that carry credentials."""
    match auth.method:
        case ClientAuthMethod.NONE:
            return ()
        case ClientAuthMethod.BEARER:
            return (("Authorization", f"Bearer {auth.token.reveal() if auth.token else ''}"),)
        case ClientAuthMethod.BASIC:
            # RFC 7617: UTF-8 is what the field's software reads.
            pair = f"{auth.user or ''}:{auth.password.reveal() if auth.password else ''}"
            return (("Authorization", "Basic " + base64.b64encode(pair.encode(errors="replace")).decode("ascii")),)
        case _:
            assert_never(auth.method)
