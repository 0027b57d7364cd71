"""Attributes, tensors and files that exporters seldom write: each counts, and none is taken for another."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from watermark.models import mlp

from modelvault.cli.main import main
from modelvault.diff import compare, graphs
from modelvault.errors import FormatError, ModelVaultError
from modelvault.onnxfile import structure
from modelvault.onnxfile.lean import open_lean
from modelvault.onnxfile.tensors import elements
from modelvault.tensorfile import read_tensors

FLOAT = onnx.TensorProto.FLOAT


def node_model(path: Path, *nodes: onnx.NodeProto, weights: list[onnx.TensorProto] | None = None) -> Path:
    x, y = ([helper.make_tensor_value_info(n, FLOAT, ["n"])] for n in "xy")
    graph = helper.make_graph(list(nodes), "g", x, y, weights or [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def custom(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Odd", ["x"], ["y"], domain="com.example", **attributes)


VALUES: list[Any] = [
    1, 2, 1.0, "1", "2", [1], [1, 2], [1.0], ["1"], ["1", "2"], ["1, 2"], "[1]", "x" * 81, "x" * 82, [1] * 60, [1] * 61,
    np.float32(1), numpy_helper.from_array(np.ones(3)), numpy_helper.from_array(np.ones(4)),
    helper.make_sparse_tensor(helper.make_tensor("v", 1, [1], [2.0]), helper.make_tensor("i", 7, [1], [0]), [4]),
    helper.make_tensor_type_proto(1, [2]), helper.make_tensor_type_proto(1, [3]),
]  # fmt: skip


def attribute(value: Any) -> onnx.NodeProto:
    node = custom()
    node.attribute.append(helper.make_attribute("a", value))
    return node


def test_no_two_attributes_are_the_same(tmp_path: Path) -> None:
    values = [v for v in VALUES if not isinstance(v, np.float32)]  # the same attribute as 1.0
    paths = [node_model(tmp_path / f"{n}.onnx", attribute(v)) for n, v in enumerate(values)]
    found = [graphs._results(s.graph, graphs._digests(s), exact=True) for s in map(side, paths)]
    assert len(set(found)) == len(values)


def side(path: Path) -> Any:
    return compare(path, path).a


def constant(value: Any, name: str) -> list[onnx.NodeProto]:
    made = helper.make_node("Constant", [], ["c"])
    made.attribute.append(helper.make_attribute(name, value))
    return [made, helper.make_node("Odd", ["x", "c"], ["y"], domain="com.example")]


def test_no_two_constants_are_the_same(tmp_path: Path) -> None:
    kinds = [(5, "value_int"), (5.0, "value_float"), ("5", "value_string"), ([5], "value_ints"), ([6], "value_ints")]
    found = []
    for number, (value, name) in enumerate(kinds):
        path = node_model(tmp_path / f"{number}.onnx", *constant(value, name))
        assert compare(path, path).verdict.word == "identical"
        found.append(path)
    for path in found[1:]:
        assert compare(found[0], path).verdict.word == "different-architecture"


def test_tensors_of_text_are_part_of_the_function(tmp_path: Path) -> None:
    def save(name: str, labels: list[str]) -> Path:
        tensor = helper.make_tensor("labels", onnx.TensorProto.STRING, [2], [s.encode() for s in labels])  # type: ignore[misc]
        node = helper.make_node("Odd", ["x", "labels"], ["y"], domain="com.example")
        return node_model(tmp_path / name, node, weights=[tensor])

    a = save("a.onnx", ["yes", "no"])
    assert compare(a, save("b.onnx", ["no", "yes"])).verdict.word == "different-architecture"
    assert compare(a, save("c.onnx", ["yes", "no"])).verdict.word == "identical"


def test_there_is_an_end_to_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_NODES", 5)
    with pytest.raises(ModelVaultError, match="more than 5 nodes"):
        compare(mlp(tmp_path / "m.onnx"), tmp_path / "m.onnx")


def test_far_too_many_nodes_are_matched_without_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = mlp(tmp_path / "m.onnx")
    model = onnx.load(source)
    model.graph.node[0].input[1] = "w1"  # the first node, and so the hashes of all below, are others
    model.graph.output[0].name = "a1"
    onnx.save(model, tmp_path / "n.onnx")
    found = []
    for limit in (graphs.IN_ORDER, 0):
        monkeypatch.setattr(graphs, "IN_ORDER", limit)
        graph = compare(source, tmp_path / "n.onnx").graph
        assert graph is not None
        found.append((len(graph.pairs), graph.removed, graph.added))
    assert found[0] == found[1] == (6, (), ())


def test_a_field_given_twice_is_left_to_protobuf(tmp_path: Path) -> None:
    """Two raw_data fields in one tensor: the last counts."""
    first, last = (np.full(1024, v, np.float32).tobytes() for v in (1, 2))
    tensor = onnx.TensorProto(name="w", dims=[1024], data_type=FLOAT, raw_data=first).SerializeToString()
    tensor += onnx.TensorProto(raw_data=last).SerializeToString()
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.load(node_model(tmp_path / "m.onnx", node)).graph.SerializeToString()
    graph += b"\x2a" + varint(len(tensor)) + tensor
    model = onnx.ModelProto(ir_version=9, opset_import=[helper.make_opsetid("", 17)]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(model + b"\x3a" + varint(len(graph)) + graph)
    opened = open_lean(tmp_path / "m.onnx")
    assert opened.read(opened.weights[0]) == last


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128, *varint(value >> 7)]) if value > 127 else bytes([value])


@pytest.mark.parametrize(
    "broken", [b"\x3a", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x3b\x01", b"\x3d\x01"]
)
def test_a_broken_wire_is_named_by_protobuf(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(broken)
    with pytest.raises(ModelVaultError, match="protobuf does not parse"):
        open_lean(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("dtype", "data", "values"),
    [
        ("INT4", b"\xf8\x07", [-8, -1, 7, 0]),
        ("UINT4", b"\xf8", [8, 15]),
        ("BFLOAT16", b"\x80\x3f", [1.0]),
        ("FLOAT8E4M3FN", b"\x38", [1.0]),
        ("BOOL", b"\x00\x01", [0, 1]),
        ("UINT64", b"\xff" * 8, [2**64 - 1]),
        ("STRING", b"", None),
        ("COMPLEX64", bytes(8), None),
        ("NO SUCH TYPE", bytes(8), None),
    ],
)
def test_elements_of_every_kind(dtype: str, data: bytes, values: list[float] | None) -> None:
    found = elements(dtype, data)
    assert (None if found is None else found.tolist()) == values


def test_arrays_that_are_no_numbers_are_compared_as_bytes(tmp_path: Path) -> None:
    odd = {"complex": np.array([1j, 2]), "text": np.array(["a", "b"]), "big": np.ones(3, ">f4")}
    np.savez(tmp_path / "a.npz", **odd, allow_pickle=False)
    np.savez(tmp_path / "b.npz", **(odd | {"text": np.array(["a", "c"])}), allow_pickle=False)
    assert compare(tmp_path / "a.npz", tmp_path / "a.npz").verdict.word == "identical"
    found = compare(tmp_path / "a.npz", tmp_path / "b.npz")
    assert {t.a.name: (t.same, t.change) for t in found.tensors if not t.same} == {"text": (False, None)}
    assert found.verdict.changed == 1
    (big,) = [t for t in read_tensors(tmp_path / "a.npz") or [] if t.name == "big"]
    assert big.read() == np.ones(3, "<f4").tobytes()


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", p=np.array([{"a": 1}], object))
    (tensor,) = read_tensors(tmp_path / "p.npz") or []
    assert tensor.dtype == "numpy |O"
    assert b"NUMPY" in tensor.read()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', "its shape needs 8"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99]}}', "within 8 bytes"),
        ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "expected counts"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', "x"),
        ('{"a":[]}', "expected an object"),
    ],
)
def test_safetensors_that_contradict_themselves(tmp_path: Path, header: str, words: str) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(FormatError, match=words):
        read_tensors(path)


def test_numbers_beyond_doubles(tmp_path: Path) -> None:
    huge = np.array([1e300, 1e300])
    np.savez(tmp_path / "a.npz", allow_pickle=False, w=huge)
    np.savez(tmp_path / "b.npz", allow_pickle=False, w=-huge)
    (tensor,) = compare(tmp_path / "a.npz", tmp_path / "b.npz").tensors
    change = tensor.change
    assert change is not None
    assert change.relative == np.inf
    assert change.cosine == 0


def test_tables_without_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mlp(tmp_path / "m.onnx")
    np.savez(tmp_path / "w.npz", w=np.ones(200, np.float32))
    arguments = ["diff", str(tmp_path / "m.onnx"), str(tmp_path / "w.npz")]
    for more in ([], ["--json"], ["--html", str(tmp_path / "p.html")]):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, *more])
        assert exit_.value.code == 35
    out = capsys.readouterr().out
    assert "not compared: a file holds tensors alone" in out
    assert '"graph": null' in out
    assert "Not compared: a file holds tensors alone." in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize("name", [b"Softmax", b"axis", b"w0", b"mlp"])
def test_names_that_are_no_text(tmp_path: Path, name: bytes) -> None:
    """Protobuf's Python hands such names on as bytes."""
    source = mlp(tmp_path / "m.onnx")
    (tmp_path / "b.onnx").write_bytes(source.read_bytes().replace(name, b"\xff" * len(name)))
    with pytest.raises(ModelVaultError, match="not UTF-8"):
        compare(source, tmp_path / "b.onnx")
