"""Choose slots for a model: how many, where, how strong; measure what they do; refuse what traces nobody."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_FINGERPRINT, hkdf, keystream
from modelvault.errors import ModelError
from modelvault.fingerprint.embed import SlotSealer, copy_edit
from modelvault.fingerprint.layout import MILLION, Layout, SlotTensor, item_size
from modelvault.fingerprint.rings import RecipientKeys
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import Edit, OpenModel, split
from modelvault.variants import MAX_SLOT, UNIT, Variants
from modelvault.watermark.carriers import STEPS, Carrier, tensor_digest, to_float
from modelvault.watermark.embedding import Budget
from modelvault.watermark.embedding import Plan as Watermark
from modelvault.watermark.embedding import make_plan as make_watermark
from modelvault.watermark.fidelity import Bench, Drift, Feed

SHARE = 0.06  # of the carriers' bytes that slots take, and so about what the file grows by
SLOTS, LEAST_SLOTS = 2048, 256
STRONGEST, WEAKEST, WEAKER = 0.02, 0.002, 0.8
STEP_SHARE = 186 / 256  # of the pattern's values that are not 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintPlan:
    """Slots chosen for a model, and the measured drift of one recipient's copy."""

    secret: OwnerSecret
    layout: Layout
    drift: Drift | None

    @property
    def summary(self) -> str:
        """For people."""
        return f"{self.layout.slots} slots of {self.layout.length} bytes, strength {self.layout.strength / MILLION}"

    @property
    def variants(self) -> Variants:
        """What the statement says."""
        return self.layout.variants(self.secret)

    def sealer(self, nonce: bytes, before: Edit | None) -> SlotSealer:
        return SlotSealer(self.secret, self.layout, nonce, before)

    def keys(self, nonce: bytes) -> RecipientKeys:
        return RecipientKeys(self.secret, self.variants, nonce, "fingerprint")


def make_plan(
    source: str | os.PathLike[str],
    secret: OwnerSecret,
    *,
    coalition: int = 5,
    recipients: int = 1000,
    watermark: Watermark | None = None,
    inputs: Sequence[Feed] | None = None,
    inputs_name: str = "given inputs",
    budget: Budget | None = None,
) -> FingerprintPlan:
    """Choose slots that trace ``coalition`` of ``recipients`` who blend their copies; see docs/FINGERPRINTS.md.

    ``watermark``: the mark that the same seal embeds; slots lie in its tensors, and both count for the drift that is
    measured. Raises ModelError with the figures where the model is too small, or changes too much; FileError.
    """
    path, budget = Path(source), budget or Budget()
    mark = watermark or make_watermark(path, secret, inputs=inputs, inputs_name=inputs_name, budget=budget)
    places = _places(path, mark.carriers)
    layout, drift = _layout(path, secret, mark.original, places, coalition), None
    if mark.drift is not None:
        bench = Bench(path, inputs, inputs_name)
        while not budget.allows(drift := _measure(path, secret, layout, watermark, bench)):
            layout = _weaker(layout, places)
            if layout.strength < WEAKEST * MILLION:
                raise ModelError(
                    f"{path}: fingerprints change the model too much: at strength {layout.strength / MILLION} output "
                    f"cosine {drift.cosine:.6f} (budget {budget.cosine}), arg-max agreement {drift.decided:.4f} "
                    f"(budget {budget.agreement}) on {drift.inputs}"
                )
    return FingerprintPlan(secret=secret, layout=layout, drift=drift)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A carrier that may hold slots: its offset in the weights region, and its elements' standard deviation."""

    carrier: Carrier
    offset: int
    spread: float


def _places(path: Path, carriers: Sequence[Carrier]) -> list[_Place]:
    """In the region's order. Left out: what stays in the graph, and what stands twice, since only one would change."""
    offsets = {t.name: t.offset for t in split(path).tensors}
    kinds = {(c.weight.dtype, c.weight.shape) for c in carriers}
    model, where = OpenModel(path), dict[bytes, set[int | None]]()
    spread: dict[bytes, float] = {}
    for weight in model.weights:
        if (weight.dtype, weight.shape) in kinds:
            data = model.read(weight)
            digest = tensor_digest(weight.dtype, weight.shape, data)
            where.setdefault(digest, set()).add(offsets.get(weight.name))
            spread[digest] = float(to_float(weight.dtype, data).std())
    found = []
    for carrier in carriers:
        places = where.get(carrier.digest, set())
        offset = next(iter(places)) if len(places) == 1 else None
        if offset is not None:
            found.append(_Place(carrier=carrier, offset=offset, spread=spread[carrier.digest]))
    return sorted(found, key=lambda p: p.offset)


def _layout(path: Path, secret: OwnerSecret, original: bytes, places: Sequence[_Place], coalition: int) -> Layout:
    """Slots of equal length at places drawn from the owner's secret, all places alike."""
    total = sum(p.carrier.weight.size for p in places)
    slots = min(SLOTS, int(total * SHARE) // UNIT // 8 * 8)
    if slots < LEAST_SLOTS:
        raise ModelError(f"{path}: too small for fingerprints: {total} bytes of weights give {slots} slots")
    length = min(MAX_SLOT, int(total * SHARE / slots) // UNIT * UNIT)
    blocks = [p.carrier.weight.size // length for p in places]
    tensors = []
    for place, numbers in zip(places, _drawn(secret, original, blocks, slots), strict=True):
        w = place.carrier.weight
        count = length // item_size(w.dtype)
        if len(numbers):
            tensors.append(
                SlotTensor(
                    name=w.name,
                    dtype=w.dtype,
                    shape=w.shape,
                    digest=place.carrier.digest,
                    density=_density(w.dtype, STRONGEST, place.spread),
                    starts=tuple(int(n) * count for n in numbers),
                )
            )
    return Layout(
        original=original,
        strength=round(STRONGEST * MILLION),
        coalition=coalition,
        length=length,
        tensors=tuple(tensors),
    )


def _drawn(secret: OwnerSecret, original: bytes, blocks: Sequence[int], slots: int) -> Iterator[npt.NDArray[np.int64]]:
    """For each tensor the numbers of its blocks that are slots: those with the smallest keyed numbers."""
    key = hkdf(secret.secret, salt=original, info=LABEL_FINGERPRINT + b"places")
    stream = b"".join(bytes(p) for p in keystream(key, 8 * sum(blocks)))
    chosen = np.sort(np.argsort(np.frombuffer(stream, "<u8"), kind="stable")[:slots])
    first = 0
    for count in blocks:
        inside = chosen[(chosen >= first) & (chosen < first + count)]
        yield inside - first
        first += count


def _density(dtype: str, strength: float, spread: float) -> int:
    """In 1/256: how many elements take a whole step, so that the change in rms is that of a float tensor."""
    return min(256, max(1, round(256 * (strength * spread) ** 2 / STEP_SHARE))) if dtype in STEPS else 0


def _weaker(layout: Layout, places: Sequence[_Place]) -> Layout:
    strength, spread = layout.strength * WEAKER / MILLION, {p.carrier.digest: p.spread for p in places}
    tensors = tuple(replace(t, density=_density(t.dtype, strength, spread[t.digest])) for t in layout.tensors)
    return replace(layout, strength=round(strength * MILLION), tensors=tensors)


def _measure(path: Path, secret: OwnerSecret, layout: Layout, mark: Watermark | None, bench: Bench) -> Drift:
    """The drift of one copy, as good as any other."""
    word = np.arange(layout.slots) % 2
    before = mark.marker().edit if mark else None
    return bench.drift(OpenModel(path).to_bytes(copy_edit(secret, layout, word.tolist(), before)))
