"""What will be marked, and how strongly: a plan, and what may be expected of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from modelvault.commitment import Commitment
from modelvault.keys import OwnerSecret
from modelvault.watermark.carriers import STEPS, Carrier
from modelvault.watermark.fidelity import Drift
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record, commit, marked

MILLION = 1_000_000
STANDARD, STRONGEST = 0.003, 0.01
WANTED_Z = 60.0
NOISE = 0.1  # the damage that a mark is dimensioned for: noise of this size relative to the weights
LEAST_Z, MODERATE_Z, STRONG_Z = 8.0, 13.4, 28.0  # a claim, a claim at 2^-128, a payload that reads well


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be marked: ``carriers`` of the original of that digest, at ``strength``; ``drift`` if measured."""

    secret: OwnerSecret
    original: bytes
    carriers: tuple[Carrier, ...]
    left_out: tuple[str, ...]
    strength: float
    payload: bytes
    drift: Drift | None

    def marker(self, only: Sequence[Carrier] | None = None) -> Marker:
        tensors = frozenset(c.digest for c in (self.carriers if only is None else only))
        return Marker(ModelKey(self.secret.secret, self.original), self.strength, self.payload, tensors)

    @property
    def commitment(self) -> Commitment:
        return commit(self.secret, self.original, round(self.strength * MILLION), self.payload)

    def record(self, name: str) -> Record:
        return Record(
            commitment=self.commitment,
            payload=self.payload,
            model=name,
            created=datetime.now(UTC).replace(microsecond=0),
            carriers=marked(self.carriers),
        )

    @property
    def expected_z(self) -> float:
        """The score that informed detection should find after noise of a tenth of the weights' size."""
        floats, steps = count_floats(self.carriers), sum(c.count for c in self.carriers if c.weight.dtype in STEPS)
        # A step is one part in about 40 of a quantised weight's rms, on 1 weight in 128.
        step = 2 / 256 * 4 / math.sqrt(2) / 40
        return math.sqrt(floats * (self.strength / NOISE) ** 2 + steps * (step / NOISE) ** 2)

    @property
    def robustness(self) -> str:
        """How a mark with this expected score may be called."""
        if self.expected_z >= STRONG_Z:
            return "strong"
        return "moderate" if self.expected_z >= MODERATE_Z else "weak"


def count_floats(carriers: Sequence[Carrier]) -> int:
    """How many weights a mark's strength applies to; quantised ones change by whole steps."""
    return sum(c.count for c in carriers if c.weight.dtype not in STEPS)


def rounded(strength: float) -> float:
    """To millionths, as commitments hold it."""
    return max(1, round(strength * MILLION)) / MILLION


def automatic(carriers: Sequence[Carrier]) -> float:
    """The strength that gives WANTED_Z after NOISE, within limits."""
    count = count_floats(carriers)
    return min(STRONGEST, max(STANDARD, WANTED_Z * NOISE / math.sqrt(count))) if count else STANDARD
