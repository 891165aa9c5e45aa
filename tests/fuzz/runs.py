"""A run of schemathesis against a whole instance: what it is given before, and what is looked at afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.fuzz.hooks import HERE
from tests.support.instance import Instance, a_message

_ROOT = Path(__file__).parents[2]
_CONFIG = Path(__file__).with_name("schemathesis.toml")


async def prepared(instance: Instance) -> str:
    """Make what the requests are about; return the tenant's token."""
    async with instance.client() as admin:
        made = await admin.post("/tenant", {"id": HERE["tenant_id"]})
        await admin.post("/tenant", {"id": "other"})
        account = {"id": HERE["account_id"], "tenant_id": HERE["tenant_id"], "host": "127.0.0.1", "port": 9}
        await admin.post("/account", account)
        await admin.submit(a_message(HERE["message_id"], tenant_id=HERE["tenant_id"]))
    token: str = made["api_key"]
    return token


async def fuzz(instance: Instance, token: str | None, *options: str) -> list[str]:
    """Let schemathesis call the instance; return what it found, nothing where all is as documented."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import schemathesis.cli; schemathesis.cli.schemathesis()",
        f"--config-file={_CONFIG}",
        "run",
        f"{instance.address}/openapi.json",
        "--continue-on-failure",
        "--request-timeout=20",
        "--output-sanitize=false",
        *(() if token is None else (f"--header=X-API-Token: {token}",)),
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=instance.folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(_ROOT), "NO_COLOR": "1"},
    )
    said, _ = await process.communicate()
    return [] if process.returncode == 0 else _failures(said.decode("utf-8", "replace"))


def _failures(said: str) -> list[str]:
    """Return the part of the report that speaks of failures, by lines."""
    lines = said.splitlines()
    start = next((number for number, line in enumerate(lines) if "FAILURES" in line or "ERRORS" in line), 0)
    return [line for line in lines[start:] if line.strip()]
