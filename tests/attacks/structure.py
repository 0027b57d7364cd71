"""Changes that leave the function as it is: names, order, transposes, permuted and rescaled hidden units, fusion."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from attacks.damage import is_weight, tensors


def rename(source: Path, output: Path, seed: int = 3) -> Path:
    """New names for everything inside the main graph, and the weights in another order."""
    model = onnx.load(source)
    graph = model.graph
    fixed = {v.name for v in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}

    def new(old: str) -> str:
        return old if old in fixed else names.setdefault(old, f"t{len(names)}")

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for number, node in enumerate(graph.node):
        node.name = f"n{number}"
        inputs, outputs = [new(i) for i in node.input], [new(o) for o in node.output]
        del node.input[:], node.output[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
    del graph.value_info[:]
    order = np.random.default_rng(seed).permutation(len(graph.initializer))
    shuffled = [graph.initializer[i] for i in order]
    copies = [onnx.TensorProto() for _ in shuffled]
    for copy, tensor in zip(copies, shuffled, strict=True):
        copy.CopyFrom(tensor)
    del graph.initializer[:]
    graph.initializer.extend(copies)
    onnx.save(model, output)
    return output


def transpose(source: Path, output: Path) -> Path:
    """Weights of MatMul and Gemm stored transposed, and turned back when the model runs."""
    model = onnx.load(source)
    graph = model.graph
    constants = {t.name: t for t in graph.initializer}
    turned: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1 else None
        if weight is not None and len(weight.dims) == 2:
            name = weight.name
            if name not in turned:
                turned[name] = f"{name}_turned"
                array = np.ascontiguousarray(numpy_helper.to_array(weight).T)
                weight.CopyFrom(numpy_helper.from_array(array, name))
                nodes.append(onnx.helper.make_node("Transpose", [name], [turned[name]], perm=[1, 0]))
            node.input[1] = turned[name]
        nodes.append(node)
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)
    onnx.save(model, output)
    return output


def optimise(source: Path, output: Path) -> Path:
    """onnxruntime's offline optimisation: batch norms folded, operators fused."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(output)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return output


def slim(source: Path, output: Path) -> Path:
    """onnxslim, where it is installed."""
    from onnxslim.cli._main import slim as run

    run(str(source), str(output))
    return output


def simplify(source: Path, output: Path) -> Path:
    """onnxsim, where it is installed."""
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(model, output)
    return output


def fuse(source: Path, output: Path, groups: list[list[str]]) -> Path:
    """Initializers of each group side by side in one tensor, taken apart again with Split when the model runs."""
    model = onnx.load(source)
    graph = model.graph
    for number, names in enumerate(groups):
        found = [next(t for t in graph.initializer if t.name == n) for n in names]
        arrays = [numpy_helper.to_array(t) for t in found]
        for tensor in found:
            graph.initializer.remove(tensor)
        sizes = np.array([a.shape[1] for a in arrays], np.int64)
        graph.initializer.append(numpy_helper.from_array(np.concatenate(arrays, axis=1), f"fused{number}"))
        graph.initializer.append(numpy_helper.from_array(sizes, f"sizes{number}"))
        node = onnx.helper.make_node("Split", [f"fused{number}", f"sizes{number}"], names, axis=1)
        graph.node.insert(0, node)
    onnx.save(model, output)
    return output


def split(source: Path, output: Path, names: list[str], parts: int = 2) -> Path:
    """Each initializer in ``parts`` pieces, put together again when the model runs."""
    model = onnx.load(source)
    graph = model.graph
    for name in names:
        tensor = next(t for t in graph.initializer if t.name == name)
        pieces = np.split(numpy_helper.to_array(tensor), parts, axis=1)
        graph.initializer.remove(tensor)
        below = [f"{name}_{n}" for n in range(parts)]
        for piece, piece_name in zip(pieces, below, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(piece), piece_name))
        graph.node.insert(0, onnx.helper.make_node("Concat", below, [name], axis=1))
    onnx.save(model, output)
    return output


def permute_hidden(source: Path, output: Path, layers: list[tuple[str, str | None, str]], seed: int = 4) -> Path:
    """Hidden units between two matrices in another order, and rescaled by 0.5 to 2 where ReLU allows it.

    ``layers``: (first weight (in, hidden), its bias, second weight (hidden, out)).
    """
    return _hidden(source, output, layers, seed, 1.0, rescale=True)


def shuffle_hidden(source: Path, output: Path, layers: list[tuple[str, str | None, str]], seed: int = 4) -> Path:
    """The same without rescaling: for activations that are not homogeneous."""
    return _hidden(source, output, layers, seed, 1.0, rescale=False)


def remove_hidden(source: Path, output: Path, layers: list[tuple[str, str | None, str]], share: float) -> Path:
    """Structured pruning: the weakest hidden units taken out, the matrices really smaller."""
    return _hidden(source, output, layers, 0, 1 - share, rescale=False)


def _hidden(
    source: Path, output: Path, layers: list[tuple[str, str | None, str]], seed: int, keep: float, *, rescale: bool
) -> Path:
    model, rng = onnx.load(source), np.random.default_rng(seed)
    held = {t.name: t for t in model.graph.initializer}
    for first, bias, second in layers:
        a, b = numpy_helper.to_array(held[first]), numpy_helper.to_array(held[second])
        width = a.shape[1]
        if keep < 1:
            strength = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=1)
            order = np.sort(np.argsort(-strength)[: round(keep * width)])
        else:
            order = rng.permutation(width)
        factor = rng.uniform(0.5, 2, len(order)).astype(np.float32) if rescale else np.ones(len(order), np.float32)
        _put(held[first], a[:, order] * factor)
        _put(held[second], b[order] / factor[:, None])
        if bias is not None:
            _put(held[bias], numpy_helper.to_array(held[bias])[order] * factor)
    del model.graph.value_info[:]
    onnx.save(model, output)
    return output


def _put(tensor: onnx.TensorProto, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def scramble(source: Path, output: Path, seed: int = 5) -> Path:
    """Every weight matrix alone: rows and columns permuted, rescaled by 0.5 to 2, signs flipped. The model is broken:
    this is what the aligner must be able to undo without help from the graph."""
    model, rng = onnx.load(source), np.random.default_rng(seed)
    for tensor in tensors(model):
        array = numpy_helper.to_array(tensor)
        if is_weight(array) and array.ndim == 2:
            rows, columns = (rng.permutation(n) for n in array.shape)
            factors = [rng.uniform(0.5, 2, n) * rng.choice([-1, 1], n) for n in array.shape]
            moved = array[np.ix_(rows, columns)] * np.outer(*factors)
            _put(tensor, moved.astype(np.float32))
    onnx.save(model, output)
    return output


def cut(source: Path, output: Path, share: float) -> Path:
    """Every weight matrix alone: this share of its rows and of its columns, those of least norm, taken out. The model
    is broken, as by :func:`scramble`."""
    model = onnx.load(source)
    for tensor in tensors(model):
        array = numpy_helper.to_array(tensor)
        if is_weight(array) and array.ndim == 2:
            norms = [np.linalg.norm(array, axis=1 - axis) for axis in (0, 1)]
            kept = [np.sort(np.argsort(-n)[: round((1 - share) * len(n))]) for n in norms]
            _put(tensor, array[np.ix_(*kept)])
    onnx.save(model, output)
    return output


def as_arrays(source: Path, output: Path) -> Path:
    """The weights alone, as .npz."""
    arrays = {}
    for tensor, number in zip(tensors(onnx.load(source)), itertools.count(), strict=False):
        array = numpy_helper.to_array(tensor)
        if is_weight(array):
            arrays[f"w{number}"] = array
    np.savez(output, allow_pickle=False, **arrays)
    return output


def as_safetensors(arrays: dict[str, Any], output: Path) -> Path:
    """Arrays in the safetensors layout, half of them as bfloat16."""
    entries, data = {}, b""
    for number, (name, array) in enumerate(arrays.items()):
        if number % 2:
            raw, kind = (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2").tobytes(), "BF16"
        else:
            raw, kind = np.ascontiguousarray(array, "<f4").tobytes(), "F32"
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    header = json.dumps(entries).encode()
    output.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return output
