"""What a thief may do to a marked model, by name, and which of it can be made stronger step by step."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from attacks import damage, quantise, structure
from watermark.models import mark

from modelvault.errors import ModelError
from modelvault.keys import OwnerSecret

Attack = Callable[[Path, Path], Path]

CALIBRATED = 16  # inputs that static quantisation is calibrated on


def changed(how: damage.Change) -> Attack:
    return lambda source, output: damage.change(source, output, how)


def chain(*attacks: Attack) -> Attack:
    def run(source: Path, output: Path) -> Path:
        current = source
        for number, attack in enumerate(attacks):
            current = attack(current, output.with_name(f"{output.stem}-{number}.onnx"))
        return current

    return run


def more_marks(source: Path, output: Path, *, strength: float = 0.003) -> Path:
    """Three other owners' marks."""
    current = source
    for number in range(3):
        after = output.with_name(f"{output.stem}-{number}.onnx")
        mark(current, after, OwnerSecret(bytes([number]) * 32), strength=strength, check=False)
        current = after
    return current


def hidden(source: Path, output: Path, *, share: float = 0.0) -> Path:
    """Hidden units of every feed-forward block shuffled, or the weakest taken out."""
    layers = feed_forward(onnx.load(source, load_external_data=False))
    if not layers:
        raise ModelError("no feed-forward block")
    if share:
        return structure.remove_hidden(source, output, layers, share)
    return structure.shuffle_hidden(source, output, layers)


def feed_forward(model: onnx.ModelProto) -> list[tuple[str, str | None, str]]:
    """(first, bias, second) of each pair of float matrices (d, h), (h, d) with h > d that follow each other."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    order = [
        (n.input[1], shapes[n.input[1]]) for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in shapes
    ]
    found: list[tuple[str, str | None, str]] = []
    for (first, a), (second, b) in itertools.pairwise(order):
        if a == b[::-1] and a[1] > a[0]:
            after = next(n.output[0] for n in model.graph.node if first in n.input)
            adds = [i for n in model.graph.node if n.op_type == "Add" and after in n.input for i in n.input]
            bias = next(i for i in adds if shapes.get(i) == (a[1],))
            found.append((first, bias, second))
    return found


def projections(source: Path, output: Path) -> Path:
    """Query, key and value matrices, which read the same input, in one tensor."""
    model = onnx.load(source)
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and len(set(shapes.get(node.input[1], (0, 1)))) == 1:
            readers.setdefault(node.input[0], []).append(node.input[1])
    groups = [names for names in readers.values() if len(names) == 3]
    if not groups:
        raise ModelError("no attention")
    return structure.fuse(source, output, groups)


def halves(source: Path, output: Path) -> Path:
    """Every square matrix split in two."""
    model = onnx.load(source)
    names = [
        t.name for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] == t.dims[1] and t.data_type == 1
    ]
    if not names:
        raise ModelError("no square matrices")
    return structure.split(source, output, names)


def attacks(feeds: list[dict[str, Any]]) -> dict[str, Attack]:
    """Every attack, by name. ``feeds``: what static quantisation is calibrated on."""
    noise3 = changed(damage.noise(0.03))
    return {
        "none": lambda source, _: source,
        "fp16": changed(damage.fp16),
        "bf16": changed(damage.bf16),
        "int8, dynamic": quantise.dynamic_int8,
        "int8, dynamic, per channel": lambda s, d: quantise.dynamic_int8(s, d, per_channel=True),
        "int8, static QDQ": lambda s, d: quantise.static_qdq(s, d, feeds[:CALIBRATED]),
        "int4, blocks of 32 (MatMulNBits)": quantise.int4,
        "int4, blocks of 128 (MatMulNBits)": lambda s, d: quantise.int4(s, d, block=128),
        "prune 50 %": changed(damage.prune(0.5)),
        "prune 70 %": changed(damage.prune(0.7)),
        "prune 90 %": changed(damage.prune(0.9)),
        "prune 50 %, refill with noise": changed(damage.refill(0.5)),
        "rows, 30 % zeroed": changed(damage.prune_rows(0.3)),
        "30 % of rows and of columns cut out": lambda s, d: structure.cut(s, d, 0.3),
        "hidden units, 30 % taken out": lambda s, d: hidden(s, d, share=0.3),
        "noise, 10 % of sigma": changed(damage.noise(0.1)),
        "renamed and reordered": structure.rename,
        "transposed": structure.transpose,
        "onnxruntime offline optimisation": structure.optimise,
        "onnxslim": structure.slim,
        "onnxsim": structure.simplify,
        "hidden units shuffled": hidden,
        "every matrix permuted, rescaled, flipped": structure.scramble,
        "query, key, value fused": projections,
        "matrices split": halves,
        "three more owners' marks": more_marks,
        "fp16 + renamed + noise 3 %": chain(changed(damage.fp16), structure.rename, noise3),
        "prune 50 % + transposed + renamed": chain(changed(damage.prune(0.5)), structure.transpose, structure.rename),
        "hidden shuffled + int8 + noise 3 %": chain(noise3, hidden, quantise.dynamic_int8),
        "onnxslim + noise 3 % + bf16": chain(structure.slim, noise3, changed(damage.bf16)),
    }


def _rounded(bits: int) -> damage.Change:
    """Each row rounded to 2^bits levels."""

    def how(array: Any) -> Any:
        table = array.reshape(array.shape[0], -1)
        step = np.abs(table).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 0.5)
        return (np.round(table / np.where(step > 0, step, 1)) * step).reshape(array.shape)

    return how


def sweeps() -> Iterator[tuple[str, list[tuple[str, Attack]]]]:
    """Attacks that can be made stronger, by name, with the steps by name."""
    yield "noise, of sigma", [(f"{s:.0%}", changed(damage.noise(s))) for s in (0.03, 0.1, 0.3, 0.6, 1.0, 2.0)]
    yield "magnitude pruning", [(f"{s:.1%}", changed(damage.prune(s))) for s in (0.5, 0.9, 0.98, 0.998)]
    yield "prune and refill", [(f"{s:.0%}", changed(damage.refill(s))) for s in (0.5, 0.8, 0.9, 0.95, 0.98)]
    yield "rows zeroed", [(f"{s:.0%}", changed(damage.prune_rows(s))) for s in (0.3, 0.6, 0.9, 0.98)]
    yield "levels a row", [(f"{b} bits", changed(_rounded(b))) for b in (8, 6, 4, 3, 2)]
    yield "three more marks", [(f"strength {s:g}", partial(more_marks, strength=s)) for s in (0.003, 0.03, 0.1)]
    noises = [(f"{s:.0%}", chain(structure.scramble, changed(damage.noise(s)))) for s in (0.03, 0.1, 0.2)]
    yield "permuted, flipped, rescaled, noise", noises
