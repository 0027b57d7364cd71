"""What a decrypted graph may refer to: nothing but the weights in memory. Reads protobuf's wire format itself.

onnxruntime opens any other external file below the current folder, so the loader must be sure before a session is
made. Importing ``onnx`` for this would cost every service a fifth of a second at start; a walk over the few message
types that can hold a tensor, skipping what does not contain the word "location", costs about a millisecond.
"""

import mmap
from collections.abc import Iterator

from modelvault.errors import FormatError

Searchable = bytes | mmap.mmap
WEIGHTS_NAME = "weights"
MAX_DEPTH = 100  # protobuf's own

# onnx.proto: for each message type, the fields whose messages may hold a tensor's external_data.
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": _GRAPH,
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY, _VALUE = 1, 2


def check_sealed_graph(graph: Searchable, region: int, source: str) -> None:
    """FormatError unless every external reference of ``graph`` lies in the ``region`` bytes of weights."""
    for entries in _tensors(graph, 0, len(graph), "model", source, 0):
        if entries.get(b"location", WEIGHTS_NAME.encode()) != WEIGHTS_NAME.encode():
            raise FormatError(f"{source}: graph: refers to a file outside the sealed model")
        start, length = (_number(entries.get(key, b"0"), source) for key in (b"offset", b"length"))
        if start + length > region:
            raise FormatError(f"{source}: graph: a weight ends beyond the weights region")


def _number(text: bytes, source: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise FormatError(f"{source}: graph: external data offset or length is not a number")
    return int(text)


def _tensors(data: Searchable, at: int, end: int, kind: str, source: str, depth: int) -> Iterator[dict[bytes, bytes]]:
    """The external_data entries of every tensor that has a location, as a mapping."""
    if data.find(b"location", at, end) < 0:
        return
    if depth > MAX_DEPTH:
        raise FormatError(f"{source}: graph: nested too deeply")
    fields = _FIELDS[kind]
    entries: dict[bytes, bytes] = {}
    for number, start, stop in _parts(data, at, end, source):
        below = fields.get(number)
        if below == "entry":
            entry = {n: data[a:b] for n, a, b in _parts(data, start, stop, source)}
            key = entry.get(_KEY, b"")
            if key in entries:
                raise FormatError(f"{source}: graph: external data names {key[:20]!r} twice")
            entries[key] = entry.get(_VALUE, b"")
        elif below is not None:
            yield from _tensors(data, start, stop, below, source, depth + 1)
    if entries:
        yield entries


def _parts(data: Searchable, at: int, end: int, source: str) -> Iterator[tuple[int, int, int]]:
    """(field number, start, stop) of each length-delimited field of the message in data[at:end]."""
    while at < end:
        tag, at = _varint(data, at, end, source)
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(data, at, end, source)
            if length > end - at:
                raise FormatError(f"{source}: graph: protobuf field runs over its end")
            yield tag >> 3, at, at + length
            at += length
        elif wire == _VARINT:
            _, at = _varint(data, at, end, source)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise FormatError(f"{source}: graph: protobuf wire type {wire} is not used by ONNX")


def _varint(data: Searchable, at: int, end: int, source: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise FormatError(f"{source}: graph: protobuf number is cut off")
