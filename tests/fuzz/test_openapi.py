"""The OpenAPI document is kept under requests made from it: no 5xx, and every status, type and body as documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.runs import fuzz, prepared
from tests.support.instance import ADMIN_TOKEN, Instance

ALWAYS_THE_SAME = ("--generation-deterministic", "--seed=1", "--no-shrink")


@pytest.mark.timeout(600)  # thousands of requests: what hangs is noticed by the time for each
async def test_answers_are_what_the_document_says(tmp_path: Path) -> None:
    instance = Instance(tmp_path, ALLOW_NETWORKS="127.0.0.0/8", TRUSTED_PROXIES="127.0.0.1")
    await instance.start()
    try:
        token = await prepared(instance)
        found = {
            "no token": await fuzz(instance, None, "--phases=examples", *ALWAYS_THE_SAME),
            "a tenant": await fuzz(instance, token, "--phases=fuzzing", "--max-examples=3", *ALWAYS_THE_SAME),
            "the admin": await fuzz(instance, ADMIN_TOKEN, "--phases=examples,coverage", *ALWAYS_THE_SAME),
        }
        assert found == {"no token": [], "a tenant": [], "the admin": []}
    finally:
        instance.close()
