"""Settings: what the environment and `config.toml` say, read once, checked at once, and frozen.

Nothing else reads the environment. Every name in it starts with `GMP_`; in the file the same names are in small letters
and without that. A name that is not known and a value that cannot be right stop the start: a setting that is silently
ignored is worse than a service that does not come up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field, PrivateAttr, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict
from pydantic_settings import PydanticBaseSettingsSource as Source
from typing_extensions import override

from mail_proxy.domain.message import DEFAULT_PRIORITY, Priority
from mail_proxy.domain.retry import DEFAULT_DELAYS, DEFAULT_MAX_AGE, DEFAULT_MAX_ATTEMPTS
from mail_proxy.runtime import setting_sources
from mail_proxy.runtime.setting_sources import PREFIX, SAME_AS, Given, Known
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

DEFAULT = "default"
KEY_FILE = Path("/run/secrets/encryption_key")
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
        description="The data folder: `config.toml`, encryption key (SQLite) and flight journal. "
        "Without it, the folder of the database file, else the working folder.",
    )
    instance_name: str = Field(
        "mail-proxy",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="The name that `/status` and the logs give to this instance, before the one that `PUT /instance` "
        "sets for all instances on the database.",
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
    traces_url: HttpUrl | None = Field(
        None,
        description="Where [traces](metrics.md#traces) go, by OTLP over HTTP, such as "
        "`http://127.0.0.1:4318/v1/traces`; needs the extra `otel`. Without it, nowhere.",
    )
    traces_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How many of the traces that begin here are kept, 0 to 1; of those that come along, what their "
        "callers say.",
    )
    metrics_max_accounts: int = Field(
        2000,
        ge=0,
        le=10_000,
        description="Accounts with series of their own in `/metrics`, up to 100 for a tenant; further ones count under "
        "`(other)`.",
    )
    max_request_mb: float = Field(
        100, ge=0, allow_inf_nan=False, description="The largest body of a request, in megabytes; 0: no limit."
    )
    max_batch: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="The most messages in one add-messages request, and ids in one delete-messages or retry-messages "
        "request.",
    )
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
        100,
        ge=1,
        le=10_000,
        description="Messages taken up at a time, at the most, for an account without `batch_size`.",
    )
    max_concurrent_sends: int = Field(
        200, ge=1, le=10_000, description="SMTP transactions at a time, over all accounts of this instance."
    )
    max_sending_mb: float = Field(
        256,
        ge=1,
        le=1_000_000,
        allow_inf_nan=False,
        description="Megabytes of messages that are taken up or being sent at a time; further ones stay in the queue "
        "until there is room. A tenant has half of it at the most.",
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

    reporter: str = Field(
        "http",
        min_length=1,
        max_length=100,
        description="What carries reports: `http`, or the name of a "
        "[reporter of your own](reports.md#your-own-reporter) that is installed beside the service.",
    )
    client_sync_url: HttpUrl | None = Field(
        None, description="Where reports go for tenants that have no `client_base_url` of their own."
    )
    client_sync_user: str | None = Field(None, description="User for basic authentication there.")
    client_sync_password: SecretText | None = Field(None, description="Password for basic authentication there.")
    client_sync_token: Token | None = Field(None, description="Bearer token there, instead of user and password.")
    sync_interval: Seconds = Field(300, description="Seconds between reports when there is nothing to report.")
    delivery_report_retention_seconds: Delay = Field(
        7 * 86400,
        description="Seconds that finished and reported messages are kept, and events in "
        "[the feed](reports.md#the-feed).",
    )
    body_retention_seconds: Delay | None = Field(
        None,
        description="Seconds that finished messages keep bodies, headers and attachments; such a message cannot be "
        "sent again. Without it, as long as the message is kept.",
    )
    command_log_retention_seconds: Seconds = Field(
        90 * 86400, description="Seconds that entries of the command log are kept."
    )

    attachment_roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Folders, separated by commas, below which files may be sent (`fetch_mode` `filesystem`); the "
        "first one resolves relative paths. A tenant's token reads `ROOT/<tenant id>/` only. Without it, `attachments` "
        "in the data folder.",
    )
    attachment_base_url: HttpUrl | None = Field(
        None, description="Where `endpoint` attachments are fetched for tenants without `client_base_url`."
    )
    attachment_token: Token | None = Field(None, description="Bearer token there.")
    attachment_user: str | None = Field(None, description="User for basic authentication there, instead of a token.")
    attachment_password: SecretText | None = Field(None, description="Password for basic authentication there.")
    attachment_max_mb: float = Field(
        100, gt=0, le=10_000, allow_inf_nan=False, description="Megabytes of one attachment; a larger one is not sent."
    )
    attachment_timeout: Seconds = Field(30, description="Seconds to fetch one attachment.")

    public_url: HttpUrl | None = Field(
        None,
        description="Where receivers of mail reach this service, such as `https://mail.acme.example`: links to "
        "[large files](attachments.md#large-files) begin with it.",
    )
    storage_roots: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Folders, separated by commas, below which tenants' large files may be kept (`file://`). Without "
        "it, none.",
    )

    cache_memory_max_mb: float = Field(
        50,
        ge=0,
        le=100_000,
        allow_inf_nan=False,
        description="Megabytes of small attachments that are named by a "
        "digest and kept in memory, by each worker; 0: none.",
    )
    cache_memory_ttl: Seconds = Field(300, description="Seconds that they are kept in memory.")
    cache_disk_dir: Path | None = Field(
        None,
        description="Folder for larger attachments that are named by a digest; workers, and instances with one "
        "database, may share it. Without it, these are not kept.",
    )
    cache_disk_max_mb: float = Field(
        500, ge=0, le=10_000_000, allow_inf_nan=False, description="Megabytes that are kept there; 0: none."
    )
    cache_disk_ttl: Seconds = Field(3600, description="Seconds that they are kept there, counted from the fetch.")
    cache_disk_threshold_kb: float = Field(
        100, ge=0, le=1_000_000, allow_inf_nan=False, description="Kilobytes up to which an attachment is small."
    )

    allow_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Networks such as `10.1.0.0/16`, separated by commas, that tenants may name although they are "
        "private: loopback, private and link-local addresses are refused otherwise.",
    )
    encryption_key: SecretText | None = Field(
        None,
        description="32 bytes as base64 or hex, which seal the secrets in the database. Without it: the file "
        f"`{KEY_FILE}`, or `encryption.key` in the data folder, which is made there at the first start on SQLite.",
    )

    encryption_keys_old: Annotated[tuple[SecretText, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Keys before this one, separated by commas: they open what is not sealed with the new key yet. "
        "`GET /instance` says when they can be left out.",
    )

    _hints: tuple[str, ...] = PrivateAttr(default=())
    _sources: dict[str, str] = PrivateAttr(default_factory=dict)
    _config_file: Path | None = PrivateAttr(default=None)
    _azure: dict[str, str] = PrivateAttr(default_factory=dict)

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
        """Read settings from a mapping such as `os.environ`, and from `config.toml` in the data folder that it names.

        Raises `SettingsError` with every problem that there is, not just the first one.
        """
        given = setting_sources.read(environ, key_file, Known(names(), _lists()))
        problems = given.problems
        try:
            settings = cls(**_Given(cls, given.values)())
        except ValidationError as error:
            first = {each["loc"][:1]: each for each in reversed(error.errors())}
            raise SettingsError(*problems, *(_sentence(each, given) for each in reversed(first.values()))) from None
        if settings.workers > 1 and isinstance(settings.database, SqliteFile):
            problems.append(NO_WORKERS)
        if problems:
            raise SettingsError(*problems)
        settings._hints = tuple(f"{name} is left alone: Kubernetes sets it for a Service." for name in given.links)
        settings._sources = {name.removeprefix(PREFIX).lower(): source for name, source in given.sources.items()}
        settings._config_file = given.config_file
        settings._azure = {name: value for name, value in environ.items() if name.startswith("AZURE_STORAGE_")}
        return settings

    def source(self, name: str) -> str:
        """Where the value of a setting comes from: `environment`, `command line`, a file's name, or `default`."""
        return self._sources.get(name, DEFAULT)

    @property
    def config_file(self) -> Path | None:
        """The file `config.toml`, where there is one."""
        return self._config_file

    @property
    def azure_environment(self) -> Mapping[str, str]:
        """The variables that Azure's own tools read; for the other clouds their libraries do that."""
        return self._azure

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
    def attachment_folders(self) -> tuple[Path, ...]:
        """Where attachments may be read from, the default filled in."""
        return self.attachment_roots or (self.data_folder / "attachments",)

    @property
    def max_attachment_bytes(self) -> int:
        """The most bytes of one attachment."""
        return int(self.attachment_max_mb * 1_000_000)

    @property
    def max_request_bytes(self) -> int | None:
        """The largest body of a request in bytes; None: no limit."""
        return int(self.max_request_mb * 1_000_000) or None


def from_environment(workers: int | None = None) -> Settings:
    """Read the settings of this process; raises `SettingsError`. A number of workers beats the environment's."""
    given = {} if workers is None else {f"{PREFIX}WORKERS": str(workers)}
    settings = Settings.load({**os.environ, **given})
    if given:
        settings._sources["workers"] = "command line"  # noqa: SLF001 - as `load` does
    return settings


def names() -> frozenset[str]:
    """Return every variable that is understood."""
    return frozenset(f"{PREFIX}{name.upper()}" for name in Settings.model_fields) | frozenset(SAME_AS)


def typed(name: str, text: str) -> str | float | None:
    """Return what stands in `config.toml` for the text of a setting: numbers as such, and None for an empty one."""
    text = text.strip()
    field = Settings.model_fields.get(name)
    kinds = _kinds(None if field is None else field.annotation)
    for each in (bool, int, float):
        if text and each in kinds:
            try:
                return TypeAdapter(each).validate_python(text)
            except ValueError:  # what is wrong in the file already may stay so
                continue
    return text or None


def _kinds(annotation: object) -> frozenset[object]:
    """Return the types that a setting with one value can have; whole numbers stand for others as well."""
    if get_origin(annotation) is tuple:
        return frozenset()
    parts = get_args(annotation)
    if parts:
        return frozenset().union(*map(_kinds, parts))
    return frozenset((annotation, int) if annotation is float else (annotation,))


def _lists() -> frozenset[str]:
    return frozenset(name for name, field in Settings.model_fields.items() if isinstance(field.default, tuple))


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


def _sentence(error: ErrorDetails, given: Given) -> str:
    """Say what is wrong with one setting, by its name where it was given. Never repeats the value: it may be secret."""
    name = given.shown_name(str(error["loc"][0]))
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
