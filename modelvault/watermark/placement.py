"""Find an original's tensors in a suspect where rows and columns kept their order: renamed, reordered, transposed,
reshaped, fused into a larger tensor or split into smaller ones. No key is involved (docs/WATERMARK.md section 8)."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modelvault.watermark.carriers import Float, Shape, grid
from modelvault.watermark.suspects import SuspectTensor

CACHE = 2**30
_POINTS = {0: 4096, 1: 4096, 2: 64, 3: 16, 4: 8}
MAX_AXES = 4
LEAST = 0.12  # with 4096 points chance alone stays below 0.08
SIGMAS = 6
SIGNED = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to read a suspect's tensor as a carrier: axes moved, reshaped, and a window of either."""

    axes: tuple[int, ...]
    reshaped: bool = False
    target: tuple[slice, slice] = (slice(None), slice(None))
    source: tuple[slice, slice] = (slice(None), slice(None))

    def apply(self, values: Float, shape: Shape) -> Float:
        """The suspect's values as a table in the carrier's order (of the window's size)."""
        moved = squeeze(values).transpose(self.axes)
        if self.reshaped:
            moved = moved.reshape(squeezed(shape))
        if self.source == self.target == (slice(None), slice(None)):
            return moved.reshape(grid(shape))
        return moved[self.source]

    @property
    def steps(self) -> tuple[str, ...]:
        """What was undone, in words."""
        words = []
        if self.axes != tuple(range(len(self.axes))):
            words.append("transposed")
        if self.reshaped:
            words.append("reshaped")
        if self.source != (slice(None), slice(None)):
            words.append("fused")
        if self.target != (slice(None), slice(None)):
            words.append("split")
        return tuple(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A suspect's tensor (by number) that fits a carrier's, or a window of it, with this correlation."""

    suspect: int
    variant: Variant
    correlation: float


class Shelf:
    """A suspect's tensors, read when needed; the last ones read are kept, up to CACHE bytes."""

    def __init__(self, tensors: list[SuspectTensor]) -> None:
        self.tensors = tensors
        self._kept: dict[int, Float] = {}
        self._sketches: dict[int, Float] = {}

    def values(self, number: int) -> Float:
        if number not in self._kept:
            values = self.tensors[number].read()
            while self._kept and values.nbytes + sum(v.nbytes for v in self._kept.values()) > CACHE:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = values
        return self._kept[number]

    def sketch(self, number: int) -> Float:
        if number not in self._sketches:
            self._sketches[number] = sketch(squeeze(self.values(number)))
        return self._sketches[number]


def squeezed(shape: Shape) -> Shape:
    return tuple(d for d in shape if d != 1)


def squeeze(values: Float) -> Float:
    return values.reshape(squeezed(values.shape))


def sketch(values: Float) -> Float:
    """Every so-many-th element along each axis: a few thousand that depend on the axes' lengths alone."""
    most = _POINTS.get(values.ndim, 4)
    return values[tuple(slice(0, most * max(1, n // most), max(1, n // most)) for n in values.shape)]


def correlation(a: Float, b: Float) -> float:
    """Pearson's, 0 where either does not vary."""
    x, y = a.reshape(-1) - a.mean(), b.reshape(-1) - b.mean()
    norm = float(np.vdot(x, x)) * float(np.vdot(y, y))
    return float(np.vdot(x, y)) / math.sqrt(norm) if norm > 0 else 0.0


def least(points: int) -> float:
    """The correlation from which a fit is no chance."""
    return max(LEAST, SIGMAS / math.sqrt(max(points, 1)))


def find(shape: Shape, original: Float, shelf: Shelf) -> list[Placement]:
    """The suspect's tensors that hold this carrier, best first and without overlap; signs and scales may differ."""
    found = list(_fits(shape, sketch(squeeze(original.reshape(shape))), shelf))
    if not found:
        found = list(_windows(shape, original.reshape(grid(shape)), shelf))
    found.sort(key=lambda p: -abs(p.correlation))
    chosen: list[Placement] = []
    for placement in found:
        if not any(_overlap(placement.variant.target, c.variant.target) for c in chosen):
            chosen.append(placement)
    return chosen


def _fits(shape: Shape, original: Float, shelf: Shelf) -> Iterator[Placement]:
    dims = squeezed(shape)
    for number, tensor in enumerate(shelf.tensors):
        other = squeezed(tensor.shape)
        if math.prod(other) != math.prod(dims):
            continue
        for axes in _orders(other, dims):
            value = best_correlation(original, shelf.sketch(number).transpose(axes))
            if abs(value) >= least(original.size):
                yield Placement(suspect=number, variant=Variant(axes=axes), correlation=value)
        if other != dims:
            for axes in {tuple(range(len(other))), tuple(reversed(range(len(other))))}:
                moved = squeeze(shelf.values(number)).transpose(axes).reshape(dims)
                value = best_correlation(original, sketch(moved))
                if abs(value) >= least(original.size):
                    variant = Variant(axes=axes, reshaped=True)
                    yield Placement(suspect=number, variant=variant, correlation=value)


def best_correlation(a: Float, b: Float) -> float:
    """Of the values or, where signs were flipped, of their sizes."""
    plain = correlation(a, b)
    if abs(plain) >= SIGNED:
        return plain
    sizes = correlation(_even(a), _even(b))
    return sizes if sizes >= 2 * max(LEAST, abs(plain)) else plain


def _even(values: Float) -> Float:
    """Sizes, with the share of each axis's lines in them taken out: lines of equal norm alone are no likeness."""
    sizes = np.abs(values)
    for axis in range(sizes.ndim):
        norms = np.sqrt(np.mean(np.square(sizes), axis=tuple(k for k in range(sizes.ndim) if k != axis), keepdims=True))
        sizes = np.divide(sizes, norms, out=np.zeros_like(sizes), where=norms > 0)
    return sizes


def _orders(other: Shape, dims: Shape) -> Iterator[tuple[int, ...]]:
    if sorted(other) != sorted(dims) or len(dims) > MAX_AXES:
        if other == dims:
            yield tuple(range(len(dims)))
        return
    for axes in itertools.permutations(range(len(dims))):
        if tuple(other[a] for a in axes) == dims:
            yield axes


def _windows(shape: Shape, original: Float, shelf: Shelf) -> Iterator[Placement]:
    """Whole multiples along one axis: three projections in one tensor, or one of them alone."""
    for number, tensor in enumerate(shelf.tensors):
        other = squeezed(tensor.shape)
        if len(other) != 2:
            continue
        for axes in ((0, 1), (1, 0)):
            moved = (other[axes[0]], other[axes[1]])
            for target, source in _cuts((original.shape[0], original.shape[1]), moved):
                part = sketch(original[target])
                value = best_correlation(part, sketch(shelf.values(number).reshape(other).transpose(axes)[source]))
                if abs(value) >= least(part.size):
                    variant = Variant(axes=axes, target=target, source=source)
                    yield Placement(suspect=number, variant=variant, correlation=value)


def _cuts(mine: tuple[int, int], other: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    whole = slice(None)
    for axis in (0, 1):
        small, large = sorted((mine[axis], other[axis]))
        if mine[1 - axis] != other[1 - axis] or small == large or large % small or large // small > 64:
            continue
        for at in range(0, large, small):
            cut = slice(at, at + small)
            window = (cut, whole) if axis == 0 else (whole, cut)
            yield ((whole, whole), window) if other[axis] == large else (window, (whole, whole))


def _overlap(a: tuple[slice, slice], b: tuple[slice, slice]) -> bool:
    return all(x == y or slice(None) in (x, y) for x, y in zip(a, b, strict=True))
