"""Requests to storages: a body goes out piece by piece, however large it is."""  # G11

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
from typing_extensions import override
from yarl import URL

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.outbound.client import OutboundClient, Request, Response
from mail_proxy.outbound.errors import OutboundError, TimedOut
from mail_proxy.ports.attachments import Transfer, Transfers
from mail_proxy.ports.file_storage import StorageFailed

MAX_ANSWER = 64_000
"""Bytes of an answer; storages explain an error in some hundred."""


@dataclass(frozen=True, slots=True)
class Upload(Request):
    """A request whose body is read while it is sent."""

    content: ByteSource | None = None
    patience: float = 60.0


class _SourceBroke(Exception):
    """What was to be sent ended with this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class TransferClient(OutboundClient, Transfers):
    """Sends requests, redirects not followed."""

    @override
    async def send(self, transfer: Transfer) -> int:
        headers = tuple(transfer.headers.items())
        if transfer.content is not None:
            headers += (("Content-Length", str(transfer.content.size)),)
        request = Upload(
            transfer.method,
            transfer.url,
            transfer.timeout,
            MAX_ANSWER,
            headers,
            content=transfer.content,
            patience=transfer.patience,
        )
        try:
            return (await self.request(request)).status
        except OutboundError as error:
            raise StorageFailed(str(error), permanent=False) from None
        except _SourceBroke as broke:
            raise broke.error from None

    @override
    async def _exchange(self, request: Request, host: str) -> Response:
        if not isinstance(request, Upload):
            return await super()._exchange(request, host)
        broken: list[_SourceBroke] = []

        async def pieces(content: ByteSource) -> AsyncIterator[bytes]:
            left = content.size
            try:
                async for chunk in content.chunks():
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
                    scope.deadline = anyio.current_time() + request.patience
                if left:  # what has gone out must not pass for the whole
                    raise StorageFailed("the file has another size than it had", permanent=False)  # noqa: TRY301
            except Exception as error:
                broken.append(_SourceBroke(error))
                raise

        with anyio.move_on_after(request.patience) as scope:
            try:
                async with self._session.request(
                    request.method,
                    URL(request.url, encoded=True),  # what was signed must not be spelled in another way
                    data=None if request.content is None else pieces(request.content),
                    headers=request.headers,
                    allow_redirects=False,
                ) as answer:
                    await answer.content.read(MAX_ANSWER)
                    if not answer.content.at_eof():
                        answer.close()
                    return Response(answer.status, {}, b"")
            except Exception:
                if broken:  # the library says that the connection broke: so it did, as nothing more came from here
                    raise broken[0] from None
                raise
        raise TimedOut(f"{host} did not go on within {request.patience:g} s")
