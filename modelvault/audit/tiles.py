"""Publish a log as static files that monitors and proof makers read over plain HTTP (C2SP tlog-tiles)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from modelvault import _files, merkle
from modelvault.audit.verification import AuditReport, read_entries
from modelvault.errors import FileError
from modelvault.keys import HostPublic

WIDTH = 256
T = TypeVar("T")


def export_tiles(log: Path, key: HostPublic, folder: Path) -> AuditReport:
    """Write checkpoint, tiles and entry bundles of a verified log into a folder; existing full tiles are left alone.

    Bundles with pruned records are left out. Raises as verify_log; FileError.
    """
    report, leaves, entries = read_entries(log, key)
    with _files.failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for level, hashes in enumerate(_levels(leaves)):
        for number, part in _tiles(hashes):
            _put(folder / "tile" / str(level) / tile_path(number, len(part)), b"".join(part))
    for number, bundle in _tiles(entries):
        if (data := _bundle(bundle)) is not None:
            _put(folder / "tile" / "entries" / tile_path(number, len(bundle)), data)
    _files.write_bytes(folder / "checkpoint", report.head.encode())  # last: all that it covers is there
    return report


def tile_path(number: int, width: int) -> str:
    """The tile's number in groups of three digits, and its width unless it is full.

    >>> tile_path(1234067, 256), tile_path(0, 7)
    ('x001/x234/067', '000.p/7')
    """
    digits = f"{number:0{-(-len(str(number)) // 3) * 3}d}"
    *upper, last = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{part}" for part in upper), last])
    return path if width == WIDTH else f"{path}.p/{width}"


def _levels(leaves: list[bytes]) -> Iterator[list[bytes]]:
    """Leaf hashes, then the roots of full tiles, and so on up."""
    level = leaves
    while level:
        yield level
        level = [merkle.root(level[at : at + WIDTH]) for at in range(0, len(level) - WIDTH + 1, WIDTH)]


def _tiles(items: list[T]) -> Iterable[tuple[int, list[T]]]:
    return ((at // WIDTH, items[at : at + WIDTH]) for at in range(0, len(items), WIDTH))


def _bundle(entries: list[bytes | None]) -> bytes | None:
    if any(entry is None for entry in entries):
        return None
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries if entry is not None)


def _put(path: Path, data: bytes) -> None:
    if path.exists() and ".p/" not in path.as_posix():
        if _files.read_bytes(path, limit=len(data) + 1) != data:
            raise FileError(f"{path}: another log was published here")
        return
    with _files.failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _files.write_bytes(path, data)
