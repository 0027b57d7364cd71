"""Tensors of any shape carry a mark, and every element's change follows its row and column."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import Scale, find_carriers, grid
from modelvault.watermark.verifying import verify_informed
from watermark.models import mark

OWNER = OwnerSecret(b"o" * 32)


def save(path: Path, array: npt.NDArray[np.float32]) -> Path:
    """A model that gives one tensor back."""
    tensor = onnx.numpy_helper.from_array(array, "w")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, array.shape)
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [output], [tensor])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    "shape", [(64, 64), (1, 64, 1, 64), (16, 8, 3, 3), (3, 3, 8, 16), (2, 2048), (2048, 2), (5, 7, 11, 13), (4097, 3)]
)
def test_any_shape_carries_a_mark(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    original = save(tmp_path / "o.onnx", values)
    mark(original, tmp_path / "m.onnx", OWNER, strength=0.01, check=False)
    assert verify_informed(tmp_path / "m.onnx", original, OWNER).claim


@pytest.mark.parametrize("shape", [(5000,), (1, 5000, 1), (30, 30), (0, 4096)])
def test_what_is_no_carrier(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert find_carriers(OpenModel(save(tmp_path / "o.onnx", values))) == []


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_tensors_that_are_not_finite_are_left_alone(tmp_path: Path, spoil: float) -> None:
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    values[3, 3] = spoil
    assert find_carriers(OpenModel(save(tmp_path / "o.onnx", values))) == []


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), data=st.data())
def test_a_flat_piece_of_the_scale_is_a_piece_of_the_table(rows: int, columns: int, data: st.DataObject) -> None:
    values = np.random.default_rng(rows * 41 + columns).standard_normal(rows * columns).astype(np.float32)
    scale = Scale.of(values, (rows, columns))
    height, width = grid((rows, columns))
    table = values.reshape(height, width).astype(np.float64)
    rms = [np.sqrt(np.mean(table**2, axis=axis)) for axis in (1, 0)]
    whole = (np.outer(*rms) / np.sqrt(np.mean(table**2))).reshape(-1)
    start = data.draw(st.integers(0, rows * columns - 1))
    stop = data.draw(st.integers(start + 1, rows * columns))
    np.testing.assert_allclose(scale.flat(slice(start, stop)), whole[start:stop], rtol=1e-4)
