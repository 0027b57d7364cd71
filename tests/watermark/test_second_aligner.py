"""Section 8 of docs/WATERMARK.md says enough: an aligner written from it gives what the package's gives."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from modelvault.watermark.align import Aligner
from modelvault.watermark.suspects import SuspectTensor
from watermark import second_aligner
from watermark.second_aligner import Float, Tensor

Random = np.random.Generator
Attack = Callable[[list[Float], Random], list[Float]]


def original(random: Random) -> list[Float]:
    shapes = [(160, 130), (130, 160), (130, 160), (140, 3, 5, 5), (40, 40), (48, 1, 3, 9), (30, 90), (9000,)]
    return [(random.normal(size=s) * lines(np.empty(s, "f4"), random)).astype(np.float32) for s in shapes]


def lines(values: Float, random: Random) -> Float:
    """A factor for each line of the first axis."""
    return random.lognormal(0, 0.5, (len(values),) + (1,) * (values.ndim - 1)).astype(np.float32)


def noisy(values: Float, random: Random, share: float) -> Float:
    return (values + random.normal(0, share * values.std(), values.shape)).astype(np.float32)


def permuted(values: Float, random: Random) -> Float:
    values = values[random.permutation(len(values))]
    return values[:, random.permutation(values.shape[1])] if values.ndim > 1 else values


def fused(tensors: list[Float], random: Random) -> list[Float]:
    a, b, c, *rest, last, leaves = tensors
    thirds = [last[:, k : k + 30] for k in (0, 30, 60)]
    return [np.concatenate([c, b]), a, *rest, *thirds, leaves]


ATTACKS: dict[str, Attack] = {
    "nothing": lambda t, r: t,
    "reordered": lambda t, r: [t[k] for k in r.permutation(len(t))],
    "transposed": lambda t, r: [v.T for v in t],
    "reshaped": lambda t, r: [v.reshape(-1) for v in t],
    "noise": lambda t, r: [noisy(v, r, 0.8) for v in t],
    "scaled": lambda t, r: [v * lines(v, r) for v in t],
    "flipped": lambda t, r: [v * np.sign(lines(v, r) - 1) for v in t],
    "flipped in noise": lambda t, r: [noisy(v * np.sign(lines(v, r) - 1), r, 0.3) for v in t],
    "fused": fused,
    "permuted": lambda t, r: [permuted(v, r) for v in t],
    "permuted in noise": lambda t, r: [noisy(permuted(v, r), r, 0.3) for v in t],
    "permuted and scaled": lambda t, r: [(permuted(v, r) * lines(v, r)).T for v in t],
    "cut": lambda t, r: [permuted(v, r)[: len(v) * 3 // 4] for v in t],
    "another model": lambda t, r: original(r),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_both_align_alike(name: str) -> None:
    random = np.random.default_rng(8)
    tensors = original(random)
    suspects = ATTACKS[name]([noisy(v, random, 0.02) for v in tensors], random)
    compare([(False, v) for v in tensors], [(False, v) for v in suspects])


def test_integers_are_held_against_integers() -> None:
    random = np.random.default_rng(9)
    steps: list[npt.NDArray[np.float32]] = [random.integers(-100, 100, (64, 64)).astype(np.float32) for _ in range(3)]
    floats = [(False, v / np.float32(7)) for v in steps]
    compare([(True, v) for v in steps], [*floats, *((True, v) for v in steps[:2])])


def suspect(name: str, tensor: Tensor) -> SuspectTensor:
    stored, values = tensor
    return SuspectTensor(name=name, dtype="INT8" if stored else "FLOAT", shape=values.shape, read=lambda: values)


def compare(carriers: list[Tensor], suspects: list[Tensor]) -> None:
    """Carriers in their own order first, as in ``verifying.aligned``."""
    aligner = Aligner([suspect(str(number), tensor) for number, tensor in enumerate(suspects)])
    found = [aligner.align("", "INT8" if i else "FLOAT", v.shape, v.reshape(-1)) for i, v in carriers]
    for number, (_, values) in enumerate(carriers):
        if found[number] is None:
            found[number] = aligner.align_permuted("", values.shape, values.reshape(-1))
    second = second_aligner.align(carriers, suspects)
    assert [f is None for f in found] == [s is None for s in second]
    for one, other in zip(found, second, strict=True):
        if one is not None and other is not None:
            np.testing.assert_allclose(one.values, other.reshape(-1), rtol=1e-3, atol=1e-5)
