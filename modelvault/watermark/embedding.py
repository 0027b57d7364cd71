"""Mark an ONNX model: choose the strength, measure what the mark does, refuse what costs too much or is too weak."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault.commitment import Commitment
from modelvault.errors import FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import STEPS, Carrier, find_carriers, model_digest
from modelvault.watermark.code import NO_PAYLOAD, PAYLOAD
from modelvault.watermark.embed import Marker
from modelvault.watermark.fidelity import Bench, Drift, Feed
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record, commit, marked

MILLION = 1_000_000
WEAKEST, STANDARD, STRONGEST = 0.001, 0.003, 0.01
WANTED_Z = 60.0
NOISE = 0.1  # the damage that a mark is dimensioned for: noise of this size relative to the weights
LEAST_Z, MODERATE_Z, STRONG_Z = 8.0, 13.4, 28.0  # a claim, a claim at 2^-128, a payload that reads well
MAX_PROBES = 256
MAX_IN_MEMORY = 2**31 - 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a mark may cost, as measured: least cosine of outputs, least arg-max agreement (ties apart)."""

    cosine: float = 0.9995
    agreement: float = 0.995

    def allows(self, drift: Drift) -> bool:
        return drift.cosine >= self.cosine and self.agrees(drift)

    def agrees(self, drift: Drift) -> bool:
        """One row that turned is no share yet, however few rows there are."""
        return drift.decided >= self.agreement or drift.turned <= 1


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
        return _expected_z(self.carriers, self.strength)

    @property
    def robustness(self) -> str:
        """How a mark with this expected score may be called."""
        if self.expected_z >= STRONG_Z:
            return "strong"
        return "moderate" if self.expected_z >= MODERATE_Z else "weak"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What was done. ``changes``: relative change by tensor; ``record``: where the owner's note is."""

    output: Path
    record: Path
    plan: Plan
    changes: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        p = self.plan
        return {
            "output": str(self.output),
            "record": str(self.record),
            "commitment": p.commitment.to_dict(),
            "payload": p.payload.hex(),
            "strength": p.strength,
            "carriers": len(p.carriers),
            "weights": sum(c.count for c in p.carriers),
            "left_out": list(p.left_out),
            "expected_z": round(p.expected_z, 1),
            "robustness": p.robustness,
            "drift": p.drift.to_dict() if p.drift else None,
            "changes": {n: round(v, 6) for n, v in self.changes.items()},
        }


def embed(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    secret: OwnerSecret,
    *,
    payload: bytes = NO_PAYLOAD,
    strength: float | None = None,
    inputs: Sequence[Feed] | None = None,
    inputs_name: str = "given inputs",
    budget: Budget | None = None,
    check: bool = True,
    progress: Callable[[int], None] | None = None,
) -> EmbedReport:
    """Write a marked copy of an ONNX model, and the owner's record of it in the home folder.

    Raises ModelError with the figures where the budget is exceeded or the model too small; FileError, FormatError.
    """
    plan = make_plan(
        source, secret, payload=payload, strength=strength, inputs=inputs, inputs_name=inputs_name, budget=budget,
        check=check, progress=progress,
    )  # fmt: skip
    marker, model = plan.marker(), OpenModel(source)
    model.save(output, marker.edit)
    marker.check_complete(Path(source))
    record = plan.record(Path(source).name).save()
    names = {c.digest: c.weight.name for c in plan.carriers}
    changes = {names[d]: change for d, change in marker.changes.items()}
    return EmbedReport(output=Path(output), record=record, plan=plan, changes=changes)


def make_plan(
    source: str | os.PathLike[str],
    secret: OwnerSecret,
    *,
    payload: bytes = NO_PAYLOAD,
    strength: float | None = None,
    inputs: Sequence[Feed] | None = None,
    inputs_name: str = "given inputs",
    budget: Budget | None = None,
    check: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """Decide what to mark, and how strongly; see :func:`embed`. A given ``strength`` is kept or refused."""
    if len(payload) != PAYLOAD:
        raise FormatError(f"payload: expected {PAYLOAD} bytes, got {len(payload)}")
    source = Path(source)
    model = OpenModel(source)
    carriers = tuple(find_carriers(model, progress))
    if not carriers:
        raise ModelError(f"{source}: too small to carry a watermark: no weight tensor of 1024 elements or more")
    plan = Plan(
        secret=secret,
        original=model_digest(c.digest for c in carriers),
        carriers=carriers,
        left_out=(),
        strength=_rounded(strength if strength is not None else _automatic(carriers)),
        payload=payload,
        drift=None,
    )
    size = _files_size(model)
    if check and size <= MAX_IN_MEMORY:
        plan = _within_budget(source, plan, inputs, inputs_name, budget or Budget(), fixed=strength is not None)
    if strength is None and plan.expected_z < LEAST_Z:
        raise ModelError(
            f"{source}: too small to carry a watermark: {sum(c.count for c in plan.carriers)} weights at strength "
            f"{plan.strength} give an expected score of {plan.expected_z:.1f} after 10 % noise, below {LEAST_Z}"
        )
    return plan


def _rounded(strength: float) -> float:
    return max(1, round(strength * MILLION)) / MILLION


def _automatic(carriers: Sequence[Carrier]) -> float:
    count = sum(c.count for c in carriers if c.weight.dtype not in STEPS)
    return min(STRONGEST, max(STANDARD, WANTED_Z * NOISE / math.sqrt(count))) if count else STANDARD


def _expected_z(carriers: Sequence[Carrier], strength: float) -> float:
    floats = sum(c.count for c in carriers if c.weight.dtype not in STEPS)
    steps = sum(c.count for c in carriers if c.weight.dtype in STEPS)
    # A step is one part in about 40 of a quantised weight's rms, on 1 weight in 128.
    return math.sqrt(floats * (strength / NOISE) ** 2 + steps * (2 / 256 * 4 / math.sqrt(2) / (NOISE * 40)) ** 2)


def _files_size(model: OpenModel) -> int:
    return model.path.stat().st_size + model.external_bytes()


def _within_budget(
    source: Path, plan: Plan, inputs: Sequence[Feed] | None, inputs_name: str, budget: Budget, *, fixed: bool
) -> Plan:
    """The plan with its drift measured: as it is, or without its costliest tensors, or weaker until it fits."""
    bench = Bench(source, inputs, inputs_name)
    drift = _measure(source, plan, bench)
    if budget.allows(drift):
        return replace(plan, drift=drift)
    if fixed:
        raise _refusal(source, plan, drift, budget)
    lighter = _without_costliest(source, plan, bench, budget)
    if lighter is not None:
        plan = lighter
        drift = _measure(source, plan, bench)
    while not budget.allows(drift):
        plan = replace(plan, strength=_rounded(plan.strength * _relief(drift, budget)))
        if plan.strength < WEAKEST:
            raise _refusal(source, plan, drift, budget)
        drift = _measure(source, plan, bench)
    return replace(plan, drift=drift)


def _relief(drift: Drift, budget: Budget) -> float:
    """How much weaker the mark must be: one less the cosine grows with the square of the strength."""
    factor = 0.9 * math.sqrt((1 - budget.cosine) / max(1 - drift.cosine, 1e-12))
    return min(0.9, factor if budget.agrees(drift) else min(factor, 0.7))


def _measure(
    source: Path, plan: Plan, bench: Bench, only: Sequence[Carrier] | None = None, *, probe: bool = False
) -> Drift:
    return bench.drift(OpenModel(source).to_bytes(plan.marker(only).edit), probe=probe)


def _refusal(source: Path, plan: Plan, drift: Drift, budget: Budget) -> ModelError:
    return ModelError(
        f"{source}: the watermark changes the model too much: at strength {plan.strength} output cosine "
        f"{drift.cosine:.6f} (budget {budget.cosine}), arg-max agreement {drift.decided:.4f} "
        f"(budget {budget.agreement}) on {drift.inputs}"
    )


def _without_costliest(source: Path, plan: Plan, bench: Bench, budget: Budget) -> Plan | None:
    """Leave out single tensors that dominate the drift: fixed filters, small layers that everything passes."""
    if not 1 < len(plan.carriers) <= MAX_PROBES:
        return None
    costs = [(1 - _measure(source, plan, bench, [c], probe=True).cosine, c) for c in plan.carriers]
    costs.sort(key=lambda item: -item[0])
    total, left_out = sum(cost for cost, _ in costs), []
    kept, count = list(costs), sum(c.count for c in plan.carriers)
    while kept and total > (1 - budget.cosine) / 2:
        cost, carrier = kept[0]
        if cost < 2 * total / len(costs) or sum(c.count for _, c in kept[1:]) < count / 2:
            break
        kept.pop(0)
        total -= cost
        left_out.append(carrier.weight.name)
    if not left_out:
        return None
    return replace(plan, carriers=tuple(c for _, c in kept), left_out=tuple(left_out))


def parse_payload(text: str) -> bytes:
    """Text of at most 16 bytes in UTF-8, or exactly 32 hex digits, as 16 bytes."""
    if len(text) == 2 * PAYLOAD and not text.strip("0123456789abcdefABCDEF"):
        return bytes.fromhex(text)
    data = text.encode()
    if len(data) > PAYLOAD:
        raise FormatError(f"payload: expected at most {PAYLOAD} bytes of text or {2 * PAYLOAD} hex digits")
    return data.ljust(PAYLOAD, b"\0")
