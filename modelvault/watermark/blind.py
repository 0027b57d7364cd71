"""Find recorded tensors in a suspect without the original: by shape and by 256 signs. No key is involved."""

from collections.abc import Callable, Iterator

import numpy as np

from modelvault.watermark.align import Aligned
from modelvault.watermark.carriers import SIGNS, STEPS, Float, sketch_signs
from modelvault.watermark.detect import Difference, difference
from modelvault.watermark.placement import Shelf, squeeze, squeezed
from modelvault.watermark.record import Marked, Record
from modelvault.watermark.suspects import SuspectTensor
from modelvault.watermark.verdict import Finding

LEAST_SIGNS = 180  # of 256; a tensor that has nothing to do with it agrees in 128 on average, standard deviation 8


def find(record: Record, tensors: list[SuspectTensor], progress: Callable[[int], None] | None = None) -> Finding:
    """The suspect's weights themselves, in place of differences, for every recorded tensor that is there."""
    shelf = Shelf(tensors)
    aligned: dict[bytes, Aligned] = {}
    differences: dict[bytes, Difference] = {}
    for carrier in record.carriers:
        found = _best(carrier, shelf)
        if found is not None:
            values, name, undone = found
            flat = np.ascontiguousarray(values).reshape(-1)
            coverage = float(np.count_nonzero(flat)) / flat.size
            aligned[carrier.digest] = Aligned(values=flat[:0], found=(name,), undone=undone, coverage=coverage)
            differences[carrier.digest] = difference(carrier.dtype, carrier.shape, flat, None)
        if progress:
            progress(4 * int(np.prod(carrier.shape)))
    names = {c.digest: c.name for c in record.carriers}
    return Finding(differences=differences, aligned=aligned, names=names)


def _best(carrier: Marked, shelf: Shelf) -> tuple[Float, str, tuple[str, ...]] | None:
    wanted = np.frombuffer(carrier.signs, np.uint8)
    best, result = LEAST_SIGNS - 1, None
    for tensor, values, turned in _candidates(carrier, shelf):
        signs = np.frombuffer(sketch_signs(values.reshape(-1)), np.uint8)
        agree = SIGNS - int(np.bitwise_count(signs ^ wanted).sum())
        if agree > best:
            words = ("renamed",) * (tensor.name != carrier.name) + ("transposed",) * turned
            best, result = agree, (values, tensor.name, words)
    return result


def _candidates(carrier: Marked, shelf: Shelf) -> Iterator[tuple[SuspectTensor, Float, bool]]:
    dims = squeezed(carrier.shape)
    for number, tensor in enumerate(shelf.tensors):
        other = squeezed(tensor.shape)
        if (tensor.dtype in STEPS) != (carrier.dtype in STEPS):
            continue
        if other == dims:
            yield tensor, shelf.values(number), False
        if len(dims) == 2 and other == dims[::-1]:
            yield tensor, squeeze(shelf.values(number)).T, True
