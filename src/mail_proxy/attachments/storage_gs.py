"""Signed URLs for Google Cloud Storage, by its own library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from mail_proxy.attachments.storage_cloud import NoCredentials, Signed, Signer
from mail_proxy.domain.large_file import StoragePlace

ENDPOINT = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


class GsSigner(Signer):
    """Signs with the key of a service account; without one, by the environment's default credentials."""

    def __init__(self, place: StoragePlace) -> None:
        self._place = place
        given = place.credentials.get("endpoint_url")
        self._endpoint = ENDPOINT if given is None else given.reveal().rstrip("/")
        self._credentials: Any = None

    @override
    def put(self, name: str, seconds: float) -> Signed:
        return Signed(self._url(name, "PUT", seconds))

    @override
    def delete(self, name: str, seconds: float) -> Signed:
        url = f"{self._endpoint}/storage/v1/b/{quote(self._place.bucket, safe='')}/o/{quote(name, safe='')}"
        return Signed(url, {"Authorization": f"Bearer {self._token()}"})

    @override
    def get(self, name: str, seconds: float, disposition: str, mime_type: str) -> Signed:
        return Signed(self._url(name, "GET", seconds, response_disposition=disposition, response_type=mime_type))

    def _url(self, name: str, method: str, seconds: float, **more: str) -> str:
        from google.cloud.storage import Client  # noqa: PLC0415

        credentials = self._ready()
        blob = Client(project="-", credentials=credentials).bucket(self._place.bucket).blob(name)
        url: str = blob.generate_signed_url(
            version="v4",
            expiration=timedelta(seconds=int(seconds)),
            method=method,
            credentials=credentials,
            api_access_endpoint=self._endpoint,
            **self._without_key(credentials),
            **more,
        )
        return url

    def _without_key(self, credentials: Any) -> Mapping[str, str]:  # noqa: ANN401 - as below
        """Where the machine has an account without its key: what Google is asked with to sign for it."""
        from google.auth.credentials import Signing  # noqa: PLC0415

        if isinstance(credentials, Signing):
            return {}
        token = self._token()
        account = getattr(credentials, "service_account_email", None)
        if not account:
            raise NoCredentials("it needs a service account; those of the environment belong to none")
        return {"service_account_email": account, "access_token": token}

    def _token(self) -> str:
        credentials = self._ready()
        if hasattr(credentials, "with_always_use_jwt_access"):
            # a token that the account signs itself, which needs no network
            credentials = credentials.with_scopes([_SCOPE]).with_always_use_jwt_access(True)
            credentials.refresh(None)
        elif not credentials.valid:
            from google.auth.transport.requests import Request  # noqa: PLC0415

            credentials.refresh(Request())
        token: str = credentials.token
        return token

    def _ready(self) -> Any:  # noqa: ANN401 - its library has no types
        if self._credentials is None:
            from google.auth import default  # noqa: PLC0415
            from google.oauth2.service_account import Credentials  # noqa: PLC0415

            given = self._place.credentials.get("service_account")
            if given is None:
                self._credentials, _ = default(scopes=[_SCOPE])
            else:
                self._credentials = Credentials.from_service_account_info(json.loads(given.reveal()))
        return self._credentials
