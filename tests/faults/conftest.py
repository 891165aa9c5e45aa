"""Places for scenarios, and their figures on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.instance import Instance

NewInstance = Callable[..., Instance]
Show = Callable[[object], None]


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Show:
    """Have a line of figures printed when all tests have run."""
    return lambda figures: record_property("tally", str(figures))


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[NewInstance]:
    """Make an instance that is not started yet: `new_instance(url_or_none, NAME="value")`; none outlives the test."""
    with ExitStack() as instances:

        def make(database: str | None = None, **settings: str) -> Instance:
            folder = tmp_path / f"instance-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            instance = Instance(folder, database, **settings)
            instances.callback(instance.close)
            return instance

        yield make
