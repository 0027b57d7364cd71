"""One of the two models: its tensors, each with a digest of its content, and its graph where it has one."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from modelvault import _files
from modelvault.onnxfile import OpenModel
from modelvault.onnxfile.lean import open_lean
from modelvault.onnxfile.structure import Structure, structure, utf8
from modelvault.onnxfile.tensors import elements
from modelvault.tensorfile import StoredTensor, read_tensors
from modelvault.watermark.suspects import SuspectTensor, onnx_tensors, stored_tensors

Source = str | os.PathLike[str] | OpenModel
Progress = Callable[[int], None]

LOOK = 4096  # elements looked at to see whether a tensor's content is its own
LEAST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """``digest`` over type, shape and bytes; ``distinct``: no constant, so that equal content is no accident."""

    digest: bytes
    distinct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A model that is compared. ``suspects``: what may be weights, also as quantised ones are used."""

    path: Path
    kind: str
    file: bytes
    graph: Structure | None
    tensors: tuple[StoredTensor, ...]
    contents: tuple[Content, ...]
    suspects: tuple[SuspectTensor, ...]


def open_side(source: Source, progress: Progress | None = None) -> Side:
    """Open a model and read every tensor once. Raises ModelError, FormatError, FileError."""
    stored = None if isinstance(source, OpenModel) else read_tensors(source)
    if stored is not None and not isinstance(source, OpenModel):
        return _side(Path(source), "tensors", None, stored, stored_tensors(stored), progress)
    model = source if isinstance(source, OpenModel) else open_lean(source)
    kind = "sealed" if isinstance(source, OpenModel) else "onnx"
    return _side(model.path, kind, structure(model), list(_weights(model)), onnx_tensors(model), progress)


def _side(
    path: Path,
    kind: str,
    graph: Structure | None,
    tensors: list[StoredTensor],
    suspects: list[SuspectTensor],
    progress: Progress | None,
) -> Side:
    return Side(
        path=path,
        kind=kind,
        file=_file_digest(path),
        graph=graph,
        tensors=tuple(tensors),
        contents=tuple(_content(t, progress) for t in tensors),
        suspects=tuple(suspects),
    )


def _weights(model: OpenModel) -> Iterator[StoredTensor]:
    for w in model.weights:
        read = partial(model.read, w)
        yield StoredTensor(name=utf8(w.name), dtype=w.dtype, shape=w.shape, size=w.size, read=read)


def _content(tensor: StoredTensor, progress: Progress | None) -> Content:
    data = tensor.read()
    digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}\n".encode())
    digest.update(data)
    values = elements(tensor.dtype, data)
    seen = None if values is None else values[:: max(1, len(values) // LOOK)]
    distinct = seen is not None and len(seen) >= LEAST and bool(np.any(seen != seen[0]))
    if progress:
        progress(tensor.size)
    return Content(digest=digest.digest(), distinct=distinct)


def _file_digest(path: Path) -> bytes:
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
