"""What was found, what it is worth, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelvault.commitment import Commitment
from modelvault.keys import OwnerSecret
from modelvault.watermark.align import Aligned
from modelvault.watermark.code import NO_PAYLOAD
from modelvault.watermark.detect import Difference, Evidence, Outcome, TensorScore, judge, score
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record, opens

CLAIM_BELOW = -12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """One carrier's part: where it was found, what was undone, its own score, its share of the whole evidence."""

    name: str
    found: tuple[str, ...]
    undone: tuple[str, ...]
    coverage: float
    z: float
    share: float

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
class Finding:
    """What was compared with what, before any key is used up on it: differences by carrier digest."""

    differences: dict[bytes, Difference]
    aligned: dict[bytes, Aligned]
    names: dict[bytes, str]


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
    carriers: int,
    commitments: Sequence[Commitment] = (),
    *,
    trials: int = 1,
    threshold: float,
) -> Verdict:
    """Score a finding with the owner's key.

    ``records`` and ``commitments`` count only where this key opens them: anybody can write one.
    """
    key = ModelKey(secret.secret, digest)
    scores = {d: score(key, d, found) for d, found in finding.differences.items()}
    evidence = Evidence.of(scores.values())
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
        tensors=_reports(key, finding, scores, outcome),
        missing=carriers - len(scores),
        record=next((r for r in records if r.payload == outcome.payload), None),
        commitment=next((c for c in commitments if c.original == digest and opens(secret, c, outcome.payload)), None),
        finding=finding,
    )


def _reports(
    key: ModelKey, finding: Finding, scores: dict[bytes, TensorScore], outcome: Outcome
) -> tuple[TensorReport, ...]:
    signs = key.signs(outcome.payload)
    total = sum(float(s.sums @ signs) for s in scores.values()) or 1.0
    reports = []
    for digest, s in scores.items():
        found = finding.aligned[digest]
        share = float(s.sums @ signs) / total
        reports.append(
            TensorReport(
                name=finding.names[digest],
                found=found.found,
                undone=found.undone,
                coverage=found.coverage,
                z=s.z(signs),
                share=share,
            )
        )
    return tuple(sorted(reports, key=lambda r: -r.share))
