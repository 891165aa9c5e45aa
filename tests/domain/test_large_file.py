"""Where large files may be kept: storage URLs and their credentials."""

from __future__ import annotations

import pytest

from mail_proxy.domain.errors import Problem
from mail_proxy.domain.large_file import StorageKind, StoragePlace, storage_place
from mail_proxy.domain.secret import Secret


@pytest.mark.parametrize(
    ("url", "kind", "bucket", "path"),
    [
        ("s3://files", StorageKind.S3, "files", ""),
        ("s3://files/acme/mail/", StorageKind.S3, "files", "acme/mail"),
        ("gs://files.acme.example/mail", StorageKind.GS, "files.acme.example", "mail"),
        ("az://container/mail", StorageKind.AZ, "container", "mail"),
        ("file:///srv/mail%20files", StorageKind.FILE, "", "/srv/mail files"),
        ("file:///srv/files/", StorageKind.FILE, "", "/srv/files"),
    ],
)
def test_a_storage_url_says_what_takes_files(url: str, kind: StorageKind, bucket: str, path: str) -> None:
    place = storage_place(url, {})
    assert isinstance(place, StoragePlace)
    assert (place.kind, place.bucket, place.path) == (kind, bucket, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files",
        "http://files.example/",
        "s3://",
        "s3:///prefix",
        "s3://files/../other",
        "s3://files/%2e%2e/other",
        "s3://files/a//b",
        "s3://files?region=x",
        "s3://files#x",
        "s3://user:password@files",
        "s3://files:443/x",
        "s3://files/\r\nx",
        "s3://files/" + "x" * 2000,
        "file://srv/files",
        "file:relative",
        "file:///srv/../etc",
        "file:///srv/a%00b",
        "az://[::1",
    ],
)
def test_what_is_no_storage_url_is_refused_with_its_field(url: str) -> None:
    problem = storage_place(url, {})
    assert isinstance(problem, Problem)
    assert problem.field == "storage_url"


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [
        ("s3://files", "account_key", "x"),
        ("gs://files", "access_key_id", "x"),
        ("file:///srv/files", "token", "x"),
        ("s3://files", "access_key_id", ""),
        ("s3://files", "access_key_id", "x" * 20_000),
    ],
)
def test_credentials_are_those_of_the_kind_of_storage(url: str, name: str, value: str) -> None:
    problem = storage_place(url, {name: Secret(value)})
    assert isinstance(problem, Problem)
    assert problem.field == f"credentials.{name}"
    assert "x" * 100 not in problem.problem
