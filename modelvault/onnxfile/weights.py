"""An ONNX model whose tensors are read, and replaced in a copy, one by one: no more than one is in memory beside it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from google.protobuf.message import EncodeError
from onnx import AttributeProto, ModelProto, TensorProto

from modelvault import _files
from modelvault.errors import ModelError
from modelvault.onnxfile.layout import ALIGNMENT, Data, Edit
from modelvault.onnxfile.split import MAX_MODEL, parse
from modelvault.onnxfile.tensors import TensorReader, clear, dtype_name, float_bytes, set_floats, show
from modelvault.onnxfile.walk import graphs, leaves, nodes

DATA_SUFFIX = ".data"


class Region(Protocol):
    """Bytes that weights stand in: memory, or a file."""

    def __getitem__(self, place: slice, /) -> bytes | memoryview: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One dense tensor, wherever it lives. ``uses``: op types that read it, with the input's number: ``MatMul:1``."""

    number: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    uses: frozenset[str]


class OpenModel:
    """A parsed model: of a file, or of a ``graph`` in memory whose external weights stand in ``region``.

    Raises ModelError, FileError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, graph: bytes | None = None, region: Region | None = None
    ) -> None:
        self.path = Path(path)
        self.model: ModelProto = parse(graph or _files.read_bytes(path, limit=MAX_MODEL), str(path))
        self._region = region
        self._reader = TensorReader(self.path)
        self._tensors: list[TensorProto | AttributeProto] = []
        self.weights: tuple[Weight, ...] = tuple(self._list())

        self._numbers = {id(holder): number for number, holder in enumerate(self._tensors)}

    def number(self, holder: TensorProto | AttributeProto) -> int | None:
        """Which of ``weights`` a message of ``model`` holds; None for one that is not among them."""
        return self._numbers.get(id(holder))

    def _list(self) -> Iterator[Weight]:
        uses = _uses(self.model)
        for name, tensor in _named_tensors(self.model):
            size = self._reader.size(tensor, name)
            external = tensor.data_location == TensorProto.EXTERNAL
            if size is None or (not external and self._reader.data(tensor, size, name) is None):
                continue
            yield self._add(tensor, name, dtype_name(tensor.data_type), tuple(tensor.dims), size, uses)
        for node, attribute in leaves(self.model):
            count, name = len(attribute.floats), f"{node.name or node.op_type}.{attribute.name}"
            yield self._add(attribute, name, "FLOAT", (count,), 4 * count, {name: {f"{node.op_type}:leaves"}})

    def _add(
        self,
        holder: TensorProto | AttributeProto,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        size: int,
        uses: dict[str, set[str]],
    ) -> Weight:
        self._tensors.append(holder)
        number, used = len(self._tensors) - 1, frozenset(uses.get(name, ()))
        return Weight(number=number, name=name, dtype=dtype, shape=shape, size=size, uses=used)

    def read(self, weight: Weight) -> bytes:
        """The tensor's elements, little-endian and row-major."""
        holder = self._tensors[weight.number]
        if isinstance(holder, AttributeProto):
            return float_bytes(holder)
        if holder.data_location == TensorProto.EXTERNAL:
            return self._read_external(holder, weight)
        return self._reader.data(holder, weight.size, weight.name) or b""

    def _read_external(self, tensor: TensorProto, weight: Weight) -> bytes:
        if self._region is None:
            return self._reader.read_external(tensor, weight.size, weight.name)
        entries = {e.key: e.value for e in tensor.external_data}
        start, length = int(entries.get("offset", "0")), int(entries.get("length", str(weight.size)))
        if length != weight.size:
            raise ModelError(
                f"{self.path}: tensor {show(weight.name)}: data has {length} bytes, its shape needs {weight.size}"
            )
        data = bytes(self._region[start : start + weight.size])
        if len(data) != weight.size:
            raise ModelError(f"{self.path}: tensor {show(weight.name)}: ends beyond the weights region")
        return data

    def external_bytes(self) -> int:
        """Bytes of the weights that lie in other files."""
        return sum(w.size for w in self.weights if self._is_external(w))

    def _is_external(self, weight: Weight) -> bool:
        holder = self._tensors[weight.number]
        return isinstance(holder, TensorProto) and holder.data_location == TensorProto.EXTERNAL

    def save(self, output: str | os.PathLike[str], edit: Edit) -> None:
        """Write a copy with every tensor passed through ``edit``; external ones go to one file beside it.

        Both files are written atomically, the weights first. This object is used up: it then is the copy.
        """
        output = Path(output)
        external = [w for w in self.weights if self._is_external(w)]
        self._edit_inline(edit)
        if external:
            data = _files.beside(output, DATA_SUFFIX)
            with _files.atomic_write(data) as file:
                self._write_external(external, file, data.name, edit)
        _files.write_bytes(output, self._serialise())

    def to_bytes(self, edit: Edit) -> bytes:
        """The edited model as one serialised graph, external weights taken in. This object is used up.

        ModelError where that is above protobuf's limit of 2 GiB.
        """
        for weight in self.weights:
            data = self.read(weight)
            self._store(weight, edit(weight.dtype, weight.shape, data) or data)
        return self._serialise()

    def _edit_inline(self, edit: Edit) -> None:
        for weight in self.weights:
            if not self._is_external(weight):
                data = edit(weight.dtype, weight.shape, self.read(weight))
                if data is not None:
                    self._store(weight, data)

    def _store(self, weight: Weight, data: Data) -> None:
        holder = self._tensors[weight.number]
        if isinstance(holder, AttributeProto):
            set_floats(holder, data)
            return
        clear(holder)
        holder.raw_data = bytes(data)

    def _write_external(self, weights: list[Weight], file: BinaryIO, name: str, edit: Edit) -> None:
        places: dict[tuple[str, int, int], int] = {}
        moved = []
        for weight in weights:
            tensor: Any = self._tensors[weight.number]
            where = (*self._reader.reference(tensor, weight.size, weight.name), weight.size)
            if where not in places:
                file.write(bytes(-file.tell() % ALIGNMENT))
                places[where] = file.tell()
                data = self.read(weight)
                file.write(edit(weight.dtype, weight.shape, data) or data)
            moved.append((tensor, places[where], weight.size))
        for tensor, offset, length in moved:
            del tensor.external_data[:]
            for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
                tensor.external_data.add(key=key, value=value)

    def _serialise(self) -> bytes:
        try:
            data: bytes = self.model.SerializeToString(deterministic=True)
        except (EncodeError, ValueError):
            raise ModelError(f"{self.path}: the model is above protobuf's limit of 2 GiB") from None
        return data


def _named_tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every dense tensor, with the name of the value it gives."""
    for graph in graphs(model):
        for tensor in graph.initializer:
            yield tensor.name, tensor
    for node in nodes(model):
        for attribute in node.attribute:
            name = node.output[0] if node.op_type == "Constant" and node.output else f"{node.name}.{attribute.name}"
            if attribute.HasField("t"):
                yield name, attribute.t
            for tensor in attribute.tensors:
                yield name, tensor


def _uses(model: ModelProto) -> dict[str, set[str]]:
    uses: dict[str, set[str]] = {}
    for node in nodes(model):
        for number, name in enumerate(node.input):
            uses.setdefault(name, set()).add(f"{node.op_type}:{number}")
    return uses
