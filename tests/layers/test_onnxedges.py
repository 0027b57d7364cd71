"""Corners of the ONNX readers: files beyond their limit, text that is not UTF-8, sparse attributes."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from modelvault import samples
from modelvault.errors import FileError, ModelError
from modelvault.onnxfile import OpenModel, checking, lean, structure


def test_a_file_beyond_protobufs_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean, "MAX_MODEL", 100)
    with pytest.raises(FileError, match="larger than the limit of 100 bytes"):
        lean.lean_file(samples.MODEL)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "NAMEOFGRAPH", ends[:1], ends[1:]))
    assert checking.undecodable(model) is None
    broken = onnx.ModelProto()
    broken.ParseFromString(model.SerializeToString().replace(b"NAMEOFGRAPH", b"\xff" * 11))
    assert checking.undecodable(broken) in ("name", None)  # None: this protobuf replaces what it cannot decode
    assert structure.utf8("text") == "text"
    with pytest.raises(ModelError, match="not UTF-8"):
        structure.utf8(b"\xff")


def test_a_tree_ensembles_leaves_are_weights_of_its_node(tmp_path: Path) -> None:
    """``modelvault diff`` then knows the node by them."""
    leaves = [float(n) / 7 for n in range(2000)]
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", target_weights=leaves)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=opsets)
    onnx.save(model, tmp_path / "trees.onnx")
    opened = OpenModel(tmp_path / "trees.onnx")
    (only,) = structure.structure(opened).nodes
    assert ("weight", opened.weights[0].number) in only.inputs
