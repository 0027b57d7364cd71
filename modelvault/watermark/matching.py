"""Find an original's rows and columns in a suspect's tensor when both were permuted, rescaled and sign-flipped.

Sizes are balanced first, so that every row and column has rms 1: scales and signs are gone, and only the order is
left to find. Lines of the shorter axis are matched by their sorted sizes, which no permutation of the other axis
changes; the other axis by correlation with the lines matched; then the first once more, the same way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import Float

Index = npt.NDArray[np.intp]

QUANTILES = 256
BALANCE = 4
DEAD = 1e-15  # a line of less energy, all others being about 1, is left as it is
WORK = 6 * 10**10  # multiplications for one search of lines; beyond it fewer points of each line are compared
LEAST_LINES, MOST_LINES = 64, 4096
CHEAP = 2**26  # pairs of lines that may be compared on a guess
ROUNDS = 2
BLOCK = 2**22  # products held at once
MATCH = 0.35
GOOD = 0.5
MISSING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """For each original row and column the suspect's, or MISSING; ``quality``: correlation of sizes where both are."""

    rows: Index
    columns: Index
    quality: float

    def apply(self, values: Float) -> Float:
        """The suspect's table in the original's order; what is missing is zero."""
        table: Float = values[np.ix_(np.maximum(self.rows, 0), np.maximum(self.columns, 0))]
        table[self.rows == MISSING] = 0
        table[:, self.columns == MISSING] = 0
        return table

    @property
    def moved(self) -> bool:
        return any(not np.array_equal(i, np.arange(len(i))) for i in (self.rows, self.columns))


class Balanced:
    """A table's sizes with every row's and column's rms brought to 1, less their mean, and features of its lines."""

    def __init__(self, values: Float) -> None:
        lengths = np.abs(values).max(axis=1, keepdims=True)
        squares = np.square(np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0))
        columns = np.ones(values.shape[1], np.float32)
        for _ in range(BALANCE):
            rows = _inverse(squares @ columns / np.float32(len(columns)))
            columns = _inverse(rows @ squares / np.float32(len(rows)))
        table = np.sqrt(squares, out=squares)
        table *= np.sqrt(rows)[:, None]
        table *= np.sqrt(columns)[None, :]
        self._features: dict[int, Float] = {}
        self.sizes = table
        self.table = table - table.mean()

    def features(self, axis: int) -> Float:
        """For each line along ``axis`` (0: rows) its sorted sizes at evenly spaced ranks."""
        if axis not in self._features:
            lines = self.sizes if axis == 0 else self.sizes.T
            ranks = (np.arange(QUANTILES) * (lines.shape[1] - 1)) // (QUANTILES - 1)
            self._features[axis] = np.sort(lines, axis=1)[:, ranks]
        return self._features[axis]


def _inverse(means: Float) -> Float:
    return np.divide(1, means, out=np.ones_like(means), where=means > DEAD)


def match(original: Balanced, suspect: Balanced) -> Match | None:
    """The best order of rows and columns, or None where they do not belong together."""
    a, b = original.table, suspect.table
    best: Match | None = None
    for axis, lines in _beginnings(original, suspect):
        found = _refine(a, b, lines(), axis)
        if found is not None and (best is None or found.quality > best.quality):
            best = found
        if best is not None and best.quality >= GOOD:
            break
    return best if best is not None and best.quality >= MATCH else None


def _beginnings(original: Balanced, suspect: Balanced) -> Iterator[tuple[int, Callable[[], Index]]]:
    """Guesses of one axis: that it kept its order, or the order that its lines' features tell."""
    a, b = original.table.shape, suspect.table.shape
    for axis in (0, 1):
        other = 1 - axis
        if a[axis] == b[axis] and a[other] * b[other] <= CHEAP:
            yield axis, partial(np.arange, a[axis])
    axis = 0 if a[0] <= a[1] else 1
    yield axis, lambda: _nearest(original.features(axis), suspect.features(axis))


def _nearest(mine: Float, other: Float) -> Index:
    """Mutual nearest neighbours by feature; MISSING where it is not mutual."""
    spread = mine.std(axis=0) + np.float32(1e-6)
    x, y = (mine - mine.mean(axis=0)) / spread, (other - mine.mean(axis=0)) / spread
    lengths = [np.square(t).sum(axis=1, keepdims=True) / 2 for t in (x, y)]
    ones = [np.ones_like(n) for n in lengths]
    # x.y - |x|^2/2 - |y|^2/2, as one product: the larger, the nearer
    return _mutual(np.hstack([x, -lengths[0], ones[0]]), np.hstack([y, ones[1], -lengths[1]]), -np.inf)


def _mutual(x: Float, y: Float, floor: float) -> Index:
    """For each row of ``x`` the row of ``y`` of largest product, if the reverse holds and it reaches the floor."""
    chosen, value = np.empty(len(x), np.intp), np.empty(len(x), np.float32)
    highest, step = np.full(len(y), -np.inf, np.float32), max(16, BLOCK // len(y))
    turned = np.ascontiguousarray(y.T)
    for at in range(0, len(x), step):
        product = x[at : at + step] @ turned
        found = np.argmax(product, axis=1)
        chosen[at : at + step], value[at : at + step] = found, product[np.arange(len(product)), found]
        np.maximum(highest, product.max(axis=0), out=highest)
    return np.where((value >= highest[chosen]) & (value >= floor), chosen, MISSING)


def _refine(a: Float, b: Float, lines: Index, axis: int) -> Match | None:
    """From lines along ``axis``, the other axis, then the lines again; None where too few are found."""
    if axis == 1:
        turned = _refine(a.T, b.T, lines, 0)
        return turned and Match(rows=turned.columns, columns=turned.rows, quality=turned.quality)
    rows, kept_order = lines, len(lines) == b.shape[0] and np.array_equal(lines, np.arange(len(lines)))
    columns = _by_correlation(a, b, rows)
    rounds = ROUNDS if a.shape[0] * b.shape[0] <= CHEAP else 1
    for _ in range(0 if kept_order else rounds):
        if (columns == MISSING).mean() > 0.9:
            return None
        rows = _by_correlation(a.T, b.T, columns)
        columns = _by_correlation(a, b, rows) if a.shape[1] * b.shape[1] <= CHEAP else columns
    kept_rows, kept_columns = rows != MISSING, columns != MISSING
    if kept_rows.mean() < 0.2 or kept_columns.mean() < 0.2:
        return None
    x, y = a[np.ix_(kept_rows, kept_columns)], b[np.ix_(rows[kept_rows], columns[kept_columns])]
    return Match(rows=rows, columns=columns, quality=_cosine(x, y))


def _by_correlation(a: Float, b: Float, rows: Index) -> Index:
    """For each column of ``a`` the column of ``b`` that goes with it over the matched rows."""
    kept = np.flatnonzero(rows != MISSING)
    if len(kept) < 8:
        return np.full(a.shape[1], MISSING)
    most = min(MOST_LINES, max(LEAST_LINES, WORK // (a.shape[1] * b.shape[1])))
    kept = kept[:: -(-len(kept) // most)]
    x, y = _unit(a[kept]), _unit(b[rows[kept]])
    floor = max(0.15, 4 / len(kept) ** 0.5)
    return _mutual(np.ascontiguousarray(x.T), np.ascontiguousarray(y.T), min(floor, 0.8))


def _unit(table: Float) -> Float:
    return table * np.sqrt(_inverse(np.einsum("ij,ij->j", table, table)))


def _cosine(a: Float, b: Float) -> float:
    norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
    return float(np.vdot(a, b)) / norm**0.5 if norm > 0 else 0.0
