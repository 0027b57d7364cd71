"""Models whose large weights stay in their file: what the graph says instead, and what is left to protobuf."""

import io
import re
from pathlib import Path
from typing import Any

import numpy
import onnx.helper
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from modelvault.errors import FileError
from modelvault.onnxfile import lean
from modelvault.onnxfile.lean import lean_file, lean_graph, open_lean

np: Any = numpy  # arrays and nodes are written here in ways that their stubs do not know
helper: Any = onnx.helper
BIG = np.arange(600, dtype=np.float32)
VALUE = helper.make_tensor_value_info


def tensor(name: str, size: int) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.UINT8, dims=[size], raw_data=bytes([len(name)]) * size)


def model(*tensors: TensorProto, nodes: Any = None, **more: Any) -> Any:
    body = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    ends = [VALUE(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(body, "g", ends[:1], ends[1:], list(tensors))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def nested() -> Any:
    """A tensor in every place that is looked into, and fields of every wire type."""
    inner = helper.make_node("Custom", ["h"], ["z"], domain="d", value=tensor("attribute", 2000), scale=0.5, count=-1)
    branch = helper.make_graph([inner], "b", [], [VALUE("z", TensorProto.FLOAT, [1])], [tensor("inner", 3000)])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch)
    return model(tensor("large", 20000), tensor("small", 9), tensor("more", 1024), nodes=[node])


def graph_of(data: bytes) -> bytes | None:
    return lean_graph(io.BytesIO(data), len(data))


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128, *varint(value >> 7)]) if value > 127 else bytes([value])


def message(field: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(body)) + body


def all_tensors(made: Any) -> list[Any]:
    attributes = [a for node in made.graph.node for a in node.attribute]
    inner = [a.g for a in attributes]
    return [*made.graph.initializer, *(t for g in inner for t in g.initializer),
            *(a.t for g in inner for node in g.node for a in node.attribute if a.HasField("t"))]  # fmt: skip


def test_large_data_becomes_its_place_in_the_file() -> None:
    made = nested()
    data = made.SerializeToString()
    graph = graph_of(data)
    assert graph is not None
    assert len(graph) < 1000
    found = ModelProto.FromString(graph)
    moved = []
    for held in all_tensors(found):
        if held.data_location == TensorProto.EXTERNAL:
            entries = {e.key: e.value for e in held.external_data}
            assert sorted(entries) == ["length", "location", "offset"]
            assert entries["location"] == "weights"
            start, length = int(entries["offset"]), int(entries["length"])
            held.ClearField("external_data")
            held.ClearField("data_location")
            held.raw_data = data[start : start + length]
            moved.append(held.name)
    assert moved == ["large", "more", "inner", "attribute"]
    assert found == made  # in everything else, too


@pytest.mark.parametrize(("size", "moved"), [(1023, False), (1024, True)])
def test_data_from_one_kibibyte_on_is_large(size: int, moved: bool) -> None:
    data = model(tensor("w", size)).SerializeToString()
    assert (graph_of(data) != data) == moved


def test_a_model_without_large_data_is_left_as_it_is() -> None:
    many = helper.make_node("Custom", ["x"], ["y"], domain="d", many=[tensor("w", 5000)])  # not looked into
    data = model(tensor("w", 100), nodes=[many], producer_name="p" * 3000).SerializeToString()
    unknown = (
        b"\x38\x05" + b"\xb9\x06" + b"\xff" * 8 + b"\xbd\x06" + b"\xff" * 4
    )  # the graph's number, but no message; 103
    for end in (b"", unknown, b"\xb8\x06" + b"\xff" * 9 + b"\x01"):
        assert graph_of(data + end) == data + end
    assert graph_of(b"") == b""


@pytest.mark.parametrize("value", [0, 1, 127, 128, 129, 16383, 16384, 2**35])
def test_numbers(value: int) -> None:
    assert lean._number(value) == varint(value)


def raw(size: int) -> bytes:
    return message(9, bytes(size))


def with_tensor(*fields: bytes) -> bytes:
    return message(7, message(5, *fields))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (with_tensor(raw(2000), b"\x70\x01"), "data_location"),
        (with_tensor(raw(2000), b"\x70\x00"), "data_location, if only to say so"),
        (with_tensor(message(13, b"")), "external data"),
        (with_tensor(raw(10), raw(2000)), "data twice"),
        (with_tensor(raw(2000), raw(2000)), "large data twice"),
        (b"\x3a\x05\x0a", "a graph that ends early"),
        (message(7, b"\x2a\x05\x4a") + bytes(20), "a tensor that ends after its graph"),
        (b"\xbd\x06" + bytes(3), "four bytes, of which three are there"),
        (b"\xb9\x06" + bytes(7), "eight bytes, of which seven are there"),
        (b"\x3a", "no length"),
        (b"\xb8", "half a tag"),
        (b"\xb8\x06" + b"\xff" * 10 + b"\x01", "a number of eleven bytes"),
        *((bytes([0xB8 | wire, 0x06]) + bytes(20), "a wire type that nothing has") for wire in (3, 4, 6, 7)),
    ],
)
def test_what_is_left_to_protobuf(data: bytes, why: str) -> None:
    assert graph_of(data) is None, why


def test_every_tensor_may_have_its_data_once() -> None:
    assert graph_of(with_tensor(raw(2000)) + with_tensor(raw(2000))) is not None


def test_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    data = nested().SerializeToString()  # model, graph, node, attribute, graph, node, attribute, tensor
    monkeypatch.setattr(lean, "MAX_DEPTH", 7)
    assert graph_of(data) is not None
    monkeypatch.setattr(lean, "MAX_DEPTH", 6)
    assert graph_of(data) is None


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(numpy_helper.from_array(BIG, "w")).SerializeToString())
    graph = lean_file(path)
    assert graph is not None
    assert graph == graph_of(path.read_bytes())
    size = path.stat().st_size
    monkeypatch.setattr(lean, "MAX_MODEL", size)
    assert lean_file(path) == graph
    monkeypatch.setattr(lean, "MAX_MODEL", size - 1)
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: larger than the limit of {size - 1} bytes$"):
        lean_file(path)
    for read in (lean_file, open_lean):
        with pytest.raises(FileError, match=rf"^{re.escape(str(tmp_path / 'none'))}: no such file or directory$"):
            read(tmp_path / "none")


def test_weights_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(
        model(numpy_helper.from_array(BIG, "w"), numpy_helper.from_array(BIG * 2, "v")).SerializeToString()
    )
    opened = open_lean(path)
    assert opened.path == path
    assert len(opened.model.SerializeToString()) < 1000
    assert [opened.read(w) for w in opened.weights] == [BIG.tobytes(), (BIG * 2).tobytes()]
    path.unlink()
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}: no such file or directory$"):
        opened.read(opened.weights[0])


def test_an_unusual_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "d").write_bytes(BIG.tobytes())
    held = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[600], data_location=TensorProto.EXTERNAL)
    held.external_data.add(key="location", value="d")
    path.write_bytes(model(numpy_helper.from_array(BIG, "v"), held).SerializeToString())
    assert lean_file(path) is None
    opened = open_lean(path)
    assert [opened.read(w) for w in opened.weights] == [BIG.tobytes()] * 2
    assert opened.external_bytes() == BIG.nbytes
