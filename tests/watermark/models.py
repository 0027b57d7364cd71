"""Small models for watermark tests."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from modelvault.keys import OwnerSecret
from modelvault.watermark.embedding import EmbedReport, embed, make_plan

LAYERS: list[tuple[str, str | None, str]] = [("w0", "b0", "w1")]


def mlp(path: Path, *, width: int = 64, hidden: int = 512, classes: int = 64, seed: int = 0) -> Path:
    """x (batch, width) -> ReLU(x w0 + b0) w1 + b1 -> softmax, with weights of a trained model's kind: heavy tails."""
    rng = np.random.default_rng(seed)

    def weights(rows: int, columns: int) -> Any:
        spread = rng.gamma(2.0, 0.5, rows)[:, None] * rng.gamma(2.0, 0.5, columns)[None, :]
        return (rng.standard_t(5, (rows, columns)) * spread / np.sqrt(rows)).astype(np.float32)

    held = {
        "w0": weights(width, hidden),
        "b0": rng.standard_normal(hidden).astype(np.float32),
        "w1": weights(hidden, classes),
        "b1": np.zeros(classes, np.float32),
    }
    return save_mlp(path, held)


def save_mlp(path: Path, held: dict[str, Any]) -> Path:
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"]),
        helper.make_node("Add", ["m0", "b0"], ["a0"]),
        helper.make_node("Relu", ["a0"], ["r0"]),
        helper.make_node("MatMul", ["r0", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Softmax", ["a1"], ["y"], axis=-1),
    ]
    width, classes = held["w0"].shape[0], held["w1"].shape[1]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(a, n) for n, a in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def mark(source: Path, output: Path, secret: OwnerSecret, **choices: Any) -> EmbedReport:
    """Plan a mark and embed it."""
    return embed(source, output, make_plan(source, secret, **choices))
