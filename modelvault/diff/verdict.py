"""One word for what happened between two models, and the figures that it rests on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelvault.diff.change import Change
from modelvault.diff.graphs import GraphDiff
from modelvault.diff.sides import Side
from modelvault.tensorfile import Shape, StoredTensor

NEAR = 0.8  # the cosine from which a tensor comes from the other: independent ones of 128 elements stay below 0.5
MOST, NEARLY_ALL = 0.5, 0.9  # of all elements
FITTED = 0.01  # relative change that factors fitted to rows and columns leave; the order alone leaves none
STEP = 0.2  # relative change that quantisation to 4 bits and more leaves

WORDS = {
    "identical": "the files are the same, byte by byte",
    "same-function": "the same operators on the same weights; names, order, metadata or storage differ",
    "same-weights": "the same weights; a graph was not compared",
    "converted": "the same graph, but for types or opset versions; A's weights, only rounded or quantised",
    "rearranged": "the same graph; A's weights in other places, order or scale; only a run tells what it computes",
    "fine-tuned": "the same graph; weights that come from A's were changed",
    "weights-only": "the same graph with other weights, which do not come from A's",
    "restructured": "another graph or set of tensors, which holds A's weights",
    "different-architecture": "another graph or set of tensors, with other weights",
}
SAME = frozenset({"identical", "same-function", "same-weights"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDiff:
    """A's tensor and its counterpart. ``undone``: in words, what would have hidden it; ``moved``: it stands in another
    place of the graph, where A has another tensor. ``change``: None where they are the same, or cannot be compared."""

    a: StoredTensor
    name: str
    dtype: str
    shape: Shape
    how: str
    same: bool
    undone: tuple[str, ...] = ()
    change: Change | None = None

    @property
    def count(self) -> int:
        return math.prod(self.a.shape)

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to tell: the same content, in the same place."""
        return self.same and not self.undone

    @property
    def unchanged(self) -> bool:
        """Whether what differs is no more than the other type, order or scale explains."""
        if self.same or self.change is None:
            return self.same
        if self.change.unrounded == 0 and self.change.odd == 0:
            return True
        least = STEP if "dequantised" in self.undone else FITTED if "scale" in self.undone else 0.0
        return 0 < least >= self.change.relative

    @property
    def derived(self) -> bool:
        return self.same or (self.change is not None and self.change.cosine >= NEAR)

    def to_dict(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "a": self.a.name, "b": self.name, "found_by": self.how, "undone": list(self.undone), "same": self.same,
            "dtype": [self.a.dtype, self.dtype], "shape": [list(self.a.shape), list(self.shape)],
        }  # fmt: skip
        if self.change is not None:
            c = self.change
            facts["change"] = {
                "relative": finite(c.relative), "largest": finite(c.largest), "cosine": c.cosine,
                "share_changed": c.share, "beyond_rounding": c.unrounded, "not_finite": c.odd, "steps": c.steps,
            }  # fmt: skip
        return facts


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``word``: one of WORDS. Shares are of the elements of A's tensors.

    ``relative``: ||B - A|| / ||A|| over all tensors that could be compared.
    """

    word: str
    tensors: int
    same: int
    unchanged: int
    changed: int
    removed: int
    added: int
    share_same: float
    share_derived: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.word, "meaning": WORDS[self.word], "tensors": self.tensors, "same": self.same,
            "unchanged_but_for_storage": self.unchanged, "changed": self.changed, "removed": self.removed,
            "added": self.added, "share_same": self.share_same, "share_derived": self.share_derived,
            "relative_change": finite(self.relative),
        }  # fmt: skip


def judge(
    a: Side,
    b: Side,
    graph: GraphDiff | None,
    tensors: Sequence[TensorDiff],
    removed: Sequence[StoredTensor],
    added: Sequence[StoredTensor],
) -> Verdict:
    total = sum(math.prod(t.shape) for t in a.tensors) or 1
    changes = [t.change for t in tensors if t.change is not None]
    rest, energy = sum(c.rest for c in changes), sum(c.energy for c in changes)
    derived = sum(t.count for t in tensors if t.derived) / total
    whole = all(t.same for t in tensors) and not removed and not added
    return Verdict(
        word=_word(a, b, graph, tensors, whole=whole, complete=not removed and not added, derived=derived),
        tensors=len(a.tensors),
        same=sum(t.same for t in tensors),
        unchanged=sum(t.unchanged and not t.same for t in tensors),
        changed=sum(not t.unchanged for t in tensors),
        removed=len(removed),
        added=len(added),
        share_same=sum(t.count for t in tensors if t.same) / total,
        share_derived=derived,
        relative=math.sqrt(rest / energy) if energy > 0 else (math.inf if rest > 0 else 0.0),
    )


def _word(
    a: Side,
    b: Side,
    graph: GraphDiff | None,
    tensors: Sequence[TensorDiff],
    *,
    whole: bool,
    complete: bool,
    derived: float,
) -> str:
    if whole and a.file == b.file:
        return "identical"
    if graph is not None and graph.same_function:
        return "same-function"
    if graph is None and whole:
        return "same-weights"
    alike = complete if graph is None else graph.same_structure or graph.same_skeleton
    if not alike:
        return "restructured" if derived >= NEARLY_ALL else "different-architecture"
    if len(tensors) == len(a.tensors) and all(t.unchanged for t in tensors):
        moved = any(t.how == "aligned" or "moved" in t.undone for t in tensors)
        return "rearranged" if moved else "converted"
    return "fine-tuned" if derived >= MOST else "weights-only"
