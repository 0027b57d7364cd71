"""The files of one log: closed segments NAME.000000, NAME.000001 and so on, and the open one, NAME."""

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from modelvault import _files
from modelvault.audit.lines import MAX_LINE
from modelvault.errors import AuditTampered

LOCK_SECONDS = 30.0
ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One file of a snapshot: the first ``size`` bytes belong to it, whatever a writer appends meanwhile."""

    path: Path
    file: BinaryIO
    size: int


def segment_path(log: Path, number: int) -> Path:
    """The closed segment that holds epoch ``number``."""
    return _files.beside(log, f".{number:06d}")


def closed_segments(log: Path) -> list[Path]:
    """Closed segments in order; AuditTampered where one of them is missing."""
    pattern = re.compile(re.escape(log.name) + r"\.([0-9]{6})")
    folder = log.parent
    names = [name.name for name in folder.iterdir()] if folder.is_dir() else []
    numbers = sorted(int(found[1]) for name in names if (found := pattern.fullmatch(name)))
    for expected, number in enumerate(numbers):
        if number != expected:
            raise AuditTampered(f"{log}: segment {segment_path(log, expected).name} is missing", verdict="modified")
    return [segment_path(log, number) for number in numbers]


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last whole lines of a file, without their newlines. Raises FileError."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count * (MAX_LINE + 1)))
        return file.read(count * (MAX_LINE + 1)).split(b"\n")[:-1][-count:]


def lock(descriptor: int, kind: int) -> None:
    """flock with a limit on the wait. Not lockf: closing any other descriptor of the file would drop it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EDEADLK, "lock held by another process") from None
            time.sleep(0.001)
        else:
            return


def open_locked(path: Path) -> int:
    """A descriptor of a file, made if missing, locked against every other writer. Raises OSError, FileError."""
    while True:
        created = not path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        try:
            _files.check_regular(descriptor, path)
            if created:
                _files.sync_folder(path.parent)
            lock(descriptor, fcntl.LOCK_EX)
            if same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was replaced while we waited


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[int]:
    """A locked descriptor, unlocked at the end. Closing alone would not do: a forked process may hold a copy of it."""
    descriptor = open_locked(path)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def same_file(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the file that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def snapshot(log: Path) -> Iterator[list[Segment]]:
    """All files of a log as they stood between two appends: a running writer is not damage.

    Raises FileError, AuditTampered.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(ATTEMPTS):
            with _files.failures(log):
                found = _attempt(log, stack)
            if found is not None:
                yield found
                return
            stack.close()
        raise AuditTampered(f"{log}: replaced over and over while it was being opened", verdict="modified")


def _attempt(log: Path, stack: contextlib.ExitStack) -> list[Segment] | None:
    """The snapshot, or None where a writer closed a segment meanwhile."""
    if not log.exists() and (closed := closed_segments(log)):  # between closing a segment and the next append
        found = [open_segment(path, stack) for path in closed]
        return None if log.exists() or closed_segments(log) != closed else found
    live = open_segment(log, stack)
    descriptor = live.file.fileno()
    lock(descriptor, fcntl.LOCK_SH)
    try:
        if not same_file(descriptor, log):
            return None
        found = [open_segment(path, stack) for path in closed_segments(log)]
        return [*found, Segment(path=log, file=live.file, size=os.fstat(descriptor).st_size)]
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_segment(path: Path, stack: contextlib.ExitStack) -> Segment:
    """One file as it stands. Raises FileError, OSError."""
    file = stack.enter_context(os.fdopen(_files.open_regular(path), "rb"))
    return Segment(path=path, file=file, size=os.fstat(file.fileno()).st_size)
