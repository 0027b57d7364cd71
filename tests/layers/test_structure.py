"""What a model computes, as a list of nodes: where every input comes from, whatever it is called."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy
import onnx.helper
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper

from modelvault.errors import ModelError
from modelvault.onnxfile import OpenModel
from modelvault.onnxfile import structure as module
from modelvault.onnxfile.structure import NONE, Node, Structure, structure

np: Any = numpy  # arrays and nodes are written here in ways that their stubs do not know
helper: Any = onnx.helper
FLOAT = TensorProto.FLOAT
VALUE = helper.make_tensor_value_info
node: Any = helper.make_node
OPSET = helper.make_opsetid


def refused(words: str) -> Any:
    return pytest.raises(ModelError, match=rf"^{re.escape(words)}$")


def graph(name: str, nodes: list[Any], inputs: Any = (), outputs: Any = (), tensors: Any = (), **more: Any) -> Any:
    ends = [[VALUE(n, FLOAT, [2]) for n in names] for names in (inputs, outputs)]
    return helper.make_graph(nodes, name, *ends, list(tensors), **more)


def read(made: ModelProto, path: str = "m") -> Structure:
    return structure(OpenModel(path, graph=made.SerializeToString()))


def main(nodes: list[Any], tensors: Any = (), outputs: Any = ("y",), functions: Any = (), **more: Any) -> Structure:
    whole = graph("g", nodes, ["x"], outputs, tensors, **more)
    return read(helper.make_model(whole, opset_imports=[OPSET("", 17)], ir_version=8, functions=list(functions)))


def data(message: Any) -> tuple[str, str]:
    return "data", hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def weight(name: str) -> TensorProto:
    return numpy_helper.from_array(np.float32([len(name)]), name)


# -- the header


def test_what_is_said_about_a_model() -> None:
    whole = graph("name", [node("Relu", ["x"], ["y"])], ["x"], ["y"])
    made = helper.make_model(whole, opset_imports=[OPSET("", 17), OPSET("own", 2)], ir_version=8)
    made.producer_name, made.producer_version, made.domain, made.model_version = "maker", "1.0", "com.example", 3
    made.doc_string = "d" * 81
    made.metadata_props.add(key="k" * 90, value="v")
    made.metadata_props.add(key="empty", value="")
    made.functions.append(helper.make_function("own", "f", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [OPSET("", 17)]))
    made.training_info.add()
    made.training_info.add()
    found = read(made)
    assert found.facts == {
        "ir_version": "8",
        "producer": "maker 1.0",
        "domain": "com.example",
        "model_version": "3",
        "doc_string": f"{'d' * 80}... ({hashlib.sha256(b'd' * 81).hexdigest()[:32]})",
        "graph": "name",
        "training graphs": "2",
        "opset ai.onnx": "17",
        "opset own": "2",
        f"metadata {'k' * 80}": "v",
        "function own::f": "1 nodes",
    }
    assert found.opsets == {"ai.onnx": 17, "own": 2}
    assert [(v.name, v.dtype, v.shape) for v in (*found.inputs, *found.outputs)] == [
        ("x", "float", (2,)),
        ("y", "float", (2,)),
    ]


def test_what_is_not_said_is_left_out() -> None:
    whole = graph("", [node("Relu", ["x"], ["y"])], ["x"], ["y"])
    assert read(ModelProto(graph=whole, producer_version="1")).facts == {"ir_version": "0", "producer": "1"}
    assert read(ModelProto(graph=whole, producer_name="p")).facts["producer"] == "p"
    assert read(ModelProto(graph=whole, doc_string="d" * 80)).facts["doc_string"] == "d" * 80


def test_types_that_nobody_knows() -> None:
    for place in ("input", "output"):
        whole = graph("g", [node("Relu", ["x"], ["y"])], ["x"], ["y"])
        (value,) = getattr(whole, place)
        value.type.tensor_type.elem_type = 99
        with refused(f"m: value {value.name!r}: unknown element type"):
            read(ModelProto(graph=whole))


# -- where values come from


def test_one_node() -> None:
    made = node("Clip", ["x", "", "w", "", ""], ["y", "", "z"], "named", b=1, a=2.5)
    found = main([made], [weight("w"), weight("unused")], outputs=["y", "z", "x", "nowhere"])
    assert found.nodes == (
        Node(
            op="Clip",
            name="named",
            attributes=(("a", "2.5"), ("b", "1")),
            inputs=(("input", 0), NONE, ("weight", 0)),
            outputs=("y", "", "z"),
            within="",
        ),
    )
    assert found.results == (("node", 0, 0), ("node", 0, 2), ("input", 0), ("unknown", "nowhere"))


def test_operators_of_other_domains() -> None:
    bodies = [node("Op", ["x"], ["y"], domain=domain) for domain in ("", "ai.onnx", "d")]
    assert [n.op for n in main(bodies).nodes] == ["Op", "Op", "d::Op"]
    assert main([node("Op", [], [])]).nodes[0].inputs == ()


def test_tensors() -> None:
    """Weights by number; what is none, by what it says, whatever it is called."""
    text = helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])
    plain = helper.make_tensor("t", TensorProto.STRING, [1], [b"x"])
    plain.ClearField("name")
    text.doc_string = "about it"
    sparse = onnx.SparseTensorProto(values=weight("s"), dims=[8])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.int64([3]), "i"))
    body = [
        node("Constant", [], ["c"], value=weight("c")), node("Constant", [], ["e"], value=text),
        node("Op", ["w", "t", "s", "c", "e"], ["y"]),
    ]  # fmt: skip
    found = main(body, [weight("w"), text], sparse_initializer=[sparse])
    nameless = onnx.SparseTensorProto()
    nameless.CopyFrom(sparse)
    nameless.values.ClearField("name")
    expected = (("weight", 0), data(plain), data(nameless), ("weight", 1), data(plain))
    assert [n.inputs for n in found.nodes] == [expected]


def test_constants() -> None:
    """One that holds a value is that value; any other is a node."""
    two = node("Constant", [], ["b"], value_int=5)
    two.attribute.append(helper.make_attribute("more", 1))
    of_function = node("Constant", [], ["d"])
    of_function.attribute.append(AttributeProto(name="value_int", ref_attr_name="n", type=AttributeProto.INT))
    body = [
        node("Constant", [], ["a"], value_int=5), two, node("Constant", [], [], value_int=5),
        node("Constant", [], ["c"]), of_function, node("Constant", [], ["e"], domain="d", value_int=5),
        node("Op", ["a", "b", "c", "d", "e"], ["y"]),
    ]  # fmt: skip
    found = main(body)
    assert [n.op for n in found.nodes] == ["Constant"] * 4 + ["d::Constant", "Op"]
    assert found.nodes[-1].inputs == (
        ("data", "value_int 5"), ("node", 0, 0), ("node", 2, 0), ("node", 3, 0), ("node", 4, 0),
    )  # fmt: skip
    assert found.nodes[3].attributes == (("value_int", "of the function: n"),)


def test_attributes_in_words() -> None:
    kind = helper.make_tensor_type_proto(FLOAT, [2])
    typed = AttributeProto(name="type", type=AttributeProto.TYPE_PROTO, tp=kind, doc_string="about it")
    made = node(
        "Op", ["x"], ["y"], i=1, f=1.0, s="s", ints=[1, 2], floats=[1.0, 2.5], strings=["a", "b"], long="z" * 81,
        many=list(range(40)), texts=["t" * 80],
    )  # fmt: skip
    made.attribute.append(typed)
    made.attribute.append(AttributeProto(name="bytes", type=AttributeProto.STRING, s=b"\xff\x00"))

    def cut(text: str) -> str:
        return f"{text[:80]}... ({hashlib.sha256(text.encode()).hexdigest()[:32]})"

    nameless = AttributeProto(type=AttributeProto.TYPE_PROTO, tp=kind)
    assert dict(main([made]).nodes[0].attributes) == {
        "i": "1",
        "f": "1.0",
        "s": '"s"',
        "ints": "[1, 2]",
        "floats": "[1.0, 2.5]",
        "strings": "[b'a', b'b']",
        "long": f'"{cut("z" * 81)}"',
        "many": cut(str(list(range(40)))),
        "texts": cut(str([b"t" * 80])),
        "type": data(nameless)[1],
        "bytes": '"\\xff\x00"',
    }


def test_tensors_of_attributes_are_inputs() -> None:
    made = node("Op", ["x"], ["y"], value=weight("v"), k=1)
    made.attribute.append(helper.make_attribute("list", [weight("one"), weight("two")]))
    (found,) = main([made], [weight("first")]).nodes
    assert found.inputs == (("input", 0), ("weight", 2), ("weight", 3), ("weight", 1))
    assert found.attributes == (("k", "1"), ("list", "(2)"), ("value", "(1)"))


def test_leaves_are_inputs() -> None:
    made = node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", target_weights=[1.0, 2.0])
    (found,) = main([made]).nodes
    assert found.inputs == (("input", 0), ("weight", 0))
    assert found.attributes == (("target_weights", "(1)"),)


# -- graphs within


def test_graphs_of_attributes() -> None:
    """Their nodes come first; what they take from outside, and their own inputs, are told apart."""
    deepest = graph("deepest", [node("Deep", ["p", "q", "x"], ["r"])], ["q"], ["r"])
    inside = graph(
        "inside",
        [node("Loop", ["p", "h"], ["s"], body=deepest)],
        ["o", "p"],
        ["s", "h", "w"],
        [weight("w")],
    )
    body = [node("First", ["x"], ["h"]), node("If", ["x"], ["y"], then_branch=inside), node("Last", ["s", "y"], ["z"])]
    found = main(body, outputs=["z"])
    assert [(n.op, n.within, n.inputs) for n in found.nodes] == [
        ("First", "", (("input", 0),)),
        ("Deep", "If.then_branch/Loop.body", (("formal", 1, 1), ("formal", 2, 0), ("input", 0))),
        ("Loop", "If.then_branch", (("formal", 1, 1), ("node", 0, 0), ("node", 1, 0))),
        ("If", "", (("input", 0), ("node", 2, 0), ("node", 0, 0), ("weight", 0))),
        ("Last", "", (("unknown", "s"), ("node", 3, 0))),
    ]
    assert found.results == (("node", 4, 0),)
    assert found.nodes[3].attributes == (("then_branch", "(3)"),)


def test_lists_of_graphs() -> None:
    made = node("Op", ["x"], ["y"])
    inner = [graph(name, [node(name, ["x"], ["r"])], [], ["r"]) for name in ("A", "B")]
    made.attribute.append(helper.make_attribute("graphs", inner))
    found = main([made])
    assert [(n.op, n.within) for n in found.nodes] == [("A", "Op.graphs"), ("B", "Op.graphs"), ("Op", "")]
    assert found.nodes[2].inputs == (("input", 0), ("node", 0, 0), ("node", 1, 0))


def function(name: str, *body: Any, **more: Any) -> Any:
    return helper.make_function("own", name, ["a", "b"], ["c", "lost"], list(body), [OPSET("", 17)], **more)


def test_functions() -> None:
    """Listed once, where they are called first; their results, and what they set, are inputs of the caller."""
    alpha = helper.make_attribute("alpha", 0.5)
    made = function("f", node("Inner", ["b", "x"], ["c"]), attribute_protos=[alpha])
    calls = [node("f", ["x"], ["h"], domain="own"), node("f", ["h"], ["y"], domain="own"), node("f", ["y"], ["z"])]
    found = main(calls, functions=[made])
    more = (("node", 0, 0), ("unknown", "lost"), data(OPSET("", 17)), data(alpha))
    assert [(n.op, n.within, n.inputs) for n in found.nodes] == [
        ("Inner", "function own::f", (("formal", 0, 1), ("unknown", "x"))),
        ("own::f", "", (("input", 0), *more)),
        ("own::f", "", (("node", 1, 0), *more)),
        ("f", "", (("node", 2, 0),)),
    ]


def test_graphs_of_functions() -> None:
    made = function("f", node("Loop", ["a"], ["c"], body=graph("body", [node("Add", ["i", "a"], ["s"])], ["i"], ["s"])))
    found = main([node("f", ["x"], ["y"], domain="own")], functions=[made])
    assert found.nodes[0].inputs == (("formal", 1, 0), ("formal", 0, 0))


def test_functions_that_call_themselves() -> None:
    made = function("f", node("g", ["a"], ["c"], domain="own")), function("g", node("f", ["a"], ["c"], domain="own"))
    with refused("m: function 'own::f' calls itself"):
        main([node("f", ["x"], ["y"], domain="own")], functions=made)


# -- limits


def test_there_is_an_end_to_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    body = [node("Relu", ["x"], [f"y{n}"]) for n in range(3)]
    monkeypatch.setattr(module, "MAX_NODES", 3)
    assert len(main(body).nodes) == 3
    monkeypatch.setattr(module, "MAX_NODES", 2)
    with refused("m: more than 2 nodes"):
        main(body)


def test_text_that_is_not_utf_8() -> None:
    with refused(f"a name in the graph is not UTF-8: {b'x' * 60!a}"):
        module.utf8(b"x" * 61)
    assert module.utf8("\N{SNOWMAN}") == "\N{SNOWMAN}"


def test_a_file(tmp_path: Path) -> None:
    whole = graph("g", [node("Relu", ["x"], ["y"])], ["x"], ["y"], [weight("w")])
    (tmp_path / "m.onnx").write_bytes(ModelProto(graph=whole, ir_version=8).SerializeToString())
    assert len(structure(OpenModel(tmp_path / "m.onnx")).nodes) == 1
