"""What schemathesis has to know of this API: which ids there are, and that no other machine is to be contacted."""

from __future__ import annotations

import itertools
import zlib
from ipaddress import IPv4Address
from typing import Any

import schemathesis
from pydantic import TypeAdapter, ValidationError

from mail_proxy.administration.fields import Host, HttpUrl
from mail_proxy.reporting.feed import LONGEST_WAIT

HERE = {"tenant_id": "acme", "account_id": "main", "message_id": "order-1042-confirmation"}
"""What there is before a run (`tests.fuzz.runs`), and what the document shows as examples."""
REMOVES = {
    "DELETE /account/{account_id}",
    "DELETE /tenant/{tenant_id}",
    "DELETE /tenant/{tenant_id}/api-key",
    "POST /tenant/{tenant_id}/api-key",
    "POST /instance/api-token",
}
"""What would take from a run what it lives on: it is called with other ids."""
_addresses = itertools.count(int(IPv4Address("10.0.0.1")))
_HOST, _URL = TypeAdapter[Any](Host), TypeAdapter[Any](HttpUrl)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Put ids that there are in place of every other one that is made up, and this machine in place of other hosts."""
    removes = f"{case.method.upper()} {case.path}" in REMOVES
    for values in (case.path_parameters, case.query):
        for name in set(HERE) & set(values or {}):
            if removes and values[name] == HERE[name]:
                values[name] = "gone"
            elif (
                isinstance(values[name], str)
                and not removes
                and zlib.crc32(values[name].encode("utf-8", "replace")) % 2
            ):
                values[name] = HERE[name]
    if "wait" in (case.query or {}):
        case.query["wait"] = _shortly(case.query["wait"])
    case.body = _at_home(case.body)
    # each from an address of its own: those who try many tokens are slowed down
    case.headers["X-Forwarded-For"] = str(IPv4Address(next(_addresses)))


def _shortly(wait: Any) -> Any:
    """Return another valid time for one that would be waited, and what is not valid as it is."""
    try:
        return 0.01 if 0 < float(wait) <= LONGEST_WAIT else wait
    except (TypeError, ValueError):
        return wait


def _at_home(value: Any, name: str = "") -> Any:
    match value:
        case dict():
            return {key: _at_home(each, key) for key, each in value.items()}
        case list():
            return [_at_home(each) for each in value]
        case str() if name == "host" and _takes(_HOST, value):
            return "127.0.0.1"
        case str() if name.endswith("_url") and _takes(_URL, value):
            return "http://127.0.0.1:9"
        case _:
            return value


def _takes(kind: TypeAdapter[Any], value: str) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True
