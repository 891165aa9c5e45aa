"""Secrets that replace each other, and the signatures that they make."""

from __future__ import annotations

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import MOST_EARLIER, OVERLAP, Signing, shown_secret, signatures

NOW = 1_785_492_000.0
FIRST, SECOND, THIRD = (shown_secret(bytes([n]) * 32) for n in range(3))


def test_the_signature_of_the_standard_s_own_example() -> None:
    """Standard Webhooks, the test vector of its reference libraries."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signatures([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_earlier_secret_signs_along_until_its_day_is_over() -> None:
    signing = Signing().renewed(FIRST, NOW).renewed(SECOND, NOW + 1)
    assert signing.secrets(NOW + OVERLAP) == (SECOND, FIRST)
    assert signing.secrets(NOW + OVERLAP + 1) == (SECOND,)
    assert signing.earlier_until == NOW + 1 + OVERLAP


def test_what_receivers_have_goes_on_where_an_answer_was_lost_and_the_next_call_made_another_secret() -> None:
    signing = Signing().renewed(FIRST, NOW).renewed(SECOND, NOW + 1).renewed(THIRD, NOW + 2)
    assert signing.secrets(NOW + 3) == (THIRD, SECOND, FIRST)


def test_the_same_secret_again_is_the_same_change() -> None:
    signing = Signing().renewed(FIRST, NOW).renewed(SECOND, NOW)
    assert signing.renewed(SECOND, NOW) == signing


def test_there_are_never_many_signatures() -> None:
    signing = Signing()
    for n in range(20):
        signing = signing.renewed(shown_secret(bytes([n]) * 32), NOW + n)
    assert len(signing.secrets(NOW + 20)) == MOST_EARLIER + 1


def test_a_tenant_without_a_secret_signs_nothing() -> None:
    assert Signing().secrets(NOW) == ()
    assert signatures((), "id", 1, b"") == ""
