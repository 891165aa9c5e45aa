"""What blocks, on threads that nobody has to wait for: disks of the network hang, and so do services of metadata."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.ports.file_storage import StorageFailed

ResultT = TypeVar("ResultT")

BLOCK = 1 << 20
"""Bytes that a thread takes at a time."""
MOST_THREADS = 8
"""Of one place. What hangs in one leaves the others theirs."""
_TO_END = 2.0
"""Seconds that what was given up has to clear up behind itself before it is left alone."""


@dataclass
class _Call(Generic[ResultT]):
    """A function on its way. `lock` guards the others: who comes second knows of the first."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    results: list[ResultT] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    abandoned: bool = False


class Calls:
    """Runs functions for one place, at most `MOST_THREADS` at a time, each for `patience` seconds at most.

    A function that does not come back keeps its thread and its turn, and nobody waits for it when the process ends.
    """

    def __init__(self, place: str, patience: float) -> None:
        """`place` is what errors show."""
        self._place = place
        self._patience = patience
        self._to_end = min(patience, _TO_END)
        self._turns = anyio.Semaphore(MOST_THREADS)

    async def run(
        self,
        function: Callable[[], ResultT],
        *,
        extra: float = 0.0,
        give_up: Callable[[], object] = lambda: None,
        late: Callable[[ResultT], object] = lambda _: None,
    ) -> ResultT:
        """Return what a function returns; what it raises passes through. Raises `StorageFailed` where time is over.

        `extra` seconds are added to the time; `give_up` is called when nobody waits any more, and `late` gets what
        comes after that.
        """
        try:
            with anyio.fail_after(self._patience):
                await self._turns.acquire()
        except TimeoutError:
            raise self._too_slow(self._patience) from None
        call: _Call[ResultT] = _Call()
        done = self._started(function, call, late)
        try:
            await asyncio.wait({done}, timeout=self._patience + extra)
            if not done.done():
                give_up()
                await asyncio.wait({done}, timeout=self._to_end)
        except asyncio.CancelledError:
            give_up()
            if self._abandon(call):
                late(call.results[0])
            with suppress(asyncio.CancelledError):
                await asyncio.wait({done}, timeout=self._to_end)
            raise
        self._abandon(call)
        if call.results:
            return call.results[0]
        if call.errors and not isinstance(call.errors[0], GivenUp):
            raise call.errors[0]
        raise self._too_slow(self._patience + extra)

    def _started(
        self, function: Callable[[], ResultT], call: _Call[ResultT], late: Callable[[ResultT], object]
    ) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def came_back() -> None:
            self._turns.release()
            if not done.done():
                done.set_result(None)

        def work() -> None:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - a thread has nobody above it
                call.errors.append(error)
            else:
                with call.lock:
                    abandoned = call.abandoned
                    call.results.append(result)
                if abandoned:
                    late(result)
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(came_back)

        try:
            threading.Thread(target=work, name=f"storage {self._place}", daemon=True).start()
        except RuntimeError:
            self._turns.release()
            raise StorageFailed(f"{self._place}: the system has no thread left", permanent=False) from None
        return done

    def _abandon(self, call: _Call[ResultT]) -> bool:
        """Leave a call alone; True where it has come back with something meanwhile."""
        with call.lock:
            call.abandoned = True
            return bool(call.results)

    def _too_slow(self, seconds: float) -> StorageFailed:
        return StorageFailed(f"{self._place} did not answer in {seconds:g} s", permanent=False)


class GivenUp(Exception):
    """Raised on a thread whose work nobody waits for any more."""


class SourceBroke(Exception):
    """What was to be stored ended with this error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Pulled:
    """The bytes of a content for a thread, in blocks that come out of the event loop one by one."""

    def __init__(self, content: ByteSource) -> None:
        """Make it in the event loop."""
        self._chunks: AsyncIterator[bytes] = content.chunks()
        self._left = content.size
        self._loop = asyncio.get_running_loop()
        self._given_up = False
        self._waiting: asyncio.Task[bytes] | None = None

    def give_up(self) -> None:
        """Let the thread's next look raise `GivenUp`; called in the event loop."""
        self._given_up = True
        if self._waiting is not None:
            self._waiting.cancel()

    def still_wanted(self) -> None:
        """Raise `GivenUp` where nobody waits any more, on the thread."""
        if self._given_up:
            raise GivenUp

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, on the thread."""
        while True:
            coming = self._next()
            try:
                future = asyncio.run_coroutine_threadsafe(coming, self._loop)
            except RuntimeError:  # the loop has ended
                coming.close()
                raise GivenUp from None
            block = future.result()
            if not block:
                break
            yield block

    async def _next(self) -> bytes:
        self.still_wanted()
        self._waiting = asyncio.ensure_future(self._gathered())
        try:
            return await self._waiting
        except asyncio.CancelledError:
            raise GivenUp from None
        finally:
            self._waiting = None

    async def _gathered(self) -> bytes:
        block = bytearray()
        try:
            async for chunk in self._chunks:
                block += chunk
                self._left -= len(chunk)
                if len(block) >= BLOCK:
                    break
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's own
            raise SourceBroke(error) from None
        if self._left < 0 or (self._left and not block):  # what came must not pass for the whole
            raise SourceBroke(StorageFailed("the file has another size than it had", permanent=False))
        return bytes(block)
