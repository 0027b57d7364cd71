"""Bring a suspect's weights into an original's names, order, scale and sign. No key is involved: nobody can search."""

import math
from dataclasses import dataclass

import numpy as np

from modelvault.watermark import matching, placement, scaling
from modelvault.watermark.carriers import STEPS, Float, Shape, grid, share_nonzero
from modelvault.watermark.matching import Balanced
from modelvault.watermark.placement import CACHE, Placement, Shelf, squeezed
from modelvault.watermark.suspects import SuspectTensor

ALIGNER = 1
MAX_PAIRS = 1024  # of tensors compared in all orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """What a suspect has of one carrier. ``values``: flat, in the original's order, zero where it has nothing."""

    values: Float
    found: tuple[str, ...]
    undone: tuple[str, ...]
    coverage: float


class Aligner:
    """Aligns one suspect, carrier by carrier."""

    def __init__(self, tensors: list[SuspectTensor]) -> None:
        self.shelf = Shelf(tensors)
        self._balanced: dict[tuple[int, bool], Balanced] = {}
        self._taken: set[int] = set()
        self._pairs = 0

    def align(self, name: str, dtype: str, shape: Shape, original: Float) -> Aligned | None:
        """The suspect's counterpart of a carrier, or None. ``original``: flat."""
        placed = self._prefer(placement.find(shape, original, self.shelf), dtype)
        if placed:
            return self._assemble(name, dtype, shape, original, placed)
        return None

    def align_permuted(self, name: str, shape: Shape, original: Float) -> Aligned | None:
        """The same for a carrier whose rows or columns are in another order."""
        table = original.reshape(grid(shape))
        mine, best, chosen = Balanced(table), None, None
        for number, tensor in enumerate(self.shelf.tensors):
            if number in self._taken or not _comparable(table.shape, tensor.shape):
                continue
            for turned in (False, True):
                if self._pairs >= MAX_PAIRS or not _lines_agree(table.shape, grid(tensor.shape), turned):
                    continue
                self._pairs += 1
                found = matching.match(mine, self._balance(number, turned))
                if found is not None and (best is None or found.quality > best.quality):
                    best, chosen = found, (number, turned)
            if best is not None and best.quality > 0.9:
                break
        if best is None or chosen is None:
            return None
        number, turned = chosen
        self._taken.add(number)
        values = self._table(number, turned)
        aligned, words = scaling.undo(table, best.apply(values))
        steps = (("transposed",) if turned else ()) + (("permuted",) if best.moved else ())
        return self._result(name, aligned, [number], (*steps, *words))

    def _prefer(self, found: list[Placement], dtype: str) -> list[Placement]:
        """Quantised carriers are compared in whole steps, all others as the floats that a model computes with."""
        if dtype in STEPS:
            stored = [p for p in found if self.shelf.tensors[p.suspect].dtype in STEPS]
            return stored or found
        return found

    def _assemble(self, name: str, dtype: str, shape: Shape, original: Float, placed: list[Placement]) -> Aligned:
        table = np.zeros(grid(shape), np.float32)
        words: list[str] = []
        for p in placed:
            piece = p.variant.apply(self.shelf.values(p.suspect), shape)
            rescaled, undone = scaling.undo(original.reshape(table.shape)[p.variant.target], piece)
            table[p.variant.target] = rescaled
            words += [*p.variant.steps, *undone]
            if "fused" not in p.variant.steps:
                self._taken.add(p.suspect)
        return self._result(name, table, [p.suspect for p in placed], tuple(words))

    def _result(self, name: str, table: Float, numbers: list[int], words: tuple[str, ...]) -> Aligned:
        tensors = [self.shelf.tensors[n] for n in numbers]
        names = tuple(t.name for t in tensors)
        extra = (("renamed",) if names != (name,) else ()) + (
            ("dequantised",) if any(t.dequantised for t in tensors) else ()
        )
        return Aligned(
            values=np.ascontiguousarray(table).reshape(-1),
            found=names,
            undone=tuple(dict.fromkeys((*extra, *words))),
            coverage=share_nonzero(table),
        )

    def _table(self, number: int, turned: bool) -> Float:
        values = self.shelf.values(number)
        table = values.reshape(grid(values.shape))
        return table.T if turned else table

    def _balance(self, number: int, turned: bool) -> Balanced:
        key = (number, turned)
        if key not in self._balanced:
            while sum(b.table.nbytes for b in self._balanced.values()) > CACHE:
                self._balanced.pop(next(iter(self._balanced)))
            self._balanced[key] = Balanced(self._table(number, turned))
        return self._balanced[key]


def _comparable(mine: tuple[int, ...], other: Shape) -> bool:
    return len(squeezed(other)) >= 2 and 0.1 <= math.prod(other) / math.prod(mine) <= 16


def _lines_agree(mine: tuple[int, ...], other: tuple[int, int], turned: bool) -> bool:
    """At least one axis of the same length, or both shorter as pruning leaves them."""
    a, b = (other[1], other[0]) if turned else other
    return a == mine[0] or b == mine[1] or (a <= mine[0] and b <= mine[1])
