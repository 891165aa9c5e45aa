"""Opens a store in a process of its own: `python -m tests.edge.store.opener URL NUMBER`.

Begins with the first line of its input, says `open`, and closes the store when its input ends.
"""

from __future__ import annotations

import asyncio
import sys

from tests.support.stores import open_test_store


async def main(url: str) -> None:
    """Keep a store open until standard input ends."""
    sys.stdin.readline()
    store = await open_test_store(url, instance_id=f"process {sys.argv[2]}")
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
