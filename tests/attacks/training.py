"""Real training with real gradients: a network for scikit-learn's digits, and its fine-tuning by a thief."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = Any
SIZES = (64, 512, 256, 10)


@dataclass(slots=True)
class Digits:
    """Images (n, 64) from 0 to 1 and labels; the first half is the owner's, the second the thief's, 300 test."""

    images: Array
    labels: Array

    @classmethod
    def load(cls) -> "Digits":
        from sklearn.datasets import load_digits

        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        return cls((data.data[order] / 16).astype(np.float32), data.target[order])

    @property
    def owner(self) -> tuple[Array, Array]:
        return self.images[:750], self.labels[:750]

    @property
    def thief(self) -> tuple[Array, Array]:
        return self.images[750:1497], self.labels[750:1497]

    @property
    def test(self) -> tuple[Array, Array]:
        return self.images[1497:], self.labels[1497:]


def fresh(seed: int = 0) -> list[Array]:
    """He-initialised weights and zero biases: w0, b0, w1, b1, w2, b2."""
    rng, held = np.random.default_rng(seed), []
    for rows, columns in itertools.pairwise(SIZES):
        held += [rng.standard_normal((rows, columns)) * np.sqrt(2 / rows), np.zeros(columns)]
    return [h.astype(np.float32) for h in held]


def train(held: list[Array], data: tuple[Array, Array], *, epochs: int, rate: float, seed: int = 0) -> list[Array]:
    """Adam on the cross-entropy, batches of 32."""
    held, rng = [h.copy() for h in held], np.random.default_rng(seed)
    images, labels = data
    first, second = [np.zeros_like(h) for h in held], [np.zeros_like(h) for h in held]
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for at in range(0, len(order), 32):
            step += 1
            batch = order[at : at + 32]
            for n, gradient in enumerate(_gradients(held, images[batch], labels[batch])):
                first[n] = 0.9 * first[n] + 0.1 * gradient
                second[n] = 0.999 * second[n] + 0.001 * gradient**2
                change = (first[n] / (1 - 0.9**step)) / (np.sqrt(second[n] / (1 - 0.999**step)) + 1e-8)
                held[n] -= (rate * change).astype(np.float32)
    return held


def _gradients(held: list[Array], x: Array, labels: Array) -> list[Array]:
    values = [x]
    for n in range(0, len(held), 2):
        out = values[-1] @ held[n] + held[n + 1]
        values.append(np.maximum(out, 0) if n + 2 < len(held) else out)
    scores = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
    error = scores / scores.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    found: list[Array] = []
    for n in range(len(held) - 2, -1, -2):
        found = [values[n // 2].T @ error, error.sum(axis=0), *found]
        error = (error @ held[n].T) * (values[n // 2] > 0)
    return found


def accuracy(held: list[Array], data: tuple[Array, Array]) -> float:
    x = data[0]
    for n in range(0, len(held), 2):
        x = x @ held[n] + held[n + 1]
        x = np.maximum(x, 0) if n + 2 < len(held) else x
    return float(np.mean(np.argmax(x, axis=1) == data[1]))


def save(held: list[Array], path: Path) -> Path:
    nodes, last = [], "x"
    for n in range(0, len(held), 2):
        nodes.append(helper.make_node("Gemm", [last, f"w{n // 2}", f"b{n // 2}"], [f"g{n}"]))
        last = f"g{n}"
        if n + 2 < len(held):
            nodes.append(helper.make_node("Relu", [last], [f"r{n}"]))
            last = f"r{n}"
    nodes.append(helper.make_node("Softmax", [last], ["y"], axis=-1))
    names = [f"{'wb'[n % 2]}{n // 2}" for n in range(len(held))]
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", SIZES[0]])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", SIZES[-1]])],
        [numpy_helper.from_array(h, n) for h, n in zip(held, names, strict=True)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def read(path: Path) -> list[Array]:
    return [numpy_helper.to_array(t).copy() for t in onnx.load(path).graph.initializer]


def moved(before: list[Array], after: list[Array]) -> float:
    """Relative change of all weights together."""
    pairs = list(zip(before, after, strict=True))
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for b, a in pairs) / sum(np.sum(b**2) for b, _ in pairs)))
