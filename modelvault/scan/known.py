"""What can be known of a value before anything runs: its dimensions, and small constants. Numbers are bounded."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelvault.onnxfile.checking import small_numbers

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


def product(numbers: Iterable[float]) -> int:
    """Of whole numbers that are not negative; saturates at TOP."""
    result = 1
    for number in numbers:
        result = min(result * whole(number), TOP)
    return result


def of_tensor(tensor: Any) -> Known:
    dims = tuple(whole(d) for d in tensor.dims[:MAX_RANK])
    return Known(dims, small_numbers(tensor), True)


def whole(number: float) -> int:
    if math.isnan(number):
        return 0
    return int(max(0, min(number, TOP)))


def bounded(values: Iterable[float]) -> Values:
    kept = tuple(max(-TOP, min(v, TOP)) for v in values)
    if len(kept) > MAX_VALUES:
        raise ValueError("too many values")
    return kept


def attribute(node: Any, name: str) -> Any:
    """A node's attribute message, or None."""
    return next((a for a in node.attribute if a.name == name), None)


def sized(values: Iterable[float]) -> Known:
    dims = tuple(whole(v) for v in values)
    if len(dims) > MAX_RANK:
        raise ValueError("too many dimensions")
    return Known(dims, None, True)


def values_of(known: Known) -> Values:
    if known.values is None:
        raise ValueError("not known")
    return known.values


def dims_of(known: Known) -> Dims:
    if known.dims is None:
        raise ValueError("not known")
    return known.dims
