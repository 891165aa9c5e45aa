"""The folders that an instance makes for itself."""

from __future__ import annotations

from pathlib import Path

WHERE = "GMP_DATA_DIR and GMP_DB_PATH say where it is to be"


class FolderRefused(Exception):
    """A folder or file that the instance needs cannot be made; the text says which setting names it."""


def made(folder: Path) -> Path:
    """Make a folder for this user only where there is none. Raises `FolderRefused`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FolderRefused(f"the folder {folder} cannot be made: {error.strerror}; {WHERE}") from None
    return folder
