"""A service with thousands of accounts needs more open files than a shell gives a program to begin with."""

from __future__ import annotations

import resource

from tests.acceptance.conftest import NewInstance


async def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows(new_instance: NewInstance) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        instance = new_instance()
        await instance.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(instance.pid, resource.RLIMIT_NOFILE) == (hard, hard)  # G11
