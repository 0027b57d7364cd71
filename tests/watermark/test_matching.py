"""Tables of any sizes can be balanced, and a permuted table is matched line by line."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelvault.watermark.matching import Balanced, match


@settings(max_examples=60, deadline=None)
@given(
    table=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.floats(-(2**60), 2**60, width=32)
    )
)
def test_any_table_can_be_balanced(table: Any) -> None:
    balanced = Balanced(table)
    assert np.isfinite(balanced.table).all()
    assert balanced.sizes.shape == table.shape


def test_rows_and_columns_are_found_whatever_their_order_scale_and_sign() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_t(5, (96, 160)).astype(np.float32)
    rows, columns = rng.permutation(96), rng.permutation(160)
    scales = [10 ** rng.uniform(-3, 3, n) * rng.choice([-1, 1], n) for n in table.shape]
    moved = (table[np.ix_(rows, columns)] * np.outer(*scales)).astype(np.float32)
    found = match(Balanced(table), Balanced(moved))
    assert found is not None
    assert found.quality > 0.99
    np.testing.assert_array_equal(rows[found.rows], np.arange(96))
    np.testing.assert_array_equal(columns[found.columns], np.arange(160))
