"""Requests to storages: a body goes out piece by piece, however large it is."""  # G11

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from typing_extensions import override

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.outbound.client import OutboundClient, Request, Response
from mail_proxy.outbound.errors import OutboundError
from mail_proxy.ports import StorageFailed, Transfer, Transfers

MAX_ANSWER = 64_000
"""Bytes of an answer; storages explain an error in some hundred."""


@dataclass(frozen=True, slots=True)
class Upload(Request):
    """A request whose body is read while it is sent."""

    content: ByteSource | None = None


class TransferClient(OutboundClient, Transfers):
    """Sends requests, redirects not followed."""

    @override
    async def send(self, transfer: Transfer) -> int:
        headers = tuple(transfer.headers.items())
        if transfer.content is not None:
            headers += (("Content-Length", str(transfer.content.size)),)
        request = Upload(transfer.method, transfer.url, transfer.timeout, MAX_ANSWER, headers, content=transfer.content)
        try:
            return (await self.request(request)).status
        except OutboundError as error:
            raise StorageFailed(str(error), permanent=False) from None

    @override
    async def _exchange(self, request: Request, host: str) -> Response:
        if not isinstance(request, Upload) or request.content is None:
            return await super()._exchange(request, host)
        broken: list[BaseException] = []

        async def pieces(content: ByteSource) -> AsyncIterator[bytes]:
            try:
                async for chunk in content.chunks():
                    yield chunk
            except Exception as error:
                broken.append(error)
                raise

        try:
            async with self._session.request(
                request.method,
                request.url,
                data=pieces(request.content),
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
