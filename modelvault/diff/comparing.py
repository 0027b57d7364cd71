"""Compare two models, tensor by tensor: the verb."""

import math
from dataclasses import dataclass, replace

import numpy as np

from modelvault.diff.change import Change, Values, measure
from modelvault.diff.graphs import GraphDiff, compare_graphs, weight_mates
from modelvault.diff.pairing import Pair, Pairing
from modelvault.diff.sides import Progress, Side, Source, open_side
from modelvault.diff.verdict import TensorDiff, Verdict, judge
from modelvault.onnxfile.tensors import element_type, elements, is_integer
from modelvault.tensorfile import StoredTensor
from modelvault.watermark import scaling
from modelvault.watermark.align import Aligner
from modelvault.watermark.carriers import to_float
from modelvault.watermark.placement import Variant
from modelvault.watermark.suspects import SuspectTensor

UNLIKE = 0.9  # the cosine below which a tensor may have been permuted, and is aligned when asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that was found. ``graph``: None where one of the files holds tensors alone."""

    a: Side
    b: Side
    graph: GraphDiff | None
    tensors: tuple[TensorDiff, ...]
    removed: tuple[StoredTensor, ...]
    added: tuple[StoredTensor, ...]
    verdict: Verdict


def compare(a: Source, b: Source, *, align: bool = False, progress: Progress | None = None) -> Comparison:
    """Compare B with A. ``align``: undo permutations, scales and signs of weights that are not found otherwise.

    Memory holds two tensors at a time, and the files that keep their weights inline. Raises ModelError, FormatError,
    FileError.
    """
    with np.errstate(all="ignore"):  # weights of a hostile file may be any numbers
        return _compared(open_side(a, progress), open_side(b, progress), align, progress)


def _compared(mine: Side, theirs: Side, align: bool, progress: Progress | None) -> Comparison:
    graph = compare_graphs(mine, theirs)
    places = {}
    if graph is not None and mine.graph is not None and theirs.graph is not None:
        places = weight_mates(mine.graph, theirs.graph, graph.pairs)
    pairing = Pairing(mine, theirs, places)
    pairing.run()
    sure = places if graph is not None and (graph.same_structure or graph.same_skeleton) else {}
    tensors = [_compare(mine, theirs, pair, sure, progress) for pair in sorted(pairing.pairs, key=lambda p: p.a)]
    if align:
        tensors = _align(mine, theirs, pairing, tensors)
    removed = tuple(mine.tensors[i] for i in pairing.left_a)
    added = tuple(theirs.tensors[j] for j in pairing.left_b)
    verdict = judge(mine, theirs, graph, tensors, removed, added)
    return Comparison(
        a=mine, b=theirs, graph=graph, tensors=tuple(tensors), removed=removed, added=added, verdict=verdict
    )


def _compare(mine: Side, theirs: Side, pair: Pair, places: dict[int, int], progress: Progress | None) -> TensorDiff:
    a = mine.tensors[pair.a]
    b = theirs.tensors[pair.b] if pair.b is not None else pair.suspect
    assert b is not None  # a pair has a number or a suspect
    change, words = (None, ()) if pair.same else _change(a, b, pair)
    place = places.get(pair.a)
    if place is not None and pair.b is not None and theirs.contents[place] != theirs.contents[pair.b]:
        words = (*words, "moved")
    if progress:
        progress(a.size)
    return TensorDiff(
        a=a, name=b.name, dtype=b.dtype, shape=b.shape, how=pair.how, same=pair.same, undone=words, change=change
    )


def _change(a: StoredTensor, b: StoredTensor | SuspectTensor, pair: Pair) -> tuple[Change | None, tuple[str, ...]]:
    """The change and what was undone to see it; None where elements cannot be compared: no numbers, or not as many."""
    x = elements(a.dtype, a.read())
    if x is not None and pair.suspect is not None and pair.variant is not None:
        used, words = _as_used(x, a, pair.suspect, pair.variant)
        return measure(x, used), words
    count, words = math.prod(a.shape), ("reshaped",) if a.shape != b.shape else ()
    y = elements(b.dtype, b.read()) if isinstance(b, StoredTensor) else None
    if x is None or y is None or count != math.prod(b.shape) or is_integer(a.dtype) != is_integer(b.dtype):
        return None, words
    return measure(x[:count], y[:count]), words


def _as_used(x: Values, a: StoredTensor, b: SuspectTensor, variant: Variant) -> tuple[Values, tuple[str, ...]]:
    """B's values in A's order; quantised ones times the factors that their model gives the results instead."""
    table = np.ascontiguousarray(variant.apply(b.read(), a.shape))
    if not b.dequantised:
        return table.reshape(-1).astype(element_type(b.dtype), copy=False), variant.steps
    table, words = scaling.undo(x.astype(np.float32).reshape(table.shape), table)
    return table.reshape(-1), ("dequantised", *variant.steps, *words)


def _align(mine: Side, theirs: Side, pairing: Pairing, tensors: list[TensorDiff]) -> list[TensorDiff]:
    """Look anew for A's tensors that are missing or unlike, in those of B that no tensor of A is like."""
    near = {t.name for t in tensors if t.same or (t.change is not None and t.change.cosine >= UNLIKE)}
    aligner = Aligner([s for s in theirs.suspects if s.name not in near])
    weights = {(s.name, s.shape) for s in mine.suspects if not s.dequantised}
    done = {pair.a: t for pair, t in zip(sorted(pairing.pairs, key=lambda p: p.a), tensors, strict=True)}
    for i, tensor in enumerate(mine.tensors):
        known = done.get(i)
        if (known is not None and known.name in near) or (tensor.name, tensor.shape) not in weights:
            continue
        found = _aligned(tensor, aligner, theirs) or _sorted(tensor, known, theirs)
        if found is None or _cosine(known) >= _cosine(found):
            continue
        done[i] = found
        pairing.left_a.pop(i, None)
        for j in [j for j in pairing.left_b if theirs.tensors[j].name == found.name]:
            pairing.left_b.pop(j)
    return [done[i] for i in sorted(done)]


def _cosine(tensor: TensorDiff | None) -> float:
    return tensor.change.cosine if tensor is not None and tensor.change is not None else -1.0


def _aligned(tensor: StoredTensor, aligner: Aligner, theirs: Side) -> TensorDiff | None:
    original = to_float(tensor.dtype, tensor.read())
    found = aligner.align(tensor.name, tensor.dtype, tensor.shape, original)
    found = found or aligner.align_permuted(tensor.name, tensor.shape, original)
    if found is None:
        return None
    source = next(s for s in theirs.suspects if s.name == found.found[0])
    return TensorDiff(
        a=tensor,
        name=", ".join(found.found),
        dtype=source.dtype,
        shape=source.shape,
        how="aligned",
        same=False,
        undone=tuple(w for w in found.undone if w != "renamed"),
        change=measure(original, found.values),
    )


def _sorted(tensor: StoredTensor, known: TensorDiff | None, theirs: Side) -> TensorDiff | None:
    """A bias goes with the rows of its matrix: the same values in another order."""
    if known is None or known.change is None or len(tensor.shape) != 1:
        return None
    other = next(t for t in theirs.tensors if (t.name, t.shape) == (known.name, known.shape))
    x, y = elements(tensor.dtype, tensor.read()), elements(other.dtype, other.read())
    if x is None or y is None or not np.array_equal(np.sort(x), np.sort(y)):
        return None
    return replace(known, how="aligned", undone=("permuted",), change=measure(np.sort(x), np.sort(y)))
