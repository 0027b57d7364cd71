"""Which weights carry a mark, what names them, and how large a change each element may take (section 2)."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_WATERMARK
from modelvault.onnxfile import OpenModel, Weight

Float = npt.NDArray[np.float32]
Shape = tuple[int, ...]

MIN_ELEMENTS = 1024
SAMPLE = 1024
MIN_DISTINCT = 64
SIGNS = 256
FLOATS = {"FLOAT": "<f4", "FLOAT16": "<f2", "DOUBLE": "<f8"}
STEPS = {"INT8": "i1", "UINT8": "u1"}
_BLOCK = 2**18

# Inputs where an integer tensor is a weight; anywhere else it may be an index or a table.
_QUANTISED = frozenset(
    {"DequantizeLinear:0", "MatMulInteger:1", "ConvInteger:1", "QLinearMatMul:3", "QLinearConv:3", "QGemm:3"}
    | {"DynamicQuantizeMatMul:1", "MatMulIntegerToFloat:1", "QAttention:1", "DynamicQuantizeLSTM:1"}
    | {"DynamicQuantizeLSTM:2", "Cast:0"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """A tensor that can carry a mark. ``digest`` is its identity, ``signs`` 256 bits that find it again."""

    weight: Weight
    digest: bytes
    signs: bytes

    @property
    def count(self) -> int:
        return math.prod(self.weight.shape)


def to_float(dtype: str, data: bytes | bytearray) -> Float:
    """Little-endian elements -> float32, flat. KeyError for a type that is none of the carriers'."""
    if dtype == "BFLOAT16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, FLOATS.get(dtype) or STEPS[dtype]).astype(np.float32, copy=False)


def grid(shape: Shape) -> tuple[int, int]:
    """Rows and columns that a tensor is seen as: dimensions of 1 dropped, the first against all others together."""
    dims = [d for d in shape if d != 1] or [1]
    return (1, dims[0]) if len(dims) == 1 else (dims[0], math.prod(dims[1:]))


def may_carry(weight: Weight) -> bool:
    """Whether type, shape and use allow a mark; the values are looked at later."""
    count = math.prod(weight.shape)
    if count < MIN_ELEMENTS:
        return False
    if any(use.endswith(":leaves") for use in weight.uses):
        return True
    if grid(weight.shape)[0] == 1:
        return False
    if weight.dtype in STEPS:
        return bool(weight.uses & _QUANTISED)
    return weight.dtype in FLOATS or weight.dtype == "BFLOAT16"


def tensor_digest(dtype: str, shape: Shape, data: bytes) -> bytes:
    """SHA-256 over type, shape and content: the identity of a tensor, whatever it is called and wherever it stands."""
    head = f"{dtype} {','.join(map(str, shape))}\n".encode()
    digest = hashlib.sha256(LABEL_WATERMARK + b"tensor\n" + head)
    digest.update(data)
    return digest.digest()


def model_digest(tensors: Iterable[bytes]) -> bytes:
    """SHA-256 over the sorted distinct digests of all carriers: the identity of an original."""
    return hashlib.sha256(LABEL_WATERMARK + b"original\n" + b"".join(sorted(set(tensors)))).digest()


def find_carriers(model: OpenModel, progress: Callable[[int], None] | None = None) -> list[Carrier]:
    """Every distinct carrier of a model; tensors of one content are one carrier."""
    found: dict[bytes, Carrier] = {}
    for weight in model.weights:
        if may_carry(weight):
            data = model.read(weight)
            values = to_float(weight.dtype, data)
            if varied(values):
                digest = tensor_digest(weight.dtype, weight.shape, data)
                found.setdefault(digest, Carrier(weight=weight, digest=digest, signs=sketch_signs(values)))
        if progress:
            progress(weight.size)
    return list(found.values())


def varied(values: Float) -> bool:
    """Finite, and no table of few values such as a mask."""
    sample = values[:: max(1, len(values) // SAMPLE)][:SAMPLE]
    if len(np.unique(sample[sample != 0])) < MIN_DISTINCT:
        return False
    return bool(np.isfinite(np.dot(values, values)))  # a NaN or an infinity anywhere shows in the sum


def share_nonzero(values: Float) -> float:
    """How many of the elements are not zero, as a share; counting truth values is faster than counting floats."""
    return int(np.count_nonzero(values != 0)) / values.size


def sketch_signs(values: Float) -> bytes:
    """The signs of 256 elements evenly apart, as 32 bytes: enough to tell which tensor of a shape this is."""
    places = (np.arange(SIGNS) * values.size) // SIGNS
    return np.packbits(values[np.unravel_index(places, values.shape)] > 0).tobytes()


@dataclass(frozen=True, slots=True)
class Scale:
    """How much each element may change: rms of its row times rms of its column over rms of the whole, as factors."""

    rows: Float
    columns: Float

    @classmethod
    def of(cls, values: Float, shape: Shape) -> "Scale":
        rows, columns = grid(shape)
        table = values.reshape(rows, columns)
        row_sums = np.empty(rows, np.float64)
        column_sums = np.zeros(columns, np.float64)
        for part in _row_parts(rows, columns):
            squares = np.square(table[part])
            row_sums[part] = squares.sum(axis=1, dtype=np.float32 if columns < 2**16 else np.float64)
            column_sums += squares.sum(axis=0)
        total = row_sums.sum() / len(values)
        norm = math.sqrt(total) if total > 0 else 1.0
        row = np.sqrt(row_sums / columns) / norm
        return cls(row.astype(np.float32), np.sqrt(column_sums / rows).astype(np.float32))

    @classmethod
    def steps(cls, shape: Shape) -> "Scale":
        """Quantised weights change by whole steps."""
        rows, columns = grid(shape)
        return cls(np.ones(rows, np.float32), np.ones(columns, np.float32))

    def times(self, factor: float) -> "Scale":
        return Scale(self.rows * np.float32(factor), self.columns)

    def flat(self, place: slice) -> Float:
        """The factors of the elements in ``place`` of the flattened tensor."""
        width = len(self.columns)
        first, last = place.start // width, (place.stop - 1) // width
        begin = place.start - first * width
        if first == last:
            row: Float = self.rows[first] * self.columns[begin : place.stop - first * width]
            return row
        table = self.rows[first : last + 1, None] * self.columns[None, :]
        flat: Float = table.reshape(-1)[begin : begin + place.stop - place.start]
        return flat


def scale_of(dtype: str, shape: Shape, values: Float) -> Scale:
    return Scale.steps(shape) if dtype in STEPS else Scale.of(values, shape)


def _row_parts(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that fit a processor's cache."""
    step = max(1, _BLOCK // columns)
    return (slice(at, min(at + step, rows)) for at in range(0, rows, step))
