"""Inputs for models: realistic shapes for the real ones, whatever the signature says for the others."""

from typing import Any

import numpy as np

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "basic-pitch": {"serving_default_input_2:0": (1, 43844, 1)},
    "magika": {"bytes": (2, 2048)},
    "minilm-int8": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (2, 16)),
    "minilm-l3": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (2, 16)),
    "ppocr-cls": {"x": (1, 3, 48, 192)},
    "ppocr-det": {"x": (1, 3, 64, 96)},
    "ppocr-rec": {"x": (1, 3, 48, 320)},
    **{f"silero-vad{kind}": {"input": (1, 512), "state": (2, 1, 128)} for kind in ("", "-ifless", "-half")},
}


def feed_for(session: Any, model: str = "") -> dict[str, Any]:
    """One input for each of a session's inputs, the same every time."""
    rng, feed = np.random.default_rng(1), {}
    for entry in session.get_inputs():
        known = _SHAPES.get(model, {}).get(entry.name)
        shape = known or tuple(d if isinstance(d, int) and d > 0 else 2 for d in entry.shape)
        feed[entry.name] = _array(rng, entry, shape)
    return feed


def _array(rng: np.random.Generator, entry: Any, shape: tuple[int, ...]) -> Any:
    if entry.type == "tensor(string)":
        return np.full(shape, "the", dtype=object)
    if entry.type == "seq(tensor(float))":
        return [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    if entry.type.startswith("optional"):
        return np.ones(2, np.float32)
    if entry.name == "sr":
        return np.array(16000, np.int64)
    dtype = np.dtype(_DTYPES[entry.type])
    if dtype.kind == "i":
        low, high = {"input_ids": (5, 20000), "bytes": (0, 255)}.get(entry.name, (0, 2))
        return rng.integers(low, high, shape).astype(dtype)
    return np.asarray(rng.standard_normal(shape) * 0.1).astype(dtype)


def same(left: Any, right: Any, *, relative: float = 1e-5) -> bool:
    """Equal outputs: arrays within ``relative`` of the largest magnitude of that output, the rest exactly."""
    if isinstance(left, list):
        return len(left) == len(right) and all(same(a, b, relative=relative) for a, b in zip(left, right, strict=True))
    if not isinstance(left, np.ndarray) or left.dtype.kind not in "fc":
        return bool(np.array_equal(left, right))
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    scale = np.max(np.abs(left64[np.isfinite(left64)]), initial=0.0)
    return left.shape == right.shape and bool(
        np.allclose(left64, right64, rtol=0, atol=relative * scale, equal_nan=True)
    )
