"""Signed URLs for Amazon S3 and what speaks its protocol, by botocore."""

from __future__ import annotations

from typing import Any

from typing_extensions import override

from mail_proxy.attachments.storage_cloud import Signed, Signer
from mail_proxy.domain.large_file import StoragePlace

DEFAULT_REGION = "us-east-1"


class S3Signer(Signer):
    """Signs with Signature Version 4. Without credentials the environment's usual ones count."""

    def __init__(self, place: StoragePlace) -> None:
        self._place = place
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
            self._client = self._made()
        wanted = {"Bucket": self._place.bucket, "Key": name, **more}
        return Signed(self._client.generate_presigned_url(operation, Params=wanted, ExpiresIn=int(seconds)))

    def _made(self) -> Any:  # noqa: ANN401 - botocore makes its clients' classes when it runs
        # It takes a third of a second, and is not there without the extra.
        from botocore.config import Config  # noqa: PLC0415
        from botocore.session import Session  # noqa: PLC0415

        given = {name: value.reveal() for name, value in self._place.credentials.items()}
        endpoint = given.get("endpoint_url")
        session = Session()
        region = given.get("region") or session.get_config_variable("region") or DEFAULT_REGION
        style = {"addressing_style": "path"} if endpoint else {}
        return session.create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=given.get("access_key_id"),
            aws_secret_access_key=given.get("secret_access_key"),
            aws_session_token=given.get("session_token"),
            config=Config(signature_version="s3v4", s3=style),
        )
