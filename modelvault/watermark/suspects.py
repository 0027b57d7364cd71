"""Files that may hold a marked model: ONNX, safetensors and .npz, as float tensors that are read one by one."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelvault.onnxfile import OpenModel, Weight
from modelvault.onnxfile.quantised import dequantised
from modelvault.tensorfile import StoredTensor, read_tensors
from modelvault.watermark.carriers import FLOATS, STEPS, Float, Shape, to_float

MIN_ELEMENTS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectTensor:
    """A tensor of a file under suspicion; ``read`` gives float32 of ``shape``. ``dtype`` in ONNX's words."""

    name: str
    dtype: str
    shape: Shape
    read: Callable[[], Float]
    dequantised: bool = False


def open_suspect(suspect: str | os.PathLike[str] | OpenModel) -> list[SuspectTensor]:
    """The tensors of a file, or of an open model, that may be weights. Raises FileError, FormatError, ModelError."""
    if isinstance(suspect, OpenModel):
        return onnx_tensors(suspect)
    tensors = read_tensors(suspect)
    return onnx_tensors(OpenModel(suspect)) if tensors is None else stored_tensors(tensors)


def stored_tensors(tensors: list[StoredTensor]) -> list[SuspectTensor]:
    """Those that may be weights."""
    return [_floats(t.name, t.dtype, t.shape, t.read) for t in tensors if _is_candidate(t.dtype, t.shape)]


def onnx_tensors(model: OpenModel) -> list[SuspectTensor]:
    """The float tensors of a model, and its quantised ones both as they are stored and as they are used."""
    found = []
    for weight in model.weights:
        if _is_candidate(weight.dtype, weight.shape):
            found.append(_stored(model, weight))
    for name, shape, read in dequantised(model):
        found.append(SuspectTensor(name=name, dtype="FLOAT", shape=shape, read=read, dequantised=True))
    return found


def _stored(model: OpenModel, weight: Weight) -> SuspectTensor:
    return _floats(weight.name, weight.dtype, weight.shape, lambda: model.read(weight))


def _floats(name: str, dtype: str, shape: Shape, data: Callable[[], bytes | bytearray]) -> SuspectTensor:
    def read() -> Float:
        return _finite(to_float(dtype, data()).reshape(shape))

    return SuspectTensor(name=name, dtype=dtype, shape=shape, read=read)


def _is_candidate(dtype: str, shape: Shape) -> bool:
    known = dtype in FLOATS or dtype in STEPS or dtype == "BFLOAT16"
    return known and math.prod(shape) >= MIN_ELEMENTS and len(shape) <= 8


def _finite(values: Float) -> Float:
    """What is no number counts as absent."""
    return values if np.isfinite(np.vdot(values, values)) else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
