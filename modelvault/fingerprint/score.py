"""How likely a leak is with a recipient's copy among those it was made from, over how likely without it.

For each hypothesis (how many blended their copies, and how) the likelihood ratio of a recipient's bits is a number
whose mean over bits drawn as the code draws them is exactly 1, whatever the suspect is. So is a mean of the ratios over
hypotheses that are weighted by how well each explains the suspect, or even learned from it: no recipient's bits are in
that. By Markov's inequality an innocent's exceeds 1/p with probability p at most: that bound assumes nothing about the
colluders, the weights or the noise. Tardos (STOC 2003) for the code; Meerwald and Furon, "Toward practical joint
decoding of binary Tardos fingerprinting codes" (2012), for likelihoods of strategies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import Biases, code_word
from modelvault.fingerprint.collusion import HYPOTHESES, LEARNED, Hypothesis, Observed, Slots, Table

LEAST_LOG10_P = -256 * math.log10(2)
BLOCK = 4096  # recipients scored at a time
KEPT, BEHIND = 12, 12.0  # of the bank: hypotheses used, at most; nats that the last may be less likely


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


def weigh(observed: Observed, thresholds: Biases) -> Evidence:
    """Half of the shares goes to hypotheses of the bank by how well they explain the levels, half to all alike."""
    known = np.isfinite(observed.levels)
    if not known.any():
        return Evidence(HYPOTHESES[:1], np.ones(1), np.zeros((len(known), 1), np.float32), np.zeros(1))
    slots = Slots(Observed(observed.levels[known], observed.noise[known]), thresholds[known])
    fits = np.array([slots.fit(h) for h in HYPOTHESES])
    best = [n for n in np.argsort(-fits, kind="stable")[:KEPT] if fits[n] >= fits.max() - BEHIND]
    likely = np.exp(fits[best] - fits.max())
    chosen = [*(HYPOTHESES[n] for n in best), *(slots.learn(size) for size in LEARNED)]
    shares = np.full(len(chosen), 0.5 / len(chosen))
    shares[: len(best)] += likely / likely.sum() / 2
    pairs = [slots.ratios(h) for h in chosen]
    gains = np.zeros((len(known), len(chosen)), np.float32)
    gains[known] = np.stack([one - zero for one, zero in pairs], axis=1)
    return Evidence(tuple(chosen), shares, gains, np.array([zero.sum() for _, zero in pairs]))


@dataclass(frozen=True, slots=True)
class Scores:
    """For each recipient the natural logarithm of the mean ratio, and the hypothesis that fits best with it."""

    values: Table
    best: tuple[Hypothesis, ...]


def score(observed: Observed, thresholds: Biases, key: bytes, recipients: Sequence[str]) -> Scores:
    """Every recipient (by key fingerprint) against one suspect, in blocks; ``key``: code.code_key's."""
    evidence, values, best = weigh(observed, thresholds), np.empty(len(recipients)), list[Hypothesis]()
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
    """log10 of the bound that an innocent scores so high, over all ``trials`` recipients and files; at most 0.

    Never below 2^-256, the chance to guess the owner's secret.
    """
    return min(0.0, max(LEAST_LOG10_P, (math.log(trials) - value) / math.log(10)))
