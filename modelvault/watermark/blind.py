"""Find recorded tensors in a suspect without the original: by shape and by 256 signs. No key is involved."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelvault.watermark.align import Aligned
from modelvault.watermark.carriers import SIGNS, STEPS, Float, Shape, share_nonzero, sketch_signs
from modelvault.watermark.detect import difference
from modelvault.watermark.placement import squeeze, squeezed
from modelvault.watermark.record import Marked, Record
from modelvault.watermark.suspects import SuspectTensor
from modelvault.watermark.verdict import Finding

LEAST_SIGNS = 180  # of 256; a tensor that has nothing to do with it agrees in 128 on average, standard deviation 8


@dataclass(slots=True)
class _Wanted:
    """A recorded tensor, where its evidence goes, and how many signs of the best one found so far are its own."""

    carrier: Marked
    finding: Finding
    agree: int = LEAST_SIGNS - 1


def find(
    sought: Sequence[tuple[Record, Finding]],
    tensors: Sequence[SuspectTensor],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Add to each record's finding every recorded tensor that the suspect has; each is read once, one at a time.

    Its weights themselves stand in for differences. Of several that fit, the one with the most signs counts.
    """
    wanted: dict[tuple[bool, Shape], list[_Wanted]] = defaultdict(list)
    for record, finding in sought:
        for carrier in record.carriers:
            wanted[carrier.dtype in STEPS, squeezed(carrier.shape)].append(_Wanted(carrier, finding))
    for tensor in tensors:
        places = [(turned, wanted.get((tensor.dtype in STEPS, dims), [])) for turned, dims in _readings(tensor.shape)]
        if any(fitting for _, fitting in places):
            values = squeeze(tensor.read())
            for turned, fitting in places:
                _add(tensor.name, values.T if turned else values, turned, fitting)
        if progress:
            progress(4 * math.prod(tensor.shape))


def _readings(shape: Shape) -> Iterator[tuple[bool, Shape]]:
    """(whether it is transposed, the dimensions it then has)."""
    dims = squeezed(shape)
    yield False, dims
    if len(dims) == 2:
        yield True, dims[::-1]


def _add(name: str, values: Float, turned: bool, fitting: list[_Wanted]) -> None:
    if not fitting:
        return
    signs = np.frombuffer(sketch_signs(values), np.uint8)
    for w in fitting:
        agree = SIGNS - int(np.bitwise_count(signs ^ np.frombuffer(w.carrier.signs, np.uint8)).sum())
        if agree > w.agree:
            w.agree = agree
            flat = np.ascontiguousarray(values).reshape(-1)
            words = ("renamed",) * (name != w.carrier.name) + ("transposed",) * turned
            aligned = Aligned(values=flat, found=(name,), undone=words, coverage=share_nonzero(flat))
            found = difference(w.carrier.dtype, w.carrier.shape, flat, None)
            w.finding.add(w.carrier.name, w.carrier.digest, aligned, found)
