"""What a difference is expected to hold of the pattern: linear in plain noise, and all of it where nothing was done."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelvault.watermark.detect import difference
from modelvault.watermark.weighing import FLOAT_MARK, weigh, weigh_steps

SHAPE = (256, 512)


def pattern(seed: int = 0) -> Any:
    """Values of the pattern's distribution: variance 1, nine levels."""
    return (np.random.default_rng(seed).binomial(8, 0.5, SHAPE) - 4) / np.sqrt(2)


def z(q: Any, g: Any) -> float:
    return float(np.vdot(q, g) / np.linalg.norm(q))


def test_plain_noise_is_weighed_evenly() -> None:
    noise = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    q = noise.copy()
    weigh(q)
    assert np.corrcoef(q.reshape(-1), noise.reshape(-1))[0, 1] > 0.99


def test_weights_left_alone_outweigh_those_refilled_with_noise() -> None:
    rng, g = np.random.default_rng(2), pattern()
    q = (FLOAT_MARK * g + (rng.random(SHAPE) < 0.5) * rng.normal(0, 0.3, SHAPE)).astype(np.float32)
    weigh(q)
    assert z(q, g) > 0.9 * np.sqrt(q.size / 2)  # what the untouched half alone holds


@pytest.mark.parametrize("strength", [0.001, 0.003, 0.01])
def test_marks_alone_count_as_they_are(strength: float) -> None:
    g = pattern()
    q = (strength * g).astype(np.float32)
    weigh(q)
    assert z(q, g) > 0.98 * np.sqrt(q.size)


def test_noise_drowns_small_rows_and_leaves_large_ones() -> None:
    g, loud = pattern(), np.where(np.arange(SHAPE[0]) % 2, 0.3, 0.01)[:, None]
    q = (FLOAT_MARK * g + loud * np.random.default_rng(3).standard_normal(SHAPE)).astype(np.float32)
    weigh(q)
    quiet = np.sqrt(np.square(q[::2]).mean() / np.square(q[1::2]).mean())
    assert quiet > 7


def test_single_steps_are_told_from_noise() -> None:
    rng, g = np.random.default_rng(4), pattern().reshape(-1) * np.sqrt(2)
    steps = np.where(np.abs(g) == 4, np.sign(g), 0)
    noise = (rng.random(g.size) < 0.5) * np.rint(rng.normal(0, 12, g.size))
    q = (steps + noise).astype(np.float32)
    weigh_steps(q)
    plain = z(np.clip(steps + noise, -20, 20), g)
    assert z(q, g) > 4 * plain
    clean = steps.astype(np.float32)
    weigh_steps(clean)
    assert set(np.unique(np.abs(clean))) == {0.0, np.abs(clean).max()}


@settings(max_examples=60, deadline=None)
@given(
    table=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.floats(-(2**60), 2**60, width=32)
    )
)
def test_any_difference_gives_finite_values_of_its_sign(table: Any) -> None:
    for dtype in ("FLOAT", "INT8"):
        found = difference(dtype, table.shape, table.reshape(-1), np.ones(table.size, np.float32)).values
        assert np.isfinite(found).all()
    q = table.copy()
    weigh(q)
    assert ((np.sign(q) == np.sign(table)) | (q == 0)).all()
