"""Signed URLs for Azure Blob Storage, by its own library."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from typing_extensions import override

from mail_proxy.attachments.storage_cloud import NoCredentials, Signed, Signer
from mail_proxy.domain.large_file import StoragePlace

_BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}


class AzSigner(Signer):
    """Signs with the key of a storage account."""

    def __init__(self, place: StoragePlace, environment: Mapping[str, str]) -> None:
        """`environment`: where the account is named, for a place without credentials."""
        self._place = place
        given = {name: value.reveal() for name, value in place.credentials.items()}
        if not given.keys() - {"endpoint_url"}:
            given = {**_from_environment(environment), **given}
        parts = _parts(given.get("connection_string", ""))
        self._account = given.get("account_name") or parts.get("AccountName", "")
        self._key = given.get("account_key") or parts.get("AccountKey", "")
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        endpoint = given.get("endpoint_url") or parts.get("BlobEndpoint")
        self._endpoint = (endpoint or f"https://{self._account}.blob.{suffix}").rstrip("/")

    @override
    def put(self, name: str, seconds: float) -> Signed:
        return Signed(self._url(name, seconds, {"create": True, "write": True}), _BLOCK_BLOB)

    @override
    def delete(self, name: str, seconds: float) -> Signed:
        return Signed(self._url(name, seconds, {"delete": True}))

    @override
    def get(self, name: str, seconds: float, disposition: str, mime_type: str) -> Signed:
        more = {"content_disposition": disposition, "content_type": mime_type}
        return Signed(self._url(name, seconds, {"read": True}, **more))

    def _url(self, name: str, seconds: float, allowed: Mapping[str, bool], **more: Any) -> str:  # noqa: ANN401 - texts
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas  # noqa: PLC0415

        if not self._account or not self._key:
            raise NoCredentials("it needs account_name and account_key, or a connection_string that has both")
        signature = generate_blob_sas(
            account_name=self._account,
            container_name=self._place.bucket,
            blob_name=name,
            account_key=self._key,
            permission=BlobSasPermissions(**allowed),
            expiry=_now() + timedelta(seconds=seconds),
            **more,
        )
        return f"{self._endpoint}/{quote(self._place.bucket)}/{quote(name)}?{signature}"


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Read what Azure's own tools read."""
    found = {
        "connection_string": environment.get("AZURE_STORAGE_CONNECTION_STRING"),
        "account_name": environment.get("AZURE_STORAGE_ACCOUNT"),
        "account_key": environment.get("AZURE_STORAGE_KEY"),
    }
    return {name: value for name, value in found.items() if value}


def _parts(connection_string: str) -> Mapping[str, str]:
    pairs = (part.partition("=") for part in connection_string.split(";") if "=" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}
