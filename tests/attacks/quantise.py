"""Quantisation by onnxruntime's own tools."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static


def _folded(source: Path, folder: Path) -> Path:
    """Constants as initializers, which is where these tools look for weights."""
    model = onnx.load(source)
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    path = folder / "folded.onnx"
    onnx.save(model, path)
    return path


def dynamic_int8(source: Path, output: Path, *, per_channel: bool = False) -> Path:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(_folded(source, Path(folder)), output, per_channel=per_channel, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    return output


class _Feeds(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, Any]:
        return next(self._left, None)  # type: ignore[arg-type]  # onnxruntime ends at None


def static_qdq(source: Path, output: Path, feeds: list[dict[str, Any]]) -> Path:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            _folded(source, Path(folder)), output, _Feeds(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    return output


def int4(source: Path, output: Path, *, block: int = 32) -> Path:
    """Every MatMul with a constant right side becomes MatMulNBits: 4 bits, asymmetric, a scale for each block."""
    model = onnx.load(source)
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        columns = np.ascontiguousarray(onnx.numpy_helper.to_array(weight).T)
        packed, scales, zeros = _pack4(columns, block)
        name = weight.name
        for suffix, array in (("_q4", packed), ("_scale", scales), ("_zero", zeros)):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name + suffix))
        rows, count = columns.shape
        new = onnx.helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}_q4", f"{name}_scale", f"{name}_zero"], list(node.output),
            domain="com.microsoft", K=count, N=rows, bits=4, block_size=block,
        )  # fmt: skip
        node.CopyFrom(new)
    used = {i for n in model.graph.node for i in n.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if not any(o.domain == "com.microsoft" for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, output)
    return output


def _pack4(rows: Any, block: int) -> tuple[Any, Any, Any]:
    """(N, K) floats -> packed blocks (N, blocks, block / 2), scales (N x blocks), packed zero points."""
    count, width = rows.shape
    blocks = -(-width // block)
    padded = np.zeros((count, blocks * block), np.float32)
    padded[:, :width] = rows
    table = padded.reshape(count, blocks, block)
    low, high = np.minimum(table.min(-1), 0), np.maximum(table.max(-1), 0)
    scale = np.where(high > low, (high - low) / 15, 1).astype(np.float32)
    zero = np.clip(np.round(-low / scale), 0, 15).astype(np.uint8)
    quant = np.clip(np.round(table / scale[..., None]) + zero[..., None], 0, 15).astype(np.uint8)
    packed = quant[..., 0::2] | (quant[..., 1::2] << 4)
    even = np.zeros((count, -(-blocks // 2) * 2), np.uint8)
    even[:, :blocks] = zero
    return packed, scale.reshape(-1), (even[:, 0::2] | (even[:, 1::2] << 4)).reshape(-1)
