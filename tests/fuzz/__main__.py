"""`make fuzz`: schemathesis at length, each time with another seed, as the admin, as a tenant, and with no token."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.runs import fuzz, prepared
from tests.support.instance import ADMIN_TOKEN, Instance


async def run(minutes: float, seed: int) -> bool:
    """Call a whole instance for that long; print what was found and return whether there was nothing."""
    seconds = int(minutes * 60)
    with tempfile.TemporaryDirectory(prefix="mail-proxy-fuzz-") as folder:
        instance = Instance(Path(folder), ALLOW_NETWORKS="127.0.0.0/8", TRUSTED_PROXIES="127.0.0.1")
        await instance.start()
        try:
            token = await prepared(instance)
            good = True
            for caller, shown, share in (
                ("no token", None, 0.1),
                ("a tenant", token, 0.4),
                ("admin", ADMIN_TOKEN, 0.5),
            ):
                phases = "--phases=examples,coverage,fuzzing,stateful"
                options = (phases, f"--seed={seed}", f"--max-time={max(1, int(share * seconds))}")
                found = await fuzz(instance, shown, *options, "--suppress-health-check=all")
                print(f"{caller}: " + ("nothing found" if not found else "\n".join(found)), flush=True)  # noqa: T201
                good = good and not found
        finally:
            instance.close()
    return good


def main() -> int:
    """Read the command line; return 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="to see a run again")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)  # noqa: T201
    return 0 if asyncio.run(run(given.minutes, given.seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
