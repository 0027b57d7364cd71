"""Open an ONNX file without its inline weights in memory: they stay in the file, and are read from it one by one.

The graph is rewritten on protobuf's wire (https://protobuf.dev/programming-guides/encoding/), where a large
``raw_data`` becomes a reference to its place in the file. Whatever is unusual is left to protobuf's own parser.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.onnx_ml_pb2 import StringStringEntryProto

from modelvault import _files
from modelvault.errors import FileError
from modelvault.graphcheck import WEIGHTS_NAME
from modelvault.onnxfile.split import MAX_MODEL, MOVE_FROM
from modelvault.onnxfile.weights import OpenModel

MAX_DEPTH = 90  # protobuf stops at 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW = TensorProto.RAW_DATA_FIELD_NUMBER
_UNUSUAL = (TensorProto.EXTERNAL_DATA_FIELD_NUMBER, TensorProto.DATA_LOCATION_FIELD_NUMBER)
# Which fields of which message lead to tensors.
_WAYS: Mapping[str, Mapping[int, str]] = {
    "model": {ModelProto.GRAPH_FIELD_NUMBER: "graph"},
    "graph": {GraphProto.NODE_FIELD_NUMBER: "node", GraphProto.INITIALIZER_FIELD_NUMBER: "tensor"},
    "node": {NodeProto.ATTRIBUTE_FIELD_NUMBER: "attribute"},
    "attribute": {AttributeProto.T_FIELD_NUMBER: "tensor", AttributeProto.G_FIELD_NUMBER: "graph"},
    "tensor": {},
}


def open_lean(path: str | os.PathLike[str]) -> OpenModel:
    """The model as :class:`OpenModel` gives it. Raises ModelError, FileError."""
    graph = lean_file(Path(path))
    return OpenModel(path, graph=graph, region=_FileRegion(Path(path))) if graph else OpenModel(path)


class _Unusual(Exception):
    """Not what exporters write: external data, fields given twice, or a broken file."""


@dataclass(frozen=True, slots=True)
class _FileRegion:
    """A file's bytes by place."""

    path: Path

    def __getitem__(self, place: slice) -> bytes:
        with _files.failures(self.path), open(_files.open_regular(self.path), "rb") as file:
            file.seek(place.start)
            return file.read(place.stop - place.start)


def lean_file(path: Path) -> bytes | None:
    """The lean graph of a file; None for one that is unusual. Raises FileError."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_MODEL:
            raise FileError(f"{path}: larger than the limit of {MAX_MODEL} bytes")
        return lean_graph(file, size)


def lean_graph(file: BinaryIO, size: int) -> bytes | None:
    """The model in ``size`` bytes, its large raw data replaced by external data at its place in ``file``.

    A reference in the result is always such a place: None for a model that has external data of its own, and for
    whatever else is unusual. Raises OSError.
    """
    pieces: list[bytes] = []
    try:
        _rewrite(file, "model", size, pieces, 0)
    except _Unusual:
        return None
    return b"".join(pieces)


def _rewrite(file: BinaryIO, kind: str, end: int, out: list[bytes], depth: int) -> None:
    """Copy a message's fields up to ``end`` of the file, large raw data apart."""
    raws = 0
    while (start := file.tell()) < end:
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if kind == "tensor" and field in _UNUSUAL:
            raise _Unusual
        size = _skipped(file, wire)
        if file.tell() + size > end or depth > MAX_DEPTH:
            raise _Unusual
        below = _WAYS[kind].get(field) if wire == _BYTES else None
        raws += kind == "tensor" and field == _RAW
        if below is not None:
            inner: list[bytes] = []
            _rewrite(file, below, file.tell() + size, inner, depth + 1)
            body = b"".join(inner)
            out += [_number(tag), _number(len(body)), body]
        elif kind == "tensor" and field == _RAW and size >= MOVE_FROM:
            out.append(_reference(file.tell(), size))
            file.seek(size, os.SEEK_CUR)
        else:
            length = file.tell() + size - start
            file.seek(start)
            out.append(file.read(length))
    if raws > 1:
        raise _Unusual


def _skipped(file: BinaryIO, wire: int) -> int:
    """How many bytes of a field follow; a varint is read past."""
    if wire == _BYTES:
        return _varint(file)
    if wire == _VARINT:
        _varint(file)
        return 0
    if wire not in (_FIXED32, _FIXED64):
        raise _Unusual
    return 4 if wire == _FIXED32 else 8


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _Unusual
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise _Unusual


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _reference(start: int, size: int) -> bytes:
    """The fields of a tensor whose data stands in the file."""
    fields = TensorProto(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", WEIGHTS_NAME), ("offset", str(start)), ("length", str(size))):
        fields.external_data.append(StringStringEntryProto(key=key, value=value))
    data: bytes = fields.SerializePartialToString()
    return data
