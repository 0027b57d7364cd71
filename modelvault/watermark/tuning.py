"""Fit a plan to what a mark may cost: measure, leave out tensors, weaken, refuse (docs/WATERMARK.md section 4)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelvault.errors import FormatError, ModelError
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import STEPS, Carrier
from modelvault.watermark.fidelity import Bench, Drift
from modelvault.watermark.plan import MODERATE_Z, Plan, count_floats, rounded

WEAKEST = 0.001
MAX_PROBES = 256
DOMINANT = 2  # times the mean cost of a tensor, from which a float tensor may be left out
SPARE = 0.9
MAX_ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a mark may cost, as measured: least cosine of outputs, least arg-max agreement.

    Agreement is required of rows that were no tie, and aimed at for all rows, as far as the mark stays moderate.
    """

    cosine: float = 0.9995
    agreement: float = 0.995

    def __post_init__(self) -> None:
        for name in ("cosine", "agreement"):
            if not 0 <= getattr(self, name) <= 1:  # NaN is not
                raise FormatError(f"budget: {name}: expected a number from 0 to 1, got {getattr(self, name)}")

    def shared(self) -> "Budget":
        """What each of two independent marks may cost, so that both together keep this budget."""
        return Budget(cosine=(1 + self.cosine) / 2, agreement=self.agreement)

    def allows(self, drift: Drift) -> bool:
        """Whether a mark of this drift may be made. One row that turned is no share yet, however few there are."""
        return drift.cosine >= self.cosine and (drift.decided >= self.agreement or drift.turned <= 1)

    def meets(self, drift: Drift) -> bool:
        """The same with ties counted as well."""
        return self.allows(drift) and (drift.agreement >= self.agreement or drift.flipped <= 1)

    def relief(self, drift: Drift) -> float:
        """How much weaker a mark must be: rows turn as its strength, one less the cosine grows with the square."""
        cosine = math.sqrt((1 - self.cosine) / max(1 - drift.cosine, 1e-12))
        agreement = max((1 - self.agreement) / max(1 - drift.agreement, 1e-12), 1 / max(drift.flipped, 1))
        return SPARE * min(1.0, cosine, agreement)


def within_budget(source: Path, plan: Plan, bench: Bench, budget: Budget, *, fixed: bool) -> Plan:
    """The plan with its drift measured: as it is, or lighter until it fits; ``fixed``: as it is, or not at all.

    Where ties keep turning, the strongest plan that the budget allows. ModelError, with the figures, where it allows
    none.
    """
    drift = _measure(source, plan, bench)
    tried = [replace(plan, drift=drift)]
    if not budget.meets(drift) and not fixed:
        costs = _costs(source, plan, bench)
        least = sum(c.count for c in plan.carriers if costs[c.digest] > 0) / 2
        while len(tried) < MAX_ROUNDS and not budget.meets(drift):
            dominant = math.inf if budget.allows(drift) else DOMINANT  # a few ties are no reason to spread it less
            lighter = _lighter(plan, costs, budget.relief(drift), least, dominant=dominant)
            enough = any(p.drift and budget.allows(p.drift) for p in tried)
            if lighter is None or (enough and lighter.expected_z < MODERATE_Z):
                break
            plan, drift = lighter, _measure(source, lighter, bench)
            tried.append(replace(plan, drift=drift))
    if budget.meets(drift):
        return tried[-1]
    for candidate in tried:
        if candidate.drift and budget.allows(candidate.drift):
            return candidate
    raise _refusal(source, plan, drift, budget)


def _measure(
    source: Path, plan: Plan, bench: Bench, only: Sequence[Carrier] | None = None, *, probe: bool = False
) -> Drift:
    return bench.drift(OpenModel(source).to_bytes(plan.marker(only).edit), probe=probe)


def _costs(source: Path, plan: Plan, bench: Bench) -> dict[bytes, float]:
    """By digest, what each tensor's mark alone takes from the cosine; all alike where there are too many to try."""
    if not 1 < len(plan.carriers) <= MAX_PROBES:
        return dict.fromkeys((c.digest for c in plan.carriers), 1.0)
    return {c.digest: 1 - _measure(source, plan, bench, [c], probe=True).cosine for c in plan.carriers}


def _lighter(plan: Plan, costs: Mapping[bytes, float], relief: float, least: float, *, dominant: float) -> Plan | None:
    """A plan whose drift should be ``relief`` times this one's, or None.

    First tensors are left out, down to ``least`` weights in tensors that the inputs reach: of float tensors those that
    cost ``dominant`` times the mean, such as fixed filters and small layers that everything passes; of quantised ones
    any, since they cannot change by less than a step. Then the strength is lowered.
    """
    kept, rest = list(plan.carriers), sum(costs[c.digest] for c in plan.carriers)
    target, count = relief**2 * rest, len(kept)
    for carrier in _costliest(plan.carriers, costs):
        cost = costs[carrier.digest]
        used = sum(c.count for c in kept if costs[c.digest] > 0)
        heavy = carrier.weight.dtype in STEPS or cost >= dominant * rest / count
        if rest > target and heavy and used - carrier.count >= least:
            kept.remove(carrier)
            rest -= cost
    left_out = tuple(c.weight.name for c in plan.carriers if c not in kept)
    strength = plan.strength
    if rest > target and count_floats(kept):
        strength = max(WEAKEST, rounded(strength * math.sqrt(target / rest)))
    if strength >= plan.strength and not left_out:
        return None
    return replace(plan, carriers=tuple(kept), left_out=plan.left_out + left_out, strength=strength)


def _costliest(carriers: Sequence[Carrier], costs: Mapping[bytes, float]) -> Iterator[Carrier]:
    """Float tensors by their cost, then quantised ones by their cost for a weight."""
    yield from sorted((c for c in carriers if c.weight.dtype not in STEPS), key=lambda c: -costs[c.digest])
    yield from sorted((c for c in carriers if c.weight.dtype in STEPS), key=lambda c: -costs[c.digest] / c.count)


def _refusal(source: Path, plan: Plan, drift: Drift, budget: Budget) -> ModelError:
    return ModelError(
        f"{source}: the watermark changes the model too much: at strength {plan.strength} output cosine "
        f"{drift.cosine:.6f} (budget {budget.cosine}), arg-max agreement {drift.decided:.4f} "
        f"(budget {budget.agreement}) on {drift.inputs}"
    )
