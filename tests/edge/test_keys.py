"""The encryption key: read strictly, made once, never guessed. Tokens."""  # G16

from __future__ import annotations

import re
import stat
import threading
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest

from mail_proxy.domain.secret import Secret
from mail_proxy.secrets import tokens
from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused, obtain_key, parse_key

KEY = bytes([0xFB, 0xEF, 0xBE, *range(29)])  # its base64 has characters that differ in the URL-safe kind


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        KEY.hex().upper(),
        b64encode(KEY).decode(),
        b64encode(KEY).decode().rstrip("="),
        urlsafe_b64encode(KEY).decode(),
        f"  {KEY.hex()}\n",
    ],
)
def test_a_key_is_32_bytes_in_hex_or_base64(text: str) -> None:
    assert parse_key(text) == KEY


@pytest.mark.parametrize(
    "text", ["", "correct horse battery staple", KEY.hex()[:-2], b64encode(KEY + b"x").decode(), "é" * 43, "=" * 44]
)
def test_anything_else_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        parse_key(text)
    assert "openssl rand -base64 32" in str(caught.value)
    assert not text or text not in str(caught.value)


def test_the_first_start_makes_a_key_that_only_the_owner_may_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    key = obtain_key(None, folder, first_start=True)
    path = folder / KEY_FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_key(path.read_text()) == key
    assert names_in(folder) == [KEY_FILE_NAME]
    assert obtain_key(None, folder, first_start=False) == key
    assert obtain_key(None, folder, first_start=True) == key


def test_a_key_that_was_given_needs_no_file(tmp_path: Path) -> None:
    assert obtain_key(Secret(KEY.hex()), tmp_path, first_start=True) == KEY
    assert names_in(tmp_path) == []


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="is missing"):
        obtain_key(None, tmp_path, first_start=False)
    assert names_in(tmp_path) == []


def test_on_postgresql_the_key_has_to_be_given() -> None:
    with pytest.raises(KeyRefused, match="GMP_ENCRYPTION_KEY is required with PostgreSQL"):
        obtain_key(None, None, first_start=True)
    assert obtain_key(Secret(KEY.hex()), None, first_start=True) == KEY


@pytest.mark.parametrize("content", [b"", b"not a key", b"\xff\xfe"])
def test_a_file_that_holds_no_key_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / KEY_FILE_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyRefused, match=KEY_FILE_NAME):
        obtain_key(None, tmp_path, first_start=True)
    assert path.read_bytes() == content


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE_NAME
    path.write_text(KEY.hex())
    path.chmod(0o644)
    with pytest.raises(KeyRefused, match="chmod 600"):
        obtain_key(None, tmp_path, first_start=False)
    path.chmod(0o660)  # as Kubernetes leaves it with fsGroup
    assert obtain_key(None, tmp_path, first_start=False) == KEY


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(KeyRefused, match="cannot be made"):
        obtain_key(None, blocked / "data", first_start=True)


def test_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    found: list[bytes] = []

    def start() -> None:
        together.wait()
        found.append(obtain_key(None, tmp_path, first_start=True))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert names_in(tmp_path) == [KEY_FILE_NAME]


def test_a_token_is_43_url_safe_characters_and_never_the_same() -> None:
    made = {tokens.new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in made)


def test_tokens_are_compared_by_their_sha256() -> None:
    assert tokens.digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tokens.same(tokens.digest("abc"), tokens.digest("abc"))
    assert not tokens.same(tokens.digest("abc"), tokens.digest("abd"))
    assert tokens.digest("\ud800") != tokens.digest("?")
