"""docs/verify_watermark_minimal.py, written from docs/WATERMARK.md alone, says what modelvault says."""

import base64
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from modelvault import samples
from modelvault.keys import OwnerSecret, pem
from modelvault.watermark import record as records
from modelvault.watermark.verdict import Verdict
from modelvault.watermark.verifying import verify_blind, verify_informed
from watermark.models import mark

DOCS = Path(__file__).parents[2] / "docs"
MINIMAL = DOCS / "verify_watermark_minimal.py"
VECTORS = Path(__file__).parents[1] / "vectors" / "watermark.json"
OWNER = OwnerSecret(b"o" * 32)
PAYLOAD = b"minimal 1".ljust(16, b"\0")

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    return runpy.run_path(str(MINIMAL))


def heavy(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_t(5, shape).astype(np.float32)


def save(path: Path, **tensors: Array) -> Path:
    """A model that computes nothing with its tensors; integers are read as weights."""
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    held.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    nodes = [
        helper.make_node("DequantizeLinear", [n, "scale"], [f"{n}.y"])
        for n, a in tensors.items()
        if a.dtype in (np.int8, np.uint8)
    ]
    nodes.append(helper.make_node("Identity", ["scale"], ["y"]))
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [])]
    graph = helper.make_graph(nodes, "g", [], outputs, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def by_minimal(reader: dict[str, Any], suspect: Path, original: Path | None) -> tuple[float, float, bytes | None]:
    (path,) = records.folder().glob("*.json")
    found: tuple[float, float, bytes | None] = reader["verify"](
        suspect, json.loads(path.read_text()), OWNER.secret, original
    )
    return found


def agree(reader: dict[str, Any], suspect: Path, original: Path | None) -> Verdict:
    """Both readers' scores, bounds and payloads; modelvault's verdict."""
    mine = records.records_of(OWNER.fingerprint)
    verdict = (
        verify_informed(suspect, original, OWNER, records=mine) if original else verify_blind(suspect, OWNER, mine)
    )
    z, log10_p, payload = by_minimal(reader, suspect, original)
    assert z == pytest.approx(verdict.outcome.z, rel=1e-3)
    assert log10_p == pytest.approx(verdict.outcome.log10_p, abs=0.05 + 2e-3 * abs(verdict.outcome.log10_p))
    read = verdict.outcome.read
    assert payload == (read.payload if read else None)
    return verdict


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELVAULT_HOME", str(tmp_path / "home"))


def test_the_vectors(reader: dict[str, Any], tmp_path: Path) -> None:
    """Digests, keys, code word, shifts and pattern are all in the score and in the commitment, which must open."""
    kept = json.loads(VECTORS.read_text())
    kinds = {"FLOAT": "<f4", "INT8": "i1"}
    before, after = (
        save(
            tmp_path / f"{field}.onnx",
            **{
                f"t{n}": np.frombuffer(base64.b64decode(t[field]), kinds[t["dtype"]]).reshape(t["shape"])
                for n, t in enumerate(kept["tensors"])
            },
        )
        for field in ("data", "marked")
    )
    z, log10_p, payload = reader["verify"](after, kept, bytes.fromhex(kept["secret"]), before)
    assert z == pytest.approx(kept["z"], abs=0.002)
    assert log10_p == pytest.approx(-77.0637, abs=1e-3)
    assert payload == bytes.fromhex(kept["payload"])
    key = reader["derive"](bytes.fromhex(kept["secret"]), bytes.fromhex(kept["original"]), b"model")
    assert reader["code_word"](key, payload).hex() == kept["code_word"]
    with pytest.raises(ValueError, match="not of this owner"):
        reader["verify"](after, kept, bytes(32), before)


def damaged(path: Path, output: Path, seed: int = 3) -> Path:
    """Noise of a tenth on most floats, of a step on most integers; one in twenty is zero."""
    rng, model = np.random.default_rng(seed), onnx.load(path)
    for tensor in model.graph.initializer:
        a = numpy_helper.to_array(tensor)
        if a.size < 1024:
            continue
        if a.dtype in (np.int8, np.uint8):
            limits = np.iinfo(a.dtype)
            b = np.clip(np.rint(a + rng.standard_normal(a.shape)), limits.min, limits.max).astype(a.dtype)
        else:
            noise = 0.1 * np.std(a.astype(np.float64)) * rng.standard_normal(a.shape) * (rng.random(a.shape) < 0.7)
            b = ((a + noise) * (rng.random(a.shape) > 0.05)).astype(a.dtype)
        tensor.CopyFrom(numpy_helper.from_array(b, tensor.name))
    onnx.save(model, output)
    return output


def test_every_type_of_weight(reader: dict[str, Any], tmp_path: Path) -> None:
    signed, unsigned = (np.clip(np.rint(40 * heavy(seed, 256, 256)), -127, 127) for seed in (4, 9))
    original = save(
        tmp_path / "o.onnx",
        f=heavy(1, 128, 256),
        h=heavy(2, 64, 8, 3, 3).astype(np.float16),
        d=heavy(3, 1, 96, 64).astype(np.float64),
        i=signed.astype(np.int8),
        u=(unsigned + 128).astype(np.uint8),
        again=heavy(1, 128, 256),
        table=heavy(5, 5000),
    )
    report = mark(original, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    assert len(report.changes) == 5
    assert agree(reader, tmp_path / "m.onnx", original).outcome.payload == PAYLOAD
    assert agree(reader, damaged(tmp_path / "m.onnx", tmp_path / "n.onnx"), original).claim
    agree(reader, tmp_path / "m.onnx", None)
    assert not agree(reader, original, original).claim


def test_bfloat16(reader: dict[str, Any], tmp_path: Path) -> None:
    bits = (heavy(6, 128, 256).view(np.uint32) >> 16).astype(np.uint16)
    original = save(tmp_path / "o.onnx")
    model = onnx.load(original)
    tensor = helper.make_tensor("b", onnx.TensorProto.BFLOAT16, bits.shape, bits.tobytes(), raw=True)
    model.graph.initializer.append(tensor)
    onnx.save(model, original)
    mark(original, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    assert agree(reader, tmp_path / "m.onnx", original).claim


def test_lines_whose_squares_vanish_say_nothing(reader: dict[str, Any], tmp_path: Path) -> None:
    """Dead channels of trained models hold weights near the smallest float32: where rows are dead, so is the score."""
    weights = heavy(7, 400, 400)
    weights[::3] *= np.float32(1e-38)
    original = save(tmp_path / "o.onnx", w=weights)
    mark(original, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    assert agree(reader, tmp_path / "m.onnx", original).claim
    agree(reader, tmp_path / "m.onnx", None)


def test_the_bundled_model(reader: dict[str, Any], tmp_path: Path) -> None:
    """Weights of Constant nodes; blind, they are too few."""
    mark(samples.MODEL, tmp_path / "m.onnx", OWNER, payload=PAYLOAD)
    assert agree(reader, tmp_path / "m.onnx", samples.MODEL).claim
    assert not agree(reader, tmp_path / "m.onnx", None).claim


@pytest.mark.parametrize(("suspect", "status"), [("m", 0), ("o", 30)])
def test_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], suspect: str, status: int
) -> None:
    """With a secret under a passphrase, at the cost that key files have outside tests."""
    monkeypatch.setattr(pem, "SCRYPT_LOG_N", 17)
    original = save(tmp_path / "o.onnx", w=heavy(8, 256, 256))
    mark(original, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    (kept,) = records.folder().glob("*.json")
    key = tmp_path / "owner.key"
    key.write_bytes(OWNER.to_pem(b"sesame"))
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "sesame")
    arguments = [str(p) for p in (tmp_path / f"{suspect}.onnx", kept, key, original)]
    monkeypatch.setattr(sys, "argv", ["verify_watermark_minimal.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(MINIMAL), run_name="__main__")
    assert ended.value.code == status
    told = capsys.readouterr().out.splitlines()
    assert told[2] == f"payload {PAYLOAD.hex() if status == 0 else None}"


def test_it_is_small_and_stands_alone() -> None:
    lines = MINIMAL.read_text().splitlines()
    assert len(lines) < 240
    imports = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imports - set(sys.stdlib_module_names) == {"cryptography", "numpy", "onnx"}
