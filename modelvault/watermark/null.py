"""What random keys score on the very same differences: the null distribution, measured."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelvault.watermark.carriers import Float
from modelvault.watermark.pattern import SQRT2, ModelKey

KEYS = 1000

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """Scores of random keys: ``whole`` (keys,), and by tensor digest; ``sample``: differences used.

    The distribution of a score does not depend on how many differences it is taken over.
    """

    whole: Scores
    tensors: dict[bytes, Scores]
    sample: int


def measure(samples: Mapping[bytes, Float], keys: int = KEYS) -> Null:
    """Score ``keys`` random keys on samples of a suspect's differences."""
    sums = {digest: np.zeros(keys) for digest in samples}
    for number in range(keys):
        key = ModelKey(secrets.token_bytes(32), secrets.token_bytes(32))
        for digest, values in samples.items():
            sums[digest][number] = sum(
                float(values[place] @ pattern.astype(np.float32)) / SQRT2
                for place, pattern in key.pattern(digest, len(values))
            )
    energies = {digest: float(np.vdot(v, v)) for digest, v in samples.items()}
    whole = np.sum([np.zeros(keys), *sums.values()], axis=0) / max(sum(energies.values()), 1e-300) ** 0.5
    tensors = {digest: s / max(energies[digest], 1e-300) ** 0.5 for digest, s in sums.items()}
    return Null(whole=whole, tensors=tensors, sample=sum(len(v) for v in samples.values()))
