"""The files beside a model: listed within bounds, links not followed, each with its first bytes."""

import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from modelvault import _files
from modelvault.errors import FileError
from modelvault.scan.finding import Hit, plain

HEAD = 64 * 2**10
MAX_FILES = 100_000
MAX_MEMBERS = 100_000
MAX_READ = 64 * 2**20
FILE, LINK, SPECIAL = "file", "link", "special"
ZIP = b"PK\x03\x04"


class _Bounded(BufferedReader):
    """A file that gives no more than MAX_READ bytes at once, whatever size its own tables claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_READ:
            raise FileError(f"expected to read at most {MAX_READ} bytes at once, got {size}")
        return super().read(MAX_READ if size is None or size < 0 else size)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """A file beside the model: its first bytes, and a way to open it. ``kind``: file, link or special."""

    path: str
    kind: str
    size: int
    head: bytes
    open: Callable[[], BinaryIO] | None

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()


def of_folder(folder: Path) -> list[AssetFile]:
    """Every entry below a folder that is no folder, links not followed. Raises FileError."""
    found: list[AssetFile] = []

    def refuse(error: OSError) -> None:
        raise FileError(f"{error.filename}: {_files.reason(error)}")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            found.append(of_file(folder, path.relative_to(folder).as_posix()))
            if len(found) > MAX_FILES:
                raise FileError(f"{folder}: more than {MAX_FILES} files")
    return found


def of_file(folder: Path, path: str) -> AssetFile:
    """One entry of a folder. Raises FileError."""
    whole = folder / path
    with _files.failures(whole):
        info = whole.lstat()
        if not stat.S_ISREG(info.st_mode):
            kind = LINK if stat.S_ISLNK(info.st_mode) else SPECIAL
            return AssetFile(path=path, kind=kind, size=0, head=b"", open=None)

        def opened() -> BinaryIO:
            with _files.failures(whole):
                return _Bounded(FileIO(_files.open_regular(whole, flags=os.O_NOFOLLOW)))

        with opened() as file:
            head = file.read(HEAD)
    return AssetFile(path=path, kind=FILE, size=info.st_size, head=head, open=opened)


def of_memory(path: str, data: memoryview) -> AssetFile:
    """A decrypted asset; an archive's table of contents is read from a copy."""
    return AssetFile(
        path=path,
        kind=FILE,
        size=len(data),
        head=bytes(data[:HEAD]),
        open=lambda: _Bounded(BytesIO(bytes(data))),
    )


def hit_of(asset: AssetFile, message: str) -> Hit:
    return Hit("", message, plain(asset.path))


def members(asset: AssetFile) -> list[zipfile.ZipInfo]:
    """The table of contents of a zip archive; empty for a broken one."""
    if asset.open is None:
        return []
    with asset.open() as file:
        try:
            return zipfile.ZipFile(file).infolist()[:MAX_MEMBERS]
        except Exception:  # zipfile raises many kinds on broken archives
            return []
