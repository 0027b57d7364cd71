"""Shapes and small constants, worked out from the graph alone: nothing is executed, numbers are bounded.

Knows the operators that make shapes and those that blow them up; what depends on the inputs' content stays unknown.
Estimates are lower bounds: a dimension that is not known counts as 1.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelvault.onnxfile.checking import small_numbers
from modelvault.scan.places import Place, Scope

TOP = 2**63  # numbers saturate here: far above anything that can be allocated
MAX_RANK = 64
MAX_VALUES = 4096

Dims = tuple[int, ...]
Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """``dims``: lower bounds, or None for an unknown rank; ``values``: flat constants; ``exact``: dims are known."""

    dims: Dims | None = None
    values: Values | None = None
    exact: bool = False

    @property
    def elements(self) -> int:
        return product(self.dims) if self.dims is not None else 1


NOTHING = Known()


@dataclass(slots=True)
class Folded:
    """Per scope what is known by name; ``outputs``: nodes with a large output, its elements and its name."""

    scopes: dict[int, dict[str, Known]] = field(default_factory=dict)
    outputs: list[tuple[Place, int, str]] = field(default_factory=list)

    def find(self, scope: Scope | None, name: str) -> Known:
        """What is known of a value seen from a scope."""
        while scope is not None:
            known = self.scopes.get(id(scope), {}).get(name)
            if known is not None:
                return known
            scope = scope.parent
        return NOTHING


def product(numbers: Iterable[float]) -> int:
    """Of whole numbers that are not negative; saturates at TOP."""
    result = 1
    for number in numbers:
        result = min(result * _whole(number), TOP)
    return result


def fold(scopes: Sequence[Scope]) -> Folded:
    """Work through all scopes, outer ones first."""
    folded = Folded()
    for scope in scopes:
        known = folded.scopes[id(scope)] = _given(scope)
        for number, node in enumerate(scope.body.node):
            for name, fact in zip(node.output, _node(folded, scope, node), strict=False):
                if name and (name not in known or fact.dims is not None):
                    known[name] = fact
                if fact.elements > 2**20:
                    folded.outputs.append((Place(scope=scope, node=node, number=number), fact.elements, name))
    return folded


def _given(scope: Scope) -> dict[str, Known]:
    """Initializers, and inputs whose dimensions are numbers."""
    known: dict[str, Known] = {}
    for value in scope.body.input:
        if not isinstance(value, str) and value.type.HasField("tensor_type"):
            dims = [d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.HasField("shape") and len(dims) <= MAX_RANK:
                known[value.name] = Known(tuple(_whole(d) or 1 for d in dims), None, all(d > 0 for d in dims))
    for tensor in scope.initializers:
        known[tensor.name] = _tensor(tensor)
    return known


def _tensor(tensor: Any) -> Known:
    dims = tuple(_whole(d) for d in tensor.dims[:MAX_RANK])
    return Known(dims, small_numbers(tensor), True)


def _node(folded: Folded, scope: Scope, node: Any) -> list[Known]:
    handler = _HANDLERS.get(node.op_type)
    if handler is None or node.domain not in ("", "ai.onnx"):
        return []
    inputs = [folded.find(scope, name) if name else NOTHING for name in node.input[:8]]
    try:
        return [handler(node, inputs)]
    except (IndexError, ValueError, OverflowError, ZeroDivisionError, TypeError):
        return []  # not enough inputs, or ones that do not go together: nothing is known


def _whole(number: float) -> int:
    if math.isnan(number):
        return 0
    return int(max(0, min(number, TOP)))


def _bounded(values: Iterable[float]) -> Values:
    kept = tuple(max(-TOP, min(v, TOP)) for v in values)
    if len(kept) > MAX_VALUES:
        raise ValueError("too many values")
    return kept


def attribute(node: Any, name: str) -> Any:
    """A node's attribute message, or None."""
    return next((a for a in node.attribute if a.name == name), None)


def _sized(values: Iterable[float]) -> Known:
    dims = tuple(_whole(v) for v in values)
    if len(dims) > MAX_RANK:
        raise ValueError("too many dimensions")
    return Known(dims, None, True)


def _values(known: Known) -> Values:
    if known.values is None:
        raise ValueError("not known")
    return known.values


def _dims(known: Known) -> Dims:
    if known.dims is None:
        raise ValueError("not known")
    return known.dims


def _constant(node: Any, _inputs: list[Known]) -> Known:
    held = node.attribute[0]
    if held.name == "value":
        return _tensor(held.t)
    values = {"value_int": [held.i], "value_float": [held.f], "value_ints": held.ints, "value_floats": held.floats}
    numbers = tuple(values[held.name]) if held.name in values else None
    if numbers is None or len(numbers) > MAX_VALUES:
        return NOTHING
    return Known(() if held.name in ("value_int", "value_float") else (len(numbers),), numbers, True)


def _same(_node: Any, inputs: list[Known]) -> Known:
    return inputs[0]


def _shape_only(_node: Any, inputs: list[Known]) -> Known:
    return Known(inputs[0].dims, None, inputs[0].exact)


def _shape(_node: Any, inputs: list[Known]) -> Known:
    dims = _dims(inputs[0])
    return Known((len(dims),), _bounded(dims) if inputs[0].exact else None, True)


def _size(_node: Any, inputs: list[Known]) -> Known:
    return Known((), (float(inputs[0].elements),) if inputs[0].exact else None, True)


def _concat(node: Any, inputs: list[Known]) -> Known:
    if len(inputs) == len(node.input) and all(k.values is not None and len(k.dims or ()) <= 1 for k in inputs):
        values = _bounded(v for k in inputs for v in _values(k))
        return Known((len(values),), values, True)
    return NOTHING


def _regroup(_node: Any, inputs: list[Known]) -> Known:
    """Reshape, Squeeze and the like: the values stay, and so does their number."""
    if inputs[0].values is not None:
        return Known((len(inputs[0].values),), inputs[0].values, True)
    return Known((inputs[0].elements,) if inputs[0].dims is not None else None)


def _gather(_node: Any, inputs: list[Known]) -> Known:
    values, places = _values(inputs[0]), _values(inputs[1])
    if len(_dims(inputs[0])) > 1:
        return NOTHING
    picked = tuple(values[int(p)] for p in places)
    return Known((len(picked),) if inputs[1].dims else (), picked, True)


def _arithmetic(work: Callable[[float, float], float]) -> Callable[[Any, list[Known]], Known]:
    def handle(node: Any, inputs: list[Known]) -> Known:
        shape = _broadcast(node, inputs)
        a, b = inputs[0].values, inputs[1].values
        if a is None or b is None or not (len(a) == len(b) or 1 in (len(a), len(b))):
            return shape
        count = max(len(a), len(b))
        pairs = zip(a * count if len(a) == 1 else a, b * count if len(b) == 1 else b, strict=True)
        return Known(shape.dims, _bounded(work(x, y) for x, y in pairs), shape.exact)

    return handle


def _broadcast(_node: Any, inputs: list[Known]) -> Known:
    known = [k.dims for k in inputs if k.dims is not None]
    if not known:
        return NOTHING
    rank = max(len(d) for d in known)
    padded = [(1,) * (rank - len(d)) + d for d in known]
    return Known(tuple(max(column) for column in zip(*padded, strict=True)), None, all(k.exact for k in inputs))


def _constant_of_shape(_node: Any, inputs: list[Known]) -> Known:
    known = _sized(_values(inputs[0]))
    value = attribute(_node, "value")
    if known.elements <= MAX_VALUES:
        fill = small_numbers(value.t) if value is not None else (0.0,)
        return Known(known.dims, fill * known.elements if fill and len(fill) == 1 else None, True)
    return known


def _expand(_node: Any, inputs: list[Known]) -> Known:
    return _broadcast(_node, [inputs[0], _sized(_values(inputs[1]))])


def _tile(_node: Any, inputs: list[Known]) -> Known:
    repeats = [_whole(v) for v in _values(inputs[1])]
    dims = inputs[0].dims if inputs[0].dims is not None and len(inputs[0].dims) == len(repeats) else (1,) * len(repeats)
    return _sized(product(pair) for pair in zip(dims, repeats, strict=True))


def _range(_node: Any, inputs: list[Known]) -> Known:
    start, limit, delta = (_values(k)[0] for k in inputs[:3])
    return _sized([math.ceil((limit - start) / delta)])


def _resize(node: Any, inputs: list[Known]) -> Known:
    dims = inputs[0].dims
    if len(inputs) > 3 and inputs[3].values:
        return _sized(inputs[3].values)
    place = 1 if node.op_type == "Upsample" or len(inputs) == 2 else 2
    held = attribute(node, "scales")
    scales = tuple(held.floats) if held is not None else _values(inputs[place])
    known = dims if dims is not None and len(dims) == len(scales) else (1,) * len(scales)
    return _sized(min(d * s, TOP) for d, s in zip(known, scales, strict=True))


def _pad(node: Any, inputs: list[Known]) -> Known:
    held = attribute(node, "pads")
    pads = tuple(held.ints) if held is not None else _values(inputs[1])
    half = len(pads) // 2
    dims = inputs[0].dims if inputs[0].dims is not None and len(inputs[0].dims) == half else (1,) * half
    return _sized(d + before + after for d, before, after in zip(dims, pads[:half], pads[half:], strict=True))


def _one_hot(_node: Any, inputs: list[Known]) -> Known:
    return _sized([*(inputs[0].dims or ()), _values(inputs[1])[0]])


def _random(node: Any, _inputs: list[Known]) -> Known:
    held = attribute(node, "shape")
    return _sized(held.ints) if held is not None else NOTHING


def _matmul(_node: Any, inputs: list[Known]) -> Known:
    a, b = _dims(inputs[0]), _dims(inputs[1])
    if len(a) < 2 or len(b) < 2:
        return NOTHING
    batch = _broadcast(_node, [Known(a[:-2], None, True), Known(b[:-2], None, True)])
    return Known((*(batch.dims or ()), a[-2], b[-1]), None, inputs[0].exact and inputs[1].exact)


def _divide(a: float, b: float) -> float:
    return a // b if float(a).is_integer() and float(b).is_integer() else a / b


_HANDLERS: dict[str, Callable[[Any, list[Known]], Known]] = {
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _arithmetic(_divide),
    "Cast": _same,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "EyeLike": _shape_only,
    "Flatten": _regroup,
    "Gather": _gather,
    "Identity": _same,
    "MatMul": _matmul,
    "OneHot": _one_hot,
    "Pad": _pad,
    "RandomNormal": _random,
    "RandomUniform": _random,
    "Range": _range,
    "Reshape": _regroup,
    "Resize": _resize,
    "Shape": _shape,
    "Size": _size,
    "Squeeze": _regroup,
    "Tile": _tile,
    "Unsqueeze": _regroup,
    "Upsample": _resize,
    "Where": _broadcast,
}
_HANDLERS |= dict.fromkeys(("Equal", "Greater", "Less", "And", "Or", "Max", "Min"), _broadcast)
_UNARY = (
    "Abs Ceil Clip Cos Dropout Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Neg Not Reciprocal Relu Sigmoid "
    "Sin Softmax Softplus Sqrt Tanh"
)
_HANDLERS |= dict.fromkeys(_UNARY.split(), _shape_only)
