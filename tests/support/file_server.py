"""An HTTP server that has files, and takes reports as well."""

from __future__ import annotations

from collections import defaultdict, deque

from typing_extensions import override

from tests.support.callback_server import CallbackServer, Received, Reply

ENDPOINT = "/mail-proxy/attachments"


class FileServer(CallbackServer):
    """Answers at each path as `at` says, the last reply again and again; reports are taken, all else is not there."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        self.at: dict[str, deque[Reply]] = defaultdict(deque)

    def put(self, path: str, *replies: Reply) -> None:
        """Give these answers at a path, one after the other."""
        self.at[path] = deque(replies)

    def asked(self, path: str) -> list[Received]:
        """The requests for a path, without its query."""
        return [each for each in self.requests if each.path.partition("?")[0] == path]

    @override
    def reply_to(self, request: Received) -> Reply:
        replies = self.at[request.path.partition("?")[0]]
        if not replies:
            return Reply() if request.path == "/mail-proxy/sync" else Reply(404)
        return replies.popleft() if len(replies) > 1 else replies[0]
