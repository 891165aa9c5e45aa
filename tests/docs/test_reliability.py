"""The page of figures is what the command writes: every scenario, and the tests that play it briefly."""

from __future__ import annotations

from tests.docs.pages import page, table_rows
from tests.faults import reliability
from tests.faults.scenarios import SCENARIOS


def test_every_scenario_has_its_figures_and_names_its_test() -> None:
    rows = list(table_rows(page("docs/reliability.md").text))
    figures = {row[0].rpartition(": ")[0] or row[0]: row for row in rows if len(row) in {7, 9}}
    tests = {row[0]: row[1] for row in rows if len(row) == 2}
    for scenario in SCENARIOS:
        row = figures[scenario.what]
        if scenario.guarantees == "G9":
            assert row[5:] == ["0"] * 4  # never told, out of order, two ids, feed
        else:
            assert row[1] == scenario.guarantees
            assert row[3] == "0"  # lost
        assert tests[scenario.what] == f"`{scenario.test}`"


def test_the_page_is_where_the_command_writes_it() -> None:
    assert page("docs/reliability.md").path == reliability.PAGE
    assert page("docs/reliability.md").text.startswith("# Reliability\n")
