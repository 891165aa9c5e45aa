"""The places where tenants' large files may be kept: which there are, and which extra each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from mail_proxy.attachments.storage_az import AzSigner
from mail_proxy.attachments.storage_cloud import CloudStorage, Signer
from mail_proxy.attachments.storage_folder import Below, FolderStorage
from mail_proxy.attachments.storage_gs import GsSigner
from mail_proxy.attachments.storage_s3 import S3Clients, S3Signer
from mail_proxy.domain.errors import Problem
from mail_proxy.domain.extra import how_to_install
from mail_proxy.domain.large_file import StorageKind, StoragePlace
from mail_proxy.ports.attachments import Transfers
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, Storages

EXTRAS: Mapping[StorageKind, tuple[str, str]] = {
    StorageKind.S3: ("s3", "botocore"),
    StorageKind.GS: ("gcs", "google.cloud.storage"),
    StorageKind.AZ: ("azure", "azure.storage.blob"),
}
"""The extra of each cloud, and the module that it brings."""
MOST_OPEN = 1000
"""Places that are kept open; each holds a signer, and no connection."""
PATIENCE = 60.0
"""Seconds that a disk or a cloud may take without any progress."""


class OpenStorages(Storages):
    """Opens places at their first use. `environment`: where Azure's credentials are looked for."""

    def __init__(
        self,
        roots: Sequence[Path],
        transfers: Transfers,
        environment: Mapping[str, str],
        patience: float = PATIENCE,
    ) -> None:
        self._roots = [root.resolve() for root in roots]
        self._transfers = transfers
        clients = S3Clients()
        self._signers: Mapping[StorageKind, Callable[[StoragePlace], Signer]] = {
            StorageKind.S3: lambda place: S3Signer(place, clients),
            StorageKind.GS: GsSigner,
            StorageKind.AZ: lambda place: AzSigner(place, environment),
        }
        self._patience = patience
        self._open: dict[tuple[object, ...], FileStorage] = {}

    @override
    def problem(self, place: StoragePlace) -> Problem | None:
        refused = self._refused(place)
        if refused is not None or place.kind is not StorageKind.FILE:
            return refused
        folder = self._below(place)
        if folder is None or folder.root.is_dir():
            return None
        missing = (
            f"is below {folder.root} of GMP_STORAGE_ROOTS, which is not there: make that folder, or mount its disk"
        )
        return Problem("storage_url", missing)

    def _refused(self, place: StoragePlace) -> Problem | None:
        if place.kind is StorageKind.FILE:  # which has no credentials
            return self._folder_problem(place)
        if place.unreadable:
            return Problem("credentials", "its credentials cannot be opened with any key; give them anew")
        extra, module = EXTRAS[place.kind]
        if _is_there(module):
            return None
        needed = f"needs the extra [{extra}], or [large-files] for all clouds: {how_to_install(extra)}"
        return Problem("storage_url", needed)

    @override
    async def at(self, place: StoragePlace) -> FileStorage:
        problem = self._refused(place)  # anew each time: a link may have been put in the folder's place
        if problem is not None:
            raise StorageFailed(f"{place.url}: {problem.problem}", permanent=True)
        key = (place.url, *sorted(place.credentials.items(), key=lambda item: item[0]))
        found = self._open.get(key)
        if found is None:
            if len(self._open) >= MOST_OPEN:
                del self._open[next(iter(self._open))]
            found = self._open[key] = self._opened(place)
        return found

    async def close(self) -> None:
        """Forget all places; what is under way there is not waited for."""
        self._open.clear()

    def _opened(self, place: StoragePlace) -> FileStorage:
        if place.kind is not StorageKind.FILE:
            signer = self._signers[place.kind](place)
            return CloudStorage(place.url, place.path, signer, self._transfers, self._patience)
        folder = self._below(place)
        assert folder is not None  # noqa: S101 - `problem` has looked
        return FolderStorage(place.url, folder, self._patience)

    def _folder_problem(self, place: StoragePlace) -> Problem | None:
        if not self._roots:
            return Problem("storage_url", "file:// needs GMP_STORAGE_ROOTS, the folders below which files may be kept")
        if self._below(place) is not None:
            return None
        return Problem("storage_url", "must be below one of the folders of GMP_STORAGE_ROOTS")

    def _below(self, place: StoragePlace) -> Below | None:
        """Resolve a folder with all its links: which root it is below, or None."""
        folder = Path(place.path).resolve()
        for root in self._roots:
            if folder == root or root in folder.parents:
                return Below(root, folder.relative_to(root).parts)
        return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is in is not there
        return False
