"""`python -m bench.attachments`: messages with attachments from a web server, to a mail server that only counts.

Besides throughput it tells how much memory the server took at the most, and what the attachments alone would take if
they were all read into memory at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from bench.processes import TOKEN, Server, serving
from mail_proxy.cli.counting import counting

SIZES = ((1000, 100_000), (50, 25_000_000))
"""Messages, and bytes of the attachment of each."""


async def files() -> None:
    """Answer every GET with as many bytes as its path says."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            size = int(line.split()[1].decode().strip("/"))
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            block = os.urandom(1 << 16)
            for at in range(0, size, len(block)):
                writer.write(block[: size - at])
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def file_server() -> Iterator[int]:
    """Run `files` as a child; gives its port."""
    command = [sys.executable, "-m", "bench.attachments", "files"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class Watch:
    """Looks at a server's memory ten times a second, and keeps the most."""

    def __init__(self, server: Server) -> None:
        self.most = 0.0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            self.most = max(self.most, self._server.memory)

    def end(self) -> float:
        """Return the most, in megabytes."""
        self._stop.set()
        self._thread.join()
        return self.most


def post(server: Server, path: str, body: object) -> None:
    """Make a request of the API, which has to succeed."""
    data = json.dumps(body).encode()
    headers = {"X-API-Token": TOKEN, "Content-Type": "application/json"}
    with urlopen(Request(server.url + path, data, headers)) as answer:  # noqa: S310 - our own server
        receipt = json.load(answer)
    assert receipt["ok"], receipt
    assert not receipt.get("rejected"), receipt


def measure(count: int, size: int) -> dict[str, float]:
    """Send so many messages with an attachment of so many bytes."""
    with (
        counting("sink") as sink,
        file_server() as port,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        serving({"GMP_ALLOW_NETWORKS": "127.0.0.0/8", "GMP_DATA_DIR": str(Path(folder))}) as server,
    ):
        post(server, "/tenant", {"id": "acme"})
        account = {"id": "main", "tenant_id": "acme", "host": "127.0.0.1", "port": sink.port, "max_connections": 50}
        post(server, "/account", account)
        file = {"filename": "a.bin", "storage_path": f"http://127.0.0.1:{port}/{size}"}
        messages = [
            {
                "id": f"M{n}",
                "tenant_id": "acme",
                "from": "a@example.com",
                "to": "b@example.net",
                "subject": "s",
                "body": "b",
                "attachments": [file],
            }
            for n in range(count)
        ]
        at_rest = server.memory
        watch = Watch(server)
        began, cpu = time.monotonic(), server.cpu
        post(server, "/commands/add-messages", {"messages": messages})
        end = began + 600
        while sink.count < count:
            assert time.monotonic() < end, f"{sink.count} of {count} arrived"
            time.sleep(0.01)
        seconds = time.monotonic() - began
        most = watch.end()
        return {
            "messages/s": count / seconds,
            "MB/s": count * size / 1e6 / seconds,
            "CPU s": server.cpu - cpu,
            "RSS at rest, MB": at_rest,
            "RSS at the most, MB": most,
            "all of it in memory would be, MB": count * size / 1e6,
        }


def run() -> dict[str, float]:
    """Return the figures of both sizes."""
    return {
        f"{count} x {size / 1e6:g} MB: {name}": value
        for count, size in SIZES
        for name, value in measure(count, size).items()
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["files"]:
        asyncio.run(files())
    else:
        for name, value in run().items():
            print(f"{name:55} {value:10.1f}")
