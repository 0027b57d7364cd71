"""Changes of the weights' values: rounding, noise, pruning."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Array = Any
Change = Callable[[Array], Array]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for below in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(below)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, wherever they are."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    yield attribute.t


def is_weight(array: Array) -> bool:
    return bool(array.size >= 1024 and array.dtype.kind == "f" and sum(d > 1 for d in array.shape) >= 2)


def change(source: Path, output: Path, how: Change) -> Path:
    """Apply ``how`` to every float weight matrix."""
    model = onnx.load(source)
    for tensor in tensors(model):
        array = numpy_helper.to_array(tensor)
        if is_weight(array):
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(how(array)).astype(array.dtype), tensor.name))
        elif array.size >= 1024 and array.dtype == np.int8:
            steps = np.clip(np.round(how(array.astype(np.float32))), -128, 127)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(steps, np.int8), tensor.name))
    onnx.save(model, output)
    return output


def fp16(array: Array) -> Array:
    return np.clip(array, -65504, 65504).astype(np.float16)


def bf16(array: Array) -> Array:
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).view(np.float32)


def noise(sigma: float, seed: int = 1) -> Change:
    """Gaussian noise of ``sigma`` times each tensor's standard deviation."""
    rng = np.random.default_rng(seed)
    return lambda a: a + sigma * a.std() * rng.standard_normal(a.shape, np.float32)


def prune(share: float) -> Change:
    """Set the smallest weights to zero."""

    def how(array: Array) -> Array:
        limit = np.quantile(np.abs(array), share)
        return np.where(np.abs(array) <= limit, 0, array)

    return how


def prune_rows(share: float) -> Change:
    """Set whole rows, those of least norm, to zero."""

    def how(array: Array) -> Array:
        norms = np.linalg.norm(array.reshape(array.shape[0], -1), axis=1)
        gone = norms <= np.quantile(norms, share)
        return np.where(gone.reshape(-1, *[1] * (array.ndim - 1)), 0, array)

    return how


def refill(share: float, seed: int = 2) -> Change:
    """Prune, then hide the zeros under noise of the size of what was pruned."""
    rng = np.random.default_rng(seed)

    def how(array: Array) -> Array:
        limit = np.quantile(np.abs(array), share)
        small = np.abs(array) <= limit
        return np.where(small, rng.standard_normal(array.shape, np.float32) * limit / 2, array)

    return how
