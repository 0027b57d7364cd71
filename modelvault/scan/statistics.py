"""What the values of tensors are like: one pass over all bytes, in pieces, on all cores."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault import _files
from modelvault.errors import FileError, ModelError
from modelvault.onnxfile.checking import is_external
from modelvault.onnxfile.tensors import TensorReader, dtype_name
from modelvault.scan.places import Held
from modelvault.sealedfile import workers

PIECE = 2**20
BATCH = 64 * 2**20  # bytes for one task: large tensors are cut, so that all cores have work

Array = npt.NDArray[Any]

# For 16-bit floats: the mask of a word's magnitude, and the least magnitude that is an infinity or no number.
_WORDS = {"FLOAT16": (0x7FFF, 0x7C00), "BFLOAT16": (0x7FFF, 0x7F80)}
_FLOATS = {"FLOAT": "<f4", "DOUBLE": "<f8"}
_WORDS_OF = {
    "FLOAT16": "<u2", "BFLOAT16": "<u2", "INT16": "<u2", "UINT16": "<u2",
    "INT32": "<u4", "UINT32": "<u4", "INT64": "<u8", "UINT64": "<u8", "COMPLEX64": "<u8", "COMPLEX128": "<u8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts of the elements that are not numbers, whether all are one value, and whether some number is not 0."""

    nan: int = 0
    positive: int = 0
    negative: int = 0
    constant: bool = False
    nonzero: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One piece's share: ``low`` and ``high`` of its raw words or values."""

    low: float
    high: float
    odd: bool


class Contents:
    """Reads the bytes of tensors wherever they stand: in the message, the model file, files beside it, or memory."""

    def __init__(self, reader: TensorReader, *, inline: bool, region: memoryview | None) -> None:
        self.reader = reader
        self.inline = inline
        self.region = region

    def size(self, held: Held) -> int:
        """Bytes of the tensor's data by its shape, 0 for text. Raises ModelError."""
        return self.reader.size(held.tensor, held.name) or 0

    def parts(self, held: Held) -> list[tuple[int, int]]:
        """Ranges of the data, each a task; only of data that is there. Raises ModelError."""
        size = self.size(held)
        if not is_external(held.tensor):
            return [(0, size)] if size else []
        self._offset(held)
        return [(start, min(start + BATCH, size)) for start in range(0, size, BATCH)]

    def pieces(self, held: Held, start: int, stop: int) -> Iterator[bytes | memoryview]:
        """The bytes from ``start`` to ``stop``; a piece is valid until the next is taken. ModelError, FileError."""
        if not is_external(held.tensor):
            data = memoryview(self.reader.data(held.tensor, self.size(held), held.name) or b"")
            yield data[start:stop]
            return
        at = self._offset(held)
        if self.region is not None:
            for begin in range(at + start, at + stop, PIECE):
                yield self.region[begin : min(begin + PIECE, at + stop)]
            return
        descriptor = self._open(held)
        try:
            buffer = memoryview(bytearray(min(PIECE, stop - start)))
            for begin in range(start, stop, PIECE):
                view = buffer[: min(PIECE, stop - begin)]
                _files.read_into(descriptor, view, at + begin)
                yield view
        finally:
            os.close(descriptor)

    def _offset(self, held: Held) -> int:
        if not self.inline and self.region is None:
            return self.reader.reference(held.tensor, self.size(held), held.name)[1]
        entries = {e.key: e.value for e in held.tensor.external_data}
        start, length = int(entries.get("offset", "0")), int(entries.get("length", self.size(held)))
        size = self.size(held)
        if length != size or (self.region is not None and start + length > len(self.region)):
            raise ModelError(f"{self.reader.where(held.name)}: data has {length} bytes, its shape needs {size}")
        return start

    def _open(self, held: Held) -> int:
        if self.inline:
            with _files.failures(self.reader.path):
                return _files.open_regular(self.reader.path)
        return _files.open_inside(
            self.reader.path.parent, self.reader.reference(held.tensor, self.size(held), held.name)[0]
        )


def measure(contents: Contents, tensors: Sequence[Held]) -> list[tuple[Held, Statistics]]:
    """Statistics of every tensor of numbers that can be read, in order."""
    tasks: list[tuple[int, Callable[[], _Part | None]]] = []
    kept: list[tuple[Held, str]] = []
    for held in tensors:
        try:
            ranges = [] if held.role == "sparse" else contents.parts(held)
        except ModelError:
            continue  # other rules say why
        if ranges:
            dtype = dtype_name(held.tensor.data_type)
            tasks += [(len(kept), partial(_part, contents, held, dtype, *one)) for one in ranges]
            kept.append((held, dtype))
    parts: list[list[_Part | None]] = [[] for _ in kept]
    with ThreadPoolExecutor(workers(), thread_name_prefix="modelvault") as pool:
        for (number, _), part in zip(tasks, pool.map(lambda t: t[1](), tasks), strict=True):
            parts[number].append(part)
    found = []
    for (held, dtype), shares in zip(kept, parts, strict=True):
        whole = [p for p in shares if p is not None]
        if len(whole) == len(shares):
            found.append((held, _join(contents, held, dtype, whole)))
    return found


def _part(contents: Contents, held: Held, dtype: str, start: int, stop: int) -> _Part | None:
    """None where the bytes cannot be read: other rules say why."""
    low, high, odd = np.inf, -np.inf, False
    try:
        with np.errstate(invalid="ignore"):
            for piece in contents.pieces(held, start, stop):
                if len(piece):
                    least, most, strange = _range(dtype, piece)
                    low, high, odd = min(low, least), max(high, most), odd or strange
    except (ModelError, FileError):
        return None
    return _Part(low=low, high=high, odd=odd)


def _range(dtype: str, data: bytes | memoryview) -> tuple[float, float, bool]:
    """Least and greatest word, and whether there is a NaN or an infinity."""
    if kind := _FLOATS.get(dtype):
        values = np.frombuffer(data, kind)
        low, high = float(values.min()), float(values.max())
        return low, high, not np.isfinite(low) or not np.isfinite(high)
    words = _words(dtype, data)
    odd = False
    if dtype in _WORDS:
        mask, least = _WORDS[dtype]
        odd = int((words & mask).max()) >= least
    return float(words.min()), float(words.max()), odd


def _words(dtype: str, data: bytes | memoryview) -> Array:
    """Elements as unsigned numbers, for a test of sameness."""
    return np.frombuffer(data, _WORDS_OF.get(dtype, "u1"))


def _join(contents: Contents, held: Held, dtype: str, parts: Sequence[_Part]) -> Statistics:
    low, high = min(p.low for p in parts), max(p.high for p in parts)
    if any(p.odd for p in parts):
        return _count(contents, held, dtype)
    return Statistics(constant=low == high, nonzero=bool(low != 0 or high != 0))


def _count(contents: Contents, held: Held, dtype: str) -> Statistics:
    """The second, slower look at a tensor with values that are no numbers."""
    nan = positive = negative = 0
    nonzero = False
    with np.errstate(invalid="ignore"):
        for piece in contents.pieces(held, 0, contents.size(held)):
            values = _decode(dtype, piece)
            nan += int(np.isnan(values).sum())
            positive += int((values == np.inf).sum())
            negative += int((values == -np.inf).sum())
            nonzero = nonzero or bool((np.isfinite(values) & (values != 0)).any())
    return Statistics(nan=nan, positive=positive, negative=negative, nonzero=nonzero)


def _decode(dtype: str, data: bytes | memoryview) -> Array:
    if dtype == "BFLOAT16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, _FLOATS.get(dtype, "<f2"))
