"""Seats for sessions that are open at once: a locked file each, which the kernel unlocks when its process ends."""

import contextlib
import fcntl
import os
from pathlib import Path

from modelvault import _files
from modelvault.errors import AuditUnavailable


def _folder(log: Path) -> Path:
    return _files.beside(log, ".sessions")


class Seat:
    """One session's seat, held from before its record of intent until it is closed."""

    def __init__(self, log: Path, load: str) -> None:
        """Take it; AuditUnavailable where its file cannot be made."""
        self._path = _folder(log) / load
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditUnavailable(f"{self._path}: {_files.reason(error)}") from None
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self, *, logged: bool) -> None:
        """Give it up. Its file goes once the log has the session's end; until then the file shows that nobody holds it.

        Twice is harmless.
        """
        if logged:
            with contextlib.suppress(OSError):
                self._path.unlink()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(log: Path, load: str) -> bool:
    """Whether a seat is held by a living process. A file that was removed under its session counts as held."""
    try:
        descriptor = os.open(_folder(log) / load, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def forget(log: Path, load: str) -> None:
    """Remove the file of a session that is known to have ended."""
    with contextlib.suppress(OSError):
        (_folder(log) / load).unlink()
