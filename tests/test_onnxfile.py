"""Splitting: inner names go, the computation stays."""

import re
from pathlib import Path

import onnx
import onnxruntime
import pytest
from edge_models import CASES, build
from feeds import feed_for, same

from modelvault import samples
from modelvault.errors import ModelError
from modelvault.onnxfile import split
from modelvault.onnxfile.anonymise import anonymise
from modelvault.onnxfile.split import parse
from modelvault.onnxfile.walk import graphs, nodes


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("edge"))


def session(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """A session over the model saved beside its external data."""
    path = folder / "renamed.onnx"
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options)


@pytest.mark.parametrize("name", sorted(CASES))
def test_names_do_not_matter(edge: dict[str, Path], name: str) -> None:
    try:
        model = parse(edge[name].read_bytes(), name)
        plain = session(model, edge[name].parent)
    except Exception:
        return  # no model that could be compared
    feed = feed_for(plain)
    before = plain.run(None, feed)
    anonymise(model)
    renamed = session(model, edge[name].parent)
    assert [o.name for o in renamed.get_outputs()] == [o.name for o in plain.get_outputs()]
    assert same(before, renamed.run(None, feed), relative=1e-6)


def test_nothing_but_inputs_and_outputs_keeps_its_name() -> None:
    model = onnx.load_from_string(split(samples.MODEL).graph)
    public = {v.name for v in [*model.graph.input, *model.graph.output]}
    for node in nodes(model):
        assert not node.name
        for value in [*node.input, *node.output]:
            assert value in public or re.fullmatch(r"v\d+", value)
    assert all(graph.name == "g" for graph in graphs(model))
    kept = split(samples.MODEL, keep_docs=True).graph
    assert kept.count(b"batch_norm") > 50
    assert split(samples.MODEL).graph.count(b"batch_norm") == 0


def test_shadowed_and_captured_names() -> None:
    """An If whose branches capture an outer value, define a name twice, and return an outer value directly."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    inner = helper.make_node("Mul", ["h", "h"], ["t"])
    then = helper.make_graph([inner], "then", [], [value("t", TensorProto.FLOAT, [1])])
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["t"])], "else", [], [value("t", TensorProto.FLOAT, [1])]
    )
    body = [
        helper.make_node("Add", ["x", "x"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    inputs = [value("x", TensorProto.FLOAT, [1]), value("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(body, "main", inputs, [value("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    anonymise(model)
    import numpy as np

    renamed = onnxruntime.InferenceSession(model.SerializeToString())
    for condition, expected in ((True, 36.0), (False, 6.0)):
        feed = {"x": np.array([3], np.float32), "c": np.array(condition)}
        assert np.asarray(renamed.run(None, feed)[0]).tolist() == [expected]


def test_a_public_name_that_looks_like_a_number_is_not_taken() -> None:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("v0", "v2")]
    chain = [
        helper.make_node("Neg", ["v0"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Abs", ["b"], ["v2"]),
    ]
    model = helper.make_model(helper.make_graph(chain, "g", ends[:1], ends[1:]))
    anonymise(model)
    assert [list(n.input) + list(n.output) for n in model.graph.node] == [["v0", "v1"], ["v1", "v3"], ["v3", "v2"]]


def test_what_is_no_model() -> None:
    for data in (b"", b"\x00", b"\xff" * 30, samples.MODEL.read_bytes()[:1000]):
        with pytest.raises(ModelError):
            parse(data, "m")
