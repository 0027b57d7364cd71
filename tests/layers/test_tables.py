"""The index, the inputs' envelopes and a watermark's commitment: strict both ways."""

import json
import re
from typing import Any

import pytest

from modelvault.commitment import Commitment
from modelvault.envelopes import InputEnvelope, TensorEnvelope
from modelvault.errors import FormatError
from modelvault.index import MAX_ASSETS, FileEntry, Index, TensorPlace

OWNER = "SHA256:" + "A" * 43
DIGEST = "0f" * 32


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def an_index(**changes: Any) -> Index:
    values: dict[str, Any] = {
        "region": 100,
        "sources": (FileEntry(path="m.onnx", size=7, sha256=bytes(32)),),
        "assets": (FileEntry(path="a/b.txt", size=0, sha256=bytes([255] * 32)),),
        "weights": {"FLOAT": 64},
        **changes,
    }
    return Index(**values)


def entry(**changes: Any) -> dict[str, Any]:
    return {"path": "p", "sha256": DIGEST, "size": 1, **changes}


def contents(**changes: Any) -> bytes:
    value = {"assets": [], "region": 100, "sources": [], "weights": {}, **changes}
    return json.dumps({k: v for k, v in value.items() if v is not ...}).encode()


def place(**changes: Any) -> dict[str, Any]:
    return {"dtype": "FLOAT", "length": 60, "name": "w", "offset": 40, "shape": [3, 5], **changes}


def test_an_index_is_two_lines() -> None:
    tensor = TensorPlace(name="w", dtype="FLOAT", shape=(3, 5), offset=40, length=60)
    guard = InputEnvelope(inputs=(TensorEnvelope(name="x", dtype="float32", shape=((1, 4),), values=(-1.0, 2.5)),))
    index = an_index(guard=guard, tensors=(tensor,))
    first, second, rest = index.to_bytes().split(b"\n")
    assert rest == b""
    assert json.loads(first) == {
        "assets": [{"path": "a/b.txt", "sha256": "ff" * 32, "size": 0}],
        "guard": [{"dtype": "float32", "name": "x", "shape": [[1, 4]], "values": [-1.0, 2.5]}],
        "region": 100,
        "sources": [{"path": "m.onnx", "sha256": "00" * 32, "size": 7}],
        "weights": {"FLOAT": 64},
    }
    assert json.loads(second) == [place()]
    assert Index.from_bytes(first, "i", table=second) == index
    assert Index.from_bytes(first, "i") == an_index(guard=guard)
    plain = an_index()
    assert set(json.loads(plain.to_bytes().split(b"\n")[0])) == {"assets", "region", "sources", "weights"}
    assert Index.from_bytes(plain.to_bytes().split(b"\n")[0], "i", table=b"[]") == plain


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"region": -1}, f"i.region: expected 0 to {2**63 - 1}, got -1"),
        ({"sources": ...}, "i.sources: missing"),
        ({"sources": [entry(size=-1)]}, f"i.sources[0].size: expected 0 to {2**63 - 1}, got -1"),
        ({"sources": [entry(), entry(path="../x")]}, "i.sources[1].path: '../x': path leaves its folder through '..'"),
        ({"assets": [entry(path="/etc/passwd")]}, "i.assets[0].path: '/etc/passwd': absolute path"),
        ({"assets": [entry(sha256="0f")]}, "i.assets[0].sha256: expected 64 hex digits"),
        ({"assets": [entry(x=1)]}, "i.assets[0]: unknown key 'x'"),
        ({"assets": [entry(), entry()]}, "i.assets: two assets of one path"),
        ({"assets": [1] * (MAX_ASSETS + 1)}, "i.assets: more than 60000 items"),
        ({"sources": [1] * (MAX_ASSETS + 1)}, "i.sources: more than 60000 items"),
        ({"weights": {"FLOAT": "1"}}, "i.weights.FLOAT: expected an integer, got str"),
        ({"weights": []}, "i.weights: expected an object, got list"),
        ({"guard": [1]}, "i.guard[0]: expected an object, got int"),
        ({"colour": 1}, "i: unknown key 'colour'"),
    ],
)
def test_contents_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with refused(words):
        Index.from_bytes(contents(**changes), "i")


def test_lines_that_are_no_json() -> None:
    with refused("i: not valid JSON: expecting value"):
        Index.from_bytes(b"", "i")
    with refused("i.tensors: not valid JSON: expecting value"):
        Index.from_bytes(contents(), "i", table=b"")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "i.tensors: expected a list of at most 1000000 tensors"),
        ([1], "i.tensors[0]: expected an object, got int"),
        ([place(), place(shape=[-1])], "i.tensors[1].shape: expected counts"),
        ([place(shape=[True])], "i.tensors[0].shape: expected counts"),
        ([place(shape=[1] * 65)], "i.tensors[0].shape: more than 64 items"),
        ([place(dtype="F" * 33)], "i.tensors[0].dtype: longer than 32 characters"),
        ([place(name="n" * 65537)], "i.tensors[0].name: longer than 65536 characters"),
        ([place(offset=101)], "i.tensors[0].offset: expected 0 to 100, got 101"),
        ([place(length=101)], "i.tensors[0].length: expected 0 to 100, got 101"),
        ([place(length=61)], "i.tensors[0]: ends beyond the weights region"),
        ([place(x=1)], "i.tensors[0]: unknown key 'x'"),
        ([1] * 1_000_000, "i.tensors[0]: expected an object, got int"),
        ([1] * 1_000_001, "i.tensors: expected a list of at most 1000000 tensors"),
    ],
)
def test_tables_that_are_refused(table: Any, words: str) -> None:
    with refused(words):
        Index.from_bytes(contents(), "i", table=json.dumps(table).encode())


def test_the_largest_values_of_a_table() -> None:
    rows = [place(shape=[0] * 64, dtype="F" * 32, name="n" * 65536), place(offset=100, length=0)]
    assert len(Index.from_bytes(contents(), "i", table=json.dumps(rows).encode()).tensors) == 2


def an_input(**changes: Any) -> dict[str, Any]:
    value = {"name": "x", "dtype": "float32", "shape": [[1, 4], [0, 0]], "values": [-1, 2.5], **changes}
    return {k: v for k, v in value.items() if v is not ...}


def test_inputs_round_trip() -> None:
    found = InputEnvelope.from_list([an_input(), an_input(name="y", values=...)], "g")
    assert found.inputs[0].shape == ((1, 4), (0, 0))
    assert found.inputs[0].values == (-1.0, 2.5)
    assert type(found.inputs[0].values[0]) is float
    assert found.inputs[1].values is None
    assert found.to_list() == [an_input(), an_input(name="y", values=...)]
    assert InputEnvelope.from_list([an_input(shape=[[1, 1]] * 32, values=[3, 3])], "g").inputs[0].values == (3, 3)
    assert len(InputEnvelope.from_list([an_input(name=str(n)) for n in range(1024)], "g").inputs) == 1024


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([an_input()] * 1025, "g: more than 1024 inputs"),
        ([an_input()] * 2, "g: two inputs of one name"),
        ([an_input(), 1], "g[1]: expected an object, got int"),
        ([an_input(shape=[[1, 1]] * 33)], "g[0].shape: more than 32 items"),
        ([an_input(shape=[[1, 1], [1]])], "g[0].shape[1]: expected two numbers"),
        ([an_input(shape=[[1, 2.0]])], "g[0].shape[0]: expected two numbers"),
        ([an_input(shape=[[True, 2]])], "g[0].shape[0]: expected two numbers"),
        ([an_input(shape=["12"])], "g[0].shape[0]: expected two numbers"),
        ([an_input(shape=[[2, 1]])], "g[0].shape[0]: expected low to high"),
        ([an_input(shape=[[-1, 1]])], "g[0].shape[0]: expected low to high"),
        ([an_input(values=[2, 1])], "g[0].values: expected low to high"),
        ([an_input(values=[1])], "g[0].values: expected two numbers"),
        ([an_input(values=["a", "b"])], "g[0].values: expected two numbers"),
        ([an_input(values=[1, float("inf")])], "g[0].values: expected low to high"),
        ([an_input(values=[float("nan"), 1])], "g[0].values: expected low to high"),
        ([an_input(values=[1, 2, 3])], "g[0].values: more than 2 items"),
        ([an_input(dtype="d" * 17)], "g[0].dtype: longer than 16 characters"),
        ([an_input(name="n" * 65537)], "g[0].name: longer than 65536 characters"),
        ([an_input(unit="m")], "g[0]: unknown key 'unit'"),
    ],
)
def test_inputs_that_are_refused(items: list[Any], words: str) -> None:
    with refused(words):
        InputEnvelope.from_list(items, "g")


def a_commitment(**changes: Any) -> dict[str, Any]:
    return {
        "commitment": DIGEST,
        "original": "1e" * 32,
        "owner": OWNER,
        "scheme": "modelvault/watermark/v1",
        "strength": 5,
        **changes,
    }


def test_commitments() -> None:
    found = Commitment.from_dict(a_commitment(), "c")
    assert found == Commitment(owner=OWNER, original=b"\x1e" * 32, strength=5, value=b"\x0f" * 32)
    assert found.to_dict() == a_commitment()
    for strength in (1, 100_000):
        assert Commitment.from_dict(a_commitment(strength=strength), "c").strength == strength
    for changes, words in (
        ({"scheme": "x"}, "c.scheme: expected modelvault/watermark/v1, got x"),
        ({"owner": "SHA256:" + "A" * 42}, f"c.owner: expected a SHA256: fingerprint, got {'SHA256:' + 'A' * 42!r}"),
        ({"owner": "o" * 65}, "c.owner: longer than 64 characters"),
        ({"strength": 0}, "c.strength: expected 1 to 100000, got 0"),
        ({"strength": 100_001}, "c.strength: expected 1 to 100000, got 100001"),
        ({"original": "x"}, "c.original: expected 64 hex digits"),
        ({"commitment": "x"}, "c.commitment: expected 64 hex digits"),
        ({"more": 1}, "c: unknown key 'more'"),
    ):
        with refused(words):
            Commitment.from_dict(a_commitment(**changes), "c")
