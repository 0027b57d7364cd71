"""How far one tensor is from another, element by element, in pieces that fit a processor's cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]

PIECE = 2**18  # elements
SAMPLE = 4096  # elements whose change is kept for a histogram


@dataclass(slots=True, kw_only=True)
class Change:
    """Sums over two tensors of the same elements; numbers that are not finite in both are counted apart.

    ``differ``: elements whose values are not equal; ``unrounded``: of these, those that rounding does not explain: A's
    value in B's coarser type, or in half precision, is another. ``steps``: the largest difference of integers.
    ``sample``: evenly spaced elements of A and B.
    """

    count: int = 0
    differ: int = 0
    unrounded: int = 0
    odd: int = 0
    energy: float = 0.0
    other: float = 0.0
    product: float = 0.0
    rest: float = 0.0
    largest: float = 0.0
    steps: int | None = None
    sample: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, 0), np.float32))

    @property
    def relative(self) -> float:
        """||B - A|| / ||A||; infinite where A is zero and B is not."""
        if self.energy > 0:
            return math.sqrt(self.rest / self.energy) if math.isfinite(self.energy) else math.inf
        return math.inf if self.rest > 0 else 0.0

    @property
    def cosine(self) -> float:
        """Of the angle between both; 1 where both are zero, 0 where their squares are beyond all numbers."""
        if not math.isfinite(self.energy + self.other + abs(self.product)):
            return 0.0
        if self.energy > 0 and self.other > 0:
            return max(-1.0, min(1.0, self.product / math.sqrt(self.energy) / math.sqrt(self.other)))
        return float(self.energy == self.other)

    @property
    def share(self) -> float:
        """Of elements that differ."""
        return self.differ / self.count if self.count else 0.0


def measure(a: Values, b: Values) -> Change:
    """Compare flat arrays of the same length."""
    change = Change(steps=0 if a.dtype.kind in "iub" and b.dtype.kind in "iub" else None)
    for x, y in _pieces(a, b):
        _add(change, x, y)
    step = max(1, len(a) // SAMPLE)
    change.sample = np.stack([_wide(v[::step]).astype(np.float32)[:SAMPLE] for v in (a, b)])
    return change


def _pieces(a: Values, b: Values) -> Iterator[tuple[Values, Values]]:
    for at in range(0, len(a), PIECE):
        yield a[at : at + PIECE], b[at : at + PIECE]


def _coarser(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """The type that A's values may have been rounded to before they were stored as B's."""
    return np.dtype(np.float16) if a == b and a.kind == "f" and a.itemsize > 2 else b


def _wide(values: Values) -> npt.NDArray[np.float64]:
    return values.astype(np.float64)


def _add(change: Change, a: Values, b: Values) -> None:
    with np.errstate(all="ignore"):
        x, y, is_whole = _wide(a), _wide(b), change.steps is not None
        finite = np.isfinite(x) & np.isfinite(y)
        same = a == b if a.dtype == b.dtype else x == y  # integers of 64 bits do not fit doubles
        equal = same | (np.isnan(x) & np.isnan(y))
        change.count += len(x)
        change.odd += int(np.count_nonzero(~finite))
        change.differ += int(np.count_nonzero(~equal))
        if not equal.all():
            rounded = equal if is_whole else _wide(a.astype(_coarser(a.dtype, b.dtype))) == y
            change.unrounded += int(np.count_nonzero(~(equal | rounded)))
        if not finite.all():
            x, y = x[finite], y[finite]
        off = y - x
    change.energy += float(x @ x)
    change.other += float(y @ y)
    change.product += float(x @ y)
    change.rest += float(off @ off)
    change.largest = max(change.largest, float(np.abs(off).max(initial=0.0)))
    if change.steps is not None:
        change.steps = max(change.steps, int(np.abs(off).max(initial=0.0)))
