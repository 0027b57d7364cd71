"""What was found, what it is worth, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modelvault.commitment import Commitment
from modelvault.keys import OwnerSecret
from modelvault.watermark.align import Aligned
from modelvault.watermark.carriers import Float
from modelvault.watermark.code import NO_PAYLOAD
from modelvault.watermark.detect import Difference, Evidence, Outcome, TensorScore, judge, score
from modelvault.watermark.pattern import Int8, ModelKey
from modelvault.watermark.record import Record, opens

CLAIM_BELOW = -12.0
SAMPLE, LEAST_SAMPLE = 2**18, 256  # differences kept for the null distribution: in all, and of one tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """One carrier's part: where it was found, what was undone, its own score, its share of the whole evidence."""

    name: str
    found: tuple[str, ...]
    undone: tuple[str, ...]
    coverage: float
    z: float
    share: float
    digest: bytes

    def to_dict(self) -> dict[str, Any]:
        return {
            "tensor": self.name,
            "found_in": list(self.found),
            "undone": list(self.undone),
            "coverage": round(self.coverage, 4),
            "z": round(self.z, 2),
            "share": round(self.share, 4),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One carrier in the suspect: where, its score, and an even sample of its differences."""

    name: str
    aligned: Aligned
    score: TensorScore
    sample: Float


@dataclass(slots=True)
class Finding:
    """Gathers carriers by digest, scoring each at once, so that no two need to be in memory together."""

    key: ModelKey
    carriers: int
    found: dict[bytes, Found] = field(default_factory=dict)

    def add(self, name: str, digest: bytes, aligned: Aligned, difference: Difference) -> None:
        """``difference`` was made without the key; here the key is used for the first time."""
        room = max(LEAST_SAMPLE, SAMPLE // self.carriers)
        sample = difference.values[:: max(1, len(difference.values) // room)].copy()
        aligned = replace(aligned, values=np.empty(0, np.float32))
        self.found[digest] = Found(name=name, aligned=aligned, score=score(self.key, digest, difference), sample=sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``mode``: informed or blind. ``commitment``: a signed one that key and payload open."""

    mode: str
    owner: str
    original: bytes
    outcome: Outcome
    trials: int
    threshold: float
    tensors: tuple[TensorReport, ...]
    missing: int
    record: Record | None
    commitment: Commitment | None
    finding: Finding

    @property
    def claim(self) -> bool:
        return self.outcome.log10_p <= self.threshold

    def to_dict(self) -> dict[str, Any]:
        o = self.outcome
        return {
            "claim": self.claim,
            "mode": self.mode,
            "owner": self.owner,
            "original": self.original.hex(),
            "log10_p": round(o.log10_p, 2),
            "z": round(o.z, 3),
            "threshold_log10_p": self.threshold,
            "trials": self.trials,
            "payload": {
                "claimed_hex": o.payload.hex(),
                "named_beforehand": o.named,
                "read_hex": o.read.payload.hex() if o.read else None,
                "read_text": payload_text(o.read.payload) if o.read else None,
                "bytes_corrected": o.read.corrected if o.read else None,
                "log10_p": round(o.read_log10_p, 2) if o.read else None,
            },
            "record_opens": self.record is not None,
            "signed_commitment_opens": self.commitment is not None,
            "tensors_found": len(self.tensors),
            "tensors_missing": self.missing,
            "tensors": [t.to_dict() for t in self.tensors],
        }


def payload_text(payload: bytes) -> str | None:
    """The payload as the text it may have been given as."""
    text = payload.rstrip(b"\0").decode("utf-8", "replace")
    return text if text.isprintable() and "\ufffd" not in text else None


def conclude(
    mode: str,
    secret: OwnerSecret,
    digest: bytes,
    finding: Finding,
    records: Sequence[Record],
    commitments: Sequence[Commitment] = (),
    *,
    trials: int = 1,
    threshold: float,
) -> Verdict:
    """What a finding is worth.

    ``records`` and ``commitments`` count only where this key opens them: anybody can write one.
    """
    key = finding.key
    evidence = Evidence.of(f.score for f in finding.found.values())
    records = [r for r in records if opens(secret, r.commitment, r.payload)]
    named = list(dict.fromkeys([*(r.payload for r in records), NO_PAYLOAD]))
    outcome = judge(key, evidence, named, trials)
    return Verdict(
        mode=mode,
        owner=secret.fingerprint,
        original=digest,
        outcome=outcome,
        trials=trials,
        threshold=threshold,
        tensors=_reports(finding, key.signs(outcome.payload)),
        missing=finding.carriers - len(finding.found),
        record=next((r for r in records if r.payload == outcome.payload), None),
        commitment=next((c for c in commitments if c.original == digest and opens(secret, c, outcome.payload)), None),
        finding=finding,
    )


def _reports(finding: Finding, signs: Int8) -> tuple[TensorReport, ...]:
    total = sum(float(f.score.sums @ signs) for f in finding.found.values()) or 1.0
    reports = [
        TensorReport(
            name=f.name,
            found=f.aligned.found,
            undone=f.aligned.undone,
            coverage=f.aligned.coverage,
            z=f.score.z(signs),
            share=float(f.score.sums @ signs) / total,
            digest=digest,
        )
        for digest, f in finding.found.items()
    ]
    return tuple(sorted(reports, key=lambda r: -r.share))
