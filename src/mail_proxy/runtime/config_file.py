"""The file `config.toml` in the data folder: settings of one instance, and the one that the server writes back itself.

It may hold secrets, so it is for its owner, as the key file is. It is written anew beside the old one and put in its
place in one step: a crash at any moment leaves the one or the other.
"""  # G16

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

NAME = "config.toml"
Seen = tuple[int, int, int, int]
"""What tells one version of the file from another, as far as the system says."""


class ConfigRefused(Exception):
    """The file cannot be read as it is; the text says what to do, and never what it holds."""


class ConfigChanged(Exception):
    """The file no longer says what its reader thought."""


class ConfigUnsure(Exception):
    """The new file is in its place, but the disk did not say that it will be there after a loss of power."""


class ConfigFile:
    """One file, which may be a link to another."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """True where there is anything of that name."""
        return self.path.exists() or self.path.is_symlink()

    def seen(self) -> Seen | None:
        """Tell this version of the file from others; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self) -> dict[str, object]:
        """Return what it sets, by name; raises `ConfigRefused`."""
        return _parsed(self.path, self._text())

    def create(self, comment: str, values: Mapping[str, object]) -> bool:
        """Write a new file, for its owner alone; False where there is one already, be it since a moment."""
        import tomlkit  # noqa: PLC0415 - as below

        document = tomlkit.document()
        document.add(tomlkit.comment(comment))
        for name, value in values.items():
            document[name] = value
        anew = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        with os.fdopen(os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(tomlkit.dumps(document).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(anew, self.path)  # of several at a time one makes it
        except FileExistsError:
            return False
        finally:
            anew.unlink(missing_ok=True)
        return True

    def replace(self, name: str, value: str | float | None, still: Callable[[object], bool]) -> None:
        """Give a setting another value, and leave everything else as it is, comments too. Blocks until it is on disk.

        With None it is taken out.
        Raises `ConfigChanged` unless `still` holds of the present value, `ConfigRefused` for a file that cannot be
        read, `OSError`, after which the file is the old one, and `ConfigUnsure`, after which it is the new one.
        """
        import tomlkit  # noqa: PLC0415 - takes a while, and few need it

        real = self.path.resolve()
        with _alone_in(real.parent):
            text = self._text()
            before = _parsed(self.path, text)
            if not still(before.get(name)):
                raise ConfigChanged
            document = tomlkit.parse(text)
            wanted = {each: held for each, held in before.items() if each != name}
            if value is None:
                document.pop(name, None)
            else:
                document[name] = wanted[name] = value
            after = tomlkit.dumps(document)
            if _parsed(self.path, after) != wanted:
                raise ConfigRefused(f"{self.path} cannot be changed without harm to what else it holds.")
            _put_in_place(real, after.encode())

    def _text(self) -> str:
        try:
            mode = self.path.stat().st_mode
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigRefused(f"{self.path} cannot be read: {_reason(error)}.") from None
        # The group is let in, as with the key file.
        if mode & stat.S_IRWXO:
            raise ConfigRefused(f"{self.path} can be read by every user of this machine: chmod 600 {self.path}")
        return text


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror)


def _parsed(path: Path, text: str) -> dict[str, object]:
    import tomlkit  # noqa: PLC0415 - as above
    from tomlkit.exceptions import ParseError, TOMLKitError  # noqa: PLC0415

    try:
        found: Mapping[str, object] = tomlkit.parse(text).unwrap()
    except ParseError as error:  # its own words may hold a piece of the file
        raise ConfigRefused(f"{path} is not TOML at line {error.line}.") from None
    except TOMLKitError:
        raise ConfigRefused(f"{path} is not TOML: a name is there twice.") from None
    return dict(found)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others out that change a file here; the system lets go of it when the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _put_in_place(path: Path, content: bytes) -> None:
    """Write a file that has another's place, rights and group."""
    before = path.stat()
    anew = path.with_name(path.name + ".new")
    anew.unlink(missing_ok=True)  # what a crash has left
    try:
        with os.fdopen(os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            if before.st_gid != os.fstat(file.fileno()).st_gid:
                os.fchown(file.fileno(), -1, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            file.flush()
            os.fsync(file.fileno())
        anew.replace(path)
    except OSError:
        anew.unlink(missing_ok=True)
        raise
    try:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigUnsure(f"{path} has the new value, but the disk did not confirm it ({error.strerror}).") from None
