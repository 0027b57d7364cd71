"""Prints the tables of docs/FINGERPRINTS.md that choose code, score and size: python tests/benchmarks/codes.py [TRIALS]

Slots show variant -1 or +1, or what colluders make of them, with Gaussian noise of deviation NOISE.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import ONE, distribution
from modelvault.fingerprint.collusion import Observed
from modelvault.fingerprint.planning import SIMULATED, slots_among
from modelvault.fingerprint.score import log10_p, mean, weigh
from modelvault.fingerprint.tracing import NAME_BELOW

SLOTS, NOISE = 4096, 0.5
COALITIONS = (3, 5, 8)
MANY = 100_000  # recipients

Table = npt.NDArray[np.float64]
Rng = np.random.Generator
Score = Callable[[Table, npt.NDArray[np.uint16], npt.NDArray[np.uint8], float], Table]


def shown(words: npt.NDArray[np.uint8], how: str, rng: Rng) -> Table:
    """What colluders' slots show without noise."""
    size, ones = len(words), words.sum(axis=0, dtype=np.int64)
    mixed, middle = (ones > 0) & (ones < size), 2 * ones / size - 1
    most = np.where(middle == 0, rng.choice((-1.0, 1.0), len(ones)), np.sign(middle))
    if how == "averaging":
        return np.asarray(middle, np.float64)
    if how == "majority":
        return np.asarray(most, np.float64)
    if how == "minority":
        return np.asarray(np.where(mixed, -most, most))
    if how == "interleaving":
        picked = words[rng.integers(0, size, len(ones)), np.arange(len(ones))]
        return 2 * picked.astype(np.float64) - 1
    if how == "extremes":
        return np.asarray(np.where(mixed, 0.0, most))
    return np.asarray(np.where(mixed, rng.choice((-1.0, 1.0), len(ones)), most))


STRATEGIES = ("averaging", "majority", "minority", "interleaving", "extremes", "coin flips")


def linear(levels: Table, biases: npt.NDArray[np.uint16], words: npt.NDArray[np.uint8], _: float) -> Table:
    """Symmetric score (Skoric, Katzenbeisser and Celik, 2008), its bound by Kearns and Saul's inequality."""
    p = biases / ONE
    weights = levels / np.sqrt(p * (1 - p))
    proxy = np.where(np.abs(p - 0.5) < 1e-6, 0.25, (1 - 2 * p) / (2 * np.log((1 - p) / np.where(p == 0.5, 0.4, p))))
    scores = np.maximum((words - p) @ weights, 0)
    return np.asarray(scores**2 / (2 * float(weights**2 @ proxy)))


def likely(levels: Table, biases: npt.NDArray[np.uint16], words: npt.NDArray[np.uint8], noise: float) -> Table:
    """The product's score."""
    evidence = weigh(Observed(levels, np.full(len(levels), noise)), biases)
    return mean(evidence.log_ratios(words), evidence.shares)


def arcsine(coalition: int, points: int = 16) -> tuple[npt.NDArray[np.uint16], Table]:
    """Tardos's distribution with his cutoff, at evenly likely points."""
    low = math.asin(math.sqrt(1 / (300 * coalition)))
    p = np.sin(low + (np.arange(points) + 0.5) / points * (math.pi / 2 - 2 * low)) ** 2
    return np.rint(p * ONE).astype(np.uint16), np.full(points, 1 / points)


CODES: dict[str, tuple[Callable[[int], tuple[npt.NDArray[np.uint16], Table]], Score]] = {
    "fair bits, linear score": (lambda _: distribution(2), linear),
    "Tardos's arcsine, symmetric score": (arcsine, linear),
    "fair bits, likelihood": (lambda _: distribution(2), likely),
    "Tardos's arcsine, likelihood": (arcsine, likely),
    "Nuida's biases, symmetric score": (distribution, linear),
    "Nuida's biases, likelihood (chosen)": (distribution, likely),
}


def surest(code: str, slots: int, coalition: int, how: str, noise: float, trials: int, among: int = SIMULATED) -> Table:
    """log10 of the corrected bound of each trial's surest colluder: (trials,)."""
    make, score = CODES[code]
    kinds, shares = make(coalition)
    found = []
    for number in range(trials):
        rng = np.random.default_rng([number, coalition, slots])
        biases = kinds[rng.choice(len(kinds), slots, p=shares / shares.sum())]
        words = (rng.integers(0, ONE, (coalition, slots)) < biases).astype(np.uint8)
        levels = shown(words, how, rng) + noise * rng.standard_normal(slots)
        found.append(log10_p(float(score(levels, biases, words, noise).max()), among))
    return np.array(found)


def cell(values: Table) -> str:
    return f"{float(np.mean(values <= NAME_BELOW)):.0%}; {float(np.median(values)):.0f}"


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(cells: Sequence[Any]) -> None:
    row(*cells)
    row(*["---"] * len(cells))


def main(trials: int) -> None:
    header(["coalition", "code and score", *STRATEGIES])
    for coalition in COALITIONS:
        for code in CODES:
            row(coalition, code, *(cell(surest(code, SLOTS, coalition, s, NOISE, trials)) for s in STRATEGIES))
    print()
    header(["coalition", "slots", "mark over noise", *STRATEGIES])
    chosen = list(CODES)[-1]
    for coalition, slots, amplitudes in (
        (2, 1024, (0.5, 0.6)),
        (3, 1024, (1.0, 1.3)),
        (4, 2048, (0.8, 1.0)),
        (5, 2048, (1.3, 1.5)),
        (6, 4096, (0.8, 1.0)),
        (8, 4096, (1.4, 1.7)),
    ):
        for amplitude in amplitudes:
            cells = (cell(surest(chosen, slots, coalition, s, 1 / amplitude, trials)) for s in STRATEGIES)
            row(coalition, slots, amplitude, *cells)
    print()
    header(["coalition", f"slots, among {MANY:,} recipients", "mark over noise", *STRATEGIES])
    for coalition, simulated, amplitude in ((3, 1024, 1.3), (5, 2048, 1.5)):
        slots = slots_among(MANY, simulated)
        cells = (cell(surest(chosen, slots, coalition, s, 1 / amplitude, trials, MANY)) for s in STRATEGIES)
        row(coalition, slots, amplitude, *cells)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
