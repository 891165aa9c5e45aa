"""The service as its operators run it: `mail-proxy serve` as a child process, spoken to by its API alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
from typing_extensions import Self

ADMIN_TOKEN = "the-admin-token-of-the-tests"
SECONDS_TO_START = 30
SECONDS_TO_STOP = 30

COMMAND = Path(sys.executable).with_name("mail-proxy")
"""The command as it is installed beside the interpreter that runs the tests."""

# The kernel ends the child when the tests are gone, also when they were killed and could not clean up.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execv(sys.argv[1], sys.argv[1:])
"""


def launch(
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Start `mail-proxy ARGUMENTS` in a folder. Not to be called from a thread that ends before the child."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(COMMAND), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env={**clean_environment(), **environment},
        umask=0,  # the least helpful one: what must be private is made private, not left to the umask
    )


def clean_environment() -> dict[str, str]:
    """Return the environment of the tests without settings of a service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GMP_", "MAIL_PROXY_"))}


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that came to its end. `seconds` is how long it took."""

    code: int
    stdout: str
    stderr: str
    seconds: float


async def run(*arguments: str, environment: Mapping[str, str], folder: Path, seconds: float = 30) -> Finished:
    """Run `mail-proxy ARGUMENTS` to its end; what takes longer is killed, and `TimeoutExpired` raised."""
    began = time.monotonic()
    process = launch(*arguments, environment=environment, folder=folder)
    try:
        stdout, stderr = await asyncio.to_thread(process.communicate, timeout=seconds)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return Finished(process.returncode, stdout.decode(), stderr.decode(), time.monotonic() - began)


async def eventually(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Return once a condition on another process holds; the longer a look takes, the rarer it is taken."""
    began = looked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now - began > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(max(0.005, 4 * (now - looked)))
        looked = time.monotonic()


class Instance:
    """One service with a folder of its own, which outlasts kill and restart.

    `settings` are names without `GMP_`, such as `MAX_RETRIES="3"`; others have values that make tests quick.
    """

    def __init__(self, folder: Path, database: str | None = None, **settings: str) -> None:
        self.folder = folder
        self.settings = {
            "API_TOKEN": ADMIN_TOKEN,
            "PORT": "0",
            "LOG_FORMAT": "json",
            "DATA_DIR": str(folder),
            "DB_PATH": database or str(folder / "mail_service.db"),
            "SEND_LOOP_INTERVAL": "0.1",
            "RETRY_DELAYS": "0.2",
            **({} if database is None else {"ENCRYPTION_KEY": "00112233445566778899aabbccddeeff" * 2}),
            **settings,
        }
        self.variables: dict[str, str] = {}
        """Other variables of the process."""
        self.address = ""
        self.frozen = False
        self.log: list[dict[str, Any]] = []
        """What all runs so far have logged, as far as `read_log` has read it."""
        self._output = folder / "serve.out"
        self._errors = folder / "serve.err"
        self._read = 0
        self._process: subprocess.Popen[bytes] | None = None

    # Its life

    async def start(self, **changes: str) -> None:
        """Start and return when it serves. `changes` to the settings are kept for later starts."""
        assert not self.running
        self.settings |= changes
        already = len(self.read_log())
        environment = {f"GMP_{name}": value for name, value in self.settings.items()} | self.variables
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self._process = launch("serve", environment=environment, folder=self.folder, stdout=output, stderr=errors)

        def serving() -> bool:
            assert self.running, f"it ended at once: {self.errors}{self._output.read_text()[-2000:]}"
            return any(line["event"] == "serving" for line in self.read_log()[already:])

        await eventually(serving, "it serves", SECONDS_TO_START)
        self.address = next(line["address"] for line in reversed(self.log) if line["event"] == "serving")

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it by SIGKILL, at whatever instruction it is; returns when it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self.frozen = False

    def freeze(self) -> None:
        """Let it execute nothing any more; it can still be killed."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    async def stop(self) -> int:
        """Ask it to stop, as a service manager does, and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Return its exit code once it has ended."""
        process = self._process
        assert process is not None
        await eventually(lambda: process.poll() is not None, "it ends", SECONDS_TO_STOP)
        return process.returncode

    def close(self) -> None:
        """Leave no process behind; fails if one of its runs met what nobody had foreseen."""
        if self._process is not None:
            self.kill()
        surprises = [line for line in self.read_log() if "exception" in line]
        assert not surprises, surprises
        assert not self.errors

    # What it wrote

    @property
    def output(self) -> bytes:
        """All that it wrote to stdout."""
        return self._output.read_bytes()

    @property
    def errors(self) -> str:
        """All that it wrote to stderr."""
        return self._errors.read_text() if self._errors.exists() else ""

    def read_log(self) -> list[dict[str, Any]]:
        """Return all that was logged up to now."""
        if self._output.exists():
            with self._output.open("rb") as output:
                output.seek(self._read)
                lines = output.read()
            # A run that was killed may have left a line unfinished, and the next one goes on behind it.
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read += len(whole)
            self.log += list(_entries(whole))
        return self.log

    def logged(self, event: str, **facts: object) -> list[dict[str, Any]]:
        """Return the lines of this event with these facts."""
        return [each for each in self.read_log() if {"event": event, **facts}.items() <= each.items()]

    def client(self, token: str | None = ADMIN_TOKEN) -> Client:
        """Return a client, to be used as a context manager; it finds the instance after a restart, too."""
        return Client(self, token)


def _entries(lines: bytes) -> Iterator[dict[str, Any]]:
    for line in lines.splitlines():
        start = line.rfind(b'{"timestamp"')
        assert start >= 0, f"a line of the log that is none: {line!r}"
        yield json.loads(line[start:])


class Client:
    """The API, as a client with one token sees it."""

    def __init__(self, instance: Instance, token: str | None) -> None:
        self._instance = instance
        self._token = token
        headers = {} if token is None else {"X-API-Token": token}
        self.http = httpx.AsyncClient(headers=headers, timeout=20, trust_env=False)
        self.answers: list[httpx.Response] = []
        """Every answer so far."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make a request and return whatever is answered; raises `httpx.TransportError` where nothing is."""
        response = await self.http.request(method, self._instance.address + path, **options)
        self.answers.append(response)
        return response

    async def post(self, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """POST, and return the answer, which has to be 200."""
        return _ok(await self.ask("POST", path, json=body, params=query))

    async def get(self, path: str, **query: str | int) -> dict[str, Any]:
        """GET, and return the answer, which has to be 200."""
        return _ok(await self.ask("GET", path, params=query))

    async def submit(self, *messages: Mapping[str, object], **batch: object) -> dict[str, Any]:
        """Submit a batch and return the receipt."""
        return await self.post("/commands/add-messages", {"messages": messages, **batch})

    async def messages(self, limit: int = 300, **query: str | int) -> dict[str, dict[str, Any]]:
        """Return all messages by id, of as many pages as there are; no id may come twice."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.get("/messages", limit=limit, **query, **cursor)
            found += page["messages"]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        by_id = {message["id"]: message for message in found}
        assert len(by_id) == len(found)
        return by_id

    async def message(self, message_id: str) -> dict[str, Any]:
        """Return one message."""
        return await self.get(f"/messages/{message_id}")

    async def message_when(self, message_id: str, state: str, seconds: float = 15.0) -> dict[str, Any]:
        """Return one message once it is in a state."""
        deadline = time.monotonic() + seconds
        while (message := await self.message(message_id))["state"] != state:
            assert time.monotonic() < deadline, f"not {state} within {seconds:g} s: {message}"
            await asyncio.sleep(0.02)
        return message

    async def events(self, message_id: str) -> list[dict[str, Any]]:
        """Return a message's history."""
        events: list[dict[str, Any]] = (await self.get(f"/messages/{message_id}/events"))["events"]
        return events


def _ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, f"{response.request.url}: {response.status_code} {response.text}"
    answer: dict[str, Any] = response.json()
    return answer


def a_message(id_: str, to: str | Sequence[str] = "b@example.net", /, **fields: object) -> dict[str, object]:
    """Return a message as clients submit it."""
    return {"id": id_, "from": "a@example.com", "to": to, "subject": f"About {id_}", "body": "Hello.\n", **fields}
