"""Rules about whose weights these are, given an owner's key or somebody's commitment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelvault.commitment import Commitment
from modelvault.errors import ModelError
from modelvault.scan.finding import ERROR, OWNERSHIP, Hit, plain, rule
from modelvault.scan.subject import Subject

if TYPE_CHECKING:
    from modelvault.keys import OwnerSecret
    from modelvault.onnxfile import OpenModel
    from modelvault.watermark.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What to look for: marks of these owners, each with the records at hand; originals that were committed to."""

    model: "OpenModel"
    owners: "Sequence[tuple[OwnerSecret, Sequence[Record]]]" = ()
    commitments: Sequence[Commitment] = ()


@rule(
    "foreign-watermark",
    ERROR,
    OWNERSHIP,
    why="the weights carry an owner's mark: they are a copy of that owner's model",
    fix="ask that owner for a licence; modelvault watermark evidence shows the whole finding",
)
def foreign_watermark(subject: Subject) -> Iterator[Hit]:
    from modelvault.watermark.verifying import verify_blind

    for secret, records in subject.claims.owners if subject.claims else ():
        verdict = verify_blind(subject.claims.model, secret, records) if subject.claims and records else None
        if verdict is not None and verdict.claim:
            words = f"at most 10^{verdict.outcome.log10_p:.0f} for weights without it"
            yield Hit("weights", f"marked by {plain(verdict.owner)}, probability {words}")


@rule(
    "foreign-original",
    ERROR,
    OWNERSHIP,
    why="these are, bit by bit, the weights that somebody committed to before publishing a marked copy",
    fix="ask the committed owner for a licence, or where they are from",
)
def foreign_original(subject: Subject) -> Iterator[Hit]:
    from modelvault.watermark.carriers import find_carriers, model_digest

    if subject.claims is None or not subject.claims.commitments:
        return
    try:
        carriers = find_carriers(subject.claims.model)
    except ModelError:
        return  # tensors that cannot be read: other rules name them
    digest = model_digest(c.digest for c in carriers) if carriers else None
    for commitment in subject.claims.commitments:
        if commitment.original == digest:
            yield Hit("weights", f"are the original that {plain(commitment.owner)} committed to")
