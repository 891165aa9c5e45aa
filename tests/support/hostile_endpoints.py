"""Endpoints that do what no endpoint should, in a process of their own, until SIGUSR1 makes all of them good ones.

`python -m tests.support.hostile_endpoints FOLDER` prints a JSON object as its first line, the base URL of each kind; a
second one says that they have become good. FOLDER gets `told.jsonl`, with every entry that came, and
`redirected.jsonl`, with those that came where a redirect led. It has `good.pem` and the files of `CERTIFICATES`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
import zlib
from contextlib import ExitStack
from pathlib import Path

from tests.support.callback_server import CallbackServer, Manner, Reply

CERTIFICATES = {f"{name}-tls": f"{name}.pem" for name in ("strange", "self-signed", "other-name", "expired")}
_GIGABYTE = {"Content-Length": "1000000000"}
_CHUNK = b" " * 65536


def replies(elsewhere: str) -> dict[str, Reply]:
    """What each kind answers over plain HTTP; a redirect leads elsewhere."""
    return {
        "500": Reply(500),
        "429": Reply(429, headers={"Retry-After": "3600"}),
        "302": Reply(302, headers={"Location": elsewhere}),
        "307": Reply(307, headers={"Location": elsewhere}),
        "410": Reply(410),
        "html": Reply(200, b"<html><body>It works!</body></html>", {"Content-Type": "text/html"}),
        "not-ok": Reply(200, b'{"ok": false}'),
        "a-list": Reply(200, b'[{"ok": true}]'),
        "odd-queued": Reply(200, b'{"queued": "x"}'),
        "far-next-sync": Reply(200, b'{"next_sync_after": 1e308, "queued": 1e308}'),
        "endless": Reply(200, _CHUNK, manner=Manner.ENDLESS),
        "endless-json": Reply(200, b'{"ok": true}' + _CHUNK, manner=Manner.ENDLESS),
        "gigabyte": Reply(200, _CHUNK, _GIGABYTE, manner=Manner.ENDLESS),
        "gigabyte-promised": _raw(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n{"ok": true}'),
        "gzip-bomb": Reply(200, _bomb(256), {"Content-Encoding": "gzip"}),
        "endless-header": _raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000),
        "no-http": _raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "drip": Reply(200, b" " * 100_000 + b"{}", manner=Manner.DRIP),
        "hang": Reply(manner=Manner.HANG),
        "reset": Reply(manner=Manner.RESET),
        "deep": Reply(200, b'{"ok": ' * 30_000),
        "deep-and-whole": Reply(200, b'{"a": ' * 30_000 + b"1" + b"}" * 30_000),
        "huge-number": Reply(200, b'{"queued": ' + b"9" * 100_000 + b"}"),
    }


def _raw(answer: bytes) -> Reply:
    return Reply(body=answer, manner=Manner.RAW)


def _bomb(megabytes: int) -> bytes:
    """Return so many megabytes of blanks as gzip, a thousandth of that."""
    packer = zlib.compressobj(9, wbits=31)
    blanks = b" " * 1_000_000
    return b"".join(packer.compress(blanks) for _ in range(megabytes)) + packer.flush()


async def _serve(folder: Path, files: ExitStack) -> None:
    told = files.enter_context((folder / "told.jsonl").open("a", encoding="utf-8"))
    redirected = CallbackServer(record=files.enter_context((folder / "redirected.jsonl").open("a", encoding="utf-8")))
    await redirected.start()
    plain = CallbackServer(record=told)
    await plain.start()
    plain.by_path = {f"/{kind}/": reply for kind, reply in replies(redirected.url).items()}
    urls = {kind.strip("/"): f"{plain.url}{kind.rstrip('/')}" for kind in plain.by_path} | {"good": f"{plain.url}/good"}
    contexts = []
    for kind, certificate in CERTIFICATES.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / certificate)
        contexts.append(context)
        server = CallbackServer(tls=context, record=told)
        await server.start()
        urls[kind] = server.url

    def turn_good() -> None:
        plain.by_path.clear()
        plain.drop()
        for context in contexts:
            context.load_cert_chain(folder / "good.pem")
        print("good", flush=True)  # noqa: T201 - the parent waits for it

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, turn_good)
    print(json.dumps(urls), flush=True)  # noqa: T201 - the parent reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    with ExitStack() as files:
        asyncio.run(_serve(Path(sys.argv[1]), files))
