"""What colluders may have done with their copies, and how well that explains a suspect. No recipient's bits are here.

A slot of which k of the colluders hold variant 1 shows a level between -1 (variant 0) and +1 (variant 1), times an
amplitude that is the same in all slots, plus noise of its own. Where all hold the same variant they cannot show
another (Boneh and Shaw's marking assumption).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import ONE, Biases

Table = npt.NDArray[np.float64]

SIZES = (2, 3, 4, 5, 6, 8, 12)
LEARNED = (3, 5, 8, 12)  # sizes of coalitions whose strategy is learned from the suspect
GRID = np.linspace(-1, 1, 9)  # levels that a learned strategy may show
ROUNDS, STEADY = 40, 8  # of expectation and maximisation, and how many with one amplitude
CLASSES, BINS, REACH = 6, 48, 2.2  # of a histogram by noise and level; its half width over the levels' rms
SPREAD = 0.15  # of the amplitude: how much slots differ in theirs
DOUBT = 0.02  # of slots that follow no hypothesis
WEAKEST, STRONGEST, LOOSE = 0.01, 4.0, 0.25  # squares of amplitudes; variance of these before anything is seen
CAP = 600.0


@dataclass(frozen=True, slots=True)
class Observed:
    """What a suspect shows: ``levels`` (slots,), about -1 for variant 0 and +1 for variant 1, NaN for slots that are
    not there; ``noise`` (slots,): the levels' deviation."""

    levels: Table
    noise: Table


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
class _Levels:
    """Levels with the variance of their noise, (n,) or (kinds, n) each."""

    values: Table
    variance: Table

    def seen(self, h: Hypothesis, amplitude: float) -> Table:
        """Density of each level where the colluders put each of the hypothesis's: (..., l)."""
        variance = (self.variance + (SPREAD * amplitude) ** 2)[..., None]
        return _normal(self.values[..., None] - amplitude * h.levels, variance)

    def anything(self, amplitude: float) -> Table:
        """Density of each level in slots that follow no hypothesis: (...)."""
        return DOUBT * _normal(self.values, self.variance + 4 * amplitude**2)


class Slots:
    """The slots that a suspect has, and a histogram of their levels by kind: one of CLASSES of noise, and the bias."""

    def __init__(self, observed: Observed, thresholds: Biases) -> None:
        """At least one, and all of them there."""
        levels, variance = observed.levels, observed.noise**2
        biases, self._which = np.unique(thresholds, return_inverse=True)
        self._biases = biases / ONE
        self._amounts = np.bincount(self._which) / len(levels)
        self._among = cache(lambda count: binomial(count, self._biases))
        self._all = _Levels(levels, variance)
        trust = 1 / (variance + 1) ** 2
        self._power = float(trust @ (levels**2 - variance)) / float(trust.sum())
        self._doubt = float(trust**2 @ (2 * variance**2 + 4 * variance)) / float(trust.sum()) ** 2
        ranks = np.argsort(np.argsort(variance, kind="stable"), kind="stable")
        classes = ranks * CLASSES // len(levels)
        kind = classes * len(biases) + self._which
        rms, mean = (_by_class(v, classes) for v in (levels**2, variance))
        edges = np.linspace(-REACH, REACH, BINS + 1)
        place = np.clip(np.searchsorted(edges, levels / np.sqrt(rms[classes])) - 1, 0, BINS - 1)
        size = CLASSES * len(biases)
        self._counts = np.bincount(kind * BINS + place, minlength=size * BINS).reshape(size, BINS).astype(np.float64)
        centres = np.sqrt(rms)[:, None] * (edges[1:] + edges[:-1]) / 2
        shape = (size, BINS)
        self._bins = _Levels(
            np.repeat(centres, len(biases), axis=0), np.broadcast_to(np.repeat(mean, len(biases))[:, None], shape)
        )

    def fit(self, h: Hypothesis) -> float:
        """Log-likelihood of all levels, but for a constant."""
        amplitude, chances = self._amplitude(h), self._by_kind(self._among(h.size) @ h.chances)
        density = (1 - DOUBT) * np.einsum("kbl,kl->kb", self._bins.seen(h, amplitude), chances)
        return float((self._counts * np.log(density + self._bins.anything(amplitude))).sum())

    def ratios(self, h: Hypothesis) -> tuple[Table, Table]:
        """log P(level | bit) / P(level) for bit 1 and bit 0: (n,) each."""
        amplitude, others = self._amplitude(h), self._among(h.size - 1)
        seen, anything = self._all.seen(h, amplitude), self._all.anything(amplitude)
        one, zero = (
            (1 - DOUBT) * np.einsum("nl,nl->n", seen, (others @ chances)[self._which]) + anything
            for chances in (h.chances[1:], h.chances[:-1])
        )
        p = self._biases[self._which]
        either = p * one + (1 - p) * zero
        return np.log(one / either), np.log(zero / either)

    def learn(self, size: int) -> Hypothesis:
        """The strategy of ``size`` colluders that explains the histogram best, by expectation and maximisation."""
        among, ends = self._among(size), np.eye(len(GRID))[[0, -1]]
        chances = np.full((size + 1, len(GRID)), 1 / len(GRID))
        chances[[0, -1]] = ends
        found = Hypothesis("another way", size, GRID, chances)
        for number in range(ROUNDS):
            if number % STEADY == 0:
                seen = self._bins.seen(found, self._amplitude(found))
            parts = self._counts / np.maximum((seen @ self._by_kind(among @ found.chances)[..., None])[..., 0], 1e-300)
            shown = (parts[:, None] @ seen).reshape(CLASSES, len(among), -1).sum(axis=0)
            weights = found.chances * (among.T @ shown)
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
            weights[[0, -1]] = ends
            found = Hypothesis("another way", size, GRID, weights)
        return found

    def _amplitude(self, h: Hypothesis) -> float:
        """What the levels' power says of it; as far as that is uncertain, near 1."""
        square = max(float(self._amounts @ self._among(h.size) @ h.chances @ h.levels**2), 1e-6)
        found, doubt = self._power / square, self._doubt / square**2
        return math.sqrt(min(STRONGEST, max(WEAKEST, (found * LOOSE + doubt) / (LOOSE + doubt))))

    def _by_kind(self, by_bias: Table) -> Table:
        return np.tile(by_bias, (CLASSES, 1))


def _by_class(values: Table, classes: npt.NDArray[np.intp]) -> Table:
    """The mean of each class; 1 where it is empty or all zero."""
    sums = np.bincount(classes, values, CLASSES)
    means: Table = sums / np.maximum(np.bincount(classes, minlength=CLASSES), 1)
    return np.where(means > 0, means, 1.0)


def _normal(x: Table, variance: Table) -> Table:
    density: Table = np.exp(-np.minimum(x**2 / (2 * variance), CAP)) / np.sqrt(variance)
    return density
