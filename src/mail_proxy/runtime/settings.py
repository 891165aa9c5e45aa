"""Settings: what the environment says, read once, checked at once, and frozen. Nothing else reads the environment.

Every name starts with `GMP_`. A name that is not known and a value that cannot be right stop the start: a setting that
is silently ignored is worse than a service that does not come up.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source
from typing_extensions import override

from mail_proxy.domain.message import DEFAULT_PRIORITY, Priority
from mail_proxy.domain.retry import DEFAULT_DELAYS, DEFAULT_MAX_AGE, DEFAULT_MAX_ATTEMPTS
from mail_proxy.runtime.service_links import is_service_link
from mail_proxy.runtime.setting_values import (
    Database,
    DatabaseLocation,
    Delay,
    HttpUrl,
    Network,
    PriorityName,
    Seconds,
    SecretText,
    SqliteFile,
    Token,
    lower,
    split,
)

PREFIX = "GMP_"
KEY_FILE = Path("/run/secrets/encryption_key")
SAME_AS = {"GMP_DATABASE_URL": "GMP_DB_PATH", "MAIL_PROXY_ENCRYPTION_KEY": "GMP_ENCRYPTION_KEY"}
"""Other names that a setting is read from."""
NO_WORKERS = "GMP_WORKERS (or --workers) is above 1, but one process owns an SQLite file: use PostgreSQL for several."


class SettingsError(Exception):
    """The settings do not allow a start; `problems` has one sentence for each reason."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """What the service was told. Secrets are masked wherever the value is shown."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    api_token: Token = Field(description="The admin token: whoever has it may do everything. Required.")
    host: str = Field("127.0.0.1", min_length=1, description="The address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="The port that the API listens on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port, each a full instance; more than 1 need PostgreSQL."
    )
    db_path: DatabaseLocation | None = Field(
        None,
        description="The database: the path of an SQLite file, or `postgresql://user:password@host/name`. "
        "Without it, `mail_service.db` in the data folder.",
    )
    data_dir: Path | None = Field(
        None,
        description="The data folder: encryption key (SQLite) and flight journal. "
        "Without it, the folder of the database file, else the working folder.",
    )
    instance_name: str = Field(
        "mail-proxy",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="The name that `/status` and the logs give to this instance.",
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        "info", description="The least important lines that are logged: `debug`, `info`, `warning` or `error`."
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(lower)] = Field(
        "text", description="`text`: lines for people, in colour on a terminal. `json`: one JSON object a line."
    )
    test_mode: bool = Field(False, description="Nothing is sent or reported by itself, only after `run-now`.")
    scheduler_active: bool = Field(
        True, description="Whether sending starts active, on a new database; later on the database keeps it."
    )
    metrics_token: Token | None = Field(
        None, description="With it, `/metrics` answers only to this bearer token. Without it, to everybody."
    )
    max_request_mb: float = Field(
        100, ge=0, allow_inf_nan=False, description="The largest body of a request, in megabytes; 0: no limit."
    )
    max_batch: int = Field(1000, ge=1, le=100_000, description="The most messages in one add-messages request.")
    max_bodies_mb: float = Field(
        256,
        ge=1,
        allow_inf_nan=False,
        description="Megabytes of request bodies in memory at a time; further ones wait a while, and are then asked to "
        "come back. A tenant has half of it at the most.",
    )
    max_http_connections: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="HTTP connections at a time; beyond them only `/health` and its like answer.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Networks such as `10.1.0.0/16`, separated by commas, of the proxies whose `X-Forwarded-For` is "
        "believed when failed tokens are counted by address.",
    )
    shutdown_grace: Delay = Field(
        30, description="Seconds that running SMTP transactions get to finish when the service is told to stop."
    )
    lease: float = Field(
        60,
        ge=1,
        le=86400,
        allow_inf_nan=False,
        description="Seconds of silence after which the other instances on one PostgreSQL take over what an instance "
        "had taken up. The same for all of them.",
    )

    send_loop_interval: Seconds = Field(
        2, description="Seconds between looks at the queue when nothing else says that there is something to send."
    )
    batch_size_per_account: int = Field(
        100, ge=1, le=10_000, description="Messages taken up at a time for an account without `batch_size`."
    )
    max_concurrent_sends: int = Field(
        200, ge=1, le=10_000, description="SMTP transactions at a time, over all accounts of this instance."
    )
    max_connections_per_account: int = Field(
        4, ge=1, le=1000, description="SMTP sessions at a time for an account that is made without `max_connections`."
    )
    default_priority: PriorityName = Field(
        Priority(DEFAULT_PRIORITY),
        description="Priority of messages that have none: 0 to 3, or `immediate`, `high`, `medium`, `low`.",
    )
    max_retries: int = Field(
        DEFAULT_MAX_ATTEMPTS, ge=1, le=1000, description="Attempts before a message fails, the first one counted."
    )
    retry_delays: Annotated[tuple[Delay, ...], NoDecode, BeforeValidator(split)] = Field(
        DEFAULT_DELAYS,
        min_length=1,
        description="Seconds before each new attempt, separated by commas; the last one repeats.",
    )
    max_age: Seconds = Field(
        DEFAULT_MAX_AGE, description="Seconds after its first attempt when a message expires, however many are left."
    )
    rate_windows: Annotated[tuple[Seconds, Seconds, Seconds], NoDecode, BeforeValidator(split)] = Field(
        (60.0, 3600.0, 86400.0),
        description="Seconds that a minute, an hour and a day last for rate limits, separated by commas: shorter ones "
        "let limits be tried out. All instances on one database need the same.",
    )
    log_delivery_activity: bool = Field(False, description="Log each delivery attempt, not only what went wrong.")
    smtp_connect_timeout: Seconds = Field(30, description="Seconds to connect to an SMTP server.")
    smtp_command_timeout: Seconds = Field(300, description="Seconds for the greeting and for each SMTP command.")
    smtp_data_timeout: Seconds = Field(180, description="Seconds for the server to take a block of the message.")
    smtp_dot_timeout: Seconds = Field(
        600, description="Seconds from the final dot to its reply. Giving up too early makes second copies."
    )

    client_sync_url: HttpUrl | None = Field(
        None, description="Where reports go for tenants that have no `client_base_url` of their own."
    )
    client_sync_user: str | None = Field(None, description="User for basic authentication there.")
    client_sync_password: SecretText | None = Field(None, description="Password for basic authentication there.")
    client_sync_token: Token | None = Field(None, description="Bearer token there, instead of user and password.")
    sync_interval: Seconds = Field(300, description="Seconds between reports when there is nothing to report.")
    delivery_report_retention_seconds: Delay = Field(
        7 * 86400, description="Seconds that finished and reported messages are kept."
    )

    allow_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Networks such as `10.1.0.0/16`, separated by commas, that tenants may name although they are "
        "private: loopback, private and link-local addresses are refused otherwise.",
    )
    encryption_key: SecretText | None = Field(
        None,
        description="32 bytes as base64 or hex, which seal the secrets in the database. Without it: the file "
        f"`{KEY_FILE}`, or on SQLite a key that is made in the data folder at the first start.",
    )

    _hints: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Take what is given and nothing else: `load` alone says where values come from."""
        return (init_settings,)

    @classmethod
    def load(cls, environ: Mapping[str, str], key_file: Path = KEY_FILE) -> Settings:
        """Read settings from a mapping such as `os.environ`.

        Raises `SettingsError` with every problem that there is, not just the first one.
        """
        given, problems = _given(environ, key_file)
        ours = sorted(name for name in environ if name.startswith(PREFIX))
        links = [name for name in ours if is_service_link(name, environ[name])]
        problems += [_unknown(name) for name in ours if name not in names() and name not in links]
        try:
            settings = cls(**_Given(cls, given)())
        except ValidationError as error:
            first = {each["loc"][:1]: each for each in reversed(error.errors())}
            raise SettingsError(*problems, *(_sentence(each) for each in reversed(first.values()))) from None
        if settings.workers > 1 and isinstance(settings.database, SqliteFile):
            problems.append(NO_WORKERS)
        if problems:
            raise SettingsError(*problems)
        settings._hints = tuple(f"{name} is left alone: Kubernetes sets it for a Service." for name in links)
        return settings

    @property
    def hints(self) -> tuple[str, ...]:
        """Sentences about variables that look like settings and were passed over."""
        return self._hints

    @property
    def database(self) -> Database:
        """Where the database is, the default filled in."""
        return self.db_path or SqliteFile((self.data_dir or Path()) / "mail_service.db")

    @property
    def data_folder(self) -> Path:
        """Where this instance keeps files of its own, the default filled in."""
        if self.data_dir is not None:
            return self.data_dir
        return self.db_path.path.parent if isinstance(self.db_path, SqliteFile) else Path()

    @property
    def max_request_bytes(self) -> int | None:
        """The largest body of a request in bytes; None: no limit."""
        return int(self.max_request_mb * 1_000_000) or None


def from_environment(workers: int | None = None) -> Settings:
    """Read the settings of this process; raises `SettingsError`. A number of workers beats the environment's."""
    given = {} if workers is None else {f"{PREFIX}WORKERS": str(workers)}
    return Settings.load({**os.environ, **given})


def names() -> frozenset[str]:
    """Return every variable that is understood."""
    return frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields) | frozenset(SAME_AS)


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as the documentation shows it."""

    name: str
    default: str
    description: str


def described() -> tuple[Described, ...]:
    """Return every setting with its default and what it does, in the order in which they are explained."""
    fields = tuple(
        Described(f"{PREFIX}{name.upper()}", _shown_default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    )
    return fields + tuple(Described(other, "", f"The same as `{name}`.") for other, name in SAME_AS.items())


def _shown_default(value: object) -> str:
    if value is None or repr(value) == "PydanticUndefined" or value == ():
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(_shown_default(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"
    return f"{int(value)}" if isinstance(value, int) else str(value)


class _Given(EnvSettingsSource):
    """The values of a mapping by field: pydantic-settings' own reading of names, without its look at `os.environ`."""

    def __init__(self, settings_cls: type[BaseSettings], values: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value.strip() for name, value in values.items() if value.strip()}


def _given(environ: Mapping[str, str], key_file: Path) -> tuple[dict[str, str], list[str]]:
    """Return the values under their first names, and what is wrong with how they are given."""
    values = {name: text for name, text in environ.items() if name in names() and not is_service_link(name, text)}
    problems = []
    for other, name in SAME_AS.items():
        text = values.pop(other, "")
        if text and values.get(name) and values[name] != text:
            problems.append(f"{other} and {name} are the same setting but have different values: give one of them.")
        elif text:
            values[name] = text
    problems += _contradictions({name for name, text in values.items() if text.strip()})
    key = f"{PREFIX}ENCRYPTION_KEY"
    if not values.get(key) and key_file.is_file():
        try:
            values[key] = key_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{key}: the file {key_file} cannot be read ({type(error).__name__}).")
    return values, problems


def _contradictions(given: set[str]) -> Iterator[str]:
    token, user, password = (f"{PREFIX}CLIENT_SYNC_{name}" for name in ("TOKEN", "USER", "PASSWORD"))
    if token in given and given & {user, password}:
        yield f"{token} excludes {user} and {password}: there is one way to log in."
    if (user in given) != (password in given):
        yield f"{user} and {password} need each other."


def _unknown(name: str) -> str:
    known = {each.removeprefix(PREFIX): each for each in sorted(names())}
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1)
    return f"{name} is not a setting." + (f" Did you mean {known[near[0]]}?" if near else "")


_REASONS = {
    "missing": "is required",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number, neither infinite nor NaN",
    "bool_parsing": "must be true or false",
    "enum": "must be 0 to 3, or immediate, high, medium, low",
    "too_short": "must have at least one value",
    "string_pattern_mismatch": "must be 1 to 64 of letters, digits, '.', '_', '-'",
}


def _sentence(error: ErrorDetails) -> str:
    """Say what is wrong with one setting. Never repeats the value, which may be a secret."""
    name = f"{PREFIX}{str(error['loc'][0]).upper()}"
    facts: dict[str, Any] = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            reason = str(facts["error"])
        case "greater_than_equal":
            reason = f"must be at least {facts['ge']:g}"
        case "greater_than":
            reason = f"must be more than {facts['gt']:g}"
        case "less_than_equal":
            reason = f"must be at most {facts['le']:g}"
        case "literal_error":
            reason = f"must be {facts['expected']}"
        case other:
            reason = _REASONS.get(other, error["msg"])
    if name == f"{PREFIX}API_TOKEN" and error["type"] == "missing":
        return f"{name} is required: without it anybody could send mail. Choose a long random text."  # G16
    return f"{name} {reason}."
