"""ONNX files taken apart: every kind of tensor in every place, consistent or not; and quantised weights as floats."""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnx.helper
import pytest
from google.protobuf.message import EncodeError
from onnx import ModelProto, TensorProto, numpy_helper

from modelvault.errors import FileError, ModelError
from modelvault.onnxfile import OpenModel, split
from modelvault.onnxfile.anonymise import anonymise
from modelvault.onnxfile.quantised import dequantised
from modelvault.onnxfile.split import parse
from modelvault.onnxfile.tensors import (
    TensorReader,
    element_type,
    elements,
    float_bytes,
    is_integer,
    set_floats,
    show,
)
from modelvault.onnxfile.walk import constants, describe, graphs, leaves, nodes, other_tensors, strip

np: Any = numpy  # arrays and nodes are written here in ways that their stubs do not know
helper: Any = onnx.helper
FLOAT, INT4, EXTERNAL = TensorProto.FLOAT, TensorProto.INT4, TensorProto.EXTERNAL
BIG = np.arange(600, dtype=np.float32).reshape(20, 30)
VALUE = helper.make_tensor_value_info
split_module: Any = sys.modules["modelvault.onnxfile.split"]


def refused(words: str, error: type[Exception] = ModelError) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(words)}$")


def model(nodes_: list[Any] | None = None, tensors: list[Any] | None = None, sparse: Any = (), **more: Any) -> Any:
    body = nodes_ or [helper.make_node("Identity", ["x"], ["y"])]
    ends = [VALUE("x", FLOAT, ["n", 8])], [VALUE("y", FLOAT, None)]
    graph = helper.make_graph(body, "main", *ends, tensors or [], sparse_initializer=list(sparse))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def stored(folder: Path, made: ModelProto) -> Path:
    (folder / "m.onnx").write_bytes(made.SerializeToString())
    return folder / "m.onnx"


def external(name: str, location: str, shape: Any = BIG.shape, dtype: int = FLOAT, **entries: Any) -> TensorProto:
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def region(taken: Any, piece: int = 2**20) -> bytes:
    views = [bytes(view) for view in taken.stream(piece)]
    assert all(views)  # none of them is empty
    return b"".join(views)


# -- one tensor


def sized(tensor: TensorProto) -> int | None:
    return TensorReader(Path("m")).size(tensor, "w")


@pytest.mark.parametrize(
    ("dtype", "dims", "size"),
    [
        (FLOAT, [], 4), (FLOAT, [0, 5], 0), (FLOAT, [2, 3], 24), (TensorProto.DOUBLE, [3], 24),
        (TensorProto.BOOL, [3], 3), (TensorProto.FLOAT16, [3], 6), (TensorProto.BFLOAT16, [3], 6),
        (TensorProto.FLOAT8E4M3FN, [3], 3), (INT4, [3], 2), (TensorProto.UINT4, [4], 2),
        (TensorProto.COMPLEX64, [1], 8),
        (TensorProto.STRING, [3], None), (FLOAT, [1] * 64, 4),
    ],
)  # fmt: skip
def test_sizes_follow_type_and_shape(dtype: int, dims: list[int], size: int | None) -> None:
    assert sized(TensorProto(data_type=dtype, dims=dims)) == size


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (TensorProto(data_type=FLOAT, dims=[1], segment=TensorProto.Segment(begin=0)),
         "segmented tensors are not supported"),
        (TensorProto(data_type=FLOAT, dims=[-1]), "impossible shape"),
        (TensorProto(data_type=FLOAT, dims=[1] * 65), "impossible shape"),
        (TensorProto(data_type=0, dims=[1]), "unknown data type 0"),
        (TensorProto(data_type=999, dims=[1]), "unknown data type 999"),
        (TensorProto(data_type=FLOAT, dims=[2], raw_data=bytes(7)), "raw_data has 7 bytes, its shape needs 8"),
        (TensorProto(data_type=FLOAT, dims=[2], raw_data=bytes(8), data_location=EXTERNAL),
         "has both external and inline data"),
        (TensorProto(data_type=FLOAT, dims=[2], float_data=[1], data_location=EXTERNAL),
         "has both external and inline data"),
        (TensorProto(data_type=FLOAT, dims=[2], string_data=[b"x"], data_location=EXTERNAL),
         "has both external and inline data"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be(tensor: TensorProto, words: str) -> None:
    with refused(f"m: tensor 'w': {words}"):
        sized(tensor)


def test_inline_data() -> None:
    reader = TensorReader(Path("m"))
    assert reader.data(TensorProto(data_type=FLOAT, dims=[1], raw_data=b"abcd"), 4, "w") == b"abcd"
    assert reader.data(helper.make_tensor("w", FLOAT, [2], [1.0, 2.0]), 8, "w") == np.float32([1, 2]).tobytes()
    half = helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.0, -2.0])
    assert reader.data(half, 4, "w") == np.float16([1, -2]).tobytes()
    packed = helper.make_tensor("w", INT4, [3], [1, 2, 3])
    packed.ClearField("raw_data")
    packed.int32_data.extend([0x21, 0x03])
    assert reader.data(packed, 2, "w") is None  # packed elements in a typed field stay where they are
    with refused("m: tensor 'w': inconsistent data: cannot reshape array of size 1 into shape (2,)"):
        reader.data(TensorProto(data_type=FLOAT, dims=[2], float_data=[1]), 8, "w")
    with pytest.raises(ModelError) as long:  # a shape of many dimensions is cut
        reader.data(TensorProto(data_type=FLOAT, dims=[1000] * 64, float_data=[1]), 8, "w")
    start = "inconsistent data: "
    assert len(str(long.value).partition(start)[2]) == 200
    with refused("m: tensor 'w': data has 8 bytes, its shape needs 9"):
        reader.data(helper.make_tensor("w", FLOAT, [2], [1.0, 2.0]), 9, "w")


def test_names_in_messages_are_short_and_printable() -> None:
    assert show("w\n\u202e") == r"'w\n\u202e'"
    assert show("n" * 70) == repr("n" * 60)
    assert TensorReader(Path("a/m.onnx")).where("w") == "a/m.onnx: tensor 'w'"


def test_lists_of_floats() -> None:
    attribute = helper.make_attribute("target_weights", [1.5, -2.0])
    assert float_bytes(attribute) == np.float32([1.5, -2]).tobytes()
    set_floats(attribute, np.float32([7]).tobytes())
    assert list(attribute.floats) == [7.0]


@pytest.mark.parametrize(
    ("dtype", "array"),
    [
        ("FLOAT", np.float32([1.5, -2])), ("FLOAT16", np.float16([1.5])), ("DOUBLE", np.float64([1.5])),
        ("INT8", np.int8([-1])), ("UINT8", np.uint8([255])), ("INT64", np.int64([-(2**40)])),
        ("BOOL", np.array([True, False])),
    ],
)  # fmt: skip
def test_numbers_in_a_tensor_s_bytes(dtype: str, array: Any) -> None:
    found = elements(dtype, array.tobytes())
    assert found is not None
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    assert element_type(dtype) == array.dtype


def test_numbers_of_four_bits() -> None:
    data = bytes([0x21, 0xF8])
    for dtype, numbers in (("UINT4", [1, 2, 8, 15]), ("INT4", [1, 2, -8, -1])):
        found = elements(dtype, bytearray(data))
        assert found is not None
        assert (found.dtype, found.tolist()) == (np.int8, numbers)


@pytest.mark.parametrize(
    "dtype",
    ["STRING", "COMPLEX64", "COMPLEX128", "UNDEFINED", "NOTHING", "FLOAT4E2M1", "INT2", "UINT2"],
)
def test_elements_that_are_no_real_numbers_of_whole_bytes(dtype: str) -> None:
    assert element_type(dtype) is None
    assert elements(dtype, bytes(16)) is None


def test_whole_numbers_by_name() -> None:
    whole = ("INT8", "INT4", "UINT64", "UINT2", "BOOL")
    assert [d for d in (*whole, "FLOAT", "BFLOAT16", "STRING", "COMPLEX64") if is_integer(d)] == list(whole)


# -- external data


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (external("w", "d", offset=-1), "external_data.offset: expected a number, got '-1'"),
        (external("w", "d", offset="1" * 19), f"external_data.offset: expected a number, got {'1' * 19!r}"),
        (external("w", "d", length="x"), "external_data.length: expected a number, got 'x'"),
        (external("w", "d", length=2399), "external_data.length: 2399 bytes, its shape needs 2400"),
        (external("w", "d", offset=1), "external_data: ends at byte 2401 of 2400"),
        (external("w", "d", colour="red"), "external_data: unknown key 'colour'"),
        (external("w", "../d"), "external_data.location: '../d': path leaves its folder through '..'"),
        (external("w", "none"), "external_data.location: none: no such file or directory"),
        (
            TensorProto(name="w", data_type=FLOAT, dims=[600], data_location=EXTERNAL),
            "external_data.location: empty path",
        ),
        (external("w", "m.onnx"), "external_data.location: is the model file itself"),
        (external("w", "link"), "external_data.location: is the model file itself"),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, tensor: TensorProto, words: str) -> None:
    (tmp_path / "d").write_bytes(BIG.tobytes())
    path = stored(tmp_path, model(tensors=[tensor]))
    (tmp_path / "link").hardlink_to(path)
    with refused(f"{path}: tensor 'w': {words}"):
        split(path)
    opened = OpenModel(path)
    with refused(f"{path}: tensor 'w': {words}"):
        opened.read(opened.weights[0])


def test_a_key_given_twice(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(BIG.tobytes())
    tensor = external("w", "d")
    tensor.external_data.add(key="location", value="d")
    path = stored(tmp_path, model(tensors=[tensor]))
    with refused(f"{path}: tensor 'w': external_data: a key is repeated"):
        split(path)


def test_external_weights_are_streamed(tmp_path: Path) -> None:
    """Two files, two tensors of one range, a gap, an edit of some: the region holds each range once, in file order."""
    (tmp_path / "b.bin").write_bytes(b"-" * 100 + BIG.tobytes() + b"-" * 60 + (2 * BIG).tobytes() + b"tail")
    (tmp_path / "a.bin").write_bytes((3 * BIG).tobytes())
    tensors = [
        external("one", "b.bin", offset=100),
        external("twin", "b.bin", offset=100, length=2400, checksum="x"),
        external("two", "./b.bin", offset=2560),
        external("three", "a.bin"),
        numpy_helper.from_array(np.arange(257, dtype=np.float32), "odd"),
        numpy_helper.from_array(4 * BIG, "inline"),
        numpy_helper.from_array(np.float32([1]), "small"),
        external("short", "a.bin", shape=[2]),
        external("shorter", "./sub/c.bin", shape=[1], offset=4),
        external("shortest", "sub//c.bin", shape=[1]),
    ]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.bin").write_bytes(np.float32([8, 9]).tobytes())
    path = stored(tmp_path, model(tensors=tensors))
    for piece in (64, 999, 2400, 2**20):
        taken = split(path)
        data, places = region(taken, piece), {t.name: t for t in taken.tensors}
        assert len(data) == taken.region
        assert [s.path for s in taken.sources] == ["m.onnx", "a.bin", "b.bin", "sub/c.bin"]
        assert [s.size for s in taken.sources] == [path.stat().st_size, 2400, 100 + 4800 + 64, 8]
        assert (places["odd"].offset, places["inline"].offset) == (0, 1088)
        for name, factor in (("one", 1), ("twin", 1), ("two", 2), ("three", 3), ("inline", 4)):
            at = places[name].offset
            assert at % 64 == 0
            assert (places[name].dtype, places[name].shape, places[name].length) == ("FLOAT", (20, 30), 2400)
            assert data[at : at + 2400] == (factor * BIG).tobytes(), name
        assert places["one"].offset == places["twin"].offset
        assert "small" not in places
        names = [s.path for s in taken.sources]
        assert taken.source_digests() == {n: hashlib.sha256((tmp_path / n).read_bytes()).digest() for n in names}
    graph = onnx.load_from_string(split(path, keep_docs=True).graph)
    kept = {t.name: t for t in graph.graph.initializer}
    assert numpy_helper.to_array(kept["short"]).tolist() == [0, 3]
    assert [numpy_helper.to_array(kept[name]).tolist() for name in ("shorter", "shortest")] == [[9], [8]]
    entries = {e.key: e.value for e in kept["one"].external_data}
    assert entries == {"location": "weights", "offset": str(places["one"].offset), "length": "2400"}


def test_what_is_read_is_not_gathered(tmp_path: Path) -> None:
    """Without an edit, a weight's bytes go on as they are read, so that memory does not grow with it."""
    (tmp_path / "d").write_bytes(bytes(50) + BIG.tobytes())
    path = stored(tmp_path, model(tensors=[external("w", "d", offset=50)]))
    for edit, first in ((None, 950), (lambda *_: None, 1000)):
        assert len(next(iter(split(path, edit=edit).stream(1000)))) == first


@pytest.mark.parametrize(("count", "moved"), [(255, False), (256, True)])
def test_weights_from_one_kibibyte_on_are_moved(tmp_path: Path, count: int, moved: bool) -> None:
    numbers = np.arange(count, dtype=np.float32)
    for tensor in (numpy_helper.from_array(numbers, "w"), helper.make_tensor("w", FLOAT, [count], numbers)):
        taken = split(stored(tmp_path, model(tensors=[tensor])))
        assert [t.name for t in taken.tensors] == ["w"] * moved
        assert region(taken) == numbers.tobytes() * moved
        assert taken.region == numbers.nbytes * moved
    path = stored(tmp_path, model(tensors=[TensorProto(name="w", data_type=FLOAT, dims=[300], float_data=[1])]))
    words = f"{path}: tensor 'w': inconsistent data: cannot reshape array of size 1 into shape (300,)"
    for read in (split, OpenModel):
        with refused(words):
            read(path)
    path.write_bytes(b"")
    for read in (split, OpenModel):
        with refused(f"{path}: not an ONNX model (no graph)"):
            read(path)


def test_a_constant_without_an_output_goes_by_its_node(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], [], "node", value=numpy_helper.from_array(BIG, "c"))
    (place,) = split(stored(tmp_path, model([node]))).tensors
    assert place.name == "node"


def test_what_split_says_of_a_model(tmp_path: Path) -> None:
    looked: list[bytes] = []
    made = everywhere()
    path = stored(tmp_path, made)
    taken = split(path, look=looked.append)
    assert looked == [path.read_bytes()]
    assert [(v.name, v.dtype, v.shape) for v in taken.inputs] == [("x", "float", ("n", 8))]
    assert [(v.name, v.dtype, v.shape) for v in taken.outputs] == [("y", "float", ())]
    assert b"secret" not in taken.graph
    assert b"named" not in taken.graph
    kept = split(path, keep_docs=True).graph
    assert b"secret" in kept
    assert b"named" in kept
    for values in (made.graph.input, made.graph.output):
        values[0].type.tensor_type.elem_type = 99
        with refused(f"{stored(tmp_path, made)}: value {values[0].name!r}: unknown element type"):
            split(path)
        values[0].type.tensor_type.elem_type = FLOAT


def test_edits_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(BIG.tobytes() + (2 * BIG).tobytes() + np.float32([5, 6]).tobytes())
    trees = helper.make_node("TreeEnsembleRegressor", ["x"], ["t"], domain="ai.onnx.ml", target_weights=[1.0, 2.0])
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(3 * BIG, "c"))
    tensors = [
        external("one", "d"), external("twin", "d"), external("two", "d", offset=2400),
        external("short", "d", shape=[2], offset=4800), numpy_helper.from_array(np.float32([7]), "small"),
        helper.make_tensor("words", TensorProto.STRING, [1], [b"x"]),
        numpy_helper.from_array(np.float32([3, 4]), "pair"),
    ]  # fmt: skip
    packed = TensorProto(name="packed", data_type=INT4, dims=[3], int32_data=[0x21, 0x03])
    large = TensorProto(name="large", data_type=INT4, dims=[4096], int32_data=[0] * 2048)
    path = stored(tmp_path, model([trees, constant], [*tensors, packed, large]))
    seen: list[tuple[str, tuple[int, ...]]] = []

    def double(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes | None:
        seen.append((dtype, shape))
        return None if shape == (1,) else (np.frombuffer(data, "<f4") * 2).tobytes()

    taken = split(path, keep_docs=True, edit=double)
    for piece in (100, 2**20):
        data, places = region(taken, piece), {t.name: t for t in taken.tensors}
        for name, factor in (("one", 2), ("twin", 2), ("two", 4), ("c", 6)):
            assert data[places[name].offset :][:2400] == (factor * BIG).tobytes()
    graph = onnx.load_from_string(taken.graph).graph
    kept = {t.name: t for t in graph.initializer}
    assert numpy_helper.to_array(kept["short"]).tolist() == [10, 12]
    assert numpy_helper.to_array(kept["small"]).tolist() == [7]
    assert numpy_helper.to_array(kept["pair"]).tolist() == [6, 8]
    assert seen.count(("FLOAT", (2,))) == 3
    assert kept["packed"] == packed
    assert kept["large"] == large
    assert kept["words"].string_data == [b"x"]
    assert next(a for n in graph.node for a in n.attribute if a.name == "target_weights").floats == [2, 4]
    assert seen.count(("FLOAT", (20, 30))) == 5  # c; and one and two, which are read for each of two streams
    assert ("INT4", (3,)) not in seen


def test_an_edit_that_changes_nothing(tmp_path: Path) -> None:
    trees = helper.make_node("TreeEnsembleRegressor", ["x"], ["t"], domain="ai.onnx.ml", target_weights=[1.0])
    (tmp_path / "d").write_bytes(BIG.tobytes())
    path = stored(tmp_path, model([trees], [external("w", "d"), numpy_helper.from_array(2 * BIG, "v")]))
    plain, edited = split(path), split(path, edit=lambda *_: None)
    assert (edited.graph, region(edited)) == (plain.graph, region(plain))


def test_files_that_change_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(BIG.tobytes())
    path = stored(tmp_path, model(tensors=[external("w", "d")]))
    taken = split(path)
    (tmp_path / "d").write_bytes(BIG.tobytes() + b"x")
    with refused(f"{tmp_path / 'd'}: changed while the model was being read"):
        region(taken)
    (tmp_path / "d").write_bytes(BIG.tobytes())
    reader = OpenModel(path)
    assert reader.read(reader.weights[0]) == BIG.tobytes()
    (tmp_path / "d").write_bytes(BIG.tobytes()[:-4])
    with refused(f"file ended at byte {BIG.nbytes - 4} while it was being read", FileError):
        reader.read(reader.weights[0])


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").write_bytes(b"----" + BIG.tobytes())
    opened = OpenModel(stored(tmp_path, model(tensors=[external("w", "d", offset=4)])))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 100), at))
    assert opened.read(opened.weights[0]) == BIG.tobytes()


def test_overlaps_and_names_used_twice(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(bytes(4800))
    path = stored(tmp_path, model(tensors=[external("a", "d"), external("b", "d", offset=2396)]))
    with refused(f"{path}: external data overlaps in d at byte 2396"):
        split(path)
    sparse = onnx.SparseTensorProto(values=numpy_helper.from_array(np.float32([1]), "w"), dims=[8])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.int64([3]), "i"))
    tensors = [numpy_helper.from_array(np.float32([1]), name) for name in ("v", "w")]
    path = stored(tmp_path, model(tensors=tensors, sparse=[sparse]))
    with refused(f"{path}: two initializers are named 'w'"):
        split(path)


def test_what_cannot_be_taken_into_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").write_bytes(BIG.tobytes())
    words = "cannot be taken into the graph from external data"
    path = stored(tmp_path, model(tensors=[external("s", "d", dtype=TensorProto.STRING)]))
    with refused(f"{path}: tensor 's': {words}"):
        split(path)
    node = helper.make_node("Custom", ["x"], ["y"], domain="d")
    node.attribute.append(helper.make_attribute("a", external("a", "d")))
    path = stored(tmp_path, model([node]))
    assert BIG.tobytes() in split(path).graph
    monkeypatch.setattr(split_module, "MAX_GRAPH", 2399)
    with refused(f"{path}: tensor 'a': {words}"):
        split(path)
    monkeypatch.setattr(split_module, "MAX_GRAPH", 2400)  # the tensor alone would fit
    with pytest.raises(ModelError, match=r"the graph without its large weights has \d+ bytes, above 2400$"):
        split(path)


def test_graphs_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, model())
    size = len(split(path).graph)
    monkeypatch.setattr(split_module, "MAX_GRAPH", size)
    split(path)
    monkeypatch.setattr(split_module, "MAX_GRAPH", size - 1)
    with refused(f"{path}: the graph without its large weights has {size} bytes, above {size - 1}"):
        split(path)


class TooLarge:
    """What protobuf does with a message above 2 GiB, which is too much for a test to build."""

    def SerializeToString(self, deterministic: bool) -> bytes:
        raise EncodeError("Failed to serialize proto")


def test_messages_above_protobuf_s_limit(tmp_path: Path) -> None:
    path = stored(tmp_path, model())
    with refused("m: the graph without its large weights is above protobuf's limit"):
        split_module._serialise(TooLarge(), Path("m"))
    opened = OpenModel(path)
    opened.model = TooLarge()  # type: ignore[assignment]
    with refused(f"{path}: the model is above protobuf's limit of 2 GiB"):
        opened.save(tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out").exists()


# -- the whole model


def test_files_that_are_no_model() -> None:
    graph = helper.make_graph([], "g", [], [])
    for data, words in (
        (b"\xff", "not an ONNX model (protobuf does not parse)"),
        (b"", "not an ONNX model (no graph)"),
        (helper.make_model(graph).SerializeToString(), "not an ONNX model (no graph)"),
        (ModelProto(graph=model().graph, ir_version=onnx.IR_VERSION + 1).SerializeToString(),
         f"ir_version {onnx.IR_VERSION + 1} is newer than this onnx reads ({onnx.IR_VERSION})"),
    ):  # fmt: skip
        with refused(f"m: {words}"):
            parse(data, "m")
    known = onnx.defs.onnx_opset_version()
    for domain in ("", "ai.onnx"):
        late = helper.make_model(model().graph, opset_imports=[helper.make_opsetid(domain, known + 1)])
        with refused(f"m: opset {known + 1} is newer than this onnx reads ({known})"):
            parse(late.SerializeToString(), "m")
    other = helper.make_model(model().graph, opset_imports=[helper.make_opsetid("mine", known + 1)])
    assert parse(other.SerializeToString(), "m").graph.name == "main"
    outputs = helper.make_model(helper.make_graph([], "g", [], [VALUE("y", FLOAT, [1])]))
    assert parse(outputs.SerializeToString(), "m").graph.output[0].name == "y"


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (lambda m: m, "producer_name"), (lambda m: m.opset_import[1], "domain"), (lambda m: m.graph, "name"),
        (lambda m: m.graph.node[0], "name"), (lambda m: m.graph.input[0], "name"),
        (lambda m: m.metadata_props[0], "key"),
        (lambda m: m.graph.initializer[0], "name"), (lambda m: m.graph.initializer[0], "doc_string"),
        (lambda m: m.graph.initializer[0].external_data[0], "key"),
        (lambda m: m.graph.initializer[0].external_data[1], "value"),
        (lambda m: m.graph.initializer[0].metadata_props[0], "value"),
    ],
)  # fmt: skip
def test_text_that_is_not_utf_8(place: Any, field: str) -> None:
    tensor = external("w", "d", offset="0")
    tensor.metadata_props.add(key="k", value="v")
    tensor.doc_string = "d"
    made = model(tensors=[tensor], producer_name="p")
    made.opset_import.add(domain="d", version=1)
    made.metadata_props.add(key="k", value="v")
    assert parse(made.SerializeToString(), "m") == made
    setattr(place(made), field, "NOTUTF8")
    with refused("m: not an ONNX model (text that is not UTF-8)"):
        parse(made.SerializeToString().replace(b"NOTUTF8", b"\xff" * 7), "m")


def test_lists_of_texts_that_are_not_utf_8() -> None:
    made = model([helper.make_node("Identity", ["x", "NOTUTF8"], ["y"])])
    with refused("m: not an ONNX model (text that is not UTF-8)"):
        parse(made.SerializeToString().replace(b"NOTUTF8", b"\xff" * 7), "m")


def everywhere() -> Any:
    """A model with a tensor in every place: initializers, constants, attributes, subgraphs, functions, training."""

    def tensor(name: str) -> TensorProto:
        return numpy_helper.from_array(np.float32([len(name)]), name)

    def sparse(name: str) -> onnx.SparseTensorProto:
        return onnx.SparseTensorProto(values=tensor(name), indices=numpy_helper.from_array(np.int64([0]), name + "-i"))

    def graph(name: str, outer: str = "h") -> Any:
        inner = helper.make_node("Custom", [outer], [name, ""], domain="d", value=tensor(name + "-attribute"))
        return helper.make_graph([inner], name, [], [VALUE(name, FLOAT, [1])], [tensor(name + "-initializer")])

    body = [
        helper.make_node("Constant", [], ["c"], value=tensor("constant")),
        helper.make_node("Constant", [], ["d"], sparse_value=sparse("sparse constant")),
        helper.make_node("Custom", ["x", "c"], ["h"], "named", domain="d", doc_string="secret"),
        helper.make_node("If", ["h"], ["y"], then_branch=graph("then"), else_branch=graph("else")),
    ]
    attributes = (
        ("one", tensor("one")), ("many", [tensor("many 1"), tensor("many 2")]), ("sparse", sparse("sparse")),
        ("sparses", [sparse("sparse 1")]), ("graphs", [graph("graphs")]),
    )  # fmt: skip
    for name, value in attributes:
        body[2].attribute.append(helper.make_attribute(name, value))
    branching = helper.make_node("If", ["p"], ["q"], value=tensor("function"), branch=graph("inner", "p"))
    function = helper.make_function("d", "f", ["p"], ["q"], [branching], [helper.make_opsetid("", 17)])
    function.value_info.append(VALUE("p", FLOAT, [1]))
    return model(body, [tensor("initializer")], [sparse("sparse initializer")], functions=[function])


def test_every_tensor_is_found() -> None:
    made = everywhere()
    found = [t.name for t in other_tensors(made)]
    branches = [f"{b}-{kind}" for b in ("then", "else", "graphs", "inner") for kind in ("attribute", "initializer")]
    pairs = [n + end for n in ("sparse constant", "sparse", "sparse 1", "sparse initializer") for end in ("", "-i")]
    assert sorted(found) == sorted(["one", "many 1", "many 2", "function", *branches, *pairs])
    assert sorted(g.name for g in graphs(made)) == ["else", "graphs", "inner", "main", "then"]
    assert [n.op_type for n in nodes(made)].count("Custom") == 5
    training = made.training_info.add()
    training.initialization.name, training.algorithm.name = "i", "a"
    training.algorithm.initializer.add(name="trained")
    assert next(graphs(made)).name == "main"
    assert sorted(g.name for g in graphs(made)) == ["a", "else", "graphs", "i", "inner", "main", "then"]
    assert "trained" in [t.name for t in other_tensors(made)]


def test_notes_are_stripped_everywhere() -> None:
    made = everywhere()

    def write(message: Any) -> int:
        count = 0
        for descriptor in message.DESCRIPTOR.fields:
            if descriptor.name == "doc_string":
                message.doc_string = "/home/someone/train.py"
                count += 1
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                for item in [value] if hasattr(value, "ListFields") else value:
                    count += write(item)
        return count

    assert write(made) > 50
    made.metadata_props.add(key="author", value="acme")
    strip(made)
    assert b"/home/someone" not in made.SerializeToString()
    assert made.metadata_props[0].value == "acme"


def test_names_go_from_everywhere() -> None:
    made = everywhere()
    made.graph.value_info.append(VALUE("h", FLOAT, [1]))
    made.graph.value_info.append(VALUE("nowhere", FLOAT, [1]))  # a name that nothing defines stays
    made.graph.node[2].input.append("nowhere")
    made.graph.quantization_annotation.add(tensor_name="nowhere")
    made.functions[0].output.append("nowhere")
    made.functions[0].input.append("")
    made.graph.node[3].attribute[0].g.initializer.add(name="y")  # hides the model's output: it is another value
    made.functions[0].value_info.append(VALUE("nowhere", FLOAT, [1]))
    note = made.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="initializer")
    note.quant_parameter_tensor_names.add(key="ZERO_POINT_TENSOR", value="elsewhere")
    fields = [[f.name for f, _ in a.ListFields()] for n in nodes(made) for a in n.attribute]
    anonymise(made)
    assert [[f.name for f, _ in a.ListFields()] for n in nodes(made) for a in n.attribute] == fields
    names = {made.graph.name, *(n for node in nodes(made) for n in [node.name, *node.input, *node.output])}
    assert names <= {"", "g", "x", "y", "nowhere", *(f"v{n}" for n in range(40))}
    assert {graph.name for graph in graphs(made)} == {"g"}
    assert [v.name for v in [*made.graph.input, *made.graph.output]] == ["x", "y"]
    assert made.graph.node[2].input[0] == "x"
    assert made.graph.node[3].output == ["y"]
    inner = made.graph.node[3].attribute[0].g.node[0]
    assert inner.input == made.graph.node[2].output
    assert inner.output[1] == ""
    assert made.graph.node[2].input[2] == made.graph.value_info[1].name == made.functions[0].output[1] == "nowhere"
    assert made.functions[0].value_info[1].name == "nowhere"
    assert made.graph.quantization_annotation[0].tensor_name == "nowhere"
    note = made.graph.quantization_annotation[1]
    assert note.tensor_name == made.graph.value_info[0].name == made.graph.node[2].output[0]
    assert note.quant_parameter_tensor_names[0].value == made.graph.initializer[0].name
    assert note.quant_parameter_tensor_names[1].value == "elsewhere"
    function = made.functions[0]
    assert function.input == [function.value_info[0].name, ""]
    assert function.node[0].input == function.input[:1]
    assert made.graph.node[3].attribute[0].g.initializer[1].name in {f"v{n}" for n in range(40)}
    assert function.node[0].output[0] == function.output[0]
    assert not [t.name for t in other_tensors(made) if "attribute" in t.name]


def test_training_models_keep_their_names() -> None:
    made = everywhere()
    made.training_info.add()
    before = made.SerializeToString()
    anonymise(made)
    assert made.SerializeToString() == before


def test_constants_are_onnx_s_own() -> None:
    value = numpy_helper.from_array(BIG, "c")
    body = [
        helper.make_node("Constant", [], ["a"], value=value),
        helper.make_node("Constant", [], ["b"], domain="ai.onnx", value=value),
        helper.make_node("Constant", [], ["c"], domain="d", value=value),
        helper.make_node("Other", [], ["d"], value=value),
        helper.make_node("Constant", [], ["e"], more=value),
        helper.make_node("Constant", [], ["f"], value=[1.0]),
    ]
    made = model(body)
    assert [node.output[0] for node, _ in constants(made.graph)] == ["a", "b"]
    assert len(list(other_tensors(made))) == 3


def test_descriptions() -> None:
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    cases: list[tuple[Any, str, tuple[Any, ...]]] = [
        (helper.make_tensor_type_proto(FLOAT, ["n", 8, None]), "float", ("n", 8, None)),
        (helper.make_tensor_type_proto(TensorProto.INT64, None), "int64", ()),
        (sequence, "sequence(float)", ()),
        (helper.make_optional_type_proto(sequence), "optional(sequence(float))", ()),
        (helper.make_map_type_proto(TensorProto.INT64, sequence), "map", ()),
        (onnx.TypeProto(), "unknown", ()),
    ]
    for kind, words, shape in cases:
        found = describe(helper.make_value_info("v", kind), "m")
        assert (found.name, found.dtype, found.shape) == ("v", words, shape)
    with refused("m: value 'v': unknown element type"):
        describe(VALUE("v", 99, []), "m")


def test_leaves_of_trees() -> None:
    def tree(op: str, **lists: list[float]) -> Any:
        return helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", **lists)

    made = model(
        [
            tree("TreeEnsembleRegressor", target_weights=[1.0, 2.0], nodes_values=[3.0]),
            tree("TreeEnsembleClassifier", class_weights=[4.0], target_weights=[5.0]),
        ]
    )
    assert [list(a.floats) for _, a in leaves(made)] == [[1, 2], [4]]


# -- a model whose tensors are read and replaced one by one


def opened_everywhere(tmp_path: Path) -> Path:
    (tmp_path / "d").write_bytes(BIG.tobytes() + (2 * BIG).tobytes())
    body = [
        helper.make_node("Constant", [], ["c"], "named", value=numpy_helper.from_array(np.float32([1]), "k")),
        helper.make_node("Custom", ["x", "w"], ["y"], "custom", domain="d",
                         value=numpy_helper.from_array(np.float32([2]), "t")),
        helper.make_node("MatMul", ["y", "w"], ["z"], domain="d"),
        helper.make_node("TreeEnsembleRegressor", ["z"], ["t"], domain="ai.onnx.ml", target_weights=[3.0, 4.0]),
    ]  # fmt: skip
    body[1].attribute.append(helper.make_attribute("many", [numpy_helper.from_array(np.float32([5]), "")]))
    tensors = [
        external("w", "d"), external("twin", "d"), external("two", "d", offset=2400),
        helper.make_tensor("i", FLOAT, [1], [6.0]), helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]),
        TensorProto(name="packed", data_type=INT4, dims=[2], int32_data=[0x21]),
        TensorProto(name="none", data_type=FLOAT, dims=[0]),
    ]  # fmt: skip
    return stored(tmp_path, model(body, tensors))


def test_weights_of_a_model(tmp_path: Path) -> None:
    opened = OpenModel(opened_everywhere(tmp_path))
    found = [(w.name, w.shape, w.size, sorted(w.uses)) for w in opened.weights]
    assert found == [
        ("w", (20, 30), 2400, ["Custom:1", "MatMul:1"]),
        ("twin", (20, 30), 2400, []),
        ("two", (20, 30), 2400, []),
        ("i", (1,), 4, []),
        ("none", (0,), 0, []),
        ("c", (1,), 4, []),
        ("custom.value", (1,), 4, []),
        ("custom.many", (1,), 4, []),
        ("TreeEnsembleRegressor.target_weights", (2,), 8, ["TreeEnsembleRegressor:leaves"]),
    ]
    assert [w.number for w in opened.weights] == list(range(9))
    assert {w.dtype for w in opened.weights} == {"FLOAT"}
    data = [np.frombuffer(opened.read(w), "<f4") for w in opened.weights]
    assert [d.tolist() for d in data[3:]] == [[6], [], [1], [2], [5], [3, 4]]
    assert [d.tobytes() for d in data[:3]] == [BIG.tobytes(), BIG.tobytes(), (2 * BIG).tobytes()]
    assert opened.external_bytes() == 3 * 2400


@pytest.mark.parametrize("whole", [False, True])
def test_a_copy_with_every_tensor_edited(tmp_path: Path, whole: bool) -> None:
    opened, out = OpenModel(opened_everywhere(tmp_path)), tmp_path / "out" / "copy.onnx"
    out.parent.mkdir()

    def edit(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes | None:
        assert dtype == "FLOAT"
        return None if shape == (2,) else (np.frombuffer(data, "<f4") + 1).tobytes()

    if whole:
        out.write_bytes(opened.to_bytes(edit))
    else:
        opened.save(out, edit)
    copy = OpenModel(out)
    data = [np.frombuffer(copy.read(w), "<f4") for w in copy.weights]
    assert [d.tolist() for d in data[3:]] == [[7], [], [2], [3], [6], [3, 4]]
    assert [d.tobytes() for d in data[:3]] == [(BIG + 1).tobytes()] * 2 + [(2 * BIG + 1).tobytes()]
    files = sorted(p.name for p in out.parent.iterdir())
    if whole:
        assert files == ["copy.onnx"]
        assert copy.external_bytes() == 0
    else:
        assert files == ["copy.onnx", "copy.onnx.data"]
        assert (out.parent / "copy.onnx.data").stat().st_size == 2432 + 2400  # one range once, each on 64 bytes


def test_external_copies_are_aligned(tmp_path: Path) -> None:
    weights = np.arange(1400, dtype=np.float32)
    (tmp_path / "d").write_bytes(weights.tobytes())
    halves = [external("a", "d", [700]), external("b", "d", [700], offset=2800)]
    seen: list[Any] = []
    OpenModel(stored(tmp_path, model(tensors=halves))).save(tmp_path / "copy", lambda *given: seen.append(given[:2]))
    assert seen == [("FLOAT", (700,))] * 2
    copy = OpenModel(tmp_path / "copy")
    assert [copy.read(w) for w in copy.weights] == [weights[:700].tobytes(), weights[700:].tobytes()]
    assert (tmp_path / "copy.data").stat().st_size == 2816 + 2800


def test_a_copy_of_inline_weights_is_one_file(tmp_path: Path) -> None:
    opened = OpenModel(stored(tmp_path, model(tensors=[numpy_helper.from_array(BIG, "w")])))
    opened.save(tmp_path / "copy", lambda *_: None)
    assert not (tmp_path / "copy.data").exists()
    assert OpenModel(tmp_path / "copy").read(opened.weights[0]) == BIG.tobytes()


def test_weights_in_memory(tmp_path: Path) -> None:
    taken = split(opened_everywhere(tmp_path), keep_docs=True)
    memory = memoryview(region(taken))
    opened = OpenModel("sealed", graph=taken.graph, region=memory)
    by_name = {w.name: w for w in opened.weights}
    assert opened.read(by_name["two"]) == (2 * BIG).tobytes()
    assert opened.read(by_name["w"]) == BIG.tobytes()
    first = model(tensors=[external("w", "weights")]).SerializeToString()  # without an offset: from the start
    opened = OpenModel("sealed", graph=first, region=memoryview(BIG.tobytes()))
    assert opened.read(opened.weights[0]) == BIG.tobytes()
    for length in (2399, 2401):
        wrong = model(tensors=[external("w", "weights", length=length)]).SerializeToString()
        opened = OpenModel("sealed", graph=wrong, region=memoryview(bytes(3000)))
        with refused(f"sealed: tensor 'w': data has {length} bytes, its shape needs 2400"):
            opened.read(opened.weights[0])
    short = OpenModel("sealed", graph=taken.graph, region=memory[:-1])
    with refused("sealed: tensor 'two': ends beyond the weights region"):
        short.read(by_name["two"])


# -- quantised weights


def floats(path: Path) -> dict[str, Any]:
    found = [(name, shape, read()) for name, shape, read in dequantised(OpenModel(path))]
    assert all((values.dtype, values.shape) == (np.float32, shape) for _, shape, values in found)
    assert len({name for name, _, _ in found}) == len(found)
    return {name: values for name, _, values in found}


def init(name: str, array: Any) -> TensorProto:
    return numpy_helper.from_array(array, name)


INTEGERS = np.arange(12, dtype=np.int8).reshape(3, 4) - 6
PAIRS = np.arange(1, 7).reshape(3, 2)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_dequantised_by_tensor_row_and_block(tmp_path: Path, kind: Any) -> None:
    def node(name: str, *more: str, **attributes: int) -> Any:
        return helper.make_node("DequantizeLinear", ["w", *more], [name], **attributes)

    body = [
        node("tensor", "s"), node("tensor zero", "s", "z"), node("columns", "s4"), node("rows", "s3", "z3", axis=0),
        node("last", "s4", axis=-1), node("blocks", "s32", axis=1, block_size=2), node("no scale", "none"),
        helper.make_node("DequantizeLinear", ["s", "s"], ["no integers"]), node("integer scale", "z"),
        node("blocks zero", "s32", "z32", block_size=2), node("part of a block", "s32", block_size=3),
        node("one block", "s31", block_size=2**40), node("columns, block unused", "s4", block_size=2),
        helper.make_node("DequantizeLinear", ["list", "s4"], ["list by element"], axis=0),
        helper.make_node("DequantizeLinear", ["list", "s4"], ["list by itself"]),
        helper.make_node("DequantizeLinear", ["z", "s"], ["scalar"]),
        helper.make_node("DequantizeLinear", ["z", "s11"], ["scalar by a table of one"]),
        helper.make_node("DequantizeLinear", ["w", "s"], []),
    ]  # fmt: skip
    tensors = [
        init("w", INTEGERS), init("s", kind(0.5)), init("z", np.int8(2)), init("s4", kind([1, 2, 4, 8])),
        init("s3", kind([1, 2, 4])), init("z3", np.int8([0, 1, 2])), init("s32", kind(PAIRS)),
        init("z32", np.int8(PAIRS)), init("s31", kind([[1], [2], [4]])), init("list", INTEGERS[0]),
        init("s11", kind([[0.5]])),
    ]  # fmt: skip
    found = floats(stored(tmp_path, model(body, tensors)))
    values = INTEGERS.astype(np.float32)
    expected = {
        "tensor": values * 0.5,
        "tensor zero": (values - 2) * 0.5,
        "columns": values * [1, 2, 4, 8],
        "rows": (values - [[0], [1], [2]]) * [[1], [2], [4]],
        "last": values * [1, 2, 4, 8],
        "blocks": values * np.repeat(PAIRS, 2, axis=1),
        "blocks zero": (values - np.repeat(PAIRS, 2, axis=1)) * np.repeat(PAIRS, 2, axis=1),
        "part of a block": values * np.repeat(PAIRS, 3, axis=1)[:, :4],
        "one block": values * [[1], [2], [4]],
        "columns, block unused": values * [1, 2, 4, 8],
        "list by element": values[0] * [1, 2, 4, 8],
        "list by itself": values[0] * [1, 2, 4, 8],
        "scalar": np.array(1),
        "scalar by a table of one": np.array(1),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_scales_that_do_not_fit(tmp_path: Path) -> None:
    body = [
        helper.make_node("DequantizeLinear", ["w", "s3"], ["y"]),
        helper.make_node("DequantizeLinear", ["w", "s36"], ["z"], block_size=1),
        helper.make_node("DequantizeLinear", ["w", "s33"], ["one block too many"], block_size=2),
        helper.make_node("DequantizeLinear", ["w", "s33"], ["no blocks"]),
        helper.make_node("DequantizeLinear", ["w", "s33"], ["negative"], block_size=-2),
        helper.make_node("DequantizeLinear", ["scalar", "s3"], ["a number"]),
        helper.make_node("MatMulInteger", ["x", "scalar", "", "z3"], ["product"]),
    ]
    tensors = [
        init("w", INTEGERS), init("s3", np.float32([1, 2, 3])), init("s36", np.ones((3, 6), np.float32)),
        init("s33", np.ones((3, 3), np.float32)), init("scalar", np.int8(1)), init("z3", np.int8([1, 2, 3])),
    ]  # fmt: skip
    path = stored(tmp_path, model(body, tensors))
    readers = {name: read for name, _, read in dequantised(OpenModel(path))}
    names = ["y", "z", "one block too many", "no blocks", "negative", "a number", "scalar less its zero point"]
    assert list(readers) == names
    for name in names:
        with refused(f"{path}: tensor {name!r}: scale or zero point of another shape"):
            readers[name]()


def test_integer_products(tmp_path: Path) -> None:
    """A product's weights less their zero point; scales belong to the result and are left out."""
    conv = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    body = [
        helper.make_node("MatMulInteger", ["x", "w", "", "z4"], ["a"]),
        helper.make_node("ConvInteger", ["x", "k", "", "zk"], ["b"]),
        helper.make_node("MatMulInteger", ["x", "w2"], ["no zero point"]),
        helper.make_node("QLinearMatMul", ["x", "", "", "w3", "", "z", "", ""], ["c"]),
        helper.make_node("MatMulInteger", ["x", "none", "", "z"], ["no weight"]),
        helper.make_node("MatMulInteger", ["x", "w", "", "z4"], ["again"]),
        helper.make_node("MatMulInteger", ["x", "w2", "", "f"], ["zero point of floats"]),
    ]
    tensors = [
        init("w", INTEGERS), init("z4", np.int8([0, 1, 2, 3])), init("k", conv), init("zk", np.uint8([1, 3])),
        init("w2", INTEGERS), init("w3", INTEGERS), init("z", np.int8(1)), init("f", np.float32(1)),
    ]  # fmt: skip
    found = floats(stored(tmp_path, model(body, tensors)))
    assert set(found) == {f"{n} less its zero point" for n in ("w", "k", "w3")}
    assert np.array_equal(found["w less its zero point"], INTEGERS - np.float32([0, 1, 2, 3]))
    assert np.array_equal(found["k less its zero point"], conv.astype(np.float32) - np.float32([[[1]], [[3]]]))
    assert np.array_equal(found["w3 less its zero point"], INTEGERS - np.float32(1))


def nibbles(numbers: Any) -> Any:
    flat = np.asarray(numbers, np.uint8).reshape(-1, 2)
    return flat[:, 0] | (flat[:, 1] << 4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_numbers_packed_in_blocks(tmp_path: Path, bits: int, zero: bool, kind: Any) -> None:
    rows, columns, block, count = 2, 20, 16, 2
    numbers = np.random.default_rng(1).integers(0, 2**bits, (rows, count, block))
    packed = nibbles(numbers).reshape(rows, count, 8) if bits == 4 else numbers.astype(np.uint8)
    scale = kind([[1, 2], [0.5, 4]])
    points = np.array([[3, 5], [7, 9]])
    zeros = nibbles(points) if bits == 4 else points.astype(np.uint8)
    inputs = ["x", "q", "s", *(["z"] if zero else [])]
    settings = {"N": rows, "K": columns, "block_size": block, **({"bits": 8} if bits == 8 else {})}  # 4 goes unsaid
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **settings)
    path = stored(tmp_path, model([node], [init("q", packed), init("s", scale), init("z", zeros)]))
    (found,) = dequantised(OpenModel(path))
    assert found[:2] == ("q", (rows, columns))
    middle = points[:, :, None] if zero else 2 ** (bits - 1)
    expected = ((numbers - middle) * scale[:, :, None]).reshape(rows, -1)[:, :columns]
    values = found[2]()
    assert (values.dtype, values.flags.c_contiguous) == (np.float32, True)
    assert np.array_equal(values, expected)


def test_zero_points_of_an_odd_count_of_blocks(tmp_path: Path) -> None:
    """Each row of them fills whole bytes: three of four bits stand in two."""
    node = helper.make_node("MatMulNBits", ["x", "q", "s", "z"], ["y"], N=2, K=6, block_size=2)
    zeros = nibbles([[1, 2, 3, 9], [4, 5, 6, 9]])
    tensors = [init("q", np.zeros((2, 3, 1), np.uint8)), init("s", np.ones(6, np.float32)), init("z", zeros)]
    found = floats(stored(tmp_path, model([node], tensors)))
    assert found["q"].tolist() == [[-1, -1, -2, -2, -3, -3], [-4, -4, -5, -5, -6, -6]]


def test_blocks_of_one_number(tmp_path: Path) -> None:
    node = helper.make_node("MatMulNBits", ["x", "q", "s"], ["y"], N=1, K=2, block_size=1)
    tensors = [init("q", nibbles([9, 7])), init("s", np.float32([2, 3]))]
    assert floats(stored(tmp_path, model([node], tensors)))["q"].tolist() == [[2, -3]]


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 3}, {"block_size": 0}, {"block_size": -16}, {"N": 0}, {"K": 0}, {"N": 3}, {"K": 40}, {"N": 2**40},
        {"q": np.zeros((2, 2, 8), np.int8)}, {"s": np.ones(3, np.float32)}, {"s": np.ones(4, np.float64)},
        {"inputs": ["x", "q"]}, {"bits": 3, "q": np.zeros(24, np.uint8)}, {"N": -2, "K": -20},
        {"N": None}, {"K": None}, {"block_size": None},
        {"N": 0, "q": np.zeros(0, np.uint8), "s": np.ones(0, np.float32)},
        {"K": 0, "q": np.zeros(0, np.uint8), "s": np.ones(0, np.float32)},
        {"N": None, "q": np.zeros(16, np.uint8), "s": np.ones(2, np.float32)},
        {"K": None, "q": np.zeros(16, np.uint8), "s": np.ones(2, np.float32)},
        {"block_size": None, "q": np.zeros(20, np.uint8), "s": np.ones(40, np.float32)},
        {"N": 1, "K": 3, "block_size": 1, "q": np.zeros(1, np.uint8), "s": np.ones(3, np.float32)},
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_passed_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "N": 2, "K": 20, "bits": 4, "block_size": 16, "q": np.zeros((2, 2, 8), np.uint8), "s": np.ones(4, np.float32),
        "inputs": ["x", "q", "s"], **changes,
    }  # fmt: skip
    attributes = {k: given[k] for k in ("N", "K", "bits", "block_size") if given[k] is not None}
    node = helper.make_node("MatMulNBits", given["inputs"], ["y"], domain="com.microsoft", **attributes)
    path = stored(tmp_path, model([node], [init("q", given["q"]), init("s", given["s"])]))
    assert list(dequantised(OpenModel(path))) == []


def test_a_table_that_rows_are_picked_from(tmp_path: Path) -> None:
    body = [
        helper.make_node("Gather", ["w", "x"], ["picked"]),
        helper.make_node("DequantizeLinear", ["picked", "s"], ["y"]),
        helper.make_node("Resize", ["w", "x"], ["not picked"]),
        helper.make_node("DequantizeLinear", ["not picked", "s"], ["z"]),
        helper.make_node("Gather", [], ["from nothing"]),
        helper.make_node("Gather", ["w", "x"], []),
        helper.make_node("Gather", ["x", "w"], ["from an input"]),
    ]
    found = floats(stored(tmp_path, model(body, [init("w", INTEGERS), init("s", np.float32(2))])))
    assert set(found) == {"y"}
    assert np.array_equal(found["y"], INTEGERS.astype(np.float32) * 2)
