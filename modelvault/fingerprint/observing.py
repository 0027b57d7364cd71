"""What a suspect says of every slot: where between its two variants it lies, and how sure that is."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.collusion import Observed, Table
from modelvault.fingerprint.layout import MILLION, Layout, SlotTensor
from modelvault.fingerprint.slots import Patterns
from modelvault.watermark.carriers import STEPS, Float, scale_of

CLIP = 4 * 1.4826  # medians of the absolute difference
LEAST_ELEMENTS = 8
LEAST_UNEVEN = 0.5
LEAST_NOISE = 1e-6  # of a level: a copy that nobody touched has no noise at all


class Observer:
    """Gathers the levels of all slots of one layout, tensor by tensor."""

    def __init__(self, layout: Layout, patterns: Patterns) -> None:
        self._layout = layout
        self._patterns = patterns
        self._measured: dict[bytes, Observed] = {}

    def add(self, tensor: SlotTensor, suspect: Float, base: Float) -> None:
        """``suspect`` and ``base``: a tensor's elements, flat, in the base's order. The suspect's zeros say nothing."""
        scale, count = scale_of(tensor.dtype, tensor.shape, base), self._layout.count(tensor)
        places = [slice(start, start + count) for start in tensor.starts]
        usable = np.stack([suspect[p] != 0 for p in places])
        differences = np.stack([suspect[p] - base[p] for p in places]) * usable
        scales = np.stack([np.maximum(scale.flat(p), 1e-12) for p in places])
        directions = self._patterns.directions(tensor) * np.float32(strength(tensor, self._layout)) * usable
        self._measured[tensor.digest] = observe(differences, directions, scales)

    def observed(self) -> Observed:
        """All slots in their order."""
        parts = [self._measured.get(t.digest) or _nothing(len(t.starts)) for t in self._layout.tensors]
        return Observed(np.concatenate([p.levels for p in parts]), np.concatenate([p.noise for p in parts]))


def _nothing(slots: int) -> Observed:
    return Observed(np.full(slots, np.nan), np.ones(slots))


def strength(tensor: SlotTensor, layout: Layout) -> float:
    """What variant 1 adds to an element, over its scale and the direction."""
    return 1.0 if tensor.dtype in STEPS else layout.strength / MILLION


def observe(differences: Float, directions: Float, scales: Float) -> Observed:
    """One tensor's slots, (slots, elements) each; ``directions``: over the scale; an element that says nothing is 0 in
    both.

    Noise is of one size in all elements, or grows with their scale: measured by both, and the surer is taken.
    """
    even = measure(differences, directions * scales).observed()
    scaled = measure(differences / scales, directions).observed()
    return min(even, scaled, key=lambda o: float(np.log(o.noise).mean()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The slots of one tensor: (slots,) each. ``along``: differences times directions; ``energy``: of the directions.

    ``elements``: of the slot that the direction is not 0 in; ``rest``: energy of the differences in these, less what
    is along the direction; ``turned``: that rest times the direction, its energy.
    """

    along: Table
    energy: Table
    rest: Table
    turned: Table
    elements: npt.NDArray[np.intp]

    def observed(self) -> Observed:
        """Levels, NaN for slots with too little of them, and their noise by what each slot has besides.

        Noise may be larger where the direction is: by how much is told from all slots together, since few elements of
        one tell little of it.
        """
        known = self.elements >= LEAST_ELEMENTS
        energy, elements = np.where(known, self.energy, 1), np.maximum(self.elements, 2)
        even = self.rest * energy / elements
        uneven = float(self.turned[known].sum()) / max(float(even[known].sum()), 1e-300)
        noise = np.sqrt(even * max(uneven, LEAST_UNEVEN) * elements / (elements - 1)) / energy
        return Observed(np.where(known, self.along / energy, np.nan), np.maximum(noise, LEAST_NOISE))


def measure(differences: Float, directions: Float) -> Measured:
    """(slots, elements) each; an element that says nothing is 0 in both."""
    sizes = np.abs(differences[differences != 0])
    limit = CLIP * float(np.median(sizes)) if sizes.size else 0.0
    clipped = np.clip(differences, -limit, limit)
    energy = np.einsum("ij,ij->i", directions, directions, dtype=np.float64)
    along = np.einsum("ij,ij->i", clipped, directions, dtype=np.float64)
    mean = np.divide(along, energy, out=np.zeros_like(along), where=energy > 0)
    rest = (clipped - mean[:, None].astype(np.float32) * directions) * (directions != 0)
    return Measured(
        along=along,
        energy=energy,
        rest=np.einsum("ij,ij->i", rest, rest, dtype=np.float64),
        turned=np.einsum("ij,ij->i", rest * directions, rest * directions, dtype=np.float64),
        elements=np.count_nonzero(directions, axis=1),
    )
