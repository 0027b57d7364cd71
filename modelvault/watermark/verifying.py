"""Is this file marked with this owner's key? The verb, informed (with the original) or blind (with a record)."""

import os
from collections.abc import Callable, Sequence

from modelvault.commitment import Commitment
from modelvault.errors import ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark import blind
from modelvault.watermark.align import Aligned, Aligner
from modelvault.watermark.carriers import Carrier, find_carriers, model_digest, to_float
from modelvault.watermark.detect import Difference, difference
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
    finding = compare(model, carriers, open_suspect(suspect), progress)
    return conclude("informed", secret, digest, finding, mine, len(carriers), commitments, threshold=threshold)


def compare(
    model: OpenModel, carriers: Sequence[Carrier], tensors: list[SuspectTensor], progress: Progress | None = None
) -> Finding:
    """Align a suspect with an original and take differences; no key is involved."""
    aligner = Aligner(tensors)
    aligned: dict[bytes, Aligned] = {}
    differences: dict[bytes, Difference] = {}
    waiting = []

    def take(carrier: Carrier, found: Aligned | None) -> bool:
        if found is None:
            return False
        w = carrier.weight
        aligned[carrier.digest] = found
        original = to_float(w.dtype, model.read(w))
        differences[carrier.digest] = difference(w.dtype, w.shape, found.values, original)
        if progress:
            progress(w.size)
        return True

    for c in carriers:
        values = to_float(c.weight.dtype, model.read(c.weight))
        if not take(c, aligner.align(c.weight.name, c.weight.dtype, c.weight.shape, values)):
            waiting.append(c)
    for c in waiting:
        values = to_float(c.weight.dtype, model.read(c.weight))
        take(c, aligner.align_permuted(c.weight.name, c.weight.shape, values))
    names = {c.digest: c.weight.name for c in carriers}
    return Finding(differences=differences, aligned=aligned, names=names)


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
    tensors = open_suspect(suspect)
    verdicts = []
    for record in mine:
        finding = blind.find(record, tensors, progress)
        count, digest = len(record.carriers), record.commitment.original
        verdicts.append(
            conclude(
                "blind", secret, digest, finding, [record], count, commitments, trials=len(mine), threshold=threshold
            )
        )
    return min(verdicts, key=lambda v: (v.outcome.log10_p, -v.outcome.z))
