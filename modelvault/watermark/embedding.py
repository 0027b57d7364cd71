"""Mark an ONNX model: plan it, measure what the mark does, refuse what costs too much or is too weak, write a copy."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelvault.errors import FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import find_carriers, model_digest
from modelvault.watermark.code import NO_PAYLOAD, PAYLOAD
from modelvault.watermark.fidelity import Bench, Feed
from modelvault.watermark.plan import LEAST_Z, Plan, automatic, rounded
from modelvault.watermark.tuning import Budget, within_budget

__all__ = ["Budget", "EmbedReport", "Plan", "embed", "make_plan", "parse_payload"]

MAX_IN_MEMORY = 2**31 - 2**20


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


def embed(source: str | os.PathLike[str], output: str | os.PathLike[str], plan: Plan) -> EmbedReport:
    """Write a marked copy of the ONNX model that ``plan`` was made for, and the owner's record in the home folder.

    Raises ModelError where the source is another model; FileError, FormatError.
    """
    marker = plan.marker()
    OpenModel(source).save(output, marker.edit)
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
    """Decide what to mark, and how strongly. A given ``strength`` is kept or refused; without ``check`` nothing is run.

    Raises ModelError with the figures where the budget is exceeded or the model too small; FileError, FormatError.
    """
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
        strength=rounded(strength if strength is not None else automatic(carriers)),
        payload=payload,
        drift=None,
    )
    if check and _files_size(model) <= MAX_IN_MEMORY:
        bench = Bench(source, inputs, inputs_name)
        plan = within_budget(source, plan, bench, budget or Budget(), fixed=strength is not None)
    if strength is None and plan.expected_z < LEAST_Z:
        raise ModelError(
            f"{source}: too small to carry a watermark: {sum(c.count for c in plan.carriers)} weights at strength "
            f"{plan.strength} give an expected score of {plan.expected_z:.1f} after 10 % noise, below {LEAST_Z}"
        )
    return plan


def _files_size(model: OpenModel) -> int:
    return model.path.stat().st_size + model.external_bytes()


def parse_payload(text: str) -> bytes:
    """Text of at most 16 bytes in UTF-8, or exactly 32 hex digits, as 16 bytes."""
    if len(text) == 2 * PAYLOAD and not text.strip("0123456789abcdefABCDEF"):
        return bytes.fromhex(text)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # bytes of an argument that are no text; "?" in their place would be another payload
        raise FormatError("payload: not UTF-8") from None
    if len(data) > PAYLOAD:
        raise FormatError(f"payload: expected at most {PAYLOAD} bytes of text or {2 * PAYLOAD} hex digits")
    return data.ljust(PAYLOAD, b"\0")
