"""A TCP proxy that stops passing anything on when it is told to, as a network does that loses every packet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SIZE = 65536


class StallingProxy:
    """Passes bytes both ways between whoever connects to `port` and a server, unless it stalls.

    It has threads of its own, so that a test's event loop may wait for what goes through it.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._there = threading.Event()
        self._back = threading.Event()
        self._awaited: bytes | None = None
        self._ends: set[socket.socket] = set()
        self._news = threading.Condition()
        self._ended = False
        self.port = 0
        self.resume()

    def stall(self) -> None:
        """Take everything and pass nothing on. What is taken meanwhile is kept for `resume`."""
        self._there.clear()
        self._back.clear()

    def resume(self) -> None:
        """Pass on what was taken, and what comes."""
        self._there.set()
        self._back.set()

    def silence_for_good(self) -> None:
        """Never pass anything on again on the connections that there are; new ones are served."""
        self._there, self._back = threading.Event(), threading.Event()
        self.resume()

    def keep_answers_from(self, words: bytes) -> None:
        """Pass the next request that has these words on, and no answer from then on."""
        self._awaited = words

    def cut(self) -> None:
        """End every connection, as if both sides had lost it."""
        for end in list(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def wait_until_left(self) -> None:
        """Return once nobody is connected."""
        with self._news:
            assert self._news.wait_for(lambda: not self._ends, 20)

    @contextmanager
    def running(self) -> Iterator[StallingProxy]:
        """Accept connections within the block."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
            threading.Thread(target=self._accept_forever, args=(server,), daemon=True).start()
            try:
                yield self
            finally:
                self._ended = True
                server.shutdown(socket.SHUT_RDWR)
                self.cut()
                self.resume()

    def _accept_forever(self, server: socket.socket) -> None:
        while not self._ended:
            with suppress(OSError):
                near, _ = server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            near.close()
            return
        there, back = self._there, self._back
        with self._news:
            self._ends |= {near, far}
        returning = threading.Thread(target=self._pass, args=(far, near, back), daemon=True)
        returning.start()
        self._pass(near, far, there)
        returning.join()
        near.close()
        far.close()
        with self._news:
            self._ends -= {near, far}
            self._news.notify_all()

    def _pass(self, source: socket.socket, to: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):  # an end that is gone is what this is made for
            while data := source.recv(_SIZE):
                if gate is self._there and self._awaited is not None and self._awaited in data:
                    self._awaited = None
                    self._back.clear()
                gate.wait()
                to.sendall(data)
            gate.wait()
            to.shutdown(socket.SHUT_WR)
