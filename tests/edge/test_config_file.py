"""`config.toml`: read strictly, changed by one value, whole at every moment."""  # G16

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mail_proxy.runtime.config_file import ConfigChanged, ConfigFile, ConfigRefused, ConfigUnsure
from mail_proxy.runtime.setting_values import PostgresqlUrl, SqliteFile
from mail_proxy.runtime.settings import Settings, SettingsError

NOWHERE = Path("/nonexistent/encryption_key")


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def load(folder: Path, **variables: str) -> Settings:
    return Settings.load({"GMP_DATA_DIR": str(folder), **variables}, NOWHERE)


def refused(folder: Path, text: str, **variables: str) -> tuple[str, ...]:
    written(folder, text)
    with pytest.raises(SettingsError) as caught:
        load(folder, **variables)
    return tuple(problem.replace(f"{folder}/", "") for problem in caught.value.problems)


def test_the_environment_beats_the_file_and_the_file_beats_the_defaults(tmp_path: Path) -> None:
    written(
        tmp_path,
        """
        api_token = "from-the-file"   # the admin's
        host = "0.0.0.0"
        port = 8025
        test_mode = true
        max_request_mb = 2.5
        retry_delays = [1, 2.5]
        allow_networks = ["10.0.0.0/8"]
        encryption_keys_old = ["one", "two"]
        """,
    )
    settings = load(tmp_path, GMP_PORT="8026", GMP_HOST=" ")
    assert settings.api_token.reveal() == "from-the-file"
    assert (settings.host, settings.port, settings.test_mode) == ("0.0.0.0", 8026, True)  # noqa: S104
    assert (settings.max_request_mb, settings.retry_delays) == (2.5, (1.0, 2.5))
    assert [str(each) for each in settings.allow_networks] == ["10.0.0.0/8"]
    assert [each.reveal() for each in settings.encryption_keys_old] == ["one", "two"]
    sources = {name: settings.source(name) for name in ("host", "port", "log_level", "data_dir")}
    assert sources == {"host": "config.toml", "port": "environment", "log_level": "default", "data_dir": "environment"}
    assert settings.config_file == tmp_path / "config.toml"


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, GMP_API_TOKEN="x").config_file is None


def test_the_file_is_looked_for_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, 'api_token = "x"\ndb_path = "mail.db"')
    beside_the_database = Settings.load({"GMP_DB_PATH": str(tmp_path / "other.db")}, NOWHERE)
    assert beside_the_database.database == SqliteFile(tmp_path / "other.db")
    monkeypatch.chdir(tmp_path)
    here = Settings.load({}, NOWHERE)
    assert (here.database, here.data_folder) == (SqliteFile(Path("mail.db")), Path())
    monkeypatch.chdir("/")
    named = load(tmp_path)
    assert (named.database, named.data_folder) == (SqliteFile(tmp_path / "mail.db"), tmp_path)
    written(tmp_path, 'api_token = "x"\ndatabase_url = "postgresql://u:canary@db/mail"')
    assert isinstance(load(tmp_path).database, PostgresqlUrl)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("api_tokn = 'canary'", ["api_tokn is not a setting. Did you mean api_token?"]),
        ("API_TOKEN = 'canary'", ["API_TOKEN is not a setting. Did you mean api_token?"]),
        ("GMP_PORT = 1", ["GMP_PORT is not a setting. Did you mean port?"]),
        ("port = 70000\nlog_level = 'canary'", ["port must be at most 65535.", "log_level must be 'debug', "]),
        ("data_dir = '/canary'", ["data_dir cannot be set here"]),
        ("[server]\nport = 'canary'", ["server is not a setting."]),
        ("port = 2026-11-25", ["port must be a text, a number, or true or false."]),
        ("api_token = ['can', 'ary']", ["api_token must be a text"]),
        ("retry_delays = [[1]]", ["retry_delays must be a text"]),
        ("encryption_key = 'a'\nencryption_key = 'canary'", ["config.toml is not TOML"]),
        ("port = 1\napi_token = canary", ["config.toml is not TOML at line 2."]),
        ("db_path = 'canary.db'\ndatabase_url = 'x.db'", ["GMP_DATABASE_URL and GMP_DB_PATH are the same"]),
        ("client_sync_user = 'canary'", ["GMP_CLIENT_SYNC_USER and GMP_CLIENT_SYNC_PASSWORD need each other"]),
    ],
)
def test_what_is_wrong_stops_the_start_and_is_not_repeated(tmp_path: Path, text: str, problems: list[str]) -> None:
    found = refused(tmp_path, text, GMP_API_TOKEN="x")
    assert len(found) == len(problems), found
    for sentence, problem in zip(found, problems, strict=True):
        assert problem in sentence
        assert "canary" not in sentence


def test_a_file_for_others_to_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "api_token = 'x'", 0o644)
    with pytest.raises(SettingsError, match=f"can be read by every user of this machine: chmod 600 {path}"):
        load(tmp_path)
    path.chmod(0o640)
    load(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"config\.toml cannot be read: No such file"):
        load(tmp_path)
    path.unlink()
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="it is not UTF-8"):
        load(tmp_path)


# -- changing one value ------------------------------------------------------------------------------------------------

BEFORE = """# The instance of the shop.
host   = '0.0.0.0'  # everywhere

api_token = "old"  # shown by `token`
note_to_self = \"\"\"
api_token = "not this"
\"\"\"
port = 0x1F
"""


def test_one_value_is_changed_and_all_else_stays(tmp_path: Path) -> None:
    path = written(tmp_path, BEFORE, 0o640)
    seen = ConfigFile(path).seen()
    ConfigFile(path).replace("api_token", 'ne"w', lambda value: value == "old")
    assert path.read_text() == BEFORE.replace('"old"', '"ne\\"w"')
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["config.toml"]
    assert ConfigFile(path).seen() != seen


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    real = written(tmp_path, "api_token = 'old'")
    link = tmp_path / "data" / "config.toml"
    link.symlink_to(real)
    ConfigFile(link).replace("api_token", "new", lambda _: True)
    assert link.is_symlink()
    assert real.read_text() == 'api_token = "new"'


def test_of_two_who_change_the_same_value_one_does(tmp_path: Path) -> None:
    path = written(tmp_path, "api_token = 'old'")
    together, done = threading.Barrier(8), list[str]()

    def change(n: int) -> None:
        together.wait()
        try:
            ConfigFile(path).replace("api_token", f"new {n}", lambda value: value == "old")
        except ConfigChanged:
            return
        done.append(f"new {n}")

    threads = [threading.Thread(target=change, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ConfigFile(path).read()["api_token"]] == done


def test_what_a_crash_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = written(tmp_path, "api_token = 'old'")
    (tmp_path / "config.toml.new").write_text("api_token = 'ha")
    ConfigFile(path).replace("api_token", "new", lambda _: True)
    assert ConfigFile(path).read() == {"api_token": "new"}
    assert names_in(tmp_path) == ["config.toml"]


def test_where_nothing_can_be_written_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "api_token = 'old'")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ConfigFile(path).replace("api_token", "new", lambda _: True)
    assert ConfigFile(path).read() == {"api_token": "old"}
    assert names_in(tmp_path) == ["config.toml"]


def test_a_disk_that_does_not_confirm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "api_token = 'old'")
    fsync = os.fsync

    def fails_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    with pytest.raises(ConfigUnsure, match=r"has the new value, .* \(Input/output error\)"):
        ConfigFile(path).replace("api_token", "new", lambda _: True)
    assert ConfigFile(path).read() == {"api_token": "new"}


def test_a_file_that_others_can_read_meanwhile_is_not_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "api_token = 'old'", 0o644)
    with pytest.raises(ConfigRefused):
        ConfigFile(path).replace("api_token", "new", lambda _: True)
    assert path.read_text() == "api_token = 'old'"


_DIES_EVERYWHERE = """
import os, sys
from pathlib import Path
from mail_proxy.runtime.config_file import ConfigFile

path = Path(sys.argv[1])
file = ConfigFile(path)
for step in range(1, 1000):
    path.write_text("host = 'x'\\napi_token = 'old'\\n")
    path.chmod(0o600)
    file.read()  # what is imported when it is needed is there
    pid = os.fork()
    if pid == 0:
        seen = 0

        def hook(event, _arguments):
            global seen
            seen += 1
            if seen == step:
                os._exit(9)

        sys.addaudithook(hook)
        file.replace("api_token", "new", lambda held: held == "old")
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found = file.read()
    assert found == {"host": "x", "api_token": found["api_token"]}, found
    print(found["api_token"], finished)
    if finished:
        break
"""


def test_a_process_that_dies_anywhere_leaves_the_old_token_or_the_new_one(tmp_path: Path) -> None:
    """It ends before each thing that it asks of the system, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", _DIES_EVERYWHERE, str(tmp_path / "config.toml")],
        check=True,
        capture_output=True,
        text=True,
    )
    steps = done.stdout.splitlines()
    assert steps[-1] == "new True"
    assert steps[:-1] == sorted(steps[:-1], reverse=True)  # old, old, …, and from some step on new
    assert "old False" in steps
    assert "new False" in steps
