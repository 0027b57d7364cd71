"""The scanner itself: whatever the file, it gives findings or one clear error, soon."""

import io
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from modelvault import samples
from modelvault.errors import ModelError, ModelVaultError
from modelvault.scan import ScanReport, scan
from modelvault.scan.finding import RULES
from modelvault.scan.gate import Gate
from scan.mutation import change_bytes, change_fields
from scan.samples import (
    BACKDOORS,
    SAMPLES,
    W,
    array,
    beside,
    branch,
    external,
    functions,
    loop,
    model,
    nested,
    node,
    save,
    sized,
    with_data,
)

SEEDS = [
    model(), sized(2**23), nested(4), loop(None, "same"), branch("a"), functions(("F", ["G"]), ("G", ["Relu"])),
    BACKDOORS["if-distance"], BACKDOORS["where-reduced"],
    model(weights=[array("w", W), array("v", W[:3])]),
]  # fmt: skip


def survives(path: Path) -> ScanReport | None:
    """A report in which every text is fit for a terminal, or an error of ours in one line."""
    try:
        report = scan(path)
    except ModelVaultError as error:
        assert len(str(error).splitlines()) == 1
        return None
    for finding in report.findings:
        assert finding.rule in RULES
        for text in finding.to_dict().values():
            assert text.isascii()
            assert text.isprintable()
            assert len(text) <= 4096
    return report


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_changed_bytes(tmp_path: Path, seed: int) -> None:
    rng, data = random.Random(seed), SEEDS[seed].SerializeToString()
    path = tmp_path / "m.onnx"
    for _ in range(60):
        path.write_bytes(change_bytes(data, rng))
        survives(path)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_changed_fields(tmp_path: Path, seed: int) -> None:
    rng, path, reports = random.Random(seed), tmp_path / "m.onnx", 0
    for _ in range(60):
        changed = ModelProto()
        changed.CopyFrom(SEEDS[seed])
        data = change_fields(changed, rng)
        if data is not None:
            path.write_bytes(data)
            reports += survives(path) is not None
    assert reports > 20  # most mutants are still models


def test_a_gate_survives_what_a_scan_survives(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(100):
        changed = ModelProto()
        changed.CopyFrom(rng.choice(SEEDS))
        data = change_fields(changed, rng) or b""
        gate = Gate(tmp_path / "m.onnx", [], RULES)
        try:
            gate.look(data)
        except ModelError:
            continue
        assert set(gate.passed()) <= {n for n, r in RULES.items() if r.severity == "error"}


def test_a_gate_that_did_not_look_lets_nothing_pass(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="was not scanned"):
        Gate(tmp_path / "m.onnx", [], []).passed()


def test_changed_references(tmp_path: Path) -> None:
    """External data whose entries are anything."""
    rng = random.Random(3)
    values = (
        "w.bin",
        "",
        "/",
        "..",
        "a/../w.bin",
        "\x00",
        "w.bin/",
        "C:\\w",
        "~",
        "-1",
        "9" * 19,
        "1e3",
        "128",
        "a" * 5000,
    )
    for number in range(150):
        tensor = external("w", rng.choice(values))
        for key in ("offset", "length", "checksum", "location", "odd"):
            if rng.random() < 0.4:
                tensor.external_data.add(key=key, value=rng.choice(values))
        (tmp_path / str(number)).mkdir()
        assert survives(with_data([tensor])(tmp_path / str(number))) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04",
        b"PK\x03\x04" + bytes(100),
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"MZ",
        b"MZ" + b"\xff" * 80,
        b"\x80",
        b"\x80\x04",
        b"c",
        b"(" * 5000,
        b"c" + b"a\n" * 5000,
        b"\x80\x04" + b"(" * 70_000,
        b"#!",
        b"\xff" * 9,
        struct.pack("<Q", 2**63) + b"{",
    ],
    ids=range(16),
)
def test_broken_assets(tmp_path: Path, data: bytes) -> None:
    assert survives(beside("a.bin", data)(tmp_path)) is not None


def test_changed_archives(tmp_path: Path) -> None:
    rng, file = random.Random(5), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00v\x00" + b"x" * 2000)
        archive.writestr("b/data.txt", b"x" * 2000)
    for number in range(100):
        (tmp_path / str(number)).mkdir()
        assert survives(beside("a.npz", change_bytes(file.getvalue(), rng))(tmp_path / str(number))) is not None


def test_names_of_files_are_anything(tmp_path: Path) -> None:
    report = survives(beside("a\x1b[31m\nb\u202e.sh", b"#!/bin/sh\n")(tmp_path))
    assert report is not None
    assert [f.rule for f in report.findings] == ["script-asset"]


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of protobuf's wire format."""
    size, length = b"", len(data)
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def nested_wire(levels: int) -> bytes:
    """A graph in a node's attribute in a graph, and so on."""
    graph = b""
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)))
    return graph


def test_graphs_in_a_circle_and_out_of_order(tmp_path: Path) -> None:
    nodes = [node("Add", ["b", "x"], ["a"]), node("Add", ["a", "x"], ["b"]), node("Relu", ["b"], ["y"])]
    report = survives(save(model(nodes, []))(tmp_path))
    assert report is not None
    assert "checker-failure" in {f.rule for f in report.findings}


def test_functions_in_a_circle_of_any_length(tmp_path: Path) -> None:
    circle = [(f"F{n}", [f"F{(n + 1) % 3000}"]) for n in range(3000)]
    report = survives(save(functions(*circle))(tmp_path))
    assert report is not None
    assert "recursive-function" in {f.rule for f in report.findings}


def test_nesting_as_deep_as_protobuf_goes(tmp_path: Path) -> None:
    report = survives(save(nested(30))(tmp_path))
    assert report is not None
    assert "deep-nesting" in {f.rule for f in report.findings}
    (tmp_path / "m.onnx").write_bytes(field(7, nested_wire(2000)))
    assert survives(tmp_path / "m.onnx") is None  # beyond protobuf's own limit: no model


def test_work_is_bounded_where_choices_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelvault.scan import backdoors

    monkeypatch.setattr(backdoors, "MAX_WALKS", 1000)
    nodes = [node("Cast", ["x"], ["v0"], to=TensorProto.BOOL)]
    nodes += [node("And", [f"v{n}", f"v{n}"], [f"v{n + 1}"]) for n in range(300)]
    nodes += [node("Where", [f"v{n}", "x", "x"], [f"y{n}"]) for n in range(300)]
    report = survives(save(model([*nodes, node("Relu", ["y0"], ["y"])], []))(tmp_path))
    assert report is not None
    assert "too many choices to follow them all back to the input" in {f.message for f in report.findings}


def test_many_small_things(tmp_path: Path) -> None:
    """Ten thousand nodes, each with a note; every name used twice."""
    nodes = [node("Relu", ["x"], [f"v{n % 5000}"], f"n{n % 5000}") for n in range(10_000)]
    for n in nodes:
        n.doc_string = "/home/bob/x.py:1:0 " * 5
    report = survives(save(model([*nodes, node("Relu", ["v1"], ["y"])], []))(tmp_path))
    assert report is not None
    assert {"duplicate-value", "duplicate-node-name", "user-path"} <= {f.rule for f in report.findings}


def test_claims_larger_than_anything(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**62] * 8, raw_data=b"1234")
    typed = TensorProto(name="v", data_type=TensorProto.INT64, dims=[2**40], int64_data=[1])
    packed = TensorProto(name="u", data_type=TensorProto.INT4, dims=[2**50], int32_data=[1])
    report = survives(save(model(weights=[tensor, typed, packed]))(tmp_path))
    assert report is not None
    assert {"impossible-shape", "inconsistent-tensor"} <= {f.rule for f in report.findings}


def test_values_that_grow_without_bound_stay_bounded(tmp_path: Path) -> None:
    nodes = [node("Mul", ["k" if not n else f"k{n}"] * 2, [f"k{n + 1}"]) for n in range(400)]
    nodes += [node("Concat", [f"c{n}", f"c{n}"] if n else ["ks", "ks"], [f"c{n + 1}"], axis=0) for n in range(64)]
    nodes += [node("ConstantOfShape", ["c10"], ["s"]), node("Relu", ["x"], ["y"])]
    weights = [array("k", np.int64(3)), array("ks", np.array([2, 2], "i8"))]
    assert survives(save(model(nodes, weights))(tmp_path)) is not None


def test_every_sample_and_the_bundled_model_survive_the_gate() -> None:
    assert set(SAMPLES) <= set(RULES)
    data = samples.MODEL.read_bytes()
    gate = Gate(samples.MODEL, [], [])
    gate.look(data)
    assert gate.passed() == ()
    assert helper.make_opsetid("", onnx.defs.onnx_opset_version())
