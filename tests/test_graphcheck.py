"""The wire-format walk finds exactly the external references that onnx's own parser finds, however they are spelt."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from edge_models import CASES, build
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from modelvault.errors import FormatError
from modelvault.graphcheck import check_sealed_graph


def references(message: Any) -> Iterator[dict[str, str]]:
    """Every tensor's external_data in a parsed message, by reflection over all fields."""
    if message.DESCRIPTOR.name == "TensorProto" and message.external_data:
        yield {e.key: e.value for e in message.external_data}
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from references(item)


def allowed(data: bytes, region: int) -> bool:
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return all(entry.get("location", "weights") == "weights" for entry in references(model))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in build(tmp_path_factory.mktemp("graphs")).items()}


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"truncated"}))
def test_agrees_with_onnx(graphs: dict[str, bytes], name: str) -> None:
    ours = True
    try:
        check_sealed_graph(graphs[name], 10**6, "m")
    except FormatError as error:
        ours = "outside the sealed model" not in str(error)
    assert ours == allowed(graphs[name], 10**6)


def tensor(location: str, **more: str) -> TensorProto:
    result = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        result.external_data.add(key=key, value=value)
    return result


def everywhere(t: TensorProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """A model for each place where a tensor can stand."""
    graph = helper.make_graph([], "g", [], [], [t])
    dense = TensorProto(name="i", data_type=TensorProto.INT64, dims=[0])
    sparse = onnx.SparseTensorProto(values=t, indices=dense, dims=[8])
    attributes = [
        helper.make_attribute("a", t),
        helper.make_attribute("a", [t, t]),
        helper.make_attribute("a", graph),
        helper.make_attribute("a", [graph, graph]),
        helper.make_attribute("a", sparse),
    ]
    yield "initializer", helper.make_model(graph)
    yield "sparse", helper.make_model(helper.make_graph([], "g", [], [], sparse_initializer=[sparse]))
    for number, attribute in enumerate(attributes):
        node = helper.make_node("Custom", [], ["y"], domain="d")
        node.attribute.append(attribute)
        yield f"attribute {number}", helper.make_model(helper.make_graph([node], "g", [], []))
        function = helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 17)])
        yield f"function {number}", helper.make_model(helper.make_graph([], "g", [], []), functions=[function])
    training = helper.make_model(helper.make_graph([], "g", [], []))
    training.training_info.add().algorithm.CopyFrom(graph)
    yield "training", training


@pytest.mark.parametrize("place", [name for name, _ in everywhere(tensor("x"))])
def test_every_place_of_a_tensor(place: str) -> None:
    good, bad = dict(everywhere(tensor("weights", offset="0", length="32"))), dict(everywhere(tensor("secret")))
    check_sealed_graph(good[place].SerializeToString(), 32, "m")
    with pytest.raises(FormatError, match="outside the sealed model"):
        check_sealed_graph(bad[place].SerializeToString(), 32, "m")
    with pytest.raises(FormatError, match="beyond the weights region"):
        check_sealed_graph(good[place].SerializeToString(), 31, "m")


def test_fields_given_twice_are_merged_as_protobuf_does() -> None:
    """A singular field that appears twice is merged: the last key of an entry wins, and entries add up."""
    good = helper.make_model(helper.make_graph([], "g", [], [], [tensor("weights")])).SerializeToString()
    bad = helper.make_model(helper.make_graph([], "g", [], [], [tensor("secret")])).SerializeToString()
    with pytest.raises(FormatError, match="outside"):
        check_sealed_graph(good + bad, 32, "m")
    entry = b"\x0a\x08location" + b"\x12\x07weights" + b"\x12\x06secret"
    inside = b"\x6a" + bytes([len(entry)]) + entry
    initializer = b"\x2a" + bytes([len(inside)]) + inside
    model = b"\x3a" + bytes([len(initializer)]) + initializer
    assert not allowed(model, 32)
    with pytest.raises(FormatError, match="outside"):
        check_sealed_graph(model, 32, "m")


def test_a_location_given_twice() -> None:
    twice = tensor("weights")
    twice.external_data.add(key="location", value="secret")
    with pytest.raises(FormatError, match="twice"):
        check_sealed_graph(helper.make_model(helper.make_graph([], "g", [], [], [twice])).SerializeToString(), 32, "m")


BASE = helper.make_model(helper.make_graph([], "g", [], [], [tensor("weights"), tensor("weights")])).SerializeToString()


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(BASE) - 1), st.integers(1, 255), st.binary(max_size=6))
def test_what_onnx_would_read_elsewhere_is_refused(at: int, mask: int, extra: bytes) -> None:
    """Mutations: whatever still parses and names another file must not pass."""
    data = BASE[:at] + bytes([BASE[at] ^ mask]) + extra + BASE[at + 1 :]
    try:
        fine = allowed(data, 32)
    except Exception:
        fine = True  # onnx does not parse it: nothing can be read through it
    if not fine:
        with pytest.raises(FormatError):
            check_sealed_graph(data, 32, "m")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_pass_or_are_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        check_sealed_graph(b"location" + data, 32, "m")


def test_nesting_is_bounded(tmp_path: Path) -> None:
    data = b"\x6a\x0a\x0a\x08location"
    for _ in range(150):  # attribute.g -> graph.node -> node.attribute -> ...
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            length, size = len(data), b""
            while length >= 0x80:
                size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
            data = tag + size + bytes([length]) + data
    with pytest.raises(FormatError):
        check_sealed_graph(b"\x3a" + data, 32, "m")
