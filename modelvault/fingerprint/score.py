"""How likely a leak is with a recipient's copy among those it was made from, over how likely without it.

For each hypothesis (how many blended their copies, and how) the likelihood ratio of a recipient's bits is a number
whose mean over bits drawn as the code draws them is exactly 1, whatever the suspect is. So is a mean of the ratios over
hypotheses, weighted by how well each explains the suspect, since no recipient's bits are in that. By Markov's
inequality an innocent's exceeds 1/p with probability p at most: that bound assumes nothing about the colluders, the
weights or the noise. Tardos (STOC 2003) for the code; Meerwald and Furon, "Toward
practical joint decoding of binary Tardos fingerprinting codes" (2012), for likelihoods of strategies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import ONE, Biases, code_word

Table = npt.NDArray[np.float64]
State = tuple[tuple[float, float], ...]
"""((level, probability), ...): where between variant 0 (-1) and variant 1 (+1) the colluders put a slot."""

BLOCK = 4096  # recipients scored at a time
SIZES = (2, 3, 4, 5, 6, 8, 12)
SPREAD = 0.15  # of the amplitude: how much slots differ in theirs
DOUBT = 0.02  # of slots that follow no hypothesis
CAP = 600.0
KEPT = 6  # hypotheses that recipients are scored by: those that explain the suspect best


def _average(k: int, size: int) -> State:
    return ((2 * k / size - 1, 1.0),)


def _interleave(k: int, size: int) -> State:
    return ((1.0, k / size), (-1.0, 1 - k / size))


def _majority(k: int, size: int) -> State:
    up = 0.5 if 2 * k == size else float(2 * k > size)
    return ((1.0, up), (-1.0, 1 - up))


def _minority(k: int, size: int) -> State:
    up = k / size if k in (0, size) else 0.5 if 2 * k == size else float(2 * k < size)
    return ((1.0, up), (-1.0, 1 - up))


def _extremes(k: int, size: int) -> State:
    return ((1.0 if k == size else -1.0 if k == 0 else 0.0, 1.0),)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """``size`` recipients made the leak; ``states[k]``: what becomes of a slot where k of them have variant 1."""

    name: str
    size: int
    states: tuple[State, ...]


STRATEGIES = {
    "averaged": _average,
    "interleaved": _interleave,
    "majority": _majority,
    "minority": _minority,
    "extremes": _extremes,
}
HYPOTHESES = (
    Hypothesis("one copy", 1, (_average(0, 1), _average(1, 1))),
    *(
        Hypothesis(name, size, tuple(state(k, size) for k in range(size + 1)))
        for name, state in STRATEGIES.items()
        for size in SIZES
    ),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What every bit says under each of ``hypotheses`` (h,), and how much each of these counts: ``shares`` (h,), sum 1.

    ``gains`` (slots, h): log-likelihood ratios of bit 1 over bit 0; ``zeros`` (h,): sums of bit 0's.
    """

    hypotheses: tuple[Hypothesis, ...]
    shares: Table
    gains: npt.NDArray[np.float32]
    zeros: Table

    def log_ratios(self, words: npt.NDArray[Any]) -> Table:
        """``words``: (recipients, slots). Natural logarithms, (recipients, h)."""
        return words.astype(np.float32, copy=False) @ self.gains + self.zeros


def weigh(levels: Table, thresholds: Biases) -> Evidence:
    """``levels``: each slot's correlation in units of its noise (NaN: nothing is known of it); (slots,)."""
    known = np.isfinite(levels)
    found = [_ratios(levels[known], thresholds[known] / ONE, h) for h in HYPOTHESES]
    fits = np.array([fit for _, _, fit in found])
    kept = np.argsort(-fits, kind="stable")[:KEPT]
    likely = np.exp(fits[kept] - fits[kept[0]])
    gains = np.zeros((len(levels), len(kept)), np.float32)
    gains[known] = np.stack([found[n][0] - found[n][1] for n in kept], axis=1)
    return Evidence(
        hypotheses=tuple(HYPOTHESES[n] for n in kept),
        shares=likely / likely.sum() / 2 + 0.5 / len(kept),
        gains=gains,
        zeros=np.array([found[n][1].sum() for n in kept]),
    )


def _ratios(levels: Table, p: Table, h: Hypothesis) -> tuple[Table, Table, float]:
    """log P(level | bit) / P(level), for bit 1 and bit 0; and log P of all levels, but for a constant."""
    if not len(levels):
        return np.zeros(0), np.zeros(0), 0.0
    among = _binomial(h.size, p)
    square = float(np.mean(sum(among[:, k] * sum(q * v * v for v, q in s) for k, s in enumerate(h.states))))
    power = float(np.mean(levels**2))
    amplitude = math.sqrt(max(power - 1, 1e-6) / max(square, 1e-6))
    variance = 1 + (SPREAD * amplitude) ** 2
    given = np.stack(
        [sum((q * _normal(levels - amplitude * v, variance) for v, q in s if q), np.zeros(1)) for s in h.states], axis=1
    )
    others = _binomial(h.size - 1, p)
    anything = DOUBT * _normal(levels, power + 1)
    one = (1 - DOUBT) * (others * given[:, 1:]).sum(axis=1) + anything
    zero = (1 - DOUBT) * (others * given[:, :-1]).sum(axis=1) + anything
    either = p * one + (1 - p) * zero
    return np.log(one / either), np.log(zero / either), float(np.log(either).sum())


def _binomial(count: int, p: Table) -> Table:
    """Probability of k ones among ``count``: (slots, count + 1)."""
    return np.stack([math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)], axis=1)


def _normal(x: Table, variance: float) -> Table:
    density: Table = np.exp(-np.minimum(x**2 / (2 * variance), CAP)) / math.sqrt(variance)
    return density


@dataclass(frozen=True, slots=True)
class Scores:
    """For each recipient the natural logarithm of the mean ratio, and the hypothesis that fits best with it."""

    values: Table
    best: tuple[Hypothesis, ...]


def score(levels: Table, thresholds: Biases, key: bytes, recipients: Sequence[str]) -> Scores:
    """Every recipient (by key fingerprint) against one suspect, in blocks; ``key``: code.code_key's."""
    evidence, values, best = weigh(levels, thresholds), np.empty(len(recipients)), list[Hypothesis]()
    for at in range(0, len(recipients), BLOCK):
        words = np.stack([code_word(key, r, thresholds) for r in recipients[at : at + BLOCK]])
        ratios = evidence.log_ratios(words)
        values[at : at + len(words)] = mean(ratios, evidence.shares)
        best += [evidence.hypotheses[n] for n in (ratios + np.log(evidence.shares)).argmax(axis=1)]
    return Scores(values, tuple(best))


def mean(ratios: Table, shares: Table) -> Table:
    """Natural logarithm of the weighted mean of ratios that are given as logarithms, (recipients, h)."""
    top = ratios.max(axis=1)
    found: Table = top + np.log(np.exp(ratios - top[:, None]) @ shares)
    return found


def log10_p(value: float, trials: int) -> float:
    """log10 of the bound that an innocent scores so high, over all ``trials`` recipients and files; at most 0."""
    return min(0.0, (math.log(trials) - value) / math.log(10))
