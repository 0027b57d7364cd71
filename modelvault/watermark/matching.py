"""Find an original's rows and columns in a suspect's tensor when both were permuted, rescaled and sign-flipped.

Sizes are balanced first, so that every row and column has rms 1: scales and signs are gone, and only the order is
left to find. Lines of the shorter axis are matched by their sorted sizes, which no permutation of the other axis
changes; the other axis by correlation with the lines matched; then the first once more, the same way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import Float

Index = npt.NDArray[np.intp]

QUANTILES = 256
BALANCE = 4
WORK = 2 * 10**11  # multiplications that one pair of tensors may cost
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
        table = np.abs(values)
        for _ in range(BALANCE):
            table = _divide(table, np.sqrt(np.einsum("ij,ij->i", table, table) / table.shape[1]), 0)
            table = _divide(table, np.sqrt(np.einsum("ij,ij->j", table, table) / table.shape[0]), 1)
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


def _divide(table: Float, norms: Float, axis: int) -> Float:
    safe = np.where(norms > 0, norms, 1).astype(np.float32)
    return table / (safe[:, None] if axis == 0 else safe[None, :])


def match(original: Balanced, suspect: Balanced) -> Match | None:
    """The best order of rows and columns, or None where they do not belong together."""
    best: Match | None = None
    a, b = original.table, suspect.table
    if a.shape[0] == b.shape[0]:
        best = _better(best, _refine(a, b, np.arange(a.shape[0]), 0))
    if _is_good(best):
        return best
    if a.shape[1] == b.shape[1]:
        best = _better(best, _refine(a, b, np.arange(a.shape[1]), 1))
    if _is_good(best):
        return best
    axis = 0 if a.shape[0] <= a.shape[1] else 1
    lines = _nearest(original.features(axis), suspect.features(axis))
    best = _better(best, _refine(a, b, lines, axis))
    return best if best is not None and best.quality >= MATCH else None


def _is_good(match: Match | None) -> bool:
    return match is not None and match.quality >= GOOD


def _better(a: Match | None, b: Match | None) -> Match | None:
    return b if a is None or (b is not None and b.quality > a.quality) else a


def _nearest(mine: Float, other: Float) -> Index:
    """Mutual nearest neighbours by feature; MISSING where it is not mutual."""
    spread = mine.std(axis=0) + np.float32(1e-6)
    x, y = (mine - mine.mean(axis=0)) / spread, (other - mine.mean(axis=0)) / spread
    distance = (x * x).sum(axis=1)[:, None] - 2 * (x @ y.T) + (y * y).sum(axis=1)[None, :]
    return _mutual(-distance, -np.inf)


def _mutual(likeness: Float, floor: float) -> Index:
    forward, back = np.argmax(likeness, axis=1), np.argmax(likeness, axis=0)
    own = np.arange(len(forward))
    fits = (back[forward] == own) & (likeness[own, forward] >= floor)
    return np.where(fits, forward, MISSING)


def _refine(a: Float, b: Float, lines: Index, axis: int) -> Match | None:
    """From lines along ``axis``, the other axis, then the lines again; None where too few are found."""
    if axis == 1:
        turned = _refine(a.T, b.T, lines, 0)
        return turned and Match(rows=turned.columns, columns=turned.rows, quality=turned.quality)
    if a.shape[1] * b.shape[1] * a.shape[0] > WORK or a.shape[0] * b.shape[0] * a.shape[1] > WORK:
        return None
    rows = lines
    columns = _by_correlation(a, b, rows)
    for _ in range(2):
        if (columns == MISSING).all():
            return None
        if not (np.array_equal(rows, np.arange(len(rows))) and len(rows) == b.shape[0]):
            rows = _by_correlation(a.T, b.T, columns)
        columns = _by_correlation(a, b, rows)
    kept_rows, kept_columns = rows != MISSING, columns != MISSING
    if kept_rows.mean() < 0.2 or kept_columns.mean() < 0.2:
        return None
    x, y = a[np.ix_(kept_rows, kept_columns)], b[np.ix_(rows[kept_rows], columns[kept_columns])]
    return Match(rows=rows, columns=columns, quality=_cosine(x, y))


def _by_correlation(a: Float, b: Float, rows: Index) -> Index:
    """For each column of ``a`` the column of ``b`` that goes with it over the matched rows."""
    kept = rows != MISSING
    if kept.sum() < 8:
        return np.full(a.shape[1], MISSING)
    x, y = _unit(a[kept]), _unit(b[rows[kept]])
    floor = max(0.15, 4 / float(kept.sum()) ** 0.5)
    return _mutual(x.T @ y, min(floor, 0.8))


def _unit(table: Float) -> Float:
    norms = np.sqrt(np.einsum("ij,ij->j", table, table))
    return _divide(table, norms, 1)


def _cosine(a: Float, b: Float) -> float:
    norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
    return float(np.vdot(a, b)) / norm**0.5 if norm > 0 else 0.0
