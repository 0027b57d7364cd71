"""Find recorded tensors in a suspect without the original: by shape and by 256 signs. No key is involved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from modelvault.watermark.align import Aligned
from modelvault.watermark.carriers import SIGNS, STEPS
from modelvault.watermark.detect import difference
from modelvault.watermark.placement import Shelf, squeeze, squeezed
from modelvault.watermark.record import Marked, Record
from modelvault.watermark.verdict import Finding

LEAST_SIGNS = 180  # of 256; a tensor that has nothing to do with it agrees in 128 on average, standard deviation 8


def find(record: Record, shelf: Shelf, finding: Finding, progress: Callable[[int], None] | None = None) -> None:
    """Add every recorded tensor that the suspect has: its weights themselves stand in for differences."""
    for carrier in record.carriers:
        best = max(_candidates(carrier, shelf), key=lambda c: c.agree, default=None)
        if best is not None and best.agree >= LEAST_SIGNS:
            values = squeeze(shelf.values(best.number))
            flat = np.ascontiguousarray(values.T if best.turned else values).reshape(-1)
            name = shelf.tensors[best.number].name
            words = ("renamed",) * (name != carrier.name) + ("transposed",) * best.turned
            coverage = float(np.count_nonzero(flat)) / flat.size
            aligned = Aligned(values=flat, found=(name,), undone=words, coverage=coverage)
            finding.add(carrier.name, carrier.digest, aligned, difference(carrier.dtype, carrier.shape, flat, None))
        if progress:
            progress(4 * int(np.prod(carrier.shape)))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A suspect's tensor, turned or not, and how many of the recorded signs it has."""

    number: int
    turned: bool
    agree: int


def _candidates(carrier: Marked, shelf: Shelf) -> Iterator[_Candidate]:
    dims, wanted = squeezed(carrier.shape), np.frombuffer(carrier.signs, np.uint8)
    for number, tensor in enumerate(shelf.tensors):
        other = squeezed(tensor.shape)
        if (tensor.dtype in STEPS) != (carrier.dtype in STEPS):
            continue
        for turned in (False, True):
            if other == (dims[::-1] if turned else dims) and (len(dims) == 2 or not turned):
                signs = np.frombuffer(shelf.signs(number, turned), np.uint8)
                yield _Candidate(number, turned, SIGNS - int(np.bitwise_count(signs ^ wanted).sum()))
