"""Copy a log to a place out of the host's reach: a folder, an object store, whatever fsspec opens. Extra: ship."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modelvault.audit.cosigned import cosigned_path
from modelvault.audit.segments import closed_segments, snapshot
from modelvault.audit.verification import verify_log
from modelvault.checkpoint import MAX_NOTE
from modelvault.errors import FileError, ModelVaultError
from modelvault.keys import HostPublic

CHUNK = 2**20
T = TypeVar("T")


def ship(log: Path, key: HostPublic, target: str) -> list[str]:
    """Copy what the target does not have; returns the names copied. Run again after an interruption, it goes on.

    The log must extend the newest checkpoint at the target, or nothing is copied: a host whose log was cut cannot make
    the copy forget. A closed segment is copied once and never replaced, so that pruning here keeps the records there.
    Checkpoints are files of their own that are only added, as stores with object lock need. Raises as verify_log;
    FileError where the target cannot be written.
    """
    place = _Place(target)
    against = place.newest_checkpoint(log.name)
    report = verify_log(log, key, against=against)
    copied = []
    for path in closed_segments(log):
        if place.size(path.name) is None:
            with open(path, "rb") as file:
                place.put(path.name, partial(file.read, CHUNK))
            copied.append(path.name)
    with snapshot(log) as segments:
        live = segments[-1]
        if live.path == log and live.size != place.size(log.name):
            live.file.seek(0)
            left = [live.size]
            place.put(log.name, partial(_read, live.file, left))
            copied.append(log.name)
    name = f"{log.name}.checkpoint-{report.size:012d}"
    if place.size(name) is None:
        place.put_bytes(name, report.head.encode())
        copied.append(name)
    if (cosigned := cosigned_path(log)).exists():
        place.put_bytes(cosigned.name, cosigned.read_bytes())
    return copied


def _read(file: Any, left: list[int]) -> bytes:
    data: bytes = file.read(min(CHUNK, left[0]))
    left[0] -= len(data)
    return data


class _Place:
    """A folder of any file system that fsspec knows."""

    def __init__(self, target: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise ModelVaultError("shipping a log needs fsspec: pip install 'modelvault[ship]'") from None
        self.target = target
        self.files, self.root = self._try(lambda: fsspec.core.url_to_fs(target))
        self._try(lambda: self.files.makedirs(self.root, exist_ok=True))

    def _try(self, work: Callable[[], T]) -> T:
        """Stores raise what their clients raise; here it is a FileError."""
        try:
            return work()
        except ModelVaultError:
            raise
        except Exception as error:
            words = error.strerror if isinstance(error, OSError) else None
            words = " ".join((words or str(error)).split())[:200] or type(error).__name__
            raise FileError(f"{self.target}: {words.lower()}") from None

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def size(self, name: str) -> int | None:
        def look() -> int | None:
            path = self._path(name)
            self.files.invalidate_cache()
            return int(self.files.size(path)) if self.files.exists(path) else None

        return self._try(look)

    def put(self, name: str, read: Callable[[], bytes]) -> None:
        """Write under another name first: half a copy never has the name of a whole one."""

        def write() -> None:
            part = self._path(f"{name}.part")
            with self.files.open(part, "wb") as file:
                while data := read():
                    file.write(data)
            self.files.mv(part, self._path(name))

        self._try(write)

    def put_bytes(self, name: str, data: bytes) -> None:
        parts = iter([data])
        self.put(name, lambda: next(parts, b""))

    def newest_checkpoint(self, log: str) -> str | None:
        def look() -> str | None:
            pattern = re.compile(re.escape(log) + r"\.checkpoint-([0-9]{12})")
            self.files.invalidate_cache()
            names = [path.rsplit("/", 1)[-1] for path in self.files.ls(self.root, detail=False)]
            newest = max((name for name in names if pattern.fullmatch(name)), default=None)
            if newest is None:
                return None
            with self.files.open(self._path(newest), "rb") as file:
                data: bytes = file.read(MAX_NOTE)
            return data.decode("utf-8")

        return self._try(look)
