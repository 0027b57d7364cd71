"""Look for a pattern in weights: the statistic and its bound (docs/WATERMARK.md section 7)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import STEPS, Float, Scale, Shape, grid, scale_of
from modelvault.watermark.code import SLOTS, Decoded
from modelvault.watermark.pattern import PIECE, SQRT2, Int8, ModelKey, SlotSums
from modelvault.watermark.weighing import CLIP, median, weigh, weigh_steps

STEP_MARK = 4 / SQRT2 * 2 / 256  # what a mark adds to a quantised element, on average
LEAST_LOG10_P = -256 * math.log10(2)
READ_TRIALS_LOG2 = 128  # a payload read off the suspect is one of 2^128


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorScore:
    """What one tensor says: correlation by slot, and the energy that bounds it, which does not depend on a key."""

    sums: npt.NDArray[np.float64]
    energy: float

    def z(self, signs: Int8) -> float:
        return float(self.sums @ signs) / math.sqrt(self.energy) if self.energy > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A suspect's tensor less the original's (or alone, for blind detection), over the scale; no key is in it.

    ``values``: what each element is expected to hold of the pattern, so that evidence adds up across tensors.
    """

    values: Float

    @property
    def energy(self) -> float:
        pieces = (self.values[at : at + PIECE] for at in range(0, len(self.values), PIECE))
        return sum(float(np.vdot(p, p)) for p in pieces)


def difference(dtype: str, shape: Shape, suspect: Float, original: Float | None) -> Difference:
    """``suspect`` and ``original``: flat, in the original's order. Zeros of the suspect say nothing."""
    scale = scale_of(dtype, shape, suspect if original is None else original)
    inverse = Scale(_inverse(scale.rows), _inverse(scale.columns))
    result = np.empty_like(suspect)
    for at in range(0, len(suspect), PIECE):
        place = slice(at, min(at + PIECE, len(suspect)))
        piece = np.multiply(suspect[place], inverse.flat(place), out=result[place])
        if original is not None:
            piece -= original[place] * inverse.flat(place)
            piece *= suspect[place] != 0
    if dtype not in STEPS:
        weigh(result.reshape(grid(shape)))
    elif original is not None:
        weigh_steps(result)
    else:
        _scale_down(result)
    return Difference(result)


def _scale_down(values: Float) -> None:
    """Clipped, and times mark over variance, in place: quantised weights themselves are far larger than a step."""
    limit = CLIP * median(values)
    np.clip(values, -limit, limit, out=values)
    values *= np.float32(STEP_MARK / max(float(np.vdot(values, values)) / len(values), STEP_MARK**2))


def _inverse(factors: Float) -> Float:
    return np.divide(1, factors, out=np.zeros_like(factors), where=factors > 0)


def score(key: ModelKey, digest: bytes, found: Difference) -> TensorScore:
    """Correlate a difference with the key's pattern for the tensor of that digest."""
    sums, count = SlotSums(), len(found.values)
    shifts = key.shifts(digest, count).tolist()
    for place, pattern in key.pattern(digest, count):
        blocks = shifts[place.start // SLOTS : -(-place.stop // SLOTS)]
        sums.add(found.values[place] * pattern, blocks)
    return TensorScore(sums=sums.sums() / SQRT2, energy=found.energy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All tensors together: slot sums, and the square root of the energy."""

    sums: npt.NDArray[np.float64]
    norm: float

    @classmethod
    def of(cls, scores: Iterable[TensorScore]) -> "Evidence":
        sums, energy = np.zeros(SLOTS), 0.0
        for s in scores:
            sums += s.sums
            energy += s.energy
        return cls(sums=sums, norm=math.sqrt(energy))

    def z(self, signs: Int8) -> float:
        """The statistic for a payload's signs."""
        return float(self.sums @ signs) / self.norm if self.norm > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The best of what was tried. ``log10_p``: of the whole claim, every trial counted; ``read``: payload decoded."""

    z: float
    log10_p: float
    payload: bytes
    named: bool
    read: Decoded | None
    read_z: float
    read_log10_p: float


def judge(key: ModelKey, evidence: Evidence, named: Sequence[bytes], trials: int = 1) -> Outcome:
    """Try each payload in ``named``, and the one that the suspect itself spells, each at its price.

    ``trials``: how many keys, originals and records are tried beside this one.
    """
    options = []
    for payload in named:
        z = evidence.z(key.signs(payload))
        options.append((log10_bound(z, math.log2(2 * trials * len(named))), z, payload, True))
    read, read_z, read_p = key.decode(evidence.sums), 0.0, 0.0
    if read is not None:
        read_z = evidence.z(key.signs(read.payload))
        read_p = log10_bound(read_z, READ_TRIALS_LOG2 + math.log2(2 * trials))
        options.append((read_p, read_z, read.payload, False))
    log10_p, z, payload, is_named = min(options, key=lambda o: (o[0], -o[1]))
    return Outcome(z=z, log10_p=log10_p, payload=payload, named=is_named, read=read, read_z=read_z, read_log10_p=read_p)


def log10_bound(z: float, trials_log2: float) -> float:
    """log10 of trials x exp(-z^2 / 2), at most 0: Hoeffding's bound for a pattern independent of the suspect.

    Never below 2^-256, the chance to guess the key itself.
    """
    if z <= 0:
        return 0.0
    return min(0.0, max(LEAST_LOG10_P, (trials_log2 * math.log(2) - z * z / 2) / math.log(10)))
