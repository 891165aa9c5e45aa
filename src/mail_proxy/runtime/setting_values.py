"""The kinds of values that settings are made of, each with its own check. A `ValueError` says what a value must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator

from mail_proxy.domain.message import Priority
from mail_proxy.domain.secret import Secret


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """The database is a file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class PostgresqlUrl:
    """The database is a PostgreSQL server. The URL may hold a password, so it is a secret."""

    url: Secret


Database = SqliteFile | PostgresqlUrl


def _secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(str(value))


def is_token(text: str) -> bool:
    """True for what can be a token: it has to travel in a header."""
    return re.fullmatch(r"[\x21-\x7e]{1,512}", text) is not None


def _token(value: object) -> Secret:
    secret = _secret(value)
    if not is_token(secret.reveal()):
        raise ValueError("must be 1 to 512 printable ASCII characters without spaces, as it travels in a header")
    return secret


def _database(value: object) -> Database:
    if isinstance(value, (SqliteFile, PostgresqlUrl)):
        return value
    text = str(value)
    scheme, found, rest = text.partition("://")
    if not found:
        if text.startswith(":memory:"):
            raise ValueError("must be a file: what is only in memory is not durable")  # G1
        return SqliteFile(Path(text))
    if scheme not in {"postgresql", "postgres"}:
        raise ValueError("must be the path of an SQLite file, or a URL that starts with postgresql://")
    return PostgresqlUrl(Secret(f"postgresql://{rest}"))


def lower(value: object) -> object:
    """Take words in capitals as well."""
    return value.lower() if isinstance(value, str) else value


def _priority(value: object) -> object:
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return Priority[value.upper()]
    return value


def split(value: object) -> object:
    """Take what stands between commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError("must be networks such as 10.1.0.0/16, with nothing set behind the mask") from None


def _http_url(value: object) -> str:
    url = str(value)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: there are settings for them")
    return url


SecretText = Annotated[Secret, PlainValidator(_secret)]
Token = Annotated[Secret, PlainValidator(_token)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86400, allow_inf_nan=False)]
Delay = Annotated[float, Field(ge=0, le=30 * 86400, allow_inf_nan=False)]
DatabaseLocation = Annotated[Database, PlainValidator(_database)]
HttpUrl = Annotated[str, BeforeValidator(_http_url)]
PriorityName = Annotated[Priority, BeforeValidator(_priority)]
