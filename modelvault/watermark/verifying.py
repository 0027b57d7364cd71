"""Is this file marked with this owner's key? The verb, informed (with the original) or blind (with a record)."""

import os
from collections.abc import Callable, Iterator, Sequence

from modelvault.commitment import Commitment
from modelvault.errors import ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel, Weight
from modelvault.watermark import blind
from modelvault.watermark.align import Aligned, Aligner
from modelvault.watermark.carriers import Carrier, Float, find_carriers, model_digest, to_float
from modelvault.watermark.detect import difference
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record
from modelvault.watermark.suspects import SuspectTensor, open_suspect
from modelvault.watermark.verdict import CLAIM_BELOW, Finding, Verdict, conclude

Source = str | os.PathLike[str] | OpenModel
Progress = Callable[[int], None]


def verify_informed(
    suspect: Source,
    original: Source,
    secret: OwnerSecret,
    *,
    records: Sequence[Record] = (),
    commitments: Sequence[Commitment] = (),
    threshold: float = CLAIM_BELOW,
    progress: Progress | None = None,
) -> Verdict:
    """Compare a suspect with the original. ``records``: notes of marks; those of this original name its payloads.

    ``commitments``: of signed statements, to be opened by the key and the payload found.

    Raises ModelError, FormatError, FileError.
    """
    model = original if isinstance(original, OpenModel) else OpenModel(original)
    carriers = find_carriers(model)
    if not carriers:
        raise ModelError(f"{model.path}: no weights that could carry a watermark")
    digest = model_digest(c.digest for c in carriers)
    mine = [r for r in records if r.commitment.original == digest and r.commitment.owner == secret.fingerprint]
    finding = Finding(ModelKey(secret.secret, digest), len(carriers))
    compare(model, carriers, open_suspect(suspect), finding, progress)
    return conclude("informed", secret, digest, finding, mine, commitments, threshold=threshold)


def compare(
    model: OpenModel,
    carriers: Sequence[Carrier],
    tensors: list[SuspectTensor],
    finding: Finding,
    progress: Progress | None = None,
) -> None:
    """Align a suspect with an original, carrier by carrier, and add the differences to ``finding``."""
    for carrier, found, original in aligned(model.read, carriers, tensors, progress):
        w = carrier.weight
        finding.add(w.name, carrier.digest, found, difference(w.dtype, w.shape, found.values, original))


def aligned(
    read: Callable[[Weight], bytes],
    carriers: Sequence[Carrier],
    tensors: list[SuspectTensor],
    progress: Progress | None = None,
) -> Iterator[tuple[Carrier, Aligned, Float]]:
    """Each carrier that the suspect has, with what it has of it, and the original's values, which ``read`` gives.

    Carriers in their own order first: what they are found in is then out of the way of those that were permuted.
    """
    aligner, waiting = Aligner(tensors), []
    for carrier in carriers:
        w = carrier.weight
        original = to_float(w.dtype, read(w))
        found = aligner.align(w.name, w.dtype, w.shape, original)
        if found is None:
            waiting.append(carrier)
        else:
            yield carrier, found, original
        if progress:
            progress(w.size)
    for carrier in waiting:
        w = carrier.weight
        original = to_float(w.dtype, read(w))
        if found := aligner.align_permuted(w.name, w.shape, original):
            yield carrier, found, original


def verify_blind(
    suspect: Source,
    secret: OwnerSecret,
    records: Sequence[Record],
    *,
    commitments: Sequence[Commitment] = (),
    threshold: float = CLAIM_BELOW,
    progress: Progress | None = None,
) -> Verdict:
    """Look for each recorded mark without any original; the best, with every record counted as a trial.

    Raises ModelError where there is no record of this owner.
    """
    mine = [r for r in records if r.commitment.owner == secret.fingerprint]
    if not mine:
        raise ModelError(f"no record of a mark by {secret.fingerprint}: give the original")
    sought = [(r, Finding(ModelKey(secret.secret, r.commitment.original), len(r.carriers))) for r in mine]
    blind.find(sought, open_suspect(suspect), progress)
    verdicts = [
        conclude(
            "blind",
            secret,
            record.commitment.original,
            finding,
            [record],
            commitments,
            trials=len(mine),
            threshold=threshold,
        )
        for record, finding in sought
    ]
    return min(verdicts, key=lambda v: (v.outcome.log10_p, -v.outcome.z))
