"""Signed URLs for Amazon S3 and what speaks its protocol, by botocore."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override

from mail_proxy.attachments.storage_cloud import NoCredentials, Signed, Signer
from mail_proxy.domain.large_file import StoragePlace

DEFAULT_REGION = "us-east-1"
AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
"""Whose names have a certificate for every bucket; elsewhere the bucket stands in the path."""


class S3Clients:
    """Makes clients of botocore, whose tables are loaded once for all of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._session: Any = None

    def made(self, given: Mapping[str, str]) -> Any:  # noqa: ANN401 - botocore makes its clients' classes when it runs
        """Return a client with these credentials, on a thread. Raises `NoCredentials`."""
        from botocore.config import Config  # noqa: PLC0415 - a third of a second, and not there without the extra
        from botocore.session import Session  # noqa: PLC0415

        with self._lock:  # a session is not for several threads, its clients are
            if self._session is None:
                self._session = Session()
            session = self._session
            if "access_key_id" not in given and session.get_credentials() is None:
                raise NoCredentials("it needs access_key_id and secret_access_key, or those of the environment")

            def client(style: str) -> Any:  # noqa: ANN401 - as above
                return session.create_client(
                    "s3",
                    region_name=given.get("region") or session.get_config_variable("region") or DEFAULT_REGION,
                    endpoint_url=given.get("endpoint_url"),
                    aws_access_key_id=given.get("access_key_id"),
                    aws_secret_access_key=given.get("secret_access_key"),
                    aws_session_token=given.get("session_token"),
                    config=Config(signature_version="s3v4", s3={"addressing_style": style}),
                )

            # By default a signed URL names no region, and others than the first answer it with a redirect.
            made = client("virtual")
            host = urlsplit(made.meta.endpoint_url).hostname or ""
            return made if host.endswith(AMAZON) else client("path")


class S3Signer(Signer):
    """Signs with Signature Version 4. Without credentials the environment's usual ones count."""

    def __init__(self, place: StoragePlace, clients: S3Clients) -> None:
        self._place = place
        self._clients = clients
        self._client: Any = None

    @override
    def put(self, name: str, seconds: float) -> Signed:
        return self._signed("put_object", name, seconds)

    @override
    def delete(self, name: str, seconds: float) -> Signed:
        return self._signed("delete_object", name, seconds)

    @override
    def get(self, name: str, seconds: float, disposition: str, mime_type: str) -> Signed:
        return self._signed(
            "get_object", name, seconds, ResponseContentDisposition=disposition, ResponseContentType=mime_type
        )

    def _signed(self, operation: str, name: str, seconds: float, **more: str) -> Signed:
        if self._client is None:
            self._client = self._clients.made({name: each.reveal() for name, each in self._place.credentials.items()})
        wanted = {"Bucket": self._place.bucket, "Key": name, **more}
        return Signed(self._client.generate_presigned_url(operation, Params=wanted, ExpiresIn=int(seconds)))
