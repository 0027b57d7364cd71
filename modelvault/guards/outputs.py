"""The output guard: fewer digits and fewer classes teach a thief less (Tramer et al., USENIX Security 2016)."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """``decimals`` rounds float outputs; ``top_k`` keeps the k largest of the last axis, and sets the rest to zero."""

    decimals: int | None = None
    top_k: int | None = None


def harden(outputs: list[Any], limits: OutputLimits) -> list[Any]:
    """Limited copies of the float arrays among ``outputs``; everything else as it is."""
    return [_harden(value, limits) if _is_float(value) else value for value in outputs]


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _harden(array: Any, limits: OutputLimits) -> Any:
    if limits.top_k is not None and array.ndim and array.shape[-1] > limits.top_k:
        cut = array.shape[-1] - limits.top_k
        weakest = np.argpartition(array, cut - 1, axis=-1)[..., :cut]
        array = array.copy()
        np.put_along_axis(array, weakest, 0, axis=-1)
    return array if limits.decimals is None else np.round(array, limits.decimals)
