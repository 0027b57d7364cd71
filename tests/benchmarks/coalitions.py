"""Leaks of many coalitions, as far as recipients' scores depend on them: the weights in slots.

What one slot shows depends on what the colluders put there (its content) and on noise. Every content of every slot is
made once from the model's weights, damaged and measured as tracing measures it, COPIES times with noise of its own; a
leak is then drawn slot by slot.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault.fingerprint.code import biases, code_key, code_word
from modelvault.fingerprint.collusion import Observed
from modelvault.fingerprint.layout import Layout
from modelvault.fingerprint.observing import observe, strength
from modelvault.fingerprint.score import log10_p, mean, weigh
from modelvault.fingerprint.slots import Patterns
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import STEPS, Float, find_carriers, scale_of, to_float

COPIES = 4
RECIPIENTS = 1000
DAMAGES = ("none", "int8", "noise 10 %")

Words = npt.NDArray[np.uint8]
Contents = npt.NDArray[np.intp]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor's slots, (slots, elements) each; ``shift``: from the base to variant 1, over the scale."""

    dtype: str
    base: Float
    shift: Float
    scale: Float
    spread: float
    largest: float


def _tensors(model: OpenModel, secret: OwnerSecret, layout: Layout) -> Iterator[_Tensor]:
    patterns, carriers = Patterns(secret, layout), {c.digest: c.weight for c in find_carriers(model)}
    for tensor in layout.tensors:
        weight = carriers[tensor.digest]
        values = to_float(weight.dtype, model.read(weight))
        places = [slice(s, s + layout.count(tensor)) for s in tensor.starts]
        scale = scale_of(weight.dtype, weight.shape, values)
        yield _Tensor(
            dtype=weight.dtype,
            base=np.stack([values[p] for p in places]),
            shift=patterns.directions(tensor) * np.float32(strength(tensor, layout)),
            scale=np.stack([np.maximum(scale.flat(p), 1e-12) for p in places]),
            spread=float(values.std()),
            largest=float(np.abs(values).max()),
        )


class Stage:
    """One model and layout, one kind of damage, coalitions of one size: what each slot may show.

    Contents: 0 to size: that many of the colluders' weights are variant 1, averaged; then 1 to size - 1: each weight
    from one of them at random; then: each weight the larger or smaller at random; then: the larger.
    """

    def __init__(self, tensors: list[_Tensor], damage: str, size: int, rng: Rng) -> None:
        self.half, self.larger = 2 * size, 2 * size + 1
        rounds = range(COPIES)
        found = [[[_shown(t, c, size, damage, rng) for t in tensors] for _ in rounds] for c in range(2 * size + 2)]
        self._levels = np.array([[np.concatenate([o.levels for o in n]) for n in c] for c in found])
        self._noise = np.array([[np.concatenate([o.noise for o in n]) for n in c] for c in found])

    def leak(self, contents: Contents, rng: Rng) -> Observed:
        """What a leak with these contents shows."""
        slots, copies = np.arange(len(contents)), rng.integers(0, COPIES, len(contents))
        return Observed(self._levels[contents, copies, slots], self._noise[contents, copies, slots])


def _shown(t: _Tensor, content: int, size: int, damage: str, rng: Rng) -> Observed:
    if content <= size:
        share: Float = np.float32(2 * content / size - 1) * t.shift
    elif content < 2 * size:
        share = np.where(rng.random(t.base.shape) < (content - size) / size, t.shift, -t.shift)
    elif content == 2 * size:
        share = np.where(rng.random(t.base.shape) < 0.5, t.shift, -t.shift)
    else:
        share = np.abs(t.shift)
    suspect = _damaged(t, t.base + share * t.scale, damage, rng)
    usable = suspect != 0
    return observe((suspect - t.base) * usable, t.shift * usable, t.scale)


def _damaged(t: _Tensor, values: Float, damage: str, rng: Rng) -> Float:
    """int8: one step for the whole tensor; weights that are whole steps already stay so."""
    if damage == "noise 10 %":
        values = values + np.float32(0.1 * t.spread) * rng.standard_normal(values.shape, np.float32)
    elif damage == "int8" and t.dtype not in STEPS:
        step = np.float32(t.largest / 127)
        return np.asarray(np.rint(values / step) * step, np.float32)
    if t.dtype in STEPS:
        limits = np.iinfo(STEPS[t.dtype])
        even = rng.random(values.shape, np.float32) - np.float32(0.5)  # halves to either side
        return np.clip(np.rint(values + even * np.float32(1e-3)), limits.min, limits.max).astype(np.float32)
    return values


def _whole(ones: Any, size: int) -> Contents:
    return np.asarray(np.where(ones, size, 0), np.intp)


def _averaging(words: Words, _: Stage, __: Rng) -> Contents:
    return np.asarray(words.sum(axis=0, dtype=np.intp))


def _majority(words: Words, _: Stage, rng: Rng) -> Contents:
    twice = 2 * words.sum(axis=0, dtype=np.intp) - len(words)
    return _whole((twice > 0) | ((twice == 0) & (rng.random(words.shape[1]) < 0.5)), len(words))


def _minority(words: Words, stage: Stage, rng: Rng) -> Contents:
    ones = words.sum(axis=0, dtype=np.intp)
    return np.where((ones > 0) & (ones < len(words)), len(words) - _majority(words, stage, rng), ones)


def _interleaving(words: Words, _: Stage, rng: Rng) -> Contents:
    return _whole(words[rng.integers(0, len(words), words.shape[1]), np.arange(words.shape[1])] == 1, len(words))


def _weights_interleaved(words: Words, _: Stage, __: Rng) -> Contents:
    ones = words.sum(axis=0, dtype=np.intp)
    return np.asarray(np.where((ones > 0) & (ones < len(words)), len(words) + ones, ones))


def _extremes(words: Words, stage: Stage, _: Rng) -> Contents:
    ones = words.sum(axis=0, dtype=np.intp)
    return np.where((ones > 0) & (ones < len(words)), stage.half, ones)


def _larger(words: Words, stage: Stage, _: Rng) -> Contents:
    ones = words.sum(axis=0, dtype=np.intp)
    return np.where((ones > 0) & (ones < len(words)), stage.larger, ones)


def _coins(words: Words, _: Stage, rng: Rng) -> Contents:
    ones = words.sum(axis=0, dtype=np.intp)
    flips = _whole(rng.random(words.shape[1]) < 0.5, len(words))
    return np.where((ones > 0) & (ones < len(words)), flips, ones)


def _half_and_half(words: Words, stage: Stage, rng: Rng) -> Contents:
    first = rng.random(words.shape[1]) < 0.5
    return np.where(first, _averaging(words, stage, rng), _interleaving(words, stage, rng))


STRATEGIES: dict[str, Callable[[Words, Stage, Rng], Contents]] = {
    "averaging": _averaging,
    "majority": _majority,
    "minority": _minority,
    "interleaving, slot by slot": _interleaving,
    "extremes, at random": _extremes,
}
MORE: dict[str, Callable[[Words, Stage, Rng], Contents]] = {
    "interleaving, weight by weight": _weights_interleaved,
    "the larger of each weight": _larger,
    "a coin for each slot": _coins,
    "half averaged, half interleaved": _half_and_half,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """``guilty``, ``innocent``: log10 of the corrected bound of the surest; ``caught``: colluders named.

    ``scores``: every innocent's, natural logarithm.
    """

    guilty: float
    innocent: float
    caught: int
    scores: npt.NDArray[np.float64]


class Theatre:
    """One model with a layout, and RECIPIENTS recipients' code words for each of several owners' keys."""

    def __init__(self, model: OpenModel, secret: OwnerSecret, layout: Layout) -> None:
        self._tensors = list(_tensors(model, secret, layout))
        self._layout = layout
        self._words = cache(self._draw)
        self.stage = cache(self._stage)

    def _draw(self, number: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
        key = code_key(bytes([number]) * 32, self._layout.original)
        thresholds = biases(key, self._layout.slots, self._layout.coalition)
        words = [code_word(key, f"recipient {n}", thresholds) for n in range(RECIPIENTS)]
        return thresholds, np.stack(words).astype(np.float32)

    def _stage(self, damage: str, size: int) -> Stage:
        return Stage(self._tensors, damage, size, np.random.default_rng([size, DAMAGES.index(damage)]))

    def trials(self, damage: str, size: int, strategy: str, count: int, name_below: float) -> list[Trial]:
        """``count`` leaks by coalitions drawn at random."""
        stage, found = self.stage(damage, size), []
        how = (STRATEGIES | MORE)[strategy]
        for number in range(count):
            rng = np.random.default_rng([size, number, *strategy.encode()])
            thresholds, words = self._words(number % 4)
            chosen = rng.choice(RECIPIENTS, size, replace=False)
            evidence = weigh(stage.leak(how(words[chosen].astype(np.uint8), stage, rng), rng), thresholds)
            scores = mean(evidence.log_ratios(words), evidence.shares)
            guilty, innocent = scores[chosen], np.delete(scores, chosen)
            limit = math.log(RECIPIENTS) - name_below * math.log(10)
            found.append(
                Trial(
                    guilty=log10_p(float(guilty.max()), RECIPIENTS),
                    innocent=log10_p(float(innocent.max()), RECIPIENTS),
                    caught=int(np.count_nonzero(guilty >= limit)),
                    scores=innocent,
                )
            )
        return found
