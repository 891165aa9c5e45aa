"""Storages that speak the protocols of S3, Google and Azure, as processes of their own on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

AZURITE = Path(sys.prefix) / "azurite"
"""Where `tools/azurite.sh` leaves the program, or why there is none."""
HAS_NANIO = find_spec("nanio") is not None
"""It needs Python 3.11."""
BUCKET = "files"
S3_ID, S3_SECRET = "ID-of-nobody", "secret-of-nobody"
AZ_ACCOUNT = "devstoreaccount1"
# Azurite's own, as its manual names it.
AZ_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_SECONDS = 30.0


@dataclass
class CloudServer:
    """A process, and the port that it listens on."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    _is_up: bool = False

    def wait(self) -> None:
        """Return once it answers."""
        give_up = time.monotonic() + _SECONDS
        while not self._is_up:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self._is_up = True
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < give_up, self.log.read_text()
                time.sleep(0.02)


class CloudServers:
    """All of them, started together since each takes a second; nobody waits before one is wanted."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes what they keep, and their logs."""
        self._folder = folder
        self._servers: dict[str, CloudServer] = {}
        self._bucket_made = False
        self.service_account = service_account()
        if HAS_NANIO:
            (folder / "nanio" / BUCKET).mkdir(parents=True)
            self._start("nanio", [_of_venv("nanio"), "serve", "--data-dir", str(folder / "nanio")])
        self._start("gcs", [_of_venv("gcp-storage-emulator"), "start", "--in-memory", "--default-bucket", BUCKET])
        program = AZURITE / "azurite-blob"
        if program.exists():
            (folder / "azurite").mkdir()
            of_it = ["--silent", "--skipApiVersionCheck", "--location", str(folder / "azurite")]
            self._start("azurite", [str(program), *of_it], host="--blobHost", port="--blobPort")

    def s3(self) -> Mapping[str, str]:
        """Return credentials for a server with the bucket."""
        endpoint = f"http://127.0.0.1:{self._up('nanio').port}"
        return {"access_key_id": S3_ID, "secret_access_key": S3_SECRET, "endpoint_url": endpoint}

    def gs(self) -> Mapping[str, str]:
        """Return credentials for a server with the bucket. It takes any signature for genuine."""
        return {"service_account": self.service_account, "endpoint_url": f"http://127.0.0.1:{self._up('gcs').port}"}

    def az(self) -> Mapping[str, str]:
        """Return credentials for a server with the container."""
        assert (AZURITE / "azurite-blob").exists(), (AZURITE / "why-not").read_text()
        endpoint = f"http://127.0.0.1:{self._up('azurite').port}/{AZ_ACCOUNT}"
        if not self._bucket_made:
            _make_container(endpoint)
            self._bucket_made = True
        return {"account_name": AZ_ACCOUNT, "account_key": AZ_KEY, "endpoint_url": endpoint}

    def stop(self) -> None:
        """End all of them."""
        for server in self._servers.values():
            server.process.kill()
        for server in self._servers.values():
            server.process.wait()

    def _up(self, name: str) -> CloudServer:
        server = self._servers[name]
        server.wait()
        return server

    def _start(self, name: str, command: Sequence[str], host: str = "--host", port: str = "--port") -> None:
        number = free_port()
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, host, "127.0.0.1", port, str(number)],
                cwd=self._folder,
                env={**os.environ, "NANIO_ACCESS_KEY": S3_ID, "NANIO_SECRET_KEY": S3_SECRET},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._servers[name] = CloudServer(process, number, log)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def service_account() -> str:
    """Return the key file of a service account that nobody has ever heard of."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "acme",
            "private_key_id": "1",
            "private_key": key.decode(),
            "client_email": "files@acme.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": "http://127.0.0.1:9/nobody-asks-here",
        }
    )


def _of_venv(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def _make_container(endpoint: str) -> None:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas  # noqa: PLC0415

    allowed = generate_account_sas(
        AZ_ACCOUNT,
        AZ_KEY,
        ResourceTypes(container=True),
        AccountSasPermissions(create=True, write=True),
        datetime.now(timezone.utc) + timedelta(hours=1),
    )
    url = f"{endpoint}/{BUCKET}?restype=container&{allowed}"
    request = Request(url, method="PUT", headers={"Content-Length": "0"})  # noqa: S310 - our own
    with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - our own
        assert answer.status == 201
