"""The instance's settings: what they are and where they come from, what can be changed, and a new admin token."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mail_proxy.administration.instance import GivenName, InstanceAdministration
from mail_proxy.api.application import create_app
from mail_proxy.runtime.admin_token import AdminToken
from mail_proxy.runtime.settings import Settings
from mail_proxy.runtime.shown_settings import shown_settings
from tests.support.api import ADMIN_TOKEN, Instance

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)

NEEDED = {"GMP_API_TOKEN": "canary", "GMP_DB_PATH": "postgresql://mail:canary@db/mail"}
SECRETS = {
    "GMP_ENCRYPTION_KEY": "canary",
    "GMP_ENCRYPTION_KEYS_OLD": "canary,canary",
    "GMP_METRICS_TOKEN": "canary",
    "GMP_CLIENT_SYNC_USER": "us",
    "GMP_CLIENT_SYNC_PASSWORD": "canary",
    "GMP_ATTACHMENT_TOKEN": "canary",
}


def shown(**environ: str) -> dict[str, dict[str, Any]]:
    settings = Settings.load({**NEEDED, **environ}, Path("/nonexistent"))
    assert "canary" not in repr(settings) + str(settings)
    return {
        each.name: {"value": each.value, "set": each.is_set, "source": each.source, "secret": each.secret}
        for each in shown_settings(settings)
    }


def test_every_setting_is_shown_and_no_secret() -> None:
    found = shown(**SECRETS, GMP_CLIENT_SYNC_URL="https://example.com/sync?key=query", GMP_ALLOW_NETWORKS="10.0.0.0/8")
    assert list(found) == list(Settings.model_fields)
    assert not {"canary", "query"} & set(re.findall(r"\w+", str(found)))
    secret = {name for name, each in found.items() if each["secret"]}
    unset = {"client_sync_token", "attachment_password"}
    assert {name.lower() for name in {*unset, *(n[4:].lower() for n in {**NEEDED, **SECRETS})}} == {
        *secret,
        "client_sync_user",
        "db_path",
    }
    assert found["db_path"]["value"] == "postgresql://mail:********@db/mail"
    assert {name for name in secret if not found[name]["set"]} == unset
    assert found["client_sync_url"]["value"] == "https://example.com/sync?…"
    assert found["allow_networks"] == {"value": ["10.0.0.0/8"], "set": True, "source": "environment", "secret": False}
    assert found["port"] == {"value": 8000, "set": True, "source": "default", "secret": False}
    assert found["retry_delays"]["value"] == [60.0, 300.0, 900.0, 3600.0, 7200.0, 14400.0]


def test_what_is_not_set_says_what_counts_instead() -> None:
    found = shown(GMP_DB_PATH="/data/mail.db")
    assert found["db_path"] == {"value": "/data/mail.db", "set": True, "source": "environment", "secret": False}
    assert found["data_dir"] == {"value": "/data", "set": True, "source": "default", "secret": False}
    assert found["attachment_roots"]["value"] == ["/data/attachments"]
    assert found["encryption_key"] == {"value": None, "set": False, "source": "default", "secret": True}
    on_postgresql = shown(GMP_DB_PATH="postgresql://mail@db/mail", GMP_DATA_DIR="/nowhere")
    assert not on_postgresql["encryption_key"]["set"]  # it is never made there without being asked for
    assert found["metrics_token"] == {"value": None, "set": False, "source": "default", "secret": True}
    assert found["allow_networks"] == {"value": [], "set": False, "source": "default", "secret": False}


async def test_the_admin_is_shown_the_instance(instance: Instance, admin: httpx.AsyncClient) -> None:
    answer = (await admin.get("/instance")).json()
    settings = {each["name"]: each for each in answer.pop("settings")}
    key = answer["encryption"]["key_id"]
    assert answer == {
        "ok": True,
        "version": instance.app.version,
        "instance_name": "tests",
        "scheduler_active": True,
        "database": "sqlite",
        "workers": 1,
        "started_ts": instance.services.started_ts,
        "encryption": {
            "key_id": key,
            "key_in_use": key,
            "old_keys": [],
            "secrets_with_old_keys": 0,
            "waits_for": [],
        },
    }
    assert settings["api_token"] == {
        "name": "api_token",
        "value": None,
        "secret": True,
        "is_set": True,
        "source": "config.toml",
    }
    assert ADMIN_TOKEN not in str(settings)


@both_databases
async def test_what_is_changed_holds_for_every_instance(instance: Instance, admin: httpx.AsyncClient) -> None:
    answer = (await admin.put("/instance", json={"instance_name": "mail-eu", "scheduler_active": False})).json()
    assert (answer["instance_name"], answer["scheduler_active"]) == ("mail-eu", False)
    sources = {each["name"]: (each["value"], each["source"]) for each in answer["settings"]}
    assert sources["instance_name"] == ("mail-eu", "database")
    assert sources["scheduler_active"] == (False, "database")
    assert not instance.told.run_now
    directory = instance.store.directory
    again = InstanceAdministration(directory, directory, GivenName("another", None))
    assert await again.name() == "mail-eu"
    own = InstanceAdministration(directory, directory, GivenName("pod-7", "GMP_INSTANCE_NAME"))
    assert await own.name() == "pod-7"
    status = (await admin.get("/status")).json()
    assert (status["instance"], status["scheduler_active"]) == ("mail-eu", False)
    await admin.put("/instance", json={"scheduler_active": True})
    assert instance.told.run_now == [None]
    assert (await admin.put("/instance", json={"instance_name": None})).json()["instance_name"] == "tests"
    assert (await admin.put("/instance", json={})).json()["scheduler_active"] is True
    assert instance.told.run_now == [None]


REFUSED: list[tuple[object, str, str]] = [
    ({"port": 1}, "port", "cannot be changed while it runs: set GMP_PORT, or port in config.toml, and restart"),
    ({"api_token": "canary"}, "api_token", "cannot be chosen: POST /instance/api-token makes a new one"),
    ({"metrics_token": None}, "metrics_token", "cannot be changed while it runs"),
    ({"canary": 1, "instance_name": "x"}, "canary", "is not known here"),
    ({"instance_name": "two words"}, "instance_name", "must be 1 to 64 of letters"),
    ({"instance_name": ""}, "instance_name", "must be 1 to 64 of letters"),
    ({"instance_name": 7}, "instance_name", "must be a text"),
    ({"scheduler_active": None}, "scheduler_active", "must be true or false"),
    ({"scheduler_active": "no", "instance_name": "changed"}, "scheduler_active", "must be true or false"),
    ([], "body", "must be an object"),
]


async def test_what_cannot_be_changed_is_named(instance: Instance, admin: httpx.AsyncClient) -> None:
    for body, field, problem in REFUSED:
        answer = await admin.put("/instance", json=body)
        assert answer.status_code == 422, body
        (found,) = answer.json()["detail"]
        assert found["field"] == field
        assert problem in found["problem"]
        assert "canary" not in answer.text.replace(field, "")
    assert (await admin.get("/status")).json()["instance"] == "tests"


async def test_a_name_that_the_operator_gave_is_not_overruled(instance: Instance) -> None:
    directory = instance.store.directory
    given = GivenName("pod-7", "GMP_INSTANCE_NAME")
    services = replace(instance.services, instance=InstanceAdministration(directory, directory, given))
    async with instance.client(app=create_app(services)) as client:
        refused = await client.put("/instance", json={"instance_name": "mail-eu", "scheduler_active": False})
        assert refused.status_code == 422
        (problem,) = refused.json()["detail"]
        assert problem == {
            "field": "instance_name",
            "problem": "is set by GMP_INSTANCE_NAME, which counts: change it there",
        }
        status = (await client.get("/status")).json()
    assert (status["instance"], status["scheduler_active"]) == ("pod-7", True)  # all or nothing


# -- the admin token ---------------------------------------------------------------------------------------------------


def config(instance: Instance) -> Path:
    path = instance.services.admin_token.file
    assert path is not None
    return path


async def works(instance: Instance, token: str) -> bool:
    async with instance.client(token) as client:
        return (await client.get("/tenants")).status_code == 200


async def test_a_new_admin_token_counts_at_once_and_after_a_restart(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    path = config(instance)
    neighbour = AdminToken(Settings.load({"GMP_DATA_DIR": str(path.parent)}, Path("/nonexistent")))
    answer = await admin.post("/instance/api-token")
    token = answer.json()["api_token"]
    assert len(token) == 43
    assert await works(instance, token)
    assert not await works(instance, ADMIN_TOKEN)
    assert neighbour.digest() == instance.services.admin_token.digest()  # another worker
    restarted = Settings.load({"GMP_DATA_DIR": str(path.parent)}, Path("/nonexistent"))
    assert restarted.api_token.reveal() == token
    assert oct(path.stat().st_mode & 0o777) == "0o600"


async def test_where_the_token_comes_from_the_environment_it_stays(instance: Instance) -> None:
    environ = {"GMP_DATA_DIR": str(config(instance).parent), "GMP_API_TOKEN": "given"}
    settings = Settings.load(environ, Path("/nonexistent"))  # which beats the file
    app = create_app(replace(instance.services, admin_token=AdminToken(settings)))
    async with instance.client("given", app) as client:
        answer = await client.post("/instance/api-token")
        assert (answer.status_code, answer.json()["code"]) == (409, "token_is_fixed")
        assert "GMP_API_TOKEN" in answer.json()["error"]
        assert (await client.get("/tenants")).status_code == 200
    assert ADMIN_TOKEN in config(instance).read_text()


async def test_of_two_who_ask_at_once_one_gets_a_token(instance: Instance, admin: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(admin.post("/instance/api-token") for _ in range(4)))
    codes = sorted(answer.json().get("code", "") for answer in answers)
    assert codes[0] == ""
    assert set(codes[1:]) <= {"token_changed", "unauthorized"}
    (token,) = (answer.json()["api_token"] for answer in answers if answer.status_code == 200)
    assert await works(instance, token)


async def test_a_token_that_cannot_be_kept_does_not_count(
    instance: Instance, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = await admin.post("/instance/api-token")
    assert (answer.status_code, answer.json()["code"]) == (409, "config_not_writable")
    assert "No space left on device" in answer.json()["error"]
    assert await works(instance, ADMIN_TOKEN)
    config(instance).chmod(0o644)
    answer = await admin.post("/instance/api-token")
    assert (answer.status_code, answer.json()["code"]) == (409, "config_not_writable")
    assert await works(instance, ADMIN_TOKEN)


async def test_a_file_that_says_nothing_of_use_changes_nothing(instance: Instance) -> None:
    path = config(instance)
    for text in ("api_token = ", "port = 1", "api_token = 'two words'", "api_token = ''"):
        path.write_text(text)
        assert await works(instance, ADMIN_TOKEN)
    path.unlink()
    assert await works(instance, ADMIN_TOKEN)
    path.touch(0o600)
    path.write_text("api_token = 'by-hand'")
    assert await works(instance, "by-hand")
    assert not await works(instance, ADMIN_TOKEN)


async def test_a_worker_that_is_started_anew_does_not_go_back_to_the_token_of_its_parent(instance: Instance) -> None:
    path = config(instance)
    parent = Settings.load({"GMP_DATA_DIR": str(path.parent)}, Path("/nonexistent"))
    path.write_text("api_token = ")
    services = replace(instance.services, admin_token=AdminToken(parent))
    async with instance.client(ADMIN_TOKEN, create_app(services)) as client:
        assert (await client.get("/tenants")).status_code == 401
        path.write_text("api_token = 'mended'")
        assert (await client.get("/tenants", headers={"X-API-Token": "mended"})).status_code == 200
