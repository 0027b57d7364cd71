"""Quantised weights as the floats that a model computes with: DequantizeLinear, MatMulNBits, integer products."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault.errors import ModelError
from modelvault.onnxfile.tensors import show
from modelvault.onnxfile.walk import nodes
from modelvault.onnxfile.weights import OpenModel, Weight

Float = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Found = tuple[str, Shape, Callable[[], Float]]

_BYTES = {"INT8": "i1", "UINT8": "u1"}
_FLOATS = {"FLOAT": "<f4", "FLOAT16": "<f2"}
# Products of integers: the weight's input number, and its zero point's; scales are applied to the result.
_PRODUCTS = {
    "MatMulInteger": (1, 3), "ConvInteger": (1, 3), "DynamicQuantizeMatMul": (1, 3), "MatMulIntegerToFloat": (1, 5),
    "QLinearMatMul": (3, 5), "QLinearConv": (3, 5), "QGemm": (3, 5),
}  # fmt: skip


def dequantised(model: OpenModel) -> Iterator[Found]:
    """(name, shape, reader) of every quantised weight; the reader computes it when it is called.

    Where scales belong to the result of an integer product they are left out: rows or columns then differ from the
    original by a factor each.
    """
    weights = {w.name: w for w in model.weights}
    for node in nodes(model.model):  # rows picked from a quantised table are dequantised after they are picked
        if node.op_type == "Gather" and (table := _input(weights, node, 0)) and node.output:
            weights.setdefault(node.output[0], table)
    seen: set[str] = set()
    for node in nodes(model.model):
        reader = _READERS.get(node.op_type)
        found = reader(model, weights, node) if reader else None
        if found and found[0] not in seen:
            seen.add(found[0])
            name, shape, read = found
            yield name, shape, _guarded(read, f"{model.path}: tensor {show(name)}")


def _guarded(read: Callable[[], Float], where: str) -> Callable[[], Float]:
    """Scales and zero points whose shapes do not fit are found out here."""

    def guarded() -> Float:
        try:
            return read()
        except (ValueError, IndexError):
            raise ModelError(f"{where}: scale or zero point of another shape") from None

    return guarded


def _attributes(node: Any) -> dict[str, int]:
    return {a.name: a.i for a in node.attribute}


def _input(weights: dict[str, Weight], node: Any, number: int) -> Weight | None:
    return weights.get(node.input[number]) if len(node.input) > number else None


def _integers(model: OpenModel, weight: Weight) -> Float:
    return np.frombuffer(model.read(weight), _BYTES[weight.dtype]).astype(np.float32).reshape(weight.shape)


def _floats(model: OpenModel, weight: Weight) -> Float:
    return np.frombuffer(model.read(weight), _FLOATS[weight.dtype]).reshape(weight.shape)


def _spread(values: Float, shape: Shape, axis: int, block: int | None) -> Float:
    """Scales or zero points, brought to a shape that broadcasts against the weight's; ValueError, IndexError."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == len(shape) and block:
        if values.shape[axis] * block >= shape[axis] + block:  # more scales than blocks
            raise ValueError
        return np.repeat(values, min(block, shape[axis]), axis=axis)[tuple(slice(n) for n in shape)]
    dims = [1] * len(shape)
    dims[axis] = shape[axis]
    return values.reshape(dims)


def _linear(model: OpenModel, weights: dict[str, Weight], node: Any) -> Found | None:
    weight, scale, zero = (_input(weights, node, n) for n in range(3))
    if weight is None or scale is None or weight.dtype not in _BYTES or scale.dtype not in _FLOATS or not node.output:
        return None
    attributes = _attributes(node)
    axis, block = attributes.get("axis", 1) % max(len(weight.shape), 1), attributes.get("block_size")

    def read() -> Float:
        values = _integers(model, weight)
        if zero is not None and zero.dtype in _BYTES:
            values = values - _spread(_integers(model, zero), weight.shape, axis, block)
        return values * _spread(_floats(model, scale), weight.shape, axis, block)

    return node.output[0], weight.shape, read


def _product(model: OpenModel, weights: dict[str, Weight], node: Any) -> Found | None:
    place, zero_place = _PRODUCTS[node.op_type]
    weight, zero = _input(weights, node, place), _input(weights, node, zero_place)
    if weight is None or weight.dtype not in _BYTES or zero is None or zero.dtype not in _BYTES:
        return None
    axis = 0 if "Conv" in node.op_type else len(weight.shape) - 1

    def read() -> Float:
        return _integers(model, weight) - _spread(_integers(model, zero), weight.shape, axis, None)

    return f"{weight.name} less its zero point", weight.shape, read


def _blocks(model: OpenModel, weights: dict[str, Weight], node: Any) -> Found | None:
    """com.microsoft MatMulNBits: N rows of K numbers of ``bits`` bits, in blocks with a scale and a zero point each."""
    packed, scale, zero = (_input(weights, node, n) for n in (1, 2, 3))
    attributes = _attributes(node)
    bits, block = attributes.get("bits", 4), attributes.get("block_size", 0)
    rows, columns = attributes.get("N", 0), attributes.get("K", 0)
    if packed is None or scale is None or packed.dtype != "UINT8" or scale.dtype not in _FLOATS:
        return None
    if bits not in (4, 8) or min(rows, columns, block) < 1:
        return None
    count = -(-columns // block)
    if 8 * packed.size != rows * count * block * bits or math.prod(scale.shape) != rows * count:
        return None

    def read() -> Float:
        values = _unpack(model.read(packed), bits).reshape(rows, count, block)
        middle: Any = 2 ** (bits - 1)
        if zero is not None and zero.dtype == "UINT8":
            middle = _unpack(model.read(zero), bits).reshape(rows, -1)[:, :count, None]
        values = (values - middle) * _floats(model, scale).reshape(rows, count, 1)
        return np.ascontiguousarray(values.reshape(rows, count * block)[:, :columns])

    return packed.name, (rows, columns), read


def _unpack(data: bytes, bits: int) -> Float:
    """Numbers of 4 bits stand two in a byte, the lower half first."""
    values = np.frombuffer(data, np.uint8)
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=1).ravel()
    return values.astype(np.float32)


_READERS: dict[str, Callable[[OpenModel, dict[str, Weight], Any], Found | None]] = {
    "DequantizeLinear": _linear,
    "MatMulNBits": _blocks,
    **dict.fromkeys(_PRODUCTS, _product),
}
