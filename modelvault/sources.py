"""What is to be sealed: the model file, and every other file that travels with it."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelvault import _files
from modelvault.errors import FileError, ModelError

PIECE = 2**20
MAX_ASSET = 2**31


@dataclass(frozen=True, slots=True)
class Asset:
    path: str
    folder: Path
    size: int


def find_sources(source: Path, extra: list[Path]) -> tuple[Path, list[Asset]]:
    """The model file, and every other file that travels with it."""
    assets = [_asset(path.parent, path.name) for path in extra]
    model = find_model(source)
    if source.is_dir():
        assets += [_asset(source, path) for path in _walk(source) if path != model.name]
    if len({a.path for a in assets}) != len(assets):
        raise FileError(f"{source}: two assets of one name")
    return model, assets


def find_model(source: str | os.PathLike[str]) -> Path:
    """The model file itself, or the one that a folder holds."""
    source = Path(source)
    return _model_in(source) if source.is_dir() else source


def _model_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.onnx"))
    if folder / "model.onnx" in found:
        return folder / "model.onnx"
    if len(found) != 1:
        raise ModelError(f"{folder}: expected one .onnx file or a model.onnx, got {len(found)} .onnx files")
    return found[0]


def _walk(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise FileError(f"{path}: is a symbolic link")
        if not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _asset(folder: Path, path: str) -> Asset:
    descriptor = _files.open_inside(folder, path)
    size = os.fstat(descriptor).st_size
    os.close(descriptor)
    if size > MAX_ASSET:
        raise FileError(f"{folder / path}: larger than the limit of {MAX_ASSET} bytes for an asset")
    return Asset(path, folder, size)


def read_asset(asset: Asset, digests: list[bytes]) -> Iterator[memoryview]:
    descriptor = _files.open_inside(asset.folder, asset.path)
    try:
        buffer, digest = memoryview(bytearray(PIECE)), hashlib.sha256()
        for at in range(0, asset.size, PIECE):
            view = buffer[: min(PIECE, asset.size - at)]
            _files.read_into(descriptor, view, at)
            digest.update(view)
            yield view
        digests.append(digest.digest())
    finally:
        os.close(descriptor)
