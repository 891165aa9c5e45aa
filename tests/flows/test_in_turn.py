"""Whose turn it is: tenants first, then their accounts."""  # G11

from __future__ import annotations

from mail_proxy.delivery.in_turn import InTurn


def waiting(**tenants: int) -> InTurn:
    """So many accounts of each tenant; the first has the numbers from 100 on, the next from 200 on."""
    turns = InTurn()
    for n, (tenant, count) in enumerate(tenants.items(), start=1):
        for account in range(count):
            turns.add(tenant, 100 * n + account)
    return turns


def test_a_newcomer_comes_right_after_the_next_of_a_tenant_with_many_accounts() -> None:
    turns = waiting(many=50, newcomer=1)
    assert turns.some(4) == [100, 200, 101, 102]


def test_who_had_its_turn_lets_others_go_first() -> None:
    turns = waiting(a=2, b=1)
    turns.had_its_turn(100)
    assert turns.tenants() == ["b", "a"]
    assert turns.some(9) == [200, 101, 100]
    turns.had_its_turn(4711)  # nobody
    assert len(turns) == 3


def test_who_waits_already_keeps_its_place() -> None:
    turns = waiting(a=2)
    turns.add("a", 100)
    assert turns.some(9) == [100, 101]
    assert 100 in turns


def test_a_tenant_is_forgotten_with_its_last_account() -> None:
    turns = waiting(a=1, b=1)
    turns.discard(100)
    turns.discard(100)
    assert (turns.tenants(), len(turns), turns.first_of("a"), turns.first_of("b")) == (["b"], 1, None, 200)
