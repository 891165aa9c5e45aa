"""Statements are built once for each kind of database, however many stores a process opens."""

from __future__ import annotations

from mail_proxy.store.loading import Loader
from mail_proxy.store.prepared import once


def test_statements_are_the_same_for_all_stores_of_a_kind_and_others_for_another() -> None:
    assert once(Loader, "sqlite") is once(Loader, "sqlite")
    assert once(Loader, "sqlite") is not once(Loader, "postgresql")
