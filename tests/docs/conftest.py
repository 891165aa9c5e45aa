"""Says what the tests of the documentation could not use."""

from __future__ import annotations

import pytest

from tests.docs.session import REAL_CURL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not REAL_CURL:
        terminalreporter.write_line("tests/docs: there is no curl here; the commands ran with a stand-in")
