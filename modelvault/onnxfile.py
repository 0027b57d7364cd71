"""ONNX files: take a model apart into a small graph and one region of weights. The only importer of ``onnx``.

The graph keeps its meaning and every weight its bits. Large weights of the main graph become external data in the
file ``weights``, which exists only in the loader's memory; everything else that was external is taken into the graph.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper

from modelvault import _files
from modelvault.errors import FileError, ModelError
from modelvault.graphcheck import WEIGHTS_NAME

ALIGNMENT = 64
MOVE_FROM = 1024  # onnxruntime's shape inference needs small constants in the graph
MAX_MODEL = 2**31 - 1  # protobuf's own limit
MAX_GRAPH = 2**30
MAX_TENSOR_DIMS = 64

_SUB_BYTE = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that the model was read from: POSIX path relative to the model's folder, bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """A weight of the region: offset and length in bytes; dtype in ONNX's words (FLOAT, INT8 ...)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IOEntry:
    """An input or output; a dimension is a number, a name, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(slots=True)
class _Slot:
    """A place in the region and where its bytes come from: ``data`` in memory, else an external file's range."""

    offset: int
    length: int
    data: bytes | None = None
    start: int = 0


@dataclass(slots=True)
class SplitModel:
    """A model taken apart: serialised ``graph``, and ``region`` bytes of weights to be streamed once."""

    graph: bytes
    tensors: tuple[TensorEntry, ...]
    region: int
    sources: tuple[SourceFile, ...]
    inputs: tuple[IOEntry, ...]
    outputs: tuple[IOEntry, ...]
    _folder: Path
    _inline: list[_Slot]
    _external: dict[str, list[_Slot]]
    _digests: dict[str, bytes] = field(default_factory=dict)

    def stream(self, piece: int) -> Iterator[memoryview]:
        """The region's bytes in order, in views of at most ``piece`` bytes, each valid until the next is taken.

        Memory does not grow with external data; every external file is read once, whole, and hashed on the way.
        Raises FileError, ModelError where a file changed since it was looked at.
        """
        at = 0
        for slot in self._inline:
            yield from _zeros(slot.offset - at)
            yield from _pieces(memoryview(slot.data or b""), piece)
            at = slot.offset + slot.length
        buffer = memoryview(bytearray(piece))
        for source in self.sources[1:]:
            for slot_offset, view in self._read_source(source, buffer):
                yield from _zeros(slot_offset - at)
                yield view
                at = slot_offset + len(view)
        yield from _zeros(self.region - at)

    def _read_source(self, source: SourceFile, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """(place in the region, bytes) for each part of an external file that a weight uses."""
        slots, next_slot, digest = self._external.get(source.path, []), 0, hashlib.sha256()
        descriptor = _files.open_inside(self._folder, source.path)
        try:
            if os.fstat(descriptor).st_size != source.size:
                raise ModelError(f"{self._folder / source.path}: changed while the model was being read")
            for at in range(0, source.size, len(buffer)):
                view = buffer[: min(len(buffer), source.size - at)]
                _files.read_into(descriptor, view, at)
                digest.update(view)
                while next_slot < len(slots) and slots[next_slot].start < at + len(view):
                    slot = slots[next_slot]
                    begin = max(slot.start, at)
                    end = min(slot.start + slot.length, at + len(view))
                    yield slot.offset + begin - slot.start, view[begin - at : end - at]
                    if end < slot.start + slot.length:
                        break
                    next_slot += 1
        finally:
            os.close(descriptor)
        self._digests[source.path] = digest.digest()

    def source_digests(self) -> dict[str, bytes]:
        """SHA-256 of every source file by path; complete once the stream has been read to its end."""
        return dict(self._digests)


def split(path: str | os.PathLike[str], *, keep_docs: bool = False) -> SplitModel:
    """Read an ONNX file and take it apart; external data is checked here, and read when streamed.

    ``keep_docs`` keeps doc strings and exporters' notes. Raises ModelError, FileError.
    """
    path = Path(path)
    data = _files.read_bytes(path, limit=MAX_MODEL)
    model = _parse(data, path)
    splitter = _Splitter(path)
    size, digest = len(data), hashlib.sha256(data).digest()
    del data
    splitter.take(model)
    if not keep_docs:
        _strip(model)
    try:
        graph = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        raise ModelError(f"{path}: the graph without its large weights is above protobuf's limit") from None
    if len(graph) > MAX_GRAPH:
        raise ModelError(f"{path}: the graph without its large weights has {len(graph)} bytes, above {MAX_GRAPH}")
    sources = [SourceFile(path=path.name, size=size)]
    sources += [SourceFile(path=p, size=splitter.sizes[p]) for p in sorted(splitter.sizes)]
    return SplitModel(
        graph=graph,
        tensors=tuple(splitter.tensors),
        region=splitter.region,
        sources=tuple(sources),
        inputs=tuple(_io(v) for v in model.graph.input),
        outputs=tuple(_io(v) for v in model.graph.output),
        _folder=path.parent,
        _inline=splitter.inline,
        _external=splitter.external,
        _digests={path.name: digest},
    )


def _parse(data: bytes, path: Path) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model (protobuf does not parse)") from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(f"{path}: not an ONNX model (no graph)")
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(f"{path}: ir_version {model.ir_version} is newer than this onnx reads ({onnx.IR_VERSION})")
    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > known:
            raise ModelError(f"{path}: opset {opset.version} is newer than this onnx reads ({known})")
    return model


class _Splitter:
    """Moves weights out of one model; ``take`` is called once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: dict[str, int] = {}
        self.inline: list[_Slot] = []
        self.external: dict[str, list[_Slot]] = {}
        self.tensors: list[TensorEntry] = []
        self.region = 0
        self._moved: list[tuple[TensorProto, str, str, _Slot]] = []

    def take(self, model: ModelProto) -> None:
        """Replace every large weight of the main graph by a reference into the region, and inline the rest."""
        names = [t.name for t in model.graph.initializer]
        names += [t.values.name for t in model.graph.sparse_initializer]
        if len(set(names)) != len(names):
            repeated = next(n for n in names if names.count(n) > 1)
            raise ModelError(f"{self.path}: two initializers are named {_show(repeated)}")
        for tensor in model.graph.initializer:
            self._weight(tensor, tensor.name)
        for node, attribute in _constants(model.graph):
            self._weight(attribute.t, node.output[0] if node.output else node.name)
        for tensor in _other_tensors(model):
            self._keep(tensor)
        self._place()

    def _weight(self, tensor: TensorProto, name: str) -> None:
        size = self._size(tensor, name)
        external = tensor.data_location == TensorProto.EXTERNAL
        if size is None or size < MOVE_FROM:
            self._keep(tensor)
            return
        if external:
            location, start = self._reference(tensor, size, name)
            slot = self._external_slot(location, start, size, name)
        else:
            data = self._data(tensor, size, name)
            if data is None:
                return
            slot, location = _Slot(0, size, data), ""
            self.inline.append(slot)
        self._moved.append((tensor, name, location, slot))

    def _external_slot(self, location: str, start: int, size: int, name: str) -> _Slot:
        slots = self.external.setdefault(location, [])
        for slot in reversed(slots):
            if slot.start == start and slot.length == size:
                return slot
        slots.append(_Slot(0, size, None, start))
        return slots[-1]

    def _keep(self, tensor: TensorProto) -> None:
        """A tensor that stays in the graph: its external data is read into it."""
        size = self._size(tensor, tensor.name)
        if tensor.data_location != TensorProto.EXTERNAL:
            return
        if size is None:
            raise ModelError(f"{self._where(tensor.name)}: text cannot be external data")
        location, start = self._reference(tensor, size, tensor.name)
        if size > MAX_GRAPH:
            raise ModelError(f"{self._where(tensor.name)}: {size} bytes inside a subgraph, above {MAX_GRAPH}")
        data = bytearray(size)
        descriptor = _files.open_inside(self.path.parent, location)
        try:
            _files.read_into(descriptor, memoryview(data), start)
        finally:
            os.close(descriptor)
        _clear(tensor)
        tensor.raw_data = bytes(data)

    def _size(self, tensor: TensorProto, name: str) -> int | None:
        """Bytes of the tensor's data from its type and shape; None for text. Checks what is stored against it."""
        where = self._where(name)
        if tensor.HasField("segment"):
            raise ModelError(f"{where}: segmented tensors are not supported")
        if len(tensor.dims) > MAX_TENSOR_DIMS or any(d < 0 for d in tensor.dims):
            raise ModelError(f"{where}: impossible shape")
        bits = _bits(tensor.data_type)
        if tensor.data_type == TensorProto.STRING:
            return None
        if bits is None:
            raise ModelError(f"{where}: unknown data type {tensor.data_type}")
        count = 1
        for dim in tensor.dims:
            count *= dim
        size = (count * bits + 7) // 8
        external = tensor.data_location == TensorProto.EXTERNAL
        if external and (tensor.HasField("raw_data") or _typed_count(tensor)):
            raise ModelError(f"{where}: has both external and inline data")
        if not external and tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise ModelError(f"{where}: raw_data has {len(tensor.raw_data)} bytes, its shape needs {size}")
        return size

    def _data(self, tensor: TensorProto, size: int, name: str) -> bytes | None:
        """Inline bytes in raw_data's layout; None where only typed fields hold packed elements, which stay."""
        if tensor.HasField("raw_data"):
            return tensor.raw_data
        if TensorProto.DataType.Name(tensor.data_type) in _SUB_BYTE:
            return None
        try:
            data: bytes = numpy_helper.to_array(tensor).tobytes()
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self._where(name)}: inconsistent data: {str(error).splitlines()[0][:200]}") from None
        if len(data) != size:
            raise ModelError(f"{self._where(name)}: data has {len(data)} bytes, its shape needs {size}")
        return data

    def _reference(self, tensor: TensorProto, size: int, name: str) -> tuple[str, int]:
        """(location, start) of external data, once it is certain that the file holds it."""
        where = self._where(name)
        entries = {e.key: e.value for e in tensor.external_data}
        if len(entries) != len(tensor.external_data):
            raise ModelError(f"{where}: external_data: a key is repeated")
        if unknown := sorted(set(entries) - _EXTERNAL_KEYS):
            raise ModelError(f"{where}: external_data: unknown key {_show(unknown[0])}")
        location = self._location(entries.get("location", ""), where)
        start = self._number(entries.get("offset", "0"), f"{where}: external_data.offset")
        length = self._number(entries.get("length", str(size)), f"{where}: external_data.length")
        if length != size:
            raise ModelError(f"{where}: external_data.length: {length} bytes, its shape needs {size}")
        if start + size > self.sizes[location]:
            raise ModelError(f"{where}: external_data: ends at byte {start + size} of {self.sizes[location]}")
        return location, start

    def _location(self, text: str, where: str) -> str:
        try:
            location = "/".join(_files.split_inside(text))
            if location in self.sizes:
                return location
            descriptor = _files.open_inside(self.path.parent, location)
        except FileError as error:
            raise ModelError(f"{where}: external_data.location: {error}") from None
        try:
            info, own = os.fstat(descriptor), self.path.stat()
        finally:
            os.close(descriptor)
        if (info.st_dev, info.st_ino) == (own.st_dev, own.st_ino):
            raise ModelError(f"{where}: external_data.location: is the model file itself")
        self.sizes[location] = info.st_size
        return location

    @staticmethod
    def _number(text: str, where: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ModelError(f"{where}: expected a number, got {_show(text)}")
        return int(text)

    def _where(self, name: str) -> str:
        return f"{self.path}: tensor {_show(name)}"

    def _place(self) -> None:
        """Give every slot its place: in-memory data first, then file by file in the order of a single reading."""
        for location in sorted(self.external):
            slots = self.external[location]
            slots.sort(key=lambda s: s.start)
            for before, after in zip(slots, slots[1:], strict=False):
                if before.start + before.length > after.start:
                    raise ModelError(f"{self.path}: external data overlaps in {location} at byte {after.start}")
        for slot in [*self.inline, *(s for p in sorted(self.external) for s in self.external[p])]:
            slot.offset = -(-self.region // ALIGNMENT) * ALIGNMENT
            self.region = slot.offset + slot.length
        for tensor, name, _, slot in self._moved:
            _refer(tensor, slot)
            dtype = TensorProto.DataType.Name(tensor.data_type)
            shape = tuple(tensor.dims)
            self.tensors.append(
                TensorEntry(name=name, dtype=dtype, shape=shape, offset=slot.offset, length=slot.length)
            )


def _bits(data_type: int) -> int | None:
    try:
        name = TensorProto.DataType.Name(data_type)
        if name in _SUB_BYTE:
            return _SUB_BYTE[name]
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8
    except (KeyError, ValueError, TypeError):
        return None


def _typed_count(tensor: TensorProto) -> int:
    return sum(len(getattr(tensor, f)) for f in _TYPED)


_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def _clear(tensor: TensorProto) -> None:
    for name in (*_TYPED, "raw_data", "external_data", "data_location"):
        tensor.ClearField(name)


def _refer(tensor: TensorProto, slot: _Slot) -> None:
    _clear(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", str(slot.offset)), ("length", str(slot.length))):
        tensor.external_data.add(key=key, value=value)


def _show(text: str) -> str:
    return ascii(text[:60])


def _constants(graph: GraphProto) -> Iterator[tuple[NodeProto, AttributeProto]]:
    """The main graph's Constant nodes that hold one dense tensor."""
    for node in graph.node:
        for attribute in node.attribute:
            if _is_constant(node, attribute):
                yield node, attribute


def _is_constant(node: NodeProto, attribute: AttributeProto) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return False
    return bool(attribute.name == "value" and attribute.type == AttributeProto.TENSOR)


def _other_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is neither an initializer of the main graph nor the value of one of its Constant nodes."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if not _is_constant(node, attribute):
                yield from _attribute_tensors(attribute)
    for graph in _graphs(model):
        if graph is not model.graph:
            yield from graph.initializer
            for node in graph.node:
                for attribute in node.attribute:
                    yield from _attribute_tensors(attribute)
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for tensor in [*sparse, *attribute.sparse_tensors]:
        yield from (tensor.values, tensor.indices)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph, training graphs, and every subgraph below them and below functions."""
    waiting = [model.graph]
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    for function in model.functions:
        waiting += _subgraphs(function.node)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _subgraphs(graph.node)


def _subgraphs(nodes: Iterable[NodeProto]) -> list[GraphProto]:
    found = []
    for node in nodes:
        for attribute in node.attribute:
            found += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    return found


def _strip(model: ModelProto) -> None:
    """Remove doc strings and exporters' notes (source paths, stack traces); the model's own metadata stays."""
    model.ClearField("doc_string")
    for graph in _graphs(model):
        _clear_notes(graph)
        values = [*graph.input, *graph.output, *graph.value_info]
        for item in [*values, *graph.initializer]:
            _clear_notes(item)
    for function in model.functions:
        _clear_notes(function)
        for value in function.value_info:
            _clear_notes(value)
    for node in _nodes(model):
        _clear_notes(node)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    for tensor in _other_tensors(model):
        _clear_notes(tensor)


def _clear_notes(item: Any) -> None:
    item.ClearField("doc_string")
    item.ClearField("metadata_props")


def _io(value: ValueInfoProto) -> IOEntry:
    kind, shape = _type(value.type)
    return IOEntry(name=value.name, dtype=kind, shape=shape)


def _type(kind: TypeProto) -> tuple[str, tuple[int | str | None, ...]]:
    """A type in words, and the dimensions of a dense tensor."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        dims = tuple(_dim(d) for d in kind.tensor_type.shape.dim)
        return TensorProto.DataType.Name(kind.tensor_type.elem_type).lower(), dims
    if which in ("sequence_type", "optional_type"):
        inner, _ = _type(getattr(kind, which).elem_type)
        return f"{which.removesuffix('_type')}({inner})", ()
    return (which or "unknown").removesuffix("_type"), ()


def _dim(dim: Any) -> int | str | None:
    which = dim.WhichOneof("value")
    return None if which is None else getattr(dim, which)


def _zeros(count: int) -> Iterator[memoryview]:
    if count:
        yield memoryview(bytes(count))


def _pieces(data: memoryview, piece: int) -> Iterator[memoryview]:
    for at in range(0, len(data), piece):
        yield data[at : at + piece]
