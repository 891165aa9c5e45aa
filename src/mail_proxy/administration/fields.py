"""The kinds of values that requests are made of, each with its own check."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from mail_proxy.domain.large_file import MAX_CREDENTIAL
from mail_proxy.domain.oauth import LONGEST_REFRESH_TOKEN
from mail_proxy.domain.tenant import id_problem

MILLISECONDS = 1e11
"""From here on a time is taken for one in milliseconds: as seconds it lies beyond the year 5000."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)\Z")


def _id(text: str) -> str:
    problem = id_problem(text)
    if problem is not None:
        raise ValueError(problem)
    return text


def _instance_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("must be 1 to 64 of letters, digits, '.', '_', '-'")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters or line breaks")
    return text


def _host(text: str) -> str:
    """Take a host name or an address, and nothing that one program takes for a name and another for an address."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        try:
            return str(IPv6Address(bare))
        except AddressValueError:
            raise ValueError("must be a host name or an IP address") from None
    if not _HOST.match(bare) or len(bare) > 253:
        raise ValueError("must be a host name or an IP address, in ASCII")
    # "127.1", "2130706433" and "0x7f.0.0.1" are loopback addresses to the operating system
    if _NUMBER.match(bare.rstrip(".").rpartition(".")[2]):
        try:
            return str(IPv4Address(bare))
        except AddressValueError:
            raise ValueError("must be a host name or an IP address: four numbers with dots between them") from None
    return bare


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        has_host, _ = bool(parts.hostname), parts.port
    except ValueError:
        has_host, parts = False, urlsplit("")
    if parts.scheme not in {"http", "https"} or not has_host:
        raise ValueError("must be a URL that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: they belong into client_auth")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or a fragment")
    return text


def _token_url(text: str) -> str:
    """Take a URL that a client's secrets may be sent to: RFC 6749 section 3.2 wants TLS, and no fragment."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host))):
        raise ValueError("must be a URL that starts with https://; http:// is only for this machine")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password")
    if parts.fragment:
        raise ValueError("must not have a fragment")
    return text


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(text: str) -> str:
    if "://" in text or text.startswith("//"):
        raise ValueError("must be a path: it is put behind client_base_url")
    return text


def _no_spaces(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return text


def _ascii(text: str) -> str:
    """RFC 6749, appendix A: what is said to a token server is printable ASCII."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII")
    return text


def _oauth_secret(secret: SecretStr) -> SecretStr:
    _ascii(secret.get_secret_value())
    return secret


def _secret(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().isprintable():
        raise ValueError("must not contain control characters or line breaks")
    return secret


def _bearer(secret: SecretStr) -> SecretStr:
    _no_spaces(secret.get_secret_value())
    return secret


def _time(value: float) -> float:
    if value >= MILLISECONDS:
        raise ValueError("must be Unix seconds, not milliseconds")
    return value


Id = Annotated[str, AfterValidator(_id)]
InstanceName = Annotated[str, AfterValidator(_instance_name)]
Text = Annotated[str, Field(max_length=255), AfterValidator(_printable)]
Host = Annotated[str, AfterValidator(_host)]
HttpUrl = Annotated[str, Field(max_length=2000), AfterValidator(_no_spaces), AfterValidator(_http_url)]
UrlPath = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_no_spaces), AfterValidator(_path)]
SecretText = Annotated[SecretStr, Field(max_length=4096), AfterValidator(_secret)]
BearerToken = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_bearer)]
TokenUrl = Annotated[str, Field(max_length=2000), AfterValidator(_no_spaces), AfterValidator(_token_url)]
ClientId = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_ascii)]
OAuthSecret = Annotated[SecretStr, Field(min_length=1, max_length=LONGEST_REFRESH_TOKEN), AfterValidator(_oauth_secret)]
Scope = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_ascii)]
StorageSecret = Annotated[SecretStr, Field(min_length=1, max_length=MAX_CREDENTIAL)]
UnixTime = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_time)]
BatchCode = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]
Limit = Annotated[int, Field(ge=0, le=1_000_000_000)]
Ids = Annotated[list[str], Field(fail_fast=True)]
"""Ids as somebody remembers them: whether there is such a message is another question."""
Cursor = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
