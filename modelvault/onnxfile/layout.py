"""A model taken apart: its graph, and the weights region as a stream that is read once."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modelvault import _files
from modelvault.errors import ModelError
from modelvault.index import TensorPlace

ALIGNMENT = 64

Data = bytes | bytearray | memoryview
Edit = Callable[[str, tuple[int, ...], bytes], Data | None]
"""(dtype in ONNX's words, shape, little-endian bytes) -> the bytes to store instead; None leaves them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file that the model was read from: POSIX path relative to the model's folder, bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IOEntry:
    """An input or output; a dimension is a number, a name, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(slots=True)
class Slot:
    """A place in the region, and the range of an external file that it is filled from, if not from memory.

    ``edit``: what an external range is passed through, whole, on its way. ``offset`` is found when all are known.
    """

    length: int
    start: int = 0
    edit: Callable[[bytes], Data | None] | None = None
    offset: int = 0


@dataclass(slots=True)
class SplitModel:
    """A model taken apart: serialised ``graph``, and ``region`` bytes of weights to be streamed once."""

    graph: bytes
    tensors: tuple[TensorPlace, ...]
    region: int
    sources: tuple[SourceFile, ...]
    inputs: tuple[IOEntry, ...]
    outputs: tuple[IOEntry, ...]
    path: Path
    _inline: list[tuple[Slot, Data]]
    _external: dict[str, list[Slot]]
    _digests: dict[str, bytes] = field(default_factory=dict)

    def stream(self, piece: int) -> Iterator[memoryview]:
        """The region's bytes in order, in views of at most ``piece`` bytes, each valid until the next is taken.

        Memory does not grow with external data; every external file is read once, whole, and hashed on the way.
        Raises FileError, ModelError where a file changed since it was looked at.
        """
        at = 0
        for slot, data in self._inline:
            yield from _zeros(slot.offset - at)
            yield from _pieces(memoryview(data), piece)
            at = slot.offset + slot.length
        buffer = memoryview(bytearray(piece))
        for source in self.sources[1:]:
            for place, view in _edited(self._read_source(source, buffer), piece):
                yield from _zeros(place - at)
                yield view
                at = place + len(view)

    def _read_source(self, source: SourceFile, buffer: memoryview) -> Iterator[tuple[Slot, int, memoryview]]:
        """(slot, place in the region, bytes) for each part of an external file that a weight uses."""
        slots, next_slot, digest = self._external.get(source.path, []), 0, hashlib.sha256()
        descriptor = _files.open_inside(self.path.parent, source.path)
        try:
            if os.fstat(descriptor).st_size != source.size:
                raise ModelError(f"{self.path.parent / source.path}: changed while the model was being read")
            for at in range(0, source.size, len(buffer)):
                view = buffer[: min(len(buffer), source.size - at)]
                _files.read_into(descriptor, view, at)
                digest.update(view)
                while next_slot < len(slots) and slots[next_slot].start < at + len(view):
                    slot = slots[next_slot]
                    begin = max(slot.start, at)
                    end = min(slot.start + slot.length, at + len(view))
                    yield slot, slot.offset + begin - slot.start, view[begin - at : end - at]
                    if end < slot.start + slot.length:
                        break
                    next_slot += 1
        finally:
            os.close(descriptor)
        self._digests[source.path] = digest.digest()

    def source_digests(self) -> dict[str, bytes]:
        """SHA-256 of every source file by path; complete once the stream has been read to its end."""
        return dict(self._digests)


def _edited(parts: Iterator[tuple[Slot, int, memoryview]], piece: int) -> Iterator[tuple[int, memoryview]]:
    """The parts as they are, and those of slots to be edited once the slot is whole."""
    held = bytearray()
    for slot, place, view in parts:
        if slot.edit is None:
            yield place, view
            continue
        held += view
        if len(held) == slot.length:
            data, held = bytes(held), bytearray()
            for at, part in enumerate(_pieces(memoryview(slot.edit(data) or data), piece)):
                yield slot.offset + at * piece, part


def _zeros(count: int) -> Iterator[memoryview]:
    if count:
        yield memoryview(bytes(count))


def _pieces(data: memoryview, piece: int) -> Iterator[memoryview]:
    for at in range(0, len(data), piece):
        yield data[at : at + piece]
