"""A real browser, driven by the DevTools protocol: what it shows, what it fetches, and what it complains of."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

FOLDER = Path(sys.prefix) / "browser"
"""Where `tools/browser.sh` leaves the program, or why there is none."""

_OPTIONS = (
    "--headless",
    "--no-sandbox",  # root may not have one; nothing but our own pages is opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--window-size=1280,900",
    "--remote-debugging-port=0",
    # no name is looked up and no other host reached, whatever a page asks for
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_SECONDS = 60.0


class Tab:
    """One page, with all that it has asked for and complained of since it was opened."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self.requests: list[str] = []
        """The addresses that were asked for."""
        self.complaints: list[str] = []
        """Errors on the console: exceptions, failed requests, violations of the page's policy."""
        self._socket = socket
        self._session = ""
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Give a command of the protocol and return its answer."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters, **session})
        return await asyncio.wait_for(answer, _SECONDS)

    async def open(self, address: str) -> None:
        """Make a page and let it go to an address."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Return the value of an expression in the page once it is true."""
        deadline = asyncio.get_running_loop().time() + _SECONDS
        while not (value := await self.evaluate(expression)):
            shown = "not within the time: {} of {}"
            assert asyncio.get_running_loop().time() < deadline, shown.format(expression, self.complaints)
            await asyncio.sleep(0.05)
        return value

    async def screenshot(self, scale: float = 1.0) -> bytes:
        """Return what the window shows as a PNG."""
        clip = {"x": 0, "y": 0, "width": 1280, "height": 900, "scale": scale}
        taken = await self.call("Page.captureScreenshot", format="png", clip=clip)
        return base64.b64decode(taken["data"])

    async def listen(self) -> None:
        """Take in what the browser says, until it says no more."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
                continue
            about = said["params"]
            match said["method"]:
                case "Network.requestWillBeSent":
                    self.requests.append(about["request"]["url"])
                case "Log.entryAdded" if about["entry"]["level"] == "error":
                    self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
                case "Runtime.exceptionThrown":
                    self.complaints.append(str(about["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if about["type"] == "error":
                    self.complaints.append(str(about["args"]))
                case _:
                    pass


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Tab]:
    """Start a browser with one tab; fails where the machine has none, and says how to get one."""
    program = FOLDER / "chromium"
    reason = FOLDER / "why-not"
    assert program.exists(), reason.read_text() if reason.exists() else f"{program} is missing: run tools/browser.sh"
    process = await asyncio.create_subprocess_exec(
        program,
        *_OPTIONS,
        f"--user-data-dir={profile}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    try:
        address = ""
        while not address:
            line = await asyncio.wait_for(process.stderr.readline(), _SECONDS)
            assert line, f"the browser ended at once: {said.decode(errors='replace')}"
            said += line
            if line.startswith(b"DevTools listening on "):
                address = line.split()[-1].decode()
        rest = asyncio.create_task(process.stderr.read())
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0, autoclose=True) as socket,
        ):
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            yield tab
            await socket.close()
            await listening
        rest.cancel()
        with suppress(asyncio.CancelledError):
            await rest
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def pixels(png: bytes) -> list[bytes]:
    """Return the pixels of a PNG of eight bits a channel without interlacing (RFC 2083)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    data, place = b"", 8
    width = size = 0
    while place < len(png):
        length, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        chunk = png[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, size = int.from_bytes(chunk[:4], "big"), {2: 3, 6: 4}[chunk[9]]
            assert (chunk[8], chunk[12]) == (8, 0)
        elif kind == b"IDAT":
            data += chunk
        place += length + 12
    raw = zlib.decompress(data)
    stride = width * size
    above = bytearray(stride)
    found: list[bytes] = []
    for start in range(0, len(raw), stride + 1):
        line = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], line, above, size)
        found += [bytes(line[at : at + 3]) for at in range(0, stride, size)]
        above = line
    return found


def _unfilter(kind: int, line: bytearray, above: bytearray, size: int) -> None:
    for at, value in enumerate(line):
        left = line[at - size] if at >= size else 0
        up, corner = above[at], above[at - size] if at >= size else 0
        match kind:
            case 1:
                guess = left
            case 2:
                guess = up
            case 3:
                guess = (left + up) // 2
            case 4:
                guess = min((left, up, corner), key=lambda each: abs(left + up - corner - each))
            case _:
                guess = 0
        line[at] = (value + guess) & 255
