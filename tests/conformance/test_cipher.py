"""What every cipher promises: a secret opens where it was sealed, with the key it was sealed with, and nowhere else."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.ports.secrets import Cipher, SealBroken, WrongKey
from mail_proxy.secrets.cipher import AesGcmCipher, check_key

KEY = bytes(range(32))
PLACE = "accounts.password/acme/main"


@pytest.fixture
def cipher() -> Cipher:
    return AesGcmCipher(KEY)


@given(text=st.text(st.characters(exclude_categories=["Cs"])), place=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_opens_again(text: str, place: str) -> None:
    cipher = AesGcmCipher(KEY)
    assert cipher.open(cipher.seal(text, place), place) == text


def test_a_sealed_text_names_scheme_and_key_and_shows_nothing_else(cipher: Cipher) -> None:
    sealed = cipher.seal("canary", PLACE)
    assert re.fullmatch(r"ENC1:[0-9a-f]{8}:[A-Za-z0-9+/]+=*", sealed)
    assert "canary" not in sealed
    assert b"canary" not in b64decode(sealed.rpartition(":")[2])


def test_the_same_text_is_sealed_differently_each_time(cipher: Cipher) -> None:
    assert len({cipher.seal("same", PLACE) for _ in range(100)}) == 100


@pytest.mark.parametrize("place", ["accounts.password/other/main", "accounts.password/acme/second", "", PLACE + " "])
def test_a_sealed_text_opens_nowhere_else(cipher: Cipher, place: str) -> None:
    with pytest.raises(SealBroken):
        cipher.open(cipher.seal("secret", PLACE), place)


def test_another_key_opens_nothing_and_is_told_apart(cipher: Cipher) -> None:
    other = AesGcmCipher(bytes(32))
    with pytest.raises(SealBroken, match="sealed with key"):
        other.open(cipher.seal("secret", PLACE), PLACE)


def test_a_changed_text_does_not_open(cipher: Cipher) -> None:
    head, _, encoded = cipher.seal("secret", PLACE).rpartition(":")
    raw = b64decode(encoded)
    for position in range(len(raw)):
        changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        with pytest.raises(SealBroken):
            cipher.open(f"{head}:{b64encode(changed).decode()}", PLACE)


@pytest.mark.parametrize(
    "text",
    ["", "secret", "ENC1", "ENC1:", "ENC2:{id}:AAAA", "ENC1:{id}", "ENC1:{id}:", "ENC1:{id}:!!", "ENC1:{id}:AAAA"],
)
def test_what_is_no_sealed_text_is_never_taken_for_a_secret(text: str) -> None:
    cipher = AesGcmCipher(KEY)
    with pytest.raises(SealBroken):
        cipher.open(text.format(id=cipher.key_id), PLACE)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AesGcmCipher(bytes(length))


def test_a_cipher_shows_the_id_of_its_key_and_not_the_key() -> None:
    cipher = AesGcmCipher(KEY)
    assert repr(cipher) == f"AesGcmCipher(key_id='{cipher.key_id}')"
    assert cipher.key_id != AesGcmCipher(bytes(32)).key_id


def test_a_database_knows_the_key_that_it_was_made_with(cipher: Cipher) -> None:
    held = check_key(cipher, None)
    assert check_key(cipher, held) == held
    assert check_key(AesGcmCipher(KEY), held) == held
    for wrong in (AesGcmCipher(bytes(32)), cipher):
        value = held if wrong is not cipher else wrong.seal("something else", "settings.encryption_check")
        with pytest.raises(WrongKey, match="GMP_ENCRYPTION_KEY"):
            check_key(wrong, value)


def test_old_keys_open_and_no_longer_seal() -> None:
    before, after = AesGcmCipher(KEY), AesGcmCipher(bytes(32), [KEY, bytes(32)])
    old = before.seal("secret", PLACE)
    assert after.open(old, PLACE) == "secret"
    assert after.key_of(after.seal("secret", PLACE)) == after.key_id != before.key_id
    assert after.key_ids == {after.key_id, before.key_id}
    assert before.open(after.seal("secret", PLACE, before.key_id), PLACE) == "secret"
    with pytest.raises(SealBroken, match=r"to be sealed with key"):
        before.seal("secret", PLACE, after.key_id)
    held = check_key(before, None)
    assert check_key(after, held) == held  # it is sealed anew when every instance has the new key
    assert old.startswith(after.head(before.key_id))


def test_a_mark_tells_texts_apart_and_shows_nothing_without_the_key(cipher: Cipher) -> None:
    mark = cipher.mark("https://acme.example secret")
    assert mark == AesGcmCipher(KEY, [bytes(32)]).mark("https://acme.example secret")
    assert len({mark, cipher.mark("https://acme.example other"), AesGcmCipher(bytes(32)).mark("secret")}) == 3
    assert AesGcmCipher(bytes(32)).mark("https://acme.example secret") != mark
    assert "acme" not in mark
    assert cipher.mark("\ud800 is in some text")
