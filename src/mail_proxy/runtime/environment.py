"""The process's environment, for commands that look at more of it than settings, or start other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HOME_OF_INSTANCES = "GMP_HOME"
"""Where instances are, for the commands that manage them; to an instance itself it means nothing."""


def current() -> Mapping[str, str]:
    """Return what the environment is now."""
    return dict(os.environ)


def put_in_place(variables: Mapping[str, str]) -> None:
    """Give this process another environment."""
    os.environ.clear()
    os.environ.update(variables)


def home_of_instances(variables: Mapping[str, str]) -> Path:
    """Return the folder of all instances: `GMP_HOME`, else `.mail-proxy` in the user's own."""
    given = variables.get(HOME_OF_INSTANCES)
    return Path(given).expanduser() if given else Path.home() / ".mail-proxy"
