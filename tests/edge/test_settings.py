"""Settings: what the environment may say, and what stops the start."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from mail_proxy.domain.message import Priority
from mail_proxy.runtime.setting_values import PostgresqlUrl, SqliteFile
from mail_proxy.runtime.settings import (
    Described,
    Settings,
    SettingsError,
    described,
    names,
)

NOWHERE = Path("/nonexistent/encryption_key")
TOKEN = {"GMP_API_TOKEN": "token"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def load(**variables: str) -> Settings:
    return Settings.load({**TOKEN, **variables}, NOWHERE)


def refused(**variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**variables)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_a_token_is_all_that_is_needed() -> None:
    settings = load()
    assert settings.api_token.reveal() == "token"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.database == SqliteFile(Path("mail_service.db"))
    assert settings.data_folder == Path()
    assert settings.max_request_bytes == 100_000_000
    assert settings.hints == ()


@pytest.mark.parametrize("variables", [{}, {"GMP_API_TOKEN": ""}, {"GMP_API_TOKEN": "  "}])
def test_without_a_token_there_is_no_start(variables: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(variables, NOWHERE)
    (problem,) = caught.value.problems
    assert problem.startswith("GMP_API_TOKEN is required")


@pytest.mark.parametrize("token", ["two words", "tökén", "line\nbreak", "x" * 513])
def test_a_token_must_fit_into_a_header(token: str) -> None:
    (problem,) = refused(GMP_API_TOKEN=token)
    assert problem.startswith("GMP_API_TOKEN must be")
    assert token not in problem


def test_values_are_read_as_what_they_are() -> None:
    settings = load(
        GMP_PORT=" 0 ",
        GMP_LOG_LEVEL="DEBUG",
        GMP_LOG_FORMAT="json",
        GMP_TEST_MODE="yes",
        GMP_SCHEDULER_ACTIVE="0",
        GMP_MAX_REQUEST_MB="0",
        GMP_RETRY_DELAYS="0, 1.5,2",
        GMP_ALLOW_NETWORKS="10.0.0.0/8, ::1",
        GMP_DEFAULT_PRIORITY="high",
        GMP_CLIENT_SYNC_URL="https://example.com/sync",
    )
    assert settings.port == 0
    assert (settings.log_level, settings.log_format) == ("debug", "json")
    assert (settings.test_mode, settings.scheduler_active) == (True, False)
    assert settings.max_request_bytes is None
    assert settings.retry_delays == (0.0, 1.5, 2.0)
    assert settings.allow_networks == (IPv4Network("10.0.0.0/8"), IPv6Network("::1/128"))
    assert settings.default_priority is Priority.HIGH
    assert load(GMP_DEFAULT_PRIORITY="0").default_priority is Priority.IMMEDIATE


def test_an_empty_value_is_none_at_all() -> None:
    assert load(GMP_PORT="", GMP_METRICS_TOKEN=" ", GMP_RETRY_DELAYS="") == load()


@pytest.mark.parametrize(
    ("variables", "database", "folder"),
    [
        ({"GMP_DATA_DIR": "/data"}, SqliteFile(Path("/data/mail_service.db")), "/data"),
        ({"GMP_DB_PATH": "/data/a.db"}, SqliteFile(Path("/data/a.db")), "/data"),
        ({"GMP_DATABASE_URL": "a.db"}, SqliteFile(Path("a.db")), "."),
        ({"GMP_DB_PATH": "/data/a.db", "GMP_DATA_DIR": "/keys"}, SqliteFile(Path("/data/a.db")), "/keys"),
    ],
)
def test_the_data_folder_is_the_databases_unless_it_is_named(
    variables: dict[str, str], database: SqliteFile, folder: str
) -> None:
    settings = load(**variables)
    assert settings.database == database
    assert settings.data_folder == Path(folder)


@pytest.mark.parametrize("name", ["GMP_DB_PATH", "GMP_DATABASE_URL"])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_database_may_be_a_url_that_is_never_shown(name: str, scheme: str) -> None:
    settings = load(**{name: f"{scheme}://user:canary@host/db"})
    match settings.database:
        case PostgresqlUrl(url):
            assert url.reveal() == "postgresql://user:canary@host/db"
        case other:
            pytest.fail(f"not a URL: {other}")
    assert "canary" not in repr(settings) + str(settings)


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    secrets = ("API_TOKEN", "METRICS_TOKEN", "CLIENT_SYNC_PASSWORD", "ENCRYPTION_KEY")
    shown = load(**{f"GMP_{name}": f"canary-{name}" for name in secrets}, GMP_CLIENT_SYNC_USER="user")
    assert "canary" not in repr(shown) + str(shown)
    assert "canary" not in load(GMP_CLIENT_SYNC_TOKEN="canary").__repr__()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PORT", "http", "must be a whole number"),
        ("PORT", "-1", "must be at least 0"),
        ("PORT", "65536", "must be at most 65535"),
        ("LOG_LEVEL", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "must be 'text' or 'json'"),
        ("TEST_MODE", "maybe", "must be true or false"),
        ("MAX_AGE", "nan", "must be a number, neither infinite nor NaN"),
        ("MAX_AGE", "0", "must be more than 0"),
        ("MAX_RETRIES", "0", "must be at least 1"),
        ("MAX_RETRIES", "2.5", "must be a whole number"),
        ("RETRY_DELAYS", "1,two", "must be a number"),
        ("RETRY_DELAYS", ",", "must have at least one value"),
        ("RETRY_DELAYS", "-5", "must be at least 0"),
        ("DEFAULT_PRIORITY", "soon", "must be 0 to 3, or immediate, high, medium, low"),
        ("DEFAULT_PRIORITY", "4", "must be 0 to 3, or immediate, high, medium, low"),
        ("ALLOW_NETWORKS", "10.0.0.1/8", "must be networks such as 10.1.0.0/16, with nothing set behind the mask"),
        ("ALLOW_NETWORKS", "intranet", "must be networks such as 10.1.0.0/16, with nothing set behind the mask"),
        ("CLIENT_SYNC_URL", "example.com", "must be a URL that starts with http:// or https://"),
        ("CLIENT_SYNC_URL", "https://u:p@example.com", "must not hold a user or password: there are settings for them"),
        ("INSTANCE_NAME", "a b", "must be 1 to 64 of letters, digits, '.', '_', '-'"),
        ("DB_PATH", ":memory:", "must be a file: what is only in memory is not durable"),
        (
            "DB_PATH",
            "mysql://canary@host/db",
            "must be the path of an SQLite file, or a URL that starts with postgresql://",
        ),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_the_reason(name: str, value: str, reason: str) -> None:
    assert refused(**{f"GMP_{name}": value}) == (f"GMP_{name} {reason}.",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("GMP_PROT", "GMP_PROT is not a setting. Did you mean GMP_PORT?"),
        ("GMP_MAX_RETRY", "GMP_MAX_RETRY is not a setting. Did you mean GMP_MAX_RETRIES?"),
        ("GMP_port", "GMP_port is not a setting. Did you mean GMP_PORT?"),
        ("GMP_", "GMP_ is not a setting."),
        ("GMP_XYZZY", "GMP_XYZZY is not a setting."),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, sentence: str) -> None:
    assert refused(**{name: "1"}) == (sentence,)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"GMP_PROT": "1", "GMP_MAX_RETRIES": "none"}, NOWHERE)
    assert [problem.split()[0] for problem in caught.value.problems] == ["GMP_PROT", "GMP_API_TOKEN", "GMP_MAX_RETRIES"]


def test_other_variables_are_nobodys_business() -> None:
    assert load(PATH="/bin", gmp_port="1", XGMP_PORT="2") == load()


KUBERNETES = {
    "GMP_PORT": "tcp://10.0.0.1:8000",
    "GMP_SERVICE_HOST": "10.0.0.1",
    "GMP_SERVICE_PORT": "8000",
    "GMP_SERVICE_PORT_HTTP": "8000",
    "GMP_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "GMP_PORT_8000_TCP_PROTO": "tcp",
    "GMP_PORT_8000_TCP_PORT": "8000",
    "GMP_PORT_8000_TCP_ADDR": "10.0.0.1",
    "GMP_DB_PORT": "tcp://10.0.0.2:5432",
    "GMP_DB_SERVICE_HOST": "10.0.0.2",
    "GMP_DB_PORT_5432_TCP": "tcp://10.0.0.2:5432",
    "GMP_DNS_PORT_53_UDP_ADDR": "10.0.0.3",
}


def test_what_kubernetes_sets_is_passed_over_with_a_hint() -> None:
    settings = load(**KUBERNETES)
    assert settings.port == 8000
    assert [hint.split()[0] for hint in settings.hints] == sorted(KUBERNETES)
    assert refused(GMP_DB_PORT="5432") == ("GMP_DB_PORT is not a setting. Did you mean GMP_PORT?",)


def test_a_setting_may_come_by_its_other_name_but_not_by_two_values() -> None:
    assert load(MAIL_PROXY_ENCRYPTION_KEY="k").encryption_key == load(GMP_ENCRYPTION_KEY="k").encryption_key
    assert load(GMP_DB_PATH="a.db", GMP_DATABASE_URL="a.db").database == SqliteFile(Path("a.db"))
    (problem,) = refused(GMP_DB_PATH="a.db", GMP_DATABASE_URL="b.db")
    assert problem.startswith("GMP_DATABASE_URL and GMP_DB_PATH are the same setting")


def test_the_encryption_key_may_be_a_mounted_file(tmp_path: Path) -> None:
    key_file = tmp_path / "encryption_key"
    key_file.write_text("from the file\n")
    settings = Settings.load(TOKEN, key_file)
    assert settings.encryption_key is not None
    assert settings.encryption_key.reveal() == "from the file"
    settings = Settings.load({**TOKEN, "GMP_ENCRYPTION_KEY": "from the environment"}, key_file)
    assert settings.encryption_key is not None
    assert settings.encryption_key.reveal() == "from the environment"
    key_file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="GMP_ENCRYPTION_KEY: the file"):
        Settings.load(TOKEN, key_file)


@pytest.mark.parametrize(
    "given",
    [
        {"GMP_CLIENT_SYNC_TOKEN": "t", "GMP_CLIENT_SYNC_USER": "u", "GMP_CLIENT_SYNC_PASSWORD": "p"},
        {"GMP_CLIENT_SYNC_USER": "u"},
        {"GMP_CLIENT_SYNC_PASSWORD": "p"},
    ],
)
@pytest.mark.parametrize("endpoint", ["CLIENT_SYNC", "ATTACHMENT"])
def test_there_is_one_way_to_log_in_at_the_endpoint(given: dict[str, str], endpoint: str) -> None:
    (problem,) = refused(**{name.replace("CLIENT_SYNC", endpoint): value for name, value in given.items()})
    assert problem.startswith(f"GMP_{endpoint}_")


def test_the_home_of_instances_is_no_setting_of_one() -> None:
    assert load(GMP_HOME="/srv/instances").hints == ()


def documented(setting: Described) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `{setting.name}` | {default} | {setting.description} |"


def test_every_setting_is_documented() -> None:
    assert {setting.name for setting in described()} == names()
    table = "\n".join(documented(setting) for setting in described())
    assert table in DOCUMENT.read_text(encoding="utf-8"), f"docs/settings.md has to hold:\n{table}"


def test_a_lease_is_a_second_at_least() -> None:
    assert load().lease == 60
    assert load(GMP_LEASE="1").lease == 1
    (problem,) = refused(GMP_LEASE="0.9")
    assert problem.startswith("GMP_LEASE ")
