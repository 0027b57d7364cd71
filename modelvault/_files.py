"""Files: bounded reads, atomic writes, and opening a path that must stay inside a folder."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from modelvault.errors import FileError


def reason(error: OSError) -> str:
    """The system's words for an OSError, lower case, without the path."""
    return (error.strerror or type(error).__name__).lower()


def readable(path: str | os.PathLike[str]) -> str:
    """The path as UTF-8 can hold it: bytes that are none become ``\\udcff`` and the like, as in messages."""
    return os.fspath(path).encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def failures(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError into a FileError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{os.fspath(path)}: {reason(error)}") from None


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether something is there; FileError where that cannot be known: no permission, a name that is too long."""
    with failures(path):
        return Path(path).exists()


def beside(path: Path, suffix: str) -> Path:
    """The path of the same name with ``suffix`` after it; FileError where ``path`` names no file, as ``.`` or ``/``."""
    if not path.name:
        raise FileError(f"{path}: names no file")
    return path.with_name(path.name + suffix)


def real(path: str | os.PathLike[str]) -> Path:
    """The absolute path with links followed; Path.resolve raises RuntimeError for a loop of them."""
    with failures(path):
        return Path(os.path.realpath(path))


def open_regular(path: str | os.PathLike[str], *, flags: int = 0, dir_fd: int | None = None) -> int:
    """Open for reading without ever blocking on a FIFO or device; returns a descriptor of a regular file."""
    if "\0" in os.fsdecode(path):  # no OSError to Python
        raise FileError(f"{os.fsdecode(path)}: NUL in a path")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=dir_fd)
    try:
        check_regular(descriptor, path)
    except FileError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(descriptor: int, path: str | os.PathLike[str]) -> None:
    """FileError where an open descriptor is a folder, FIFO, socket or device."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise FileError(f"{os.fspath(path)}: not a regular file")


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """A regular file's whole content, refused above ``limit`` bytes."""
    with failures(path), open(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileError(f"{os.fspath(path)}: larger than the limit of {limit} bytes")
    return data


def read_into(descriptor: int, view: memoryview, offset: int) -> None:
    """Fill ``view`` from ``offset`` of a file; FileError where the file ends early."""
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise FileError(f"file ended at byte {offset + done} while it was being read")
        done += count


def read_rest(descriptor: int, size: int, offset: int) -> bytes:
    """``size`` bytes from ``offset`` of a file; FileError where the file ends early."""
    data = bytearray(size)
    read_into(descriptor, memoryview(data), offset)
    return bytes(data)


def split_inside(location: str) -> tuple[str, ...]:
    """The components of a relative POSIX path that cannot leave its folder; FileError says why it could."""
    if not location:
        raise FileError("empty path")
    if "\\" in location or "\0" in location:
        raise FileError(f"{location!r}: backslash or NUL in a path")
    path = PurePosixPath(location)
    if path.is_absolute() or (len(location) > 1 and location[1] == ":"):
        raise FileError(f"{location!r}: absolute path")
    if ".." in path.parts:
        raise FileError(f"{location!r}: path leaves its folder through '..'")
    if not path.parts:
        raise FileError(f"{location!r}: names no file")
    return path.parts


def open_inside(folder: str | os.PathLike[str], location: str) -> int:
    """Open ``location`` below ``folder`` following no symbolic link; returns a descriptor of a regular file."""
    *parents, name = split_inside(location)
    with failures(folder):
        current = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = below
        return open_regular(name, flags=os.O_NOFOLLOW, dir_fd=current)
    except OSError as error:
        words = "is a symbolic link" if error.errno in (errno.ELOOP, errno.ENOTDIR) else reason(error)
        raise FileError(f"{location}: {words}") from None
    finally:
        os.close(current)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Write to a temporary file in the same folder, sync, rename: after any failure ``path`` is as it was.

    FileError where something else than a regular file stands there: a rename would put a file in a device's place.
    """
    target = Path(path)
    _check_replaceable(target)
    with failures(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent or ".")
    try:
        with failures(path), open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        with failures(path):
            Path(temporary).replace(target)
            sync_folder(target.parent)
    except BaseException:
        remove(temporary)
        raise


def _check_replaceable(target: Path) -> None:
    with failures(target), contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if not stat.S_ISREG(mode):
            raise FileError(f"{target}: is a directory" if stat.S_ISDIR(mode) else f"{target}: not a regular file")


def write_bytes(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Atomically write a small file."""
    with atomic_write(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a temporary folder beside ``path``, then rename it: after any failure nothing stands there."""
    target = Path(path)
    with failures(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        yield temporary
        with failures(path):
            temporary.chmod(0o755)
            sync_folder(temporary)
            temporary.rename(target)
            sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_new(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Write and sync a file where nothing stands yet; after a failure nothing stands there."""
    with failures(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with failures(path), open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        remove(path)
        raise


def remove(*paths: str | os.PathLike[str]) -> None:
    """Take back what was written, as far as that can be done."""
    for path in paths:
        with contextlib.suppress(OSError):
            Path(path).unlink()


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make a rename or a new file in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
