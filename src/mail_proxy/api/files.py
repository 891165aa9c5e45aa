"""Large files, for those who have got a link to one."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from mail_proxy.administration.downloads import Elsewhere
from mail_proxy.api.errors import failure, refusal
from mail_proxy.api.services import services_of
from mail_proxy.domain.byte_range import ByteRange, Unsatisfiable, asked_range
from mail_proxy.domain.download_link import PATH
from mail_proxy.domain.errors import Gone, NotFound
from mail_proxy.domain.filename import http_disposition
from mail_proxy.domain.large_file import LinkedFile

router = APIRouter()

_GUARDED = {
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "default-src 'none'; sandbox",  # whatever it is, it runs nothing here
    "Referrer-Policy": "no-referrer",  # the link is all that one needs
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>File</title><h1>This file cannot be had</h1><p>{sentence}</p></html>
"""


# The links in messages lead here; nobody writes these requests by hand, so that they are in docs/api.md alone.
@router.get(PATH + "{token}", include_in_schema=False)
async def download(request: Request, token: str) -> Response:
    """Give the file that a message has a link to instead of an attachment. Whoever has the link may have it."""
    downloads = services_of(request).downloads
    try:
        file = await downloads.find(token)
    except (NotFound, Gone) as error:
        return _for_people(request, refusal(error), error.sentence)
    try:
        part = asked_range(request.headers.get("range"), file.size) if _unchanged(request, file) else None
    except Unsatisfiable:
        headers = {**_GUARDED, "Content-Range": f"bytes */{file.size}"}
        sentence = f"Range: the file has {file.size} bytes, and none of those that were asked for."
        return failure(416, sentence, "range_not_satisfiable", headers=headers)
    if request.method == "HEAD":
        return Response(status_code=200, headers=_headers(file, None))
    try:
        opened = await downloads.open(file, part.first if part else 0, part.length if part else None)
    except NotFound as error:
        return _for_people(request, refusal(error), error.sentence)
    await downloads.begun(file)
    if isinstance(opened, Elsewhere):
        return Response(status_code=302, headers={**_GUARDED, "Location": opened.url})
    return StreamingResponse(opened.chunks, 206 if part else 200, _headers(file, part))


@router.head(PATH + "{token}", include_in_schema=False)
async def download_head(request: Request, token: str) -> Response:
    """Tell what `download` would give; that is no download."""
    return await download(request, token)


def _headers(file: LinkedFile, part: ByteRange | None) -> dict[str, str]:
    headers = {
        **_GUARDED,
        "Accept-Ranges": "bytes",
        "Content-Disposition": http_disposition(file.filename),
        "Content-Length": str(part.length if part else file.size),
        "Content-Type": file.mime_type,
        "ETag": _tag(file),
    }
    if part:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{file.size}"
    return headers


def _tag(file: LinkedFile) -> str:
    """A file's key names its content for ever."""
    return f'"{file.key.rpartition("/")[2]}"'


def _unchanged(request: Request, file: LinkedFile) -> bool:
    """Say whether a part may be given to whoever has another part already (RFC 9110 section 13.1.5)."""
    return request.headers.get("if-range", _tag(file)) == _tag(file)


def _for_people(request: Request, told: Response, sentence: str) -> Response:
    """Answer browsers with a page: who follows a link in a message has never heard of this service."""
    if "text/html" not in request.headers.get("accept", ""):
        told.headers.update(_GUARDED)
        return told
    return HTMLResponse(_PAGE.format(sentence=escape(sentence)), told.status_code, _GUARDED)
