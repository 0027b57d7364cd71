"""Write a mark into weights, tensor by tensor (docs/WATERMARK.md section 4)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault.errors import ModelError
from modelvault.onnxfile.layout import Data, Edit
from modelvault.watermark.carriers import FLOATS, STEPS, Float, Scale, Shape, tensor_digest, to_float
from modelvault.watermark.pattern import SQRT2, Int8, ModelKey

FULL = 4  # a quantised weight steps only where the pattern is at its extreme


@dataclass(slots=True)
class Marker:
    """Marks the tensors whose digests are in ``tensors``; its ``edit`` is what onnxfile passes each tensor through.

    ``strength``: the change of an element over its scale, in rms. ``changes`` gathers, by digest, each tensor's
    relative change ||new - old|| / ||old||. ``before``: another mark's edit, which comes first.
    """

    key: ModelKey
    strength: float
    payload: bytes
    tensors: frozenset[bytes]
    before: Edit | None = None
    changes: dict[bytes, float] = field(default_factory=dict)
    _signs: Int8 = field(init=False)

    def __post_init__(self) -> None:
        self._signs = self.key.signs(self.payload)

    def edit(self, dtype: str, shape: Shape, data: bytes) -> Data | None:
        """The marked elements, or None for a tensor that is left as it is."""
        base = self.before(dtype, shape, data) if self.before else None
        if dtype not in FLOATS and dtype not in STEPS and dtype != "BFLOAT16":
            return base
        digest = tensor_digest(dtype, shape, data)
        if digest not in self.tensors:
            return base
        change = self._step if dtype in STEPS else self._add
        marked, self.changes[digest] = change(dtype, shape, data if base is None else bytes(base), digest)
        return marked

    def check_complete(self, path: Path) -> None:
        """ModelError unless every tensor came by: the source changed after it was planned."""
        if missing := len(self.tensors - self.changes.keys()):
            raise ModelError(f"{path}: changed while it was being marked ({missing} tensors did not come by)")

    def _add(self, dtype: str, shape: Shape, data: bytes, digest: bytes) -> tuple[Data, float]:
        """Strength x scale x pattern on every element. Zeros stay zeros: a pruned model stays pruned."""
        values = to_float(dtype, data)
        marked = np.empty(len(data), np.uint8)  # not zeroed first, as a bytearray is, and of huge pages
        kind = FLOATS.get(dtype, "<u2")
        old: npt.NDArray[Any] = np.frombuffer(data, kind)
        new: npt.NDArray[Any] = marked.view(kind)
        scale = Scale.of(values, shape).times(self.strength / SQRT2)
        dither = self.key.dither(digest, len(values)) if dtype == "BFLOAT16" else values
        changed = total = 0.0
        for place, pattern in self.key.signed(digest, len(values), self._signs):
            piece = values[place]
            delta = scale.flat(place)
            delta *= pattern
            delta *= piece != 0
            changed += float(np.vdot(delta, delta))
            total += float(np.vdot(piece, piece))
            if dtype == "BFLOAT16":
                new[place] = _dithered(piece + delta, dither[place])
            else:
                np.add(old[place], delta, out=new[place], casting="same_kind")
        return marked.data, float((changed / total) ** 0.5)

    def _step(self, dtype: str, _shape: Shape, data: bytes, digest: bytes) -> tuple[Data, float]:
        """One step up or down where the pattern is at its extreme, never beyond the type's range."""
        marked = bytearray(data)
        new: npt.NDArray[Any] = np.frombuffer(marked, STEPS[dtype])
        low, high, changed = np.iinfo(new.dtype).min, np.iinfo(new.dtype).max, 0
        for place, pattern in self.key.signed(digest, len(new), self._signs):
            piece = new[place]
            up, down = (pattern == FULL) & (piece < high), (pattern == -FULL) & (piece > low)
            piece += up
            piece -= down
            changed += int(np.count_nonzero(up)) + int(np.count_nonzero(down))
        return marked, float(changed**0.5 / (np.linalg.norm(new.astype(np.float32)) or 1.0))


def _dithered(values: Float, dither: Float) -> npt.NDArray[np.uint32]:
    """Round to bfloat16 so that the mean is kept: its steps are larger than the mark."""
    room = (dither * np.float32(65536)).astype(np.uint32)
    rounded: npt.NDArray[np.uint32] = (values.view(np.uint32) + room) >> np.uint32(16)
    return rounded
