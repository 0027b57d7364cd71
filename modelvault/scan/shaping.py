"""How operators make shapes: each handler takes what is known of the inputs, and gives what is known of the output."""

import math
from collections.abc import Callable
from typing import Any

from modelvault.onnxfile.checking import small_numbers
from modelvault.scan.known import (
    MAX_VALUES,
    NOTHING,
    TOP,
    Known,
    attribute,
    bounded,
    dims_of,
    of_tensor,
    product,
    sized,
    values_of,
    whole,
)


def _constant(node: Any, _inputs: list[Known]) -> Known:
    held = node.attribute[0]
    if held.name == "value":
        return of_tensor(held.t)
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
    dims = dims_of(inputs[0])
    return Known((len(dims),), bounded(dims) if inputs[0].exact else None, True)


def _size(_node: Any, inputs: list[Known]) -> Known:
    return Known((), (float(inputs[0].elements),) if inputs[0].exact else None, True)


def _concat(node: Any, inputs: list[Known]) -> Known:
    if len(inputs) == len(node.input) and all(k.values is not None and len(k.dims or ()) <= 1 for k in inputs):
        values = bounded(v for k in inputs for v in values_of(k))
        return Known((len(values),), values, True)
    return NOTHING


def _regroup(_node: Any, inputs: list[Known]) -> Known:
    """Reshape, Squeeze and the like: the values stay, and so does their number."""
    if inputs[0].values is not None:
        return Known((len(inputs[0].values),), inputs[0].values, True)
    return Known((inputs[0].elements,) if inputs[0].dims is not None else None)


def _gather(_node: Any, inputs: list[Known]) -> Known:
    values, places = values_of(inputs[0]), values_of(inputs[1])
    if len(dims_of(inputs[0])) > 1:
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
        return Known(shape.dims, bounded(work(x, y) for x, y in pairs), shape.exact)

    return handle


def _broadcast(_node: Any, inputs: list[Known]) -> Known:
    known = [k.dims for k in inputs if k.dims is not None]
    if not known:
        return NOTHING
    rank = max(len(d) for d in known)
    padded = [(1,) * (rank - len(d)) + d for d in known]
    return Known(tuple(max(column) for column in zip(*padded, strict=True)), None, all(k.exact for k in inputs))


def _constant_of_shape(_node: Any, inputs: list[Known]) -> Known:
    known = sized(values_of(inputs[0]))
    value = attribute(_node, "value")
    if known.elements <= MAX_VALUES:
        fill = small_numbers(value.t) if value is not None else (0.0,)
        return Known(known.dims, fill * known.elements if fill and len(fill) == 1 else None, True)
    return known


def _expand(_node: Any, inputs: list[Known]) -> Known:
    return _broadcast(_node, [inputs[0], sized(values_of(inputs[1]))])


def _tile(_node: Any, inputs: list[Known]) -> Known:
    repeats = [whole(v) for v in values_of(inputs[1])]
    dims = inputs[0].dims if inputs[0].dims is not None and len(inputs[0].dims) == len(repeats) else (1,) * len(repeats)
    return sized(product(pair) for pair in zip(dims, repeats, strict=True))


def _range(_node: Any, inputs: list[Known]) -> Known:
    start, limit, delta = (values_of(k)[0] for k in inputs[:3])
    return sized([math.ceil((limit - start) / delta)])


def _resize(node: Any, inputs: list[Known]) -> Known:
    dims = inputs[0].dims
    if len(inputs) > 3 and inputs[3].values:
        return sized(inputs[3].values)
    place = 1 if node.op_type == "Upsample" or len(inputs) == 2 else 2
    held = attribute(node, "scales")
    scales = tuple(held.floats) if held is not None else values_of(inputs[place])
    known = dims if dims is not None and len(dims) == len(scales) else (1,) * len(scales)
    return sized(min(d * s, TOP) for d, s in zip(known, scales, strict=True))


def _pad(node: Any, inputs: list[Known]) -> Known:
    held = attribute(node, "pads")
    pads = tuple(held.ints) if held is not None else values_of(inputs[1])
    half = len(pads) // 2
    dims = inputs[0].dims if inputs[0].dims is not None and len(inputs[0].dims) == half else (1,) * half
    return sized(d + before + after for d, before, after in zip(dims, pads[:half], pads[half:], strict=True))


def _one_hot(_node: Any, inputs: list[Known]) -> Known:
    return sized([*(inputs[0].dims or ()), values_of(inputs[1])[0]])


def _random(node: Any, _inputs: list[Known]) -> Known:
    held = attribute(node, "shape")
    return sized(held.ints) if held is not None else NOTHING


def _matmul(_node: Any, inputs: list[Known]) -> Known:
    a, b = dims_of(inputs[0]), dims_of(inputs[1])
    if len(a) < 2 or len(b) < 2:
        return NOTHING
    batch = _broadcast(_node, [Known(a[:-2], None, True), Known(b[:-2], None, True)])
    return Known((*(batch.dims or ()), a[-2], b[-1]), None, inputs[0].exact and inputs[1].exact)


def _divide(a: float, b: float) -> float:
    return a // b if float(a).is_integer() and float(b).is_integer() else a / b


HANDLERS: dict[str, Callable[[Any, list[Known]], Known]] = {
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
HANDLERS |= dict.fromkeys(("Equal", "Greater", "Less", "And", "Or", "Max", "Min"), _broadcast)
_UNARY = (
    "Abs Ceil Clip Cos Dropout Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Neg Not Reciprocal Relu Sigmoid "
    "Sin Softmax Softplus Sqrt Tanh"
)
HANDLERS |= dict.fromkeys(_UNARY.split(), _shape_only)
