"""Choose slots for a model: how many, where, how strong; measure what they do; refuse what traces nobody."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_FINGERPRINT, hkdf, keystream
from modelvault.errors import FormatError, ModelError
from modelvault.fingerprint.embed import SlotSealer, copy_edit
from modelvault.fingerprint.layout import MILLION, Layout, SlotTensor, item_size
from modelvault.fingerprint.registry import Sealed
from modelvault.fingerprint.rings import Owner, RecipientKeys
from modelvault.fingerprint.tracing import NAME_BELOW
from modelvault.keys import OwnerSecret
from modelvault.manifest import ModelStatement
from modelvault.onnxfile import Edit, OpenModel, split
from modelvault.variants import MAX_SLOT, MAX_SLOTS, UNIT, Variants
from modelvault.watermark.carriers import STEPS, Carrier, tensor_digest, to_float
from modelvault.watermark.embedding import Budget
from modelvault.watermark.embedding import Plan as Watermark
from modelvault.watermark.embedding import make_plan as make_watermark
from modelvault.watermark.fidelity import Bench, Drift, Feed

SIZES = ((2, 1024, 0.6), (3, 1024, 1.3), (4, 2048, 1.0), (5, 2048, 1.5), (6, 4096, 1.0), (8, 4096, 1.7))
"""(Largest coalition, slots that trace it among SIMULATED recipients, and how strong each must be): simulated."""
SIMULATED, MAX_RECIPIENTS = 1000, 1_000_000
SHARES = (0.03, 0.06, 0.12)  # of the carriers' bytes, tried in turn: about what the file grows by
STANDARD, STRONGEST, WEAKEST, STEP_DOWN = 0.02, 0.03, 0.001, 0.9
NOISE = 0.1  # the damage that slots are dimensioned for: noise of this size relative to the weights
WANTED = 2.5  # a slot's mark after that noise, in standard deviations
STEP_SHARE = 186 / 256  # of the pattern's values that are not 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintPlan:
    """Slots chosen for a model, and the measured drift of one recipient's copy. ``labels``: names by fingerprint.

    ``recipients``: among how many the code's coalition is traced.
    """

    owner: Owner
    layout: Layout
    drift: Drift | None
    recipients: int = SIMULATED
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """For people."""
        return f"{self.layout.slots} slots of {self.layout.length} bytes, strength {self.layout.strength / MILLION}"

    @property
    def reach(self) -> str:
        """For people: whom these slots trace."""
        return f"trace up to {self.layout.coalition} colluders among {self.recipients:,} recipients"

    @property
    def variants(self) -> Variants:
        """What the statement says."""
        return self.layout.variants(self.owner.secret)

    @property
    def amplitude(self) -> float:
        """A slot's mark over noise of a tenth of the weights' size, on average over the slots."""
        layout = self.layout
        roots = sum(len(t.starts) * math.sqrt(layout.count(t)) for t in layout.tensors) / layout.slots
        return layout.strength / MILLION / NOISE * roots

    def sealer(self, nonce: bytes, before: Edit | None) -> SlotSealer:
        return SlotSealer(self.owner.secret, self.layout, nonce, before)

    def keys(self, nonce: bytes) -> RecipientKeys:
        return RecipientKeys(self.owner.secret, self.variants, nonce, "fingerprint")

    def record(self, statement: ModelStatement, digest: bytes, recipients: Sequence[str]) -> None:
        """Write into the registry what was sealed, and who gets copies; ``digest``: the statement's SHA-256."""
        sealed = Sealed(
            statement=digest,
            name=statement.name,
            version=statement.version,
            created=statement.created,
            layout=self.layout,
        )
        who = [(r, self.labels.get(r, "")) for r in recipients]
        self.owner.issue(statement, digest, who, statement.name, sealed=[sealed])


def make_plan(
    source: str | os.PathLike[str],
    owner: Owner,
    *,
    coalition: int = 3,
    recipients: int = SIMULATED,
    watermark: Watermark | None = None,
    inputs: Sequence[Feed] | None = None,
    inputs_name: str = "given inputs",
    budget: Budget | None = None,
) -> FingerprintPlan:
    """Choose slots that trace a coalition of recipients who blend their copies; see docs/FINGERPRINTS.md.

    ``coalition``: 1 to 8, among as many ``recipients`` as are expected. ``watermark``: the mark that the same seal
    embeds; slots lie in its tensors, and both count for the drift that is measured. Raises ModelError with the figures
    where the model is too small, or would change too much; FileError, FormatError.
    """
    path, budget = Path(source), budget or Budget()
    if not 1 <= coalition <= SIZES[-1][0]:
        raise FormatError(f"coalition: expected 1 to {SIZES[-1][0]}, got {coalition}")
    if not 1 <= recipients <= MAX_RECIPIENTS:
        raise FormatError(f"recipients: expected 1 to {MAX_RECIPIENTS}, got {recipients}")
    mark = watermark or make_watermark(path, owner.secret, inputs=inputs, inputs_name=inputs_name, budget=budget)
    places = _places(path, mark.carriers)
    bench = None if mark.drift is None else Bench(path, inputs, inputs_name)
    tried: list[str] = []
    for slots, least in _choices(coalition, recipients):
        found: list[FingerprintPlan] = []
        for share in SHARES:
            layout = _layout(owner.secret, mark.original, places, coalition=coalition, slots=slots, share=share)
            if layout is not None:
                plan = FingerprintPlan(owner=owner, layout=layout, drift=None, recipients=recipients)
                found.append(_fitted(path, plan, places, watermark, bench, budget))
                if found[-1].amplitude >= WANTED:
                    break
        best = max(found, key=lambda p: p.amplitude, default=None)
        if best is not None and best.amplitude >= least:
            return best
        reached = "no room" if best is None else f"{best.amplitude:.2f} at {best.summary}"
        tried.append(f"{slots} slots of {least} standard deviations above 10 % noise are needed, reached: {reached}")
    raise ModelError(
        f"{path}: too small to trace a coalition of {coalition} in {sum(p.carrier.count for p in places)} weights: "
        + "; or ".join(tried)
    )


def slots_among(recipients: int, slots: int) -> int:
    """How many slots do among ``recipients`` what ``slots`` do among SIMULATED, in eights.

    A score grows with the slots, and what it takes to be named with the logarithm of how many might be.
    """
    asked = (math.log10(recipients) - NAME_BELOW) / (math.log10(SIMULATED) - NAME_BELOW)
    return 8 * math.ceil(slots * max(1.0, asked) / 8)


def _choices(coalition: int, recipients: int) -> list[tuple[int, float]]:
    """(slots, how strong each must be): few strong ones first, since each costs time in every load.

    FormatError where that takes more slots than a file can have.
    """
    found: dict[int, float] = {}
    for reach, slots, least in SIZES:
        if coalition <= reach:
            found.setdefault(slots_among(recipients, slots), least)
    if min(found) > MAX_SLOTS:
        raise FormatError(
            f"a coalition of {coalition} among {recipients} recipients takes {min(found)} slots, a file has at most "
            f"{MAX_SLOTS}: expect fewer of either"
        )
    return [(slots, least) for slots, least in found.items() if slots <= MAX_SLOTS]


def _fitted(
    path: Path,
    plan: FingerprintPlan,
    places: "Sequence[_Place]",
    mark: Watermark | None,
    bench: Bench | None,
    budget: Budget,
) -> FingerprintPlan:
    """The plan with its drift measured, weakened until it fits the budget; ModelError where nothing does."""
    if bench is None:
        return plan
    while not budget.allows(drift := _measure(path, plan, mark, bench)):
        relief = min(STEP_DOWN, math.sqrt((1 - budget.cosine) / max(1 - drift.cosine, 1e-12)))
        if plan.layout.strength * relief < WEAKEST * MILLION:
            raise ModelError(
                f"{path}: fingerprints change the model too much: {plan.summary}, output cosine {drift.cosine:.6f} "
                f"(budget {budget.cosine}), arg-max agreement {drift.decided:.4f} (budget {budget.agreement}) on "
                f"{drift.inputs}"
            )
        plan = replace(plan, layout=_weaker(plan.layout, places, relief))
    return replace(plan, drift=drift)


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


def _layout(
    secret: OwnerSecret,
    original: bytes,
    places: Sequence[_Place],
    *,
    coalition: int,
    slots: int,
    share: float,
) -> Layout | None:
    """Slots of equal length at places drawn from the owner's secret, all places alike; None where there is no room."""
    total = sum(p.carrier.weight.size for p in places)
    length = min(MAX_SLOT, int(total * share / slots) // UNIT * UNIT)
    blocks = [p.carrier.weight.size // length for p in places] if length else []
    if sum(blocks) < slots:
        return None
    wanted = WANTED * NOISE / math.sqrt(length / max(item_size(p.carrier.weight.dtype) for p in places))
    strength, tensors = min(STRONGEST, max(STANDARD, wanted)), []
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
                    density=_density(w.dtype, strength, place.spread),
                    starts=tuple(int(n) * count for n in numbers),
                )
            )
    return Layout(
        original=original,
        strength=round(strength * MILLION),
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


def _weaker(layout: Layout, places: Sequence[_Place], factor: float) -> Layout:
    strength, spread = layout.strength * factor / MILLION, {p.carrier.digest: p.spread for p in places}
    tensors = tuple(replace(t, density=_density(t.dtype, strength, spread[t.digest])) for t in layout.tensors)
    return replace(layout, strength=round(strength * MILLION), tensors=tensors)


def _measure(path: Path, plan: FingerprintPlan, mark: Watermark | None, bench: Bench) -> Drift:
    """The drift of one copy, as good as any other."""
    word = [number % 2 for number in range(plan.layout.slots)]
    edit = copy_edit(plan.owner.secret, plan.layout, word, mark.marker().edit if mark else None)
    return bench.drift(OpenModel(path).to_bytes(edit))
