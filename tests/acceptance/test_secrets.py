"""Nothing secret comes out: not in logs, files, metrics or answers; and the files are their owner's alone."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.support.callback_server import CallbackServer, Reply
from tests.support.instance import ADMIN_TOKEN, Client, Instance, a_message, eventually
from tests.support.smtp_servers import real_server

ENCRYPTION_KEY = bytes(range(100, 132))
# Long enough that no chance could put them anywhere.
CANARIES = {
    "admin token": ADMIN_TOKEN,
    "metrics token": "canary-metrics-4f1d",
    "encryption key": base64.b64encode(ENCRYPTION_KEY).decode(),
    "SMTP password": "canary-smtp-password-8a2c",
    "wrong SMTP password": "canary-wrong-smtp-password-77b0",
    "refused SMTP password": "canary-refused-smtp-password-e9d1",
    "bearer token of the endpoint": "canary-client-auth-token-d05e",
    "password of the endpoint": "canary-client-auth-password-19ff",
    "token of the global endpoint": "canary-global-sync-token-c3a4",
    "unknown token": "canary-unknown-api-token-5b6d",
}


def disguises(secret: str) -> set[bytes]:
    """Return the forms in which a secret travels: as it is, and inside base64 at each of the three offsets."""
    plain = secret.encode()
    forms = {plain}
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain + b"\0" * (-(offset + len(plain)) % 3))
        # What shares a group of four letters with its neighbours is not told by the secret alone.
        forms.add(encoded[4 if offset else 0 : -4])
    return forms


async def _busy(instance: Instance, client: Client) -> dict[str, str]:
    """Use every secret once in a right and once in a wrong way; return the tenants' tokens."""
    tokens: dict[str, str] = {}
    users = {"mailer": CANARIES["SMTP password"]}
    async with (
        running_sink() as sink,
        real_server(users=users, auth_in_clear=True) as server,
        CallbackServer() as endpoint,
    ):
        wrong_login = {"user": "mailer", "password": CANARIES["wrong SMTP password"]}
        for id_, auth in {
            "bearer": {"method": "bearer", "token": CANARIES["bearer token of the endpoint"]},
            "basic": {"method": "basic", "user": "us", "password": CANARIES["password of the endpoint"]},
            "global": None,
        }.items():
            endpoint.script(Reply(401, b"no"))
            own = {"client_base_url": endpoint.url, "client_auth": auth}
            body = {"id": id_, **({} if auth is None else own)}
            tokens[id_] = (await client.post("/tenant", body))["api_key"]
            account = {"tenant_id": id_, "host": "127.0.0.1", "tls": "none"}
            right = {"id": "right", "port": server.port, "user": "mailer", "password": CANARIES["SMTP password"]}
            await client.post("/account", {**account, **right})
            await client.post("/account", {**account, "id": "wrong", "port": server.port, **wrong_login})
            await client.post("/account", {**account, "id": "plain", "port": sink.port})
            async with instance.client(tokens[id_]) as tenant:
                await tenant.submit(*(a_message(name, account_id=name) for name in ("right", "wrong", "plain")))
                await tenant.message_when("right", "sent")
                await tenant.message_when("plain", "sent")
                await _logged(instance, "account on hold", id_)
                for path in (f"/tenant/{id_}", "/accounts", "/account/right", "/account/wrong", "/messages", "/status"):
                    await tenant.get(path)
                for message_id in ("right", "wrong", "plain"):
                    await tenant.message(message_id)
                    await tenant.events(message_id)
                # Refused, and what is refused is not repeated in the answer.
                refused = {"id": "new", "port": "many", "host": "h", "password": CANARIES["refused SMTP password"]}
                assert (await tenant.ask("POST", "/account", json=refused)).status_code == 422
                moved = {"id": "right", "host": "mail.example.com", "port": 25}
                assert (await tenant.ask("POST", "/account", json=moved)).status_code == 422
                client.answers += tenant.answers
        for id_ in ("bearer", "basic"):
            await _logged(instance, "reported", id_)
        for id_ in ("bearer", "global"):
            await _logged(instance, "report_failed", id_)
        assert {request.headers["authorization"].split()[0] for request in endpoint.requests} == {"Bearer", "Basic"}
        tokens["renewed"] = (await client.post("/tenant/basic/api-key"))["api_key"]
        for path in ("/tenants", "/status", "/openapi.json", "/docs", "/command-log", "/command-log/export"):
            client.answers.append(await client.ask("GET", path))
        async with instance.client(CANARIES["unknown token"]) as stranger:
            assert (await stranger.ask("GET", "/messages")).status_code == 401
            client.answers += stranger.answers
    return tokens


async def _logged(instance: Instance, event: str, tenant_id: str) -> None:
    await eventually(lambda: instance.logged(event, tenant_id=tenant_id), f"{event} of {tenant_id}")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _command_line(pid: int) -> bytes:
    """Return what the process list shows of a process, where the system keeps it as a file."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_bytes() if path.exists() else b""


async def test_no_secret_comes_out_anywhere(new_instance: NewInstance) -> None:
    instance = new_instance(
        LOG_LEVEL="debug",
        LOG_DELIVERY_ACTIVITY="true",
        RETRY_DELAYS="60",
        METRICS_TOKEN=CANARIES["metrics token"],
        ENCRYPTION_KEY=CANARIES["encryption key"],
        CLIENT_SYNC_URL="http://127.0.0.1:9/",
        CLIENT_SYNC_TOKEN=CANARIES["token of the global endpoint"],
    )
    await instance.start()
    async with instance.client() as admin:
        tokens = await _busy(instance, admin)
        bearer = {"Authorization": f"Bearer {CANARIES['metrics token']}"}
        metrics = await admin.ask("GET", "/metrics", headers=bearer)
        assert "gmp_sent_total" in metrics.text
        assert (await admin.ask("GET", "/metrics")).status_code == 401
        running = _files(instance.folder)
        shown = _command_line(instance.pid)
        assert await instance.stop() == 0
        stopped = _files(instance.folder)

    answers = {
        f"{n} {answer.request.method} {answer.request.url.path}": answer.content + str(answer.headers).encode()
        for n, answer in enumerate(admin.answers)
    }
    places = {
        **{f"{name} while running": content for name, content in running.items()},
        **{f"{name} after the end": content for name, content in stopped.items()},
        **answers,
        "the process list": shown,
    }
    # The search sees what is there: names and mail are no secrets.
    databases = b"".join(content for name, content in places.items() if name.startswith("mail_service.db"))
    assert b"mailer" in databases
    assert b"About plain" in databases
    assert b"account on hold" in stopped["serve.out"]
    secrets = CANARIES | {f"token of {id_}": token for id_, token in tokens.items()}
    found = {
        (name, place)
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(form in content for form in disguises(secret))
    }
    # A tenant's token is shown once, in the answer that makes it, and nowhere else.
    once = {(name, place) for name, place in found if name.startswith("token of ")}
    assert found == once
    assert sorted(name for name, _ in once) == sorted(f"token of {id_}" for id_ in tokens)
    assert {place.split(" ", 1)[1] for _, place in once} == {"POST /tenant", "POST /tenant/basic/api-key"}


def test_fresh_files_can_be_read_by_their_owner_alone(shared: Instance) -> None:
    """The umask of the process forbids nothing."""  # G16
    database = ("mail_service.db", "mail_service.db-wal", "mail_service.db-shm", "mail_service.db.lock")
    ours = [*database, "encryption.key", "flight-0.log"]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shared.folder.iterdir()}
    assert {name: modes.pop(name) for name in ours} == dict.fromkeys(ours, 0o600)
    assert modes.keys() == {"serve.out", "serve.err"}  # which the tests made
