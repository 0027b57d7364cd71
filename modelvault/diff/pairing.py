"""Which tensor of B is which of A: by name and content, by the place in the graph, by content alone, by likeness."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelvault.diff.sides import Side
from modelvault.onnxfile.tensors import elements, is_integer
from modelvault.watermark import placement
from modelvault.watermark.carriers import STEPS
from modelvault.watermark.placement import Shelf, Variant
from modelvault.watermark.suspects import MIN_ELEMENTS, SuspectTensor

POINTS = 1024  # elements compared to see whether two tensors are alike
ALIKE = 0.5  # a counterpart by name or place that is less alike waits until all others were looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Numbers in A's and B's lists; ``how``: name, place, content, likeness or aligned.

    ``suspect`` and ``variant``: B's tensor as it is used, and how to read it in A's order, where that is not its own.
    """

    a: int
    b: int | None
    how: str
    same: bool = False
    suspect: SuspectTensor | None = None
    variant: Variant | None = None


@dataclass(slots=True)
class Pairing:
    """Pairs tensors in rounds, the surest first; each is used once."""

    a: Side
    b: Side
    places: dict[int, int]
    pairs: list[Pair] = field(default_factory=list)
    left_a: dict[int, None] = field(init=False)
    left_b: dict[int, None] = field(init=False)

    def __post_init__(self) -> None:
        self.left_a = dict.fromkeys(range(len(self.a.tensors)))
        self.left_b = dict.fromkeys(range(len(self.b.tensors)))

    def run(self) -> None:
        names = self._names()
        self._equal(((i, j) for i in list(self.left_a) for j in names.get(i, ())), "name")
        self._equal(self.places.items(), "place")
        self._equal(self._contents(), "content")
        self._nearest(names)
        self._likeness()
        self._nearest(names, least=-1)
        self._equal(self._contents(distinct=False), "content")
        for how, found in (("name", ((i, j) for i in names for j in names[i])), ("place", self.places.items())):
            for i, j in found:
                if i in self.left_a and j in self.left_b:
                    self._take(Pair(a=i, b=j, how=how))

    def _take(self, pair: Pair) -> None:
        self.pairs.append(pair)
        self.left_a.pop(pair.a, None)
        if pair.b is not None:
            self.left_b.pop(pair.b, None)

    def _names(self) -> dict[int, list[int]]:
        theirs: dict[str, list[int]] = defaultdict(list)
        for j, tensor in enumerate(self.b.tensors):
            theirs[tensor.name].append(j)
        return {i: theirs[t.name] for i, t in enumerate(self.a.tensors) if t.name in theirs}

    def _equal(self, candidates: Iterable[tuple[int, int]], how: str) -> None:
        for i, j in candidates:
            if i in self.left_a and j in self.left_b and self._same(i, j):
                self._take(Pair(a=i, b=j, how=how, same=True))

    def _same(self, i: int, j: int) -> bool:
        return self.a.contents[i].digest == self.b.contents[j].digest

    def _contents(self, distinct: bool = True) -> Iterable[tuple[int, int]]:
        """Equal content elsewhere; constants only at the end, when names and places have had their say."""
        theirs: dict[bytes, list[int]] = defaultdict(list)
        for j in reversed(self.left_b):
            theirs[self.b.contents[j].digest].append(j)
        for i in list(self.left_a):
            content = self.a.contents[i]
            if theirs.get(content.digest) and (content.distinct or not distinct):
                yield i, theirs[content.digest].pop()

    def _nearest(self, names: dict[int, list[int]], least: float = ALIKE) -> None:
        """Of those of the same name or place, and as many elements, the most alike."""
        for i in list(self.left_a):
            found = [(j, "name") for j in names.get(i, ())] + [(j, "place") for j in [self.places.get(i, -1)]]
            fitting = [(self._alike(i, j), j, how) for j, how in found if j in self.left_b and self._fit(i, j)]
            if fitting:
                alike, j, how = max(fitting, key=lambda f: f[0])
                if alike >= least or math.prod(self.a.tensors[i].shape) < MIN_ELEMENTS:
                    self._take(Pair(a=i, b=j, how=how))

    def _fit(self, i: int, j: int) -> bool:
        """Of one shape, and both floats or both integers: raw steps are no change of a float."""
        x, y = self.a.tensors[i], self.b.tensors[j]
        return placement.squeezed(x.shape) == placement.squeezed(y.shape) and is_integer(x.dtype) == is_integer(y.dtype)

    def _alike(self, i: int, j: int) -> float:
        mine, theirs = (elements(t.dtype, t.read()) for t in (self.a.tensors[i], self.b.tensors[j]))
        if mine is None or theirs is None:
            return 0.0
        step = max(1, len(mine) // POINTS)
        return placement.correlation(mine[::step].astype("f4"), theirs[::step].astype("f4"))

    def _likeness(self) -> None:
        """What is left, by values: renamed and changed, transposed, reshaped, or quantised."""
        numbers = {(t.name, t.shape): i for i, t in enumerate(self.a.tensors)}
        theirs = {(t.name, t.shape): j for j, t in enumerate(self.b.tensors)}
        shelves = {steps: Shelf(self._free(steps)) for steps in (False, True)}
        for suspect in self.a.suspects:
            i, shelf = numbers.get((suspect.name, suspect.shape)), shelves[suspect.dtype in STEPS]
            if i is None or i not in self.left_a or suspect.dequantised:
                continue
            for place in placement.find(suspect.shape, suspect.read(), shelf):
                found = shelf.tensors[place.suspect]
                j = None if found.dequantised else theirs.get((found.name, found.shape))
                if {"fused", "split"}.isdisjoint(place.variant.steps) and (j is None or j in self.left_b):
                    self._take(Pair(a=i, b=j, how="likeness", suspect=found, variant=place.variant))
                    break

    def _free(self, steps: bool) -> list[SuspectTensor]:
        """B's tensors that are not taken: for A's integers those in whole steps, else floats as a model uses them."""
        names = {self.b.tensors[j].name for j in self.left_b}
        return [s for s in self.b.suspects if (s.dtype in STEPS) is steps and (s.dequantised or s.name in names)]
