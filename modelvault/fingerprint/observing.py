"""What a suspect says of every slot: its correlation with the slot's pattern, in units of its noise."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.collusion import Table
from modelvault.fingerprint.layout import Layout, SlotTensor
from modelvault.fingerprint.slots import Patterns
from modelvault.watermark.carriers import Float, scale_of

CLIP = 4 * 1.4826  # medians of the absolute difference
LEAST_ELEMENTS = 8
LEAST_NOISE = 1e-12  # a copy that nobody touched has no noise at all


class Observer:
    """Gathers the levels of all slots of one layout, tensor by tensor."""

    def __init__(self, layout: Layout, patterns: Patterns) -> None:
        self._layout = layout
        self._patterns = patterns
        self._levels: dict[bytes, Table] = {}

    def add(self, tensor: SlotTensor, suspect: Float, base: Float) -> None:
        """``suspect`` and ``base``: a tensor's elements, flat, in the base's order. The suspect's zeros say nothing."""
        scale, count = scale_of(tensor.dtype, tensor.shape, base), self._layout.count(tensor)
        places = [slice(start, start + count) for start in tensor.starts]
        differences = np.stack([suspect[p] - base[p] for p in places])
        differences /= np.stack([np.maximum(scale.flat(p), 1e-12) for p in places])
        usable = np.stack([suspect[p] != 0 for p in places])
        measured = measure(differences * usable, self._patterns.directions(tensor) * usable)
        self._levels[tensor.digest] = measured.levels()

    def levels(self) -> Table:
        """All slots in their order; NaN where the suspect has nothing."""
        missing = {t.digest: np.full(len(t.starts), np.nan) for t in self._layout.tensors}
        return np.concatenate([self._levels.get(t.digest, missing[t.digest]) for t in self._layout.tensors])


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The slots of one tensor: (slots,) each. ``along``: differences times directions; ``energy``: of the directions.

    ``rest``: energy of the differences less what is along the directions; ``elements``: of the slot that say anything.
    """

    along: Table
    energy: Table
    rest: Table
    elements: npt.NDArray[np.intp]

    def levels(self) -> Table:
        """Along the directions, in units of the noise that the tensor's slots have; NaN for slots with too little."""
        known = self.elements >= LEAST_ELEMENTS
        noise = float(self.rest[known].sum()) / max(int(self.elements[known].sum()), 1)
        unit = np.sqrt(max(noise, LEAST_NOISE) * self.energy)
        return np.where(known, np.divide(self.along, unit, out=np.zeros_like(unit), where=known), np.nan)


def measure(differences: Float, directions: Float) -> Measured:
    """(slots, elements) each, over the scale; an element that says nothing is 0 in both."""
    sizes = np.abs(differences[differences != 0])
    limit = CLIP * float(np.median(sizes)) if sizes.size else 0.0
    clipped = np.clip(differences, -limit, limit)
    energy = np.einsum("ij,ij->i", directions, directions, dtype=np.float64)
    along = np.einsum("ij,ij->i", clipped, directions, dtype=np.float64)
    mean = np.divide(along, energy, out=np.zeros_like(along), where=energy > 0)
    rest = clipped - mean[:, None].astype(np.float32) * directions
    return Measured(
        along=along,
        energy=energy,
        rest=np.einsum("ij,ij->i", rest, rest, dtype=np.float64),
        elements=np.count_nonzero(directions, axis=1),
    )
