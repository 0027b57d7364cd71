"""Move the weights of a model out of its graph."""

import hashlib
import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto, TensorProto

from modelvault import _files
from modelvault.errors import ModelError
from modelvault.index import TensorPlace
from modelvault.onnxfile.anonymise import anonymise
from modelvault.onnxfile.layout import ALIGNMENT, Data, Edit, Slot, SourceFile, SplitModel
from modelvault.onnxfile.tensors import TensorReader, clear, dtype_name, float_bytes, refer, set_floats, show
from modelvault.onnxfile.walk import constants, describe, has_plain_text, leaves, other_tensors, strip

MOVE_FROM = 1024  # onnxruntime's shape inference needs small constants in the graph
MAX_MODEL = 2**31 - 1  # protobuf's own limit
MAX_GRAPH = 2**30


def split(
    path: str | os.PathLike[str],
    *,
    keep_docs: bool = False,
    edit: Edit | None = None,
    look: Callable[[bytes], None] | None = None,
) -> SplitModel:
    """Read an ONNX file and take it apart; external data is checked here, and read when streamed.

    ``keep_docs`` keeps doc strings, exporters' notes and the names of inner values. Every tensor is passed through
    ``edit`` on its way, one at a time. ``look`` is shown the file's very bytes. Raises ModelError, FileError.
    """
    path = Path(path)
    data = _files.read_bytes(path, limit=MAX_MODEL)
    model = parse(data, str(path))
    source = SourceFile(path=path.name, size=len(data))
    digest = hashlib.sha256(data).digest()
    if look:
        look(data)
    del data
    splitter = _Splitter(path, edit)
    splitter.take(model)
    if not keep_docs:
        strip(model)
        anonymise(model)
    sizes = splitter.reader.sizes
    return SplitModel(
        graph=_serialise(model, path),
        tensors=tuple(splitter.tensors),
        region=splitter.region,
        sources=(source, *(SourceFile(path=p, size=sizes[p]) for p in sorted(sizes))),
        inputs=tuple(describe(v, str(path)) for v in model.graph.input),
        outputs=tuple(describe(v, str(path)) for v in model.graph.output),
        path=path,
        _inline=splitter.inline,
        _external=splitter.external,
        _digests={path.name: digest},
    )


def parse(data: bytes, source: str) -> ModelProto:
    """A model from its bytes; ModelError where it is none, or newer than this ``onnx`` knows."""
    model = parse_any(data, source)
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(f"{source}: ir_version {model.ir_version} is newer than this onnx reads ({onnx.IR_VERSION})")
    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > known:
            raise ModelError(f"{source}: opset {opset.version} is newer than this onnx reads ({known})")
    return model


def parse_any(data: bytes, source: str) -> ModelProto:
    """A model of any version from its bytes; ModelError where it is none."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{source}: not an ONNX model (protobuf does not parse)") from None
    if not has_plain_text(model):
        raise ModelError(f"{source}: not an ONNX model (text that is not UTF-8)")
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise ModelError(f"{source}: not an ONNX model (no graph)")
    return model


def _serialise(model: ModelProto, path: Path) -> bytes:
    try:
        graph: bytes = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        raise ModelError(f"{path}: the graph without its large weights is above protobuf's limit") from None
    if len(graph) > MAX_GRAPH:
        raise ModelError(f"{path}: the graph without its large weights has {len(graph)} bytes, above {MAX_GRAPH}")
    return graph


def _as_it_is(_dtype: str, _shape: tuple[int, ...], _data: bytes) -> None:
    """The edit that edits nothing."""


class _Splitter:
    """Moves weights out of one model; ``take`` is called once."""

    def __init__(self, path: Path, edit: Edit | None) -> None:
        self.path = path
        self.edit = edit or _as_it_is
        self.reader = TensorReader(path)
        self.inline: list[tuple[Slot, Data]] = []
        self.external: dict[str, list[Slot]] = {}
        self.tensors: list[TensorPlace] = []
        self.region = 0
        self._moved: list[tuple[TensorProto, str, Slot]] = []

    def take(self, model: ModelProto) -> None:
        """Replace every large weight of the main graph by a reference into the region, and inline the rest."""
        names = [t.name for t in model.graph.initializer]
        names += [t.values.name for t in model.graph.sparse_initializer]
        if len(set(names)) != len(names):
            repeated = next(n for n in names if names.count(n) > 1)
            raise ModelError(f"{self.path}: two initializers are named {show(repeated)}")
        for tensor in model.graph.initializer:
            self._weight(tensor, tensor.name)
        for node, attribute in constants(model.graph):
            self._weight(attribute.t, node.output[0] if node.output else node.name)
        for tensor in other_tensors(model):
            self._keep(tensor)
        for _, attribute in leaves(model):
            data = float_bytes(attribute)
            if (edited := self.edit("FLOAT", (len(attribute.floats),), data)) is not None:
                set_floats(attribute, edited)
        self._place()

    def _weight(self, tensor: TensorProto, name: str) -> None:
        size = self.reader.size(tensor, name)
        if size is None or size < MOVE_FROM:
            self._keep(tensor)
            return
        if tensor.data_location == TensorProto.EXTERNAL:
            slot = self._external_slot(*self.reader.reference(tensor, size, name), size)
            if self.edit is not _as_it_is and slot.edit is None:
                slot.edit = partial(self.edit, dtype_name(tensor.data_type), tuple(tensor.dims))
        else:
            data = self.reader.data(tensor, size, name)
            if data is None:
                return
            slot = Slot(size)
            self.inline.append((slot, self.edit(dtype_name(tensor.data_type), tuple(tensor.dims), data) or data))
        self._moved.append((tensor, name, slot))

    def _external_slot(self, location: str, start: int, size: int) -> Slot:
        """The slot of an external range; tensors that share one range share its slot."""
        slots = self.external.setdefault(location, [])
        for slot in reversed(slots):
            if slot.start == start and slot.length == size:
                return slot
        slots.append(Slot(size, start))
        return slots[-1]

    def _keep(self, tensor: TensorProto) -> None:
        """A tensor that stays in the graph: its external data is read into it."""
        size = self.reader.size(tensor, tensor.name)
        external = tensor.data_location == TensorProto.EXTERNAL
        if not external and (size is None or self.edit is _as_it_is):
            return
        if size is None or size > MAX_GRAPH:
            raise ModelError(f"{self.reader.where(tensor.name)}: cannot be taken into the graph from external data")
        read = self.reader.read_external if external else self.reader.data
        data = read(tensor, size, tensor.name)
        if data is None:
            return
        edited = self.edit(dtype_name(tensor.data_type), tuple(tensor.dims), data)
        if external or edited is not None:
            clear(tensor)
            tensor.raw_data = bytes(edited or data)

    def _place(self) -> None:
        """Give every slot its place: in-memory data first, then file by file in the order of a single reading."""
        for location, slots in self.external.items():
            slots.sort(key=lambda s: s.start)
            for before, after in itertools.pairwise(slots):
                if before.start + before.length > after.start:
                    raise ModelError(f"{self.path}: external data overlaps in {location} at byte {after.start}")
        inline = [slot for slot, _ in self.inline]
        for slot in [*inline, *(s for p in sorted(self.external) for s in self.external[p])]:
            slot.offset = -(-self.region // ALIGNMENT) * ALIGNMENT
            self.region = slot.offset + slot.length
        for tensor, name, slot in self._moved:
            refer(tensor, slot)
            dtype, shape = dtype_name(tensor.data_type), tuple(tensor.dims)
            self.tensors.append(
                TensorPlace(name=name, dtype=dtype, shape=shape, offset=slot.offset, length=slot.length)
            )
