"""Which instance and which tenant a command is about, and how it speaks to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec
from urllib.parse import urlsplit

import click

from mail_proxy.cli.instances import Instance, InstanceError, InUse
from mail_proxy.cli.told import ended, told
from mail_proxy.runtime import environment

if TYPE_CHECKING:
    from mail_proxy.client import ClientError, MailProxyClient

P = ParamSpec("P")
DATABASE = "mail_service.db"
_AS_REQUESTED = re.compile(r" \([^()]*cleanup-messages[^()]*\)")
"""What a refusal says of a request that no command makes."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - an address to ask at, in the place of all


@dataclass(frozen=True)
class Place:
    """What stands before a command: an instance, or one of its tenants."""

    instance: Instance
    tenant_id: str | None = None

    def of_tenant(self, tenant_id: str) -> Place:
        """Return the same instance with a tenant."""
        return replace(self, tenant_id=tenant_id)

    @property
    def database(self) -> Path | None:
        """The SQLite file of the instance, None where it is on PostgreSQL. Raises `InstanceError`."""
        location = self.instance.settings().get("db_path", self.instance.settings().get("database_url", DATABASE))
        text = str(location)
        return None if "://" in text else self.instance.folder / text

    def __str__(self) -> str:
        return " ".join(("mail-proxy", self.instance.name, *([] if self.tenant_id is None else [self.tenant_id])))


@dataclass(frozen=True)
class Reached:
    """An instance that answers. `runs`: somebody sends its mail; else its store is open for this command alone."""

    proxy: MailProxyClient
    runs: bool
    place: Place

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.place.instance.name

    @property
    def tenant_id(self) -> str:
        """The tenant, in commands that have one."""
        if self.place.tenant_id is None:
            raise TypeError("this command is about no tenant")
        return self.place.tenant_id

    def must_run(self, why: str) -> None:
        """Refuse what makes no sense while nobody sends; raises `InstanceError`."""
        if not self.runs:
            raise InstanceError(f"{self.name} does not run, {why}: mail-proxy start {self.name} --background")


@contextmanager
def reach(place: Place, kind: type[MailProxyClient] | None = None) -> Iterator[Reached]:
    """Speak to an instance by its API while it runs, else to its store. Raises `InstanceError`."""
    from mail_proxy.client import ClientError, MailProxyClient  # noqa: PLC0415 - takes a while

    made = kind or MailProxyClient
    chosen = place.instance
    token = token_of(chosen)
    with ExitStack() as stack:
        running = chosen.running()
        http = None
        if running is None:
            from mail_proxy.cli.in_process import opened  # noqa: PLC0415 - takes longer

            try:
                http = stack.enter_context(opened(chosen, environment.current()))
            except InUse:
                running = chosen.running()  # it was started meanwhile
                if running is None:
                    raise
        if running is None:
            proxy = made("http://127.0.0.1", token, tenant_id=place.tenant_id, retries=0, http=http)
        else:
            proxy = made(reachable(running.address), token, tenant_id=place.tenant_id, retries=2)
        reached = Reached(stack.enter_context(proxy), running is not None, place)
        try:
            yield reached
        except ClientError as error:
            raise InstanceError(_sentence(error, reached)) from None


def token_of(chosen: Instance) -> str:
    """Return the admin token that an instance's file has; raises `InstanceError`."""
    token = chosen.settings().get("api_token")
    if not isinstance(token, str) or not token.strip():
        raise InstanceError(f"{chosen.config} has no api_token, without which nobody may ask {chosen.name}")
    return token.strip()


def speaks(command: Callable[Concatenate[Reached, P], int | None]) -> Callable[P, None]:
    """Give a command the instance that it is about; what cannot be done is told in a sentence."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int | None:
        with reach(current_place()) as reached:
            return command(reached, *args, **kwargs)

    return told(run)


def current_place() -> Place:
    """Return what stands before the command that runs."""
    place = click.get_current_context().find_object(Place)
    if place is None:
        raise TypeError("the command is in no place")
    return place


def reachable(address: str) -> str:
    """Return where to ask an instance that listens on all addresses."""
    parts = urlsplit(address)
    host = EVERYWHERE.get(parts.hostname or "")
    return address if host is None else f"{parts.scheme}://{host}:{parts.port}"


def _sentence(error: ClientError, reached: Reached) -> str:
    """Say what went wrong, and what to do."""
    from mail_proxy.client import Conflict, Invalid, NoAnswer, NotFound, Unauthorized  # noqa: PLC0415

    chosen = reached.place.instance
    match error:
        case NoAnswer():
            return f"{ended(str(error))} Look at mail-proxy status {chosen.name}, and into {chosen.log}"
        case Unauthorized():
            return (
                f"{chosen.name} does not take the api_token in {chosen.config}: it was started with another one. "
                f"mail-proxy restart {chosen.name} makes the file's count"
            )
        case NotFound() if reached.place.tenant_id is not None and (hint := _no_tenant(reached)):
            return hint
        case Invalid() if error.problems:
            return "; ".join(f"{shown_field(each.field)}: {each.problem}" for each in error.problems)
        case Conflict(code="tenant_in_use" | "account_in_use"):
            return _AS_REQUESTED.sub("", str(error)).replace("force=true", "--force")
        case _:
            return str(error)


def _no_tenant(reached: Reached) -> str | None:
    """Say that there is no such tenant, and which one may be meant; None where there is."""
    ids = [each["id"] for each in reached.proxy.tenants.list()]
    meant = reached.place.tenant_id
    if meant is None or meant in ids:
        return None
    near = get_close_matches(meant, ids, 1)
    hint = f"did you mean {near[0]}?" if near else f"mail-proxy {reached.name} tenants add {meant} makes it"
    return f"{reached.name} has no tenant {meant}; {hint}"


def shown_field(field: str) -> str:
    """Name a field as the command's option has it, where there is one."""
    context = click.get_current_context(silent=True)
    options = {} if context is None else {each.name: each.opts[0] for each in context.command.params}
    name = FIELDS.get(field, field)
    return options.get(name, field)


FIELDS = {
    "client_base_url": "base_url",
    "client_sync_path": "sync_path",
    "client_attachment_path": "attachment_path",
    "client_auth.method": "auth_method",
    "client_auth.token": "auth_token",
    "client_auth.user": "auth_user",
    "client_auth.password": "auth_password",
    "rate_limits.hourly": "rate_limit_hourly",
    "rate_limits.daily": "rate_limit_daily",
    "limit_per_minute": "limit_minute",
    "limit_per_hour": "limit_hour",
    "limit_per_day": "limit_day",
    "deferred_ts": "at",
    "account_id": "account",
    "batch_code": "batch",
}
"""Options of commands that are named otherwise than the fields that they are for."""
