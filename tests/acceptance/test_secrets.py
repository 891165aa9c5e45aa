"""Nothing secret comes out: not in logs, files, metrics or answers; and the files are their owner's alone."""

from __future__ import annotations

import asyncio
import base64
import html
import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.support.callback_server import CallbackServer, Reply
from tests.support.file_server import FileServer
from tests.support.instance import ADMIN_TOKEN, Client, Instance, a_message, eventually
from tests.support.smtp_servers import EXTENSIONS, Dialogue, real_server, scripted_server

ENCRYPTION_KEY, OLD_KEY = bytes(range(100, 132)), bytes(range(132, 164))
# Long enough that no chance could put them anywhere; some change when they are quoted in one way or another.
CANARIES = {
    "admin token": ADMIN_TOKEN,
    "metrics token": 'canary-metrics/4f1d+"&<',
    "encryption key": base64.b64encode(ENCRYPTION_KEY).decode(),
    "old encryption key": base64.b64encode(OLD_KEY).decode(),
    "SMTP password": 'canary smtp-password "8a2c" <%>&/+',
    "wrong SMTP password": "canary-wrong-smtp-password-77b0",
    "repeated SMTP password": "canary-repeated-smtp-password-30cc",
    "refused SMTP password": "canary-refused-smtp-password-e9d1",
    "bearer token of the endpoint": "canary-client-auth-token/d05e+%41",
    "password of the endpoint": "canary client-auth-password ü 19ff",
    "token of the global endpoint": "canary-global-sync-token-c3a4",
    "password of the global endpoint": "canary-global-sync-password-0b21",
    "token of an attachment": "canary-attachment-token/90d7+%41",
    "password of an attachment": "canary attachment-password ü 5f02",
    "token of the attachment endpoint": "canary-attachment-endpoint-token-b1e0",
    "password of the attachment endpoint": "canary-attachment-endpoint-password-7c55",
    "unknown token": "canary-unknown-api-token-5b6d",
    "of the environment": "canary-of-the-environment-6621",
}


def disguises(secret: str) -> set[bytes]:
    """Return the forms in which a secret travels: as it is, quoted, in hex, and in base64 at each of three offsets."""
    plain = secret.encode()
    quoted = {quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret), repr(secret)[1:-1]}
    quoted |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], plain.hex(), plain.hex().upper()}
    forms = {plain, *(each.encode() for each in quoted)}
    for offset in range(3):
        raw = b"\0" * offset + plain + b"\0" * (-(offset + len(plain)) % 3)
        for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
            # What shares a group of four letters with its neighbours is not told by the secret alone.
            forms.add(encoded[4 if offset else 0 : -4])
    return forms


async def _tenant(
    instance: Instance, admin: Client, id_: str, auth: dict[str, str] | None, secrets: dict[str, str]
) -> str:
    """Have a tenant use its secrets once in a right and once in a wrong way; return its token, and add others made."""
    users = {"mailer": CANARIES["SMTP password"]}
    repeated = CANARIES["repeated SMTP password"]
    plain = base64.b64encode(f"\0mailer\0{repeated}".encode()).decode()
    repeating = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth=f"535 5.7.8 wrong: {repeated} {plain}")
    async with (
        running_sink() as sink,
        real_server(users=users, auth_in_clear=True) as server,
        scripted_server(repeating, repeating) as repeater,
        CallbackServer() as endpoint,
        FileServer() as files,
    ):
        said = "" if auth is None else auth.get("token", auth.get("password", ""))
        endpoint.script(Reply(401, f"not {said}".encode(), {"X-Said": quote(said)}))
        own = {} if auth is None else {"client_base_url": endpoint.url, "client_auth": auth}
        token: str = (await admin.post("/tenant", {"id": id_, **own}))["api_key"]
        for n in range(2):  # in that order: the reports are signed with both
            secrets[f"signing secret {n} of {id_}"] = (await admin.post(f"/tenant/{id_}/signing-secret"))[
                "signing_secret"
            ]
        for name, port, login in (
            ("right", server.port, CANARIES["SMTP password"]),
            ("wrong", server.port, CANARIES["wrong SMTP password"]),
            ("repeated", repeater.port, repeated),
            ("plain", sink.port, None),
        ):
            account = {"tenant_id": id_, "id": name, "host": "127.0.0.1", "port": port, "tls": "none"}
            await admin.post("/account", account if login is None else {**account, "user": "mailer", "password": login})
        async with instance.client(token) as tenant:
            names = ("right", "wrong", "repeated", "plain")
            await tenant.submit(*(a_message(name, account_id=name) for name in names))
            await tenant.message_when("right", "sent")
            await tenant.message_when("plain", "sent")
            for account_id in ("wrong", "repeated"):
                await _logged(instance, "account on hold", tenant_id=id_, account_id=account_id)
            await _attachments(tenant, files)
            for path in ("/accounts", "/messages", "/status", f"/tenant/{id_}", "/account/right", "/account/wrong"):
                await tenant.get(path)
            for name in names:
                await tenant.message(name)
                await tenant.events(name)
                await tenant.get(f"/messages/{name}/explain")
            assert (await admin.ask("POST", f"/account/repeated/test?tenant_id={id_}")).json()["step"] == "login"
            await _refused(tenant)
            admin.answers += tenant.answers
        await _logged(instance, "report_failed", tenant_id=id_)
        if auth is not None:
            await _logged(instance, "reported", tenant_id=id_)
            assert auth["method"] == endpoint.requests[-1].headers["authorization"].split()[0].lower()
    return token


async def _attachments(tenant: Client, files: FileServer) -> None:
    """Send one that can be had with its credentials, and one that cannot, by a server that repeats them."""
    token, password = CANARIES["token of an attachment"], CANARIES["password of an attachment"]
    files.put("/right", Reply(200, b"content"))
    files.put("/wrong", Reply(401, f"not {password}".encode(), {"X-Said": quote(password)}))
    auths = {
        "right": {"method": "bearer", "token": token},
        "wrong": {"method": "basic", "user": "us", "password": password},
    }
    for name, auth in auths.items():
        attachment = {"filename": name, "storage_path": f"{files.url}/{name}", "auth": auth}
        await tenant.submit(a_message(f"file-{name}", account_id="plain", attachments=[attachment]))
    await tenant.message_when("file-right", "sent")
    await tenant.message_when("file-wrong", "failed")
    for name in auths:
        await tenant.events(f"file-{name}")
        await tenant.get(f"/messages/file-{name}/explain")
    (right,), (wrong,) = files.asked("/right"), files.asked("/wrong")
    assert right.headers["authorization"] == f"Bearer {token}"
    assert base64.b64decode(wrong.headers["authorization"].split()[1]).decode() == f"us:{password}"


async def _refused(tenant: Client) -> None:
    """Whatever is refused is not repeated in the answer."""
    secret = CANARIES["refused SMTP password"]
    for body in (
        {"id": "new", "port": "many", "host": "h", "password": secret},
        {"id": "new", "port": 25, "host": "h", "user": "u", "password": [secret]},
        {"id": "new", "port": 25, "host": "h", "user": "u", "password": f"{secret}\n"},
        {"id": "new", "port": 25, "host": f"{secret} {secret}", "user": "u"},
        {"id": "right", "host": "mail.example.com", "port": 25},  # without its password, which would go elsewhere
    ):
        assert (await tenant.ask("POST", "/account", json=body)).status_code == 422
    for content in (f'{{"password": "{secret}', f'{{"password": "{secret}", "password": "{secret}"}}'):
        for path in ("/account", "/commands/add-messages"):
            assert (await tenant.ask("POST", path, content=content)).status_code == 422
    auths: list[object] = [
        {"method": "basic", "user": f"{secret}:", "password": secret},
        {"method": "bearer", "token": f"{secret}\n"},
        {"method": secret, "token": secret},
        secret,
    ]
    file = {"filename": "a", "storage_path": f"https://us:{secret}@acme.example/"}
    for message in (
        a_message("refused", headers={"Authorization": f"{secret}\r\n"}),
        a_message("refused", attachments=[file]),
        *(a_message("refused", attachments=[file | {"storage_path": "https://x.y", "auth": each}]) for each in auths),
    ):
        assert (await tenant.submit(message))["rejected"]
    assert (await tenant.ask("GET", f"/messages?status={secret}")).status_code == 422


async def _refused_to_the_admin(admin: Client) -> None:
    secret = CANARIES["refused SMTP password"]
    for body in (
        {"id": "x", "client_auth": {"method": "bearer", "token": f"{secret} {secret}"}},
        {"id": "x", "client_auth": {"method": "basic", "token": secret, "password": secret}},
        {"id": "x", "client_base_url": f"https://us:{secret}@acme.example"},
    ):
        assert (await admin.ask("POST", "/tenant", json=body)).status_code == 422
    for body in ({"api_token": secret}, {"encryption_key": secret}, {"instance_name": f"{secret} {secret}"}):
        assert (await admin.ask("PUT", "/instance", json=body)).status_code == 422


async def _busy(instance: Instance, admin: Client) -> dict[str, str]:
    """Use every secret once in a right and once in a wrong way; return the tenants' tokens."""
    bearer = {"method": "bearer", "token": CANARIES["bearer token of the endpoint"]}
    basic = {"method": "basic", "user": "us", "password": CANARIES["password of the endpoint"]}
    tenants = {"bearer": bearer, "basic": basic, "global": None}
    secrets: dict[str, str] = {}
    made = await asyncio.gather(*(_tenant(instance, admin, id_, auth, secrets) for id_, auth in tenants.items()))
    tokens = dict(zip(tenants, made, strict=True)) | secrets
    await _refused_to_the_admin(admin)
    tokens["renewed"] = (await admin.post("/tenant/basic/api-key"))["api_key"]
    for path in (
        "/tenants",
        "/status",
        "/instance",
        "/openapi.json",
        "/docs",
        "/ready",
        "/command-log",
        "/command-log/export",
    ):
        assert (await admin.ask("GET", path)).status_code == 200
    for headers in (
        {"X-API-Token": CANARIES["unknown token"]},
        {"Authorization": f"Basic {CANARIES['unknown token']}"},
    ):
        async with instance.client(None) as stranger:
            assert (await stranger.ask("GET", "/messages", headers=headers)).status_code == 401
            assert (await stranger.ask("GET", "/metrics", headers=headers)).status_code == 401
            admin.answers += stranger.answers
    return tokens


async def _logged(instance: Instance, event: str, **facts: str) -> None:
    await eventually(lambda: instance.logged(event, **facts), f"{event} of {facts}")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "config.toml"}


def _tables(url: str) -> Iterator[tuple[str, bytes]]:
    """Give every row of every table of a PostgreSQL database, as text."""
    with closing(psycopg.connect(url)) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in found:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(table))).fetchall()
            yield f"database table {table}", "\n".join(row for (row,) in rows).encode()


def _command_line(pid: int) -> bytes:
    """Return what the process list shows of a process, where the system keeps it as a file."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


def _found(secrets: dict[str, str], places: dict[str, bytes]) -> Sequence[tuple[str, str]]:
    return [
        (name, place)
        for name, secret in secrets.items()
        for form in [disguises(secret)]
        for place, content in places.items()
        if any(each in content for each in form)
    ]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_no_secret_comes_out_anywhere(
    new_instance: NewInstance, database: str, request: pytest.FixtureRequest
) -> None:
    url: str | None = request.getfixturevalue("postgres_url") if database == "postgresql" else None
    instance = new_instance(
        LOG_LEVEL="debug",
        LOG_DELIVERY_ACTIVITY="true",
        RETRY_DELAYS="60",
        METRICS_TOKEN=CANARIES["metrics token"],
        ENCRYPTION_KEY=CANARIES["encryption key"],
        ENCRYPTION_KEYS_OLD=CANARIES["old encryption key"],
        CLIENT_SYNC_URL="http://127.0.0.1:9/",
        ATTACHMENT_BASE_URL="http://127.0.0.1:9/",
        ALLOW_NETWORKS="127.0.0.0/8",
    )
    instance.variables["GREETING"] = CANARIES["of the environment"]
    secrets = dict(CANARIES)
    if url is None:
        instance.settings |= {"CLIENT_SYNC_TOKEN": CANARIES["token of the global endpoint"]}
        instance.settings |= {"ATTACHMENT_TOKEN": CANARIES["token of the attachment endpoint"]}
        config = instance.folder / "config.toml"
        config.touch(0o600)
        config.write_text(f"api_token = '{instance.settings.pop('API_TOKEN')}'\n")
    else:
        password = CANARIES["password of the global endpoint"]
        instance.settings |= {"DB_PATH": url, "CLIENT_SYNC_USER": "us", "CLIENT_SYNC_PASSWORD": password}
        other = CANARIES["password of the attachment endpoint"]
        instance.settings |= {"ATTACHMENT_USER": "us", "ATTACHMENT_PASSWORD": other}
        secrets["password of the database"] = str(make_url(url).password)
    await instance.start()
    async with instance.client() as admin:
        tokens = {f"token of {id_}": token for id_, token in (await _busy(instance, admin)).items()}
        bearer = {"Authorization": f"Bearer {CANARIES['metrics token']}"}
        metrics = await admin.ask("GET", "/metrics", headers=bearer)
        assert "gmp_sent_total" in metrics.text
        renewed = await admin.ask("POST", "/instance/api-token")
        assert renewed.status_code == (200 if url is None else 409)
        if url is None:
            tokens["new admin token"] = renewed.json()["api_token"]
        running = _files(instance.folder)
        shown = _command_line(instance.pid)
        tables = {} if url is None else dict(_tables(url))
        assert await instance.stop() == 0
        stopped = _files(instance.folder)

    answers = {
        f"{n} {answer.request.method} {answer.request.url.path}": answer.content + str(answer.headers).encode()
        for n, answer in enumerate(admin.answers)
    }
    places = {
        **{f"{name} while running": content for name, content in running.items()},
        **{f"{name} after the end": content for name, content in stopped.items()},
        **tables,
        **answers,
        "the process list": shown,
    }
    # The search sees what is there: names and mail are no secrets, and neither is that a secret was masked.
    databases = b"".join(
        content for name, content in places.items() if name.startswith(("mail_service.db", "database"))
    )
    assert b"mailer" in databases
    assert b"About plain" in databases
    assert b"ENC1:" in databases
    assert b"wrong: ******** ********" in databases + stopped["serve.out"]
    assert b"account on hold" in stopped["serve.out"]
    assert _found(secrets, places) == []
    # A token that is made is shown once, in the answer that makes it, and nowhere else.
    once = _found(tokens, places)
    assert sorted(name for name, _ in once) == sorted(tokens)
    makers = {"POST /tenant", "POST /tenant/basic/api-key"} | ({"POST /instance/api-token"} if url is None else set())
    makers |= {f"POST /tenant/{id_}/signing-secret" for id_ in ("bearer", "basic", "global")}
    assert {place.split(" ", 1)[1] for _, place in once} == makers


def test_fresh_files_can_be_read_by_their_owner_alone(shared: Instance) -> None:
    """The umask of the process forbids nothing."""  # G16
    database = ("mail_service.db", "mail_service.db-wal", "mail_service.db-shm", "mail_service.db.lock")
    ours = [*database, "encryption.key", "flight-0.log"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shared.folder.iterdir()}
    assert {name: modes.pop(name) for name in ours} == dict.fromkeys(ours, 0o600)
    assert {modes.pop(name) for name in ("spool", "attachments")} == {0o700}
    assert modes.keys() == {"serve.out", "serve.err"}  # which the tests made
