"""What a suspect says of every slot: its correlation with the slot's pattern, in units of its noise."""

import numpy as np

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
        self._levels[tensor.digest] = levels(differences * usable, self._patterns.directions(tensor) * usable)

    def levels(self) -> Table:
        """All slots in their order; NaN where the suspect has nothing."""
        missing = {t.digest: np.full(len(t.starts), np.nan) for t in self._layout.tensors}
        return np.concatenate([self._levels.get(t.digest, missing[t.digest]) for t in self._layout.tensors])


def levels(differences: Float, directions: Float) -> Table:
    """(slots,) from (slots, elements) each; an element that says nothing is 0 in both."""
    sizes = np.abs(differences[differences != 0])
    if not sizes.size:
        return np.full(len(differences), np.nan)
    limit = CLIP * float(np.median(sizes))
    clipped = np.clip(differences, -limit, limit)
    energy = np.einsum("ij,ij->i", directions, directions, dtype=np.float64)
    along = np.einsum("ij,ij->i", clipped, directions, dtype=np.float64)
    known = np.count_nonzero(directions, axis=1) >= LEAST_ELEMENTS
    mean = np.divide(along, energy, out=np.zeros_like(along), where=known)
    rest = (clipped - mean[:, None].astype(np.float32) * directions)[known]
    noise = float(np.vdot(rest, rest)) / max(int(np.count_nonzero(directions[known])), 1)
    unit = np.sqrt(max(noise, LEAST_NOISE) * energy)
    return np.where(known, np.divide(along, unit, out=np.zeros_like(along), where=known), np.nan)
