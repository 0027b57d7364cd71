"""Rules about the values of weights."""

import math
from collections.abc import Iterator

from modelvault.errors import ModelError
from modelvault.onnxfile.checking import is_external
from modelvault.scan.finding import CONTENT, ERROR, NOTE, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.places import Held
from modelvault.scan.statistics import Statistics
from modelvault.scan.subject import Subject

LEAST = 256  # elements: a smaller constant is a setting, not a weight
UNUSED = 1024  # bytes

# Where a matrix of one value cannot be what training left.
_TRAINED = frozenset(
    {"MatMul:0", "MatMul:1", "Gemm:1", "Conv:1", "ConvTranspose:1", "LSTM:1", "LSTM:2", "GRU:1", "GRU:2", "RNN:1"}
    | {"Gather:0", "MatMulInteger:1", "ConvInteger:1", "QLinearMatMul:3", "QLinearConv:3", "DequantizeLinear:0"}
)


@rule(
    "nan-weights",
    WARNING,
    CONTENT,
    why="a weight that is not a number spreads through every output: training failed, or somebody broke the model",
    fix="go back to a checkpoint without NaN",
)
def nan(subject: Subject) -> Iterator[Hit]:
    for held, values in subject.statistics:
        if values.nan:
            yield Hit(held.place, f"{values.nan} of {math.prod(held.tensor.dims)} elements are NaN")


@rule(
    "infinite-weights",
    WARNING,
    CONTENT,
    why="an infinite weight makes outputs infinite or NaN: an overflow in training or conversion",
    fix="convert with a wider type, or clip; a mask of zeros and minus infinities is not reported",
)
def infinite(subject: Subject) -> Iterator[Hit]:
    for held, values in subject.statistics:
        count = values.positive + values.negative
        if count and not _mask(held, values):
            yield Hit(held.place, f"{count} of {math.prod(held.tensor.dims)} elements are infinite")


def _mask(held: Held, values: Statistics) -> bool:
    """One infinity as a setting, or zeros and minus infinities: a mask before a softmax."""
    single = math.prod(held.tensor.dims) == 1
    return single or (values.positive == 0 and not values.nonzero and not values.nan)


@rule(
    "constant-weights",
    WARNING,
    CONTENT,
    why="a matrix of one single value was never trained, or was wiped",
    fix="export the trained weights; remove a layer that does nothing",
)
def constant(subject: Subject) -> Iterator[Hit]:
    for held, values in subject.statistics:
        dims = [d for d in held.tensor.dims if d > 1]
        if values.constant and len(dims) > 1 and math.prod(dims) >= LEAST and _TRAINED & _uses(subject, held):
            yield Hit(held.place, f"all {math.prod(dims)} elements are the same")


def _uses(subject: Subject, held: Held) -> set[str]:
    return subject.users.get(held.name, set())


@rule(
    "unused-weights",
    NOTE,
    STRUCTURE,
    why="a tensor that nothing reads is dead weight, or a payload that travels unseen",
    fix="remove it (onnxslim and onnxruntime's optimiser do)",
)
def unused(subject: Subject) -> Iterator[Hit]:
    outputs = {name for scope in subject.scopes for name in scope.outputs()}
    for held in subject.tensors:
        if held.role == "initializer" and not _uses(subject, held) and held.name not in outputs:
            size = _size(subject, held)
            if size >= UNUSED:
                yield Hit(held.place, f"{size} bytes that nothing reads")


def _size(subject: Subject, held: Held) -> int:
    try:
        return subject.reader.size(held.tensor, held.name) or 0
    except ModelError:
        return 0


@rule(
    "inconsistent-tensor",
    ERROR,
    STRUCTURE,
    why="a tensor whose data does not fit its shape makes careless readers read memory that is not theirs",
    fix="save the model again",
)
def inconsistent(subject: Subject) -> Iterator[Hit]:
    for held in subject.tensors:
        if is_external(held.tensor) and subject.references_are_real:
            continue  # external-malformed
        words = None
        try:
            size = subject.reader.size(held.tensor, held.name)
            if is_external(held.tensor):
                words = _moved(held, size)
            elif size is not None:
                subject.reader.data(held.tensor, size, held.name)
        except ModelError as error:
            words = str(error).removeprefix(f"{subject.reader.where(held.name)}: ")
        if words:
            yield Hit(held.place, plain(words))


def _moved(held: Held, size: int | None) -> str | None:
    """What is wrong where the data that was left in the file does not fit the shape."""
    length = next((int(e.value) for e in held.tensor.external_data if e.key == "length"), 0)
    return None if length == size else f"raw_data has {length} bytes, its shape needs {size}"
