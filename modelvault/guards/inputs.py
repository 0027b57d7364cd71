"""The input guard: a call whose inputs cannot be what the model was made for does not reach it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modelvault.envelopes import InputEnvelope, TensorEnvelope
from modelvault.errors import FormatError, InputRejected

MARGIN = 0.1  # how far beyond the calibrated range a value may lie, as a share of the range

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class InputGuard:
    """Checks inputs by name. Without an envelope: dtype, rank and fixed dimensions, as the model itself declares."""

    def __init__(self, declared: Iterable[Any], envelope: InputEnvelope | None) -> None:
        known = {item.name: item for item in envelope.inputs} if envelope else {}
        self._checks: dict[str, tuple[Any, TensorEnvelope]] = {}
        for entry in declared:
            if entry.type in _DTYPES:
                own = _declared(entry)
                chosen = _narrow(own, known[entry.name]) if entry.name in known else own
                self._checks[entry.name] = (np.dtype(chosen.dtype), chosen)

    def check(self, feed: Mapping[str, Any]) -> None:
        """InputRejected names the input and what is wrong; values that are not arrays are left to onnxruntime."""
        for name, value in feed.items():
            if name in self._checks and isinstance(value, np.ndarray):
                check_array(value, *self._checks[name])


def check_array(array: Any, dtype: Any, expected: TensorEnvelope) -> None:
    """InputRejected unless the array lies in the envelope. Cost: two passes over its values where these are bounded."""
    if array.dtype != dtype:  # comparing dtypes is cheap, looking up their names is not
        raise InputRejected(f"input {expected.name!r}: expected {expected.dtype}, got {array.dtype.name}")
    if array.ndim != len(expected.shape):
        raise InputRejected(f"input {expected.name!r}: expected rank {len(expected.shape)}, got {array.ndim}")
    for axis, (size, (low, high)) in enumerate(zip(array.shape, expected.shape, strict=True)):
        if not low <= size <= high:
            raise InputRejected(f"input {expected.name!r}: dimension {axis}: expected {_range(low, high)}, got {size}")
    if expected.values is None or array.size == 0:
        return
    low_value, high_value = expected.values
    # minimum and maximum carry NaN through, and a comparison with NaN is false
    if not (array.min() >= low_value and array.max() <= high_value):
        words = "values are not finite" if not np.isfinite(array).all() else "values out of range"
        raise InputRejected(f"input {expected.name!r}: {words}: expected {low_value:g} to {high_value:g}")


def calibrate(samples: Sequence[Mapping[str, Any]]) -> InputEnvelope:
    """The envelope of representative inputs (name -> array, one mapping a call), values widened by MARGIN."""
    found: dict[str, TensorEnvelope] = {}
    for sample in samples:
        for name, array in sample.items():
            seen = _observed(name, np.asarray(array))
            found[name] = _merge(found[name], seen) if name in found else seen
    if not found:
        raise FormatError("calibration: no inputs")
    return InputEnvelope(inputs=tuple(_widen(found[name]) for name in sorted(found)))


def _declared(entry: Any) -> TensorEnvelope:
    shape = tuple((d, d) if isinstance(d, int) and d >= 0 else (0, 2**62) for d in entry.shape)
    return TensorEnvelope(name=entry.name, dtype=_DTYPES[entry.type], shape=shape)


def _narrow(declared: TensorEnvelope, calibrated: TensorEnvelope) -> TensorEnvelope:
    """The calibrated envelope, where it belongs to the declared input at all."""
    fits = calibrated.dtype == declared.dtype and len(calibrated.shape) == len(declared.shape)
    if not fits:
        raise FormatError(f"input envelope: {declared.name!r} does not fit the model's input")
    return replace(declared, shape=calibrated.shape, values=calibrated.values)


def _observed(name: str, array: Any) -> TensorEnvelope:
    bounds = None
    if array.dtype.kind in "iuf" and array.size:
        bounds = (float(array.min()), float(array.max()))
        if not all(map(math.isfinite, bounds)):
            raise FormatError(f"calibration: input {name!r}: values are not finite")
    return TensorEnvelope(name=name, dtype=array.dtype.name, shape=tuple((d, d) for d in array.shape), values=bounds)


def _merge(left: TensorEnvelope, right: TensorEnvelope) -> TensorEnvelope:
    if left.dtype != right.dtype or len(left.shape) != len(right.shape):
        raise FormatError(f"calibration: input {left.name!r}: samples differ in dtype or rank")
    shape = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(left.shape, right.shape, strict=True))
    bounds = [v for v in (left.values, right.values) if v is not None]
    values = (min(v[0] for v in bounds), max(v[1] for v in bounds)) if bounds else None
    return replace(left, shape=shape, values=values)


def _widen(seen: TensorEnvelope) -> TensorEnvelope:
    if seen.values is None:
        return seen
    low, high = seen.values
    room = MARGIN * (high - low)
    floor = 0.0 if low >= 0 else low - room  # counts, ids and masks stay at or above zero
    if seen.dtype.startswith(("int", "uint")):
        return replace(seen, values=(float(math.floor(min(floor, low))), float(math.ceil(high + room))))
    return replace(seen, values=(min(floor, low), high + room))


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
