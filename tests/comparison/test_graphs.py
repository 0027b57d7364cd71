"""Graphs: what is the same in spite of names, what is not in spite of them, and which nodes a change touches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import MODELS
from edge_models import build
from onnx import helper, numpy_helper
from watermark.models import mlp

from modelvault.diff import compare
from modelvault.diff.graphs import GraphDiff
from modelvault.errors import ModelVaultError
from modelvault.onnxfile import OpenModel
from modelvault.onnxfile.lean import open_lean
from modelvault.onnxfile.structure import structure

Edit = Callable[[onnx.ModelProto], None]
FLOAT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def graph_diff(source: Path, change: Edit) -> GraphDiff:
    model = onnx.load(source)
    change(model)
    output = source.with_name("changed.onnx")
    onnx.save(model, output)
    found = compare(source, output)
    assert found.graph is not None
    assert (found.verdict.word == "same-function") == found.graph.same_function
    return found.graph


def set_axis(model: onnx.ModelProto) -> None:
    model.graph.node[5].attribute[0].i = 0


def drop_relu(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "a0"
    del model.graph.node[2]


def relu_to_sigmoid(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Sigmoid"


def swap_inputs(model: onnx.ModelProto) -> None:
    node = model.graph.node[1]
    node.input[:] = [node.input[1], node.input[0]]


def raise_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def other_domain(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "com.example"


def one_bit(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(model.graph.initializer[0]).copy()
    array[0, 0] = np.nextafter(array[0, 0], np.float32(np.inf))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w0"))


def input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def bypass(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "a1"


@pytest.mark.parametrize(
    "change",
    [set_axis, drop_relu, relu_to_sigmoid, swap_inputs, raise_opset, other_domain, one_bit, input_type, bypass],
)
def test_what_is_not_the_same_function(tmp_path: Path, change: Edit) -> None:
    assert not graph_diff(mlp(tmp_path / "m.onnx"), change).same_function


def metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="author", value="somebody")
    model.producer_name, model.doc_string, model.graph.name = "other", "text", "renamed"


def as_constant(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.pop(0)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w0"], value=tensor))


def dead_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["unused"]))


def input_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "features"


@pytest.mark.parametrize("change", [metadata, as_constant, dead_node, input_name])
def test_what_is_the_same_function(tmp_path: Path, change: Edit) -> None:
    assert graph_diff(mlp(tmp_path / "m.onnx"), change).same_function


def test_the_header_is_compared(tmp_path: Path) -> None:
    facts = {k: (a, b) for k, a, b in graph_diff(mlp(tmp_path / "m.onnx"), metadata).facts}
    assert facts["metadata author"] == ("", "somebody")
    assert facts["graph"] == ("mlp", "renamed")
    assert graph_diff(tmp_path / "m.onnx", raise_opset).facts == (("opset ai.onnx", "17", "18"),)
    values = graph_diff(tmp_path / "m.onnx", input_name).values
    assert values == (("input 0", "x float [batch, 64]", "features float [batch, 64]"),)


def test_a_removed_node_leaves_all_others_matched(tmp_path: Path) -> None:
    graph = graph_diff(mlp(tmp_path / "m.onnx"), drop_relu)
    assert graph.removed == (2,)
    assert graph.added == ()
    assert graph.rewired == ((3, 2),)
    assert len(graph.pairs) == 5


def test_a_changed_attribute_is_a_change_of_that_node_alone(tmp_path: Path) -> None:
    graph = graph_diff(mlp(tmp_path / "m.onnx"), set_axis)
    assert graph.changed == ((5, 5),)
    assert (graph.removed, graph.added, graph.rewired) == ((), (), ())


def test_swapped_weights_are_not_the_same_function(tmp_path: Path) -> None:
    """Two weights of one shape change places: contents and names are all there."""
    x, y = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)

    def save(name: str, first: str, second: str) -> Path:
        nodes = [helper.make_node("MatMul", ["x", first], ["h"]), helper.make_node("MatMul", ["h", second], ["y"])]
        x_in, y_out = ([helper.make_tensor_value_info(n, FLOAT, ["n", 16])] for n in "xy")
        weights = [numpy_helper.from_array(x, "p"), numpy_helper.from_array(y, "q")]
        model = helper.make_model(helper.make_graph(nodes, "g", x_in, y_out, weights), ir_version=9)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    found = compare(save("a.onnx", "p", "q"), save("b.onnx", "q", "p"))
    assert found.graph is not None
    assert not found.graph.same_function
    assert found.graph.same_structure
    assert found.verdict.word == "rearranged"
    assert found.verdict.share_same == 1
    assert [t.undone for t in found.tensors] == [("moved",)] * 2


def branches(path: Path, then: str, bias: float = 1.0) -> Path:
    """y = then(x) + bias if flag else -x; the branch takes x from outside."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(name, FLOAT, ["n"])])

    one = numpy_helper.from_array(np.full(64, bias, np.float32), "one")
    yes = branch("t", helper.make_node(then, ["x"], ["r"]), helper.make_node("Add", ["r", "one"], ["t"]))
    no = branch("e", helper.make_node("Neg", ["x"], ["e"]))
    node = helper.make_node("If", ["flag"], ["y"], then_branch=yes, else_branch=no)
    ins = [helper.make_tensor_value_info("flag", BOOL, []), helper.make_tensor_value_info("x", FLOAT, [64])]
    graph = helper.make_graph([node], "g", ins, [helper.make_tensor_value_info("y", FLOAT, [64])], [one])
    onnx.save(helper.make_model(graph, ir_version=9), path)
    return path


def test_subgraphs_are_part_of_the_function(tmp_path: Path) -> None:
    a = branches(tmp_path / "a.onnx", "Relu")
    found = compare(a, branches(tmp_path / "b.onnx", "Abs"))
    assert found.graph is not None
    assert not found.graph.same_function
    assert [found.a.graph.nodes[i].within for i in found.graph.removed] == ["If.then_branch"]  # type: ignore[union-attr]
    assert compare(a, branches(tmp_path / "c.onnx", "Relu", bias=2)).verdict.word == "fine-tuned"
    assert compare(a, branches(tmp_path / "d.onnx", "Relu")).verdict.word == "identical"


def with_function(path: Path, op: str, default: float = 0.1) -> Path:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = helper.make_node("LeakyRelu", ["a"], ["h"])
    inner.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    nodes = [inner, helper.make_node(op, ["h"], ["b"])]
    alpha = helper.make_attribute("alpha", default)
    function = helper.make_function("own", "act", ["a"], ["b"], nodes, opset[:1], attribute_protos=[alpha])
    x_in, y_out = ([helper.make_tensor_value_info(n, FLOAT, [4])] for n in "xy")
    graph = helper.make_graph([helper.make_node("act", ["x"], ["y"], domain="own")], "g", x_in, y_out)
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opset, ir_version=9), path)
    return path


def test_functions_are_part_of_the_function(tmp_path: Path) -> None:
    a = with_function(tmp_path / "a.onnx", "Relu")
    for other in (with_function(tmp_path / "b.onnx", "Abs"), with_function(tmp_path / "c.onnx", "Relu", 0.2)):
        assert compare(a, other).verdict.word != "same-function"
    assert compare(a, with_function(tmp_path / "d.onnx", "Relu")).verdict.word == "identical"


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = onnx.load(with_function(tmp_path / "a.onnx", "Relu"))
    model.functions[0].node[1].op_type, model.functions[0].node[1].domain = "act", "own"
    onnx.save(model, tmp_path / "r.onnx")
    with pytest.raises(ModelVaultError, match="calls itself"):
        compare(tmp_path / "r.onnx", tmp_path / "a.onnx")


def outcome(open_: Callable[[Path], OpenModel], path: Path) -> Any:
    try:
        model = open_(path)
        return [(w.name, w.dtype, w.shape, model.read(w)) for w in model.weights], structure(model)
    except ModelVaultError as error:
        return type(error), str(error)


def test_reading_from_the_file_gives_what_parsing_gives(tmp_path: Path) -> None:
    paths = [*build(tmp_path / "edge").values(), *(p for p in MODELS.glob("*.onnx") if p.stat().st_size < 2**23)]
    assert len(paths) > 50
    for path in paths:
        assert outcome(open_lean, path) == outcome(OpenModel, path), path


def test_inline_weights_stay_in_the_file(tmp_path: Path) -> None:
    path = mlp(tmp_path / "m.onnx", width=512, hidden=1024)
    assert open_lean(path).model.ByteSize() < path.stat().st_size / 100


def test_raw_data_of_another_size_is_refused(tmp_path: Path) -> None:
    model = onnx.load(mlp(tmp_path / "m.onnx"))
    model.graph.initializer[0].dims[0] += 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelVaultError, match="its shape needs 133120"):
        compare(tmp_path / "m.onnx", tmp_path / "m.onnx")


def test_nodes_are_known_by_their_weights(tmp_path: Path) -> None:
    """The first of three products is gone and something follows the last: the other two are still themselves."""
    tables = dict(zip("pqr", np.random.default_rng(0).standard_normal((3, 16, 16)).astype(np.float32), strict=True))

    def save(name: str, held: str, last: str) -> Path:
        nodes = [helper.make_node("MatMul", [f"{n}", w], [f"{n + 1}"]) for n, w in enumerate(held)]
        nodes.append(helper.make_node(last, [f"{len(held)}"], ["y"]))
        nodes[0].input[0] = "x"
        x_in, y_out = ([helper.make_tensor_value_info(n, FLOAT, ["n", 16])] for n in "xy")
        graph = helper.make_graph(nodes, "g", x_in, y_out, [numpy_helper.from_array(tables[n], n) for n in held])
        onnx.save(helper.make_model(graph, ir_version=9), tmp_path / name)
        return tmp_path / name

    graph = compare(save("a.onnx", "pqr", "Abs"), save("b.onnx", "qr", "Relu")).graph
    assert graph is not None
    assert graph.pairs == ((1, 0), (2, 1))
    assert graph.removed == (0, 3)
    assert graph.added == (2,)
