"""What ONNX says of a model, and the few facts about messages that are found beside it."""

from typing import Any

import numpy
import onnx.helper
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from modelvault.onnxfile.checking import complaint, hidden_bytes, is_external, small_numbers, undecodable

np: Any = numpy  # arrays and nodes are written here in ways that their stubs do not know
helper: Any = onnx.helper
FLOAT = TensorProto.FLOAT
VALUE = helper.make_tensor_value_info


def external(name: str) -> TensorProto:
    held = TensorProto(name=name, data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    held.external_data.add(key="location", value="nowhere")
    return held


def model(body: Any = None, tensors: Any = (), shape: Any = ("n",)) -> Any:
    ends = [VALUE("x", FLOAT, shape)], [VALUE("y", FLOAT, shape)]
    graph = helper.make_graph(body or [helper.make_node("Relu", ["x"], ["y"])], "g", *ends, list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_nothing_to_complain_about() -> None:
    body = [
        helper.make_node("Constant", [], ["c"], value=external("c")),
        helper.make_node("ConstantOfShape", ["x"], ["d"], value=external("d")),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    made = model(body, [external("w"), numpy_helper.from_array(np.float32([1]), "v")], shape=None)
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, None)
    made.graph.input.append(sequence)
    before = made.SerializeToString()
    assert complaint(made) is None
    assert made.SerializeToString() == before


def test_the_first_line_of_a_complaint() -> None:
    made = model()
    made.graph.node[0].op_type = "Nothing\N{SNOWMAN}"
    found = complaint(made)
    assert found is not None
    assert found.startswith("No Op registered for Nothing")
    assert (found.isascii(), "\n" in found) == (True, False)
    made = model(tensors=[TensorProto(name="w", data_type=FLOAT, dims=[2])])  # inline, and not there
    assert "w" in str(complaint(made))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("\n first\nsecond"), "first"),
        (RuntimeError("x" * 400), "x" * 300),
        (RuntimeError("\N{SNOWMAN}"), r"\u2603"),
        (KeyError(), "KeyError"),
    ],
)
def test_complaints_are_one_line(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(data: bytes) -> None:
        ModelProto.FromString(data)
        raise error

    monkeypatch.setattr(onnx.checker, "check_model", check)
    assert complaint(model()) == words


def test_fields_that_onnx_does_not_define() -> None:
    made = model()
    assert hidden_bytes(made) == 0
    hidden = ModelProto.FromString(made.SerializeToString() + b"\xba\x06\x03abc")  # field 103
    hidden.graph.MergeFromString(b"\xba\x06\x01a")
    assert hidden_bytes(hidden) == 6 + 4
    assert b"abc" in hidden.SerializeToString()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: None, None),
        (lambda m: setattr(m, "producer_name", "NOTUTF8"), "producer_name"),
        (lambda m: setattr(m.graph, "doc_string", "NOTUTF8"), "doc_string"),
        (lambda m: m.graph.node[0].input.append("NOTUTF8"), "input"),
        (lambda m: setattr(m.graph.node[0], "op_type", "NOTUTF8"), "op_type"),
        (lambda m: m.metadata_props.add(key="k", value="NOTUTF8"), "value"),
        (lambda m: m.graph.initializer.add(name="w", raw_data=b"NOTUTF8"), None),
        (lambda m: m.graph.node[0].attribute.add(name="a", strings=[b"NOTUTF8"]), None),
    ],
)
def test_text_that_is_not_utf_8(change: Any, field: str | None) -> None:
    made = model()
    change(made)
    assert undecodable(ModelProto.FromString(made.SerializeToString().replace(b"NOTUTF8", b"\xff" * 7))) == field


@pytest.mark.parametrize(
    ("held", "values"),
    [
        (helper.make_tensor("w", FLOAT, [2, 2], [1.5, -2, 0, 4]), (1.5, -2, 0, 4)),
        (helper.make_tensor("w", TensorProto.INT64, [], [7]), (7,)),
        (helper.make_tensor("w", TensorProto.BOOL, [2], [True, False]), (1, 0)),
        (helper.make_tensor("w", FLOAT, [0], []), ()),
        (helper.make_tensor("w", FLOAT, [1] * 8, [3]), (3,)),
        (helper.make_tensor("w", FLOAT, [1] * 9, [3]), None),
        (numpy_helper.from_array(np.zeros(4096, np.int8)), (0,) * 4096),
        (numpy_helper.from_array(np.zeros(4097, np.int8)), None),
        (TensorProto(data_type=FLOAT, dims=[-1, -1], float_data=[1]), None),
        (TensorProto(data_type=FLOAT, dims=[-1], float_data=[1]), None),
        (TensorProto(data_type=FLOAT, dims=[3], float_data=[1]), None),
        (helper.make_tensor("w", TensorProto.STRING, [1], [b"x"]), None),
        (helper.make_tensor("w", TensorProto.BFLOAT16, [1], [1.0]), None),
        (external("w"), None),
    ],
)
def test_small_tensors(held: TensorProto, values: tuple[float, ...] | None) -> None:
    assert small_numbers(held) == values


def test_external_data() -> None:
    assert is_external(external("w")) is True
    assert is_external(TensorProto()) is False
