"""The input envelope: what a model's inputs looked like when its publisher calibrated it. Bytes to values."""

import math
from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields
from modelvault.errors import FormatError

MAX_INPUTS = 1024
MAX_RANK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEnvelope:
    """One input: NumPy dtype name, (low, high) of each dimension, and of the values (None: not bounded).

    Bounded values are finite too.
    """

    name: str
    dtype: str
    shape: tuple[tuple[int, int], ...]
    values: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": [list(d) for d in self.shape]}
        return result if self.values is None else {**result, "values": list(self.values)}

    @classmethod
    def from_dict(cls, value: Any, field: str) -> "TensorEnvelope":
        fields = Fields(value, field)
        shape = tuple(
            _pair(item, f"{field}.shape[{n}]", int) for n, item in enumerate(fields.items("shape", limit=MAX_RANK))
        )
        values = fields.items("values", None, limit=2)
        envelope = cls(
            name=fields.text("name", limit=2**16),
            dtype=fields.text("dtype", limit=16),
            shape=shape,
            values=None if values is None else _pair(values, f"{field}.values", float),
        )
        fields.done()
        return envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class InputEnvelope:
    """Every input's envelope."""

    inputs: tuple[TensorEnvelope, ...]

    def to_list(self) -> list[dict[str, Any]]:
        return [item.to_dict() for item in self.inputs]

    @classmethod
    def from_list(cls, items: list[Any], field: str) -> "InputEnvelope":
        """Parse; FormatError names the field below ``field``."""
        if len(items) > MAX_INPUTS:
            raise FormatError(f"{field}: more than {MAX_INPUTS} inputs")
        inputs = tuple(TensorEnvelope.from_dict(item, f"{field}[{n}]") for n, item in enumerate(items))
        if len({i.name for i in inputs}) != len(inputs):
            raise FormatError(f"{field}: two inputs of one name")
        return cls(inputs=inputs)


def _pair(value: Any, field: str, kind: type) -> tuple[Any, Any]:
    numbers = (int,) if kind is int else (int, float)
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) in numbers for v in value):
        raise FormatError(f"{field}: expected two numbers")
    low, high = value
    if not (math.isfinite(low) and math.isfinite(high) and low <= high) or (kind is int and low < 0):
        raise FormatError(f"{field}: expected low to high")
    return kind(low), kind(high)
