"""What colluders may have done with their copies, and how well that explains a suspect. No recipient's bits are here.

A slot of which k of the colluders hold variant 1 shows a level between -1 (variant 0) and +1 (variant 1), times an
amplitude, plus noise. Where all hold the same variant they cannot show another (Boneh and Shaw's marking assumption).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import ONE, Biases

Table = npt.NDArray[np.float64]

SIZES = (2, 3, 4, 5, 6, 8, 12)
LEARNED = (3, 5, 8, 12)  # sizes of coalitions whose strategy is learned from the suspect
GRID = np.linspace(-1, 1, 9)  # levels that a learned strategy may show
STEPS = 60  # of expectation and maximisation
BINS, REACH = 64, 1.7  # of the histogram that strategies are learned from; its half width over the levels' rms
SPREAD = 0.15  # of the amplitude: how much slots differ in theirs
DOUBT = 0.02  # of slots that follow no hypothesis
CAP = 600.0


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """``size`` recipients made the leak. ``levels`` (l,); ``chances`` (size + 1, l): of each level, by k."""

    name: str
    size: int
    levels: Table
    chances: Table


def _averaged(share: Table) -> tuple[Table, Table]:
    """Also: every single weight taken from a colluder at random."""
    return 2 * share - 1, np.eye(len(share))


def _interleaved(share: Table) -> tuple[Table, Table]:
    """Every slot taken whole from a colluder at random."""
    return _two(share)


def _majority(share: Table) -> tuple[Table, Table]:
    return _two((np.sign(2 * share - 1) + 1) / 2)


def _minority(share: Table) -> tuple[Table, Table]:
    most = (np.sign(2 * share - 1) + 1) / 2
    return _two(np.where(_mixed(share), 1 - most, most))


def _coin_flips(share: Table) -> tuple[Table, Table]:
    """One of the variants that the colluders have, at random."""
    return _two(np.where(_mixed(share), 0.5, share))


def _extremes(share: Table) -> tuple[Table, Table]:
    """The largest or the smallest value of each weight: a slot where colluders differ shows neither variant."""
    mixed = _mixed(share)
    return np.array([-1.0, 0.0, 1.0]), np.stack([share == 0, mixed, share == 1], axis=1).astype(np.float64)


def _mixed(share: Table) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (share > 0) & (share < 1)
    return found


def _two(ones: Table) -> tuple[Table, Table]:
    return np.array([-1.0, 1.0]), np.stack([1 - ones, ones], axis=1)


STRATEGIES: dict[str, Callable[[Table], tuple[Table, Table]]] = {
    "averaged": _averaged,
    "interleaved": _interleaved,
    "majority": _majority,
    "minority": _minority,
    "coin flips": _coin_flips,
    "extremes": _extremes,
}


def hypothesis(name: str, size: int) -> Hypothesis:
    """``name``: of STRATEGIES."""
    return Hypothesis(name, size, *STRATEGIES[name](np.arange(size + 1) / size))


HYPOTHESES = (
    Hypothesis("one copy", 1, np.array([-1.0, 1.0]), np.eye(2)),
    *(hypothesis(name, size) for name in STRATEGIES for size in SIZES),
)


def binomial(count: int, p: Table) -> Table:
    """Probability of k ones among ``count``: (len(p), count + 1)."""
    return np.stack([math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)], axis=1)


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots that a suspect has. ``levels`` (n,), in units of noise; ``which`` (n,): of ``biases`` (b,).

    ``counts`` (b, BINS): a histogram of the levels by bias, over ``centres`` (BINS,).
    """

    levels: Table
    biases: Table
    which: npt.NDArray[np.intp]
    centres: Table
    counts: Table
    power: float

    @classmethod
    def of(cls, levels: Table, thresholds: Biases) -> "Slots":
        kinds, which = np.unique(thresholds, return_inverse=True)
        power = float(np.mean(levels**2)) if len(levels) else 1.0
        edges = np.linspace(-REACH, REACH, BINS + 1) * math.sqrt(power)
        place = np.clip(np.searchsorted(edges, levels) - 1, 0, BINS - 1)
        counts = np.bincount(which * BINS + place, minlength=len(kinds) * BINS).reshape(-1, BINS)
        return cls(levels, kinds / ONE, which, (edges[1:] + edges[:-1]) / 2, counts.astype(np.float64), power)

    def fit(self, h: Hypothesis) -> float:
        """Log-likelihood of all levels, but for a constant."""
        chances = binomial(h.size, self.biases) @ h.chances
        density = (1 - DOUBT) * chances @ self._seen(self.centres, h).T + DOUBT * _normal(self.centres, self.power + 1)
        return float((self.counts * np.log(density)).sum())

    def ratios(self, h: Hypothesis) -> tuple[Table, Table]:
        """log P(level | bit) / P(level) for bit 1 and bit 0: (n,) each."""
        others, seen = binomial(h.size - 1, self.biases), self._seen(self.levels, h)
        anything = DOUBT * _normal(self.levels, self.power + 1)
        one, zero = (
            (1 - DOUBT) * np.einsum("nl,nl->n", seen, (others @ chances)[self.which]) + anything
            for chances in (h.chances[1:], h.chances[:-1])
        )
        p = self.biases[self.which]
        either = p * one + (1 - p) * zero
        return np.log(one / either), np.log(zero / either)

    def learn(self, size: int) -> Hypothesis:
        """The strategy of ``size`` colluders that explains the histogram best, by expectation and maximisation."""
        among, ends = binomial(size, self.biases), np.eye(len(GRID))[[0, -1]]
        chances = np.full((size + 1, len(GRID)), 1 / len(GRID))
        chances[[0, -1]] = ends
        found = Hypothesis("learned", size, GRID, chances)
        for _ in range(STEPS):
            seen = self._seen(self.centres, found)
            parts = self.counts / np.maximum(among @ found.chances @ seen.T, 1e-300)
            weights = found.chances * (among.T @ (parts @ seen))
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
            weights[[0, -1]] = ends
            found = Hypothesis("learned", size, GRID, weights)
        return found

    def _seen(self, levels: Table, h: Hypothesis) -> Table:
        """Density of each level at each of the hypothesis's: (n, l). The amplitude is what the levels' power says."""
        amounts = self.counts.sum(axis=1) / max(self.counts.sum(), 1)
        square = float(amounts @ binomial(h.size, self.biases) @ h.chances @ h.levels**2)
        amplitude = math.sqrt(max(self.power - 1, 1e-6) / max(square, 1e-6))
        return _normal(levels[:, None] - amplitude * h.levels, 1 + (SPREAD * amplitude) ** 2)


def _normal(x: Table, variance: float) -> Table:
    density: Table = np.exp(-np.minimum(x**2 / (2 * variance), CAP)) / math.sqrt(variance)
    return density
