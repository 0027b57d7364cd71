"""The commands: embed, verify, and seal with a mark."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import samples
from modelvault.cli.main import main
from modelvault.cli.watermark_verify import NO_CLAIM
from watermark.models import mlp

Run = Callable[..., Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*args: str | Path, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        assert int(exit_.value.code or 0) == code, captured.err
        assert "Traceback" not in captured.err
        return captured.out, captured.err

    call("keygen", "owner", "--no-passphrase")
    mlp(tmp_path / "m.onnx", width=192, hidden=768, classes=192)
    return call


def test_embed_and_verify(run: Run) -> None:
    out, _ = run("watermark", "embed", "m.onnx", "-o", "marked.onnx", "--payload", "bank 2.1", "--json")
    report = json.loads(out)
    assert report["drift"]["cosine"] >= 0.9995
    assert report["robustness"] in ("strong", "moderate")
    out, _ = run("watermark", "verify", "marked.onnx", "--original", "m.onnx", "--json")
    verdict = json.loads(out)
    assert verdict["claim"]
    assert verdict["record_opens"]
    assert verdict["payload"]["read_text"] == "bank 2.1"
    out, _ = run("watermark", "verify", "marked.onnx", "--original", "m.onnx")
    assert "CLAIM" in out
    assert "'bank 2.1'" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_no_claim_has_its_own_status(run: Run) -> None:
    run("watermark", "embed", "m.onnx", "-o", "marked.onnx")
    out, _ = run("watermark", "verify", "m.onnx", "--original", "m.onnx", code=NO_CLAIM)
    assert "no claim" in out
    out, _ = run("watermark", "verify", "m.onnx", code=NO_CLAIM)
    assert "blind" in out


def test_what_goes_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    _, err = run("watermark", "verify", "m.onnx", code=5)
    assert "no record of a mark" in err
    assert "--original" in err
    run("watermark", "embed", "m.onnx", "-o", "m.onnx", code=3)
    run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--strength", "lots", code=2)
    run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--payload", "much too long for a payload", code=4)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--inputs", "bad.npz", code=4)
    run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--owner", "nobody", code=6)
    for name in ("other", "x.²", "x." + "9" * 5000, "x.01"):
        np.savez(tmp_path / "wrong.npz", allow_pickle=False, **{name: np.zeros(3)})
        run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--inputs", "wrong.npz", code=5)
    assert not (tmp_path / "x.onnx").exists()


def test_given_inputs_are_used(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = {f"x.{n}": rng.standard_normal((4, 192)).astype(np.float32) for n in range(3)}
    np.savez(tmp_path / "in.npz", allow_pickle=False, **runs)
    out, _ = run("watermark", "embed", "m.onnx", "-o", "x.onnx", "--inputs", "in.npz", "--json")
    assert json.loads(out)["drift"]["inputs"] == "in.npz"
    assert json.loads(out)["drift"]["runs"] == 3


def test_seal_with_a_mark(run: Run, tmp_path: Path) -> None:
    for role in ("publisher", "recipient", "host"):
        run("keygen", role, "--no-passphrase")
    shutil.copy(samples.MODEL, tmp_path / "cls.onnx")
    out, _ = run("seal", "cls.onnx", "--watermark", "default")
    assert "watermark     strength" in out
    out, _ = run("inspect", "cls.mvlt", "--json")
    assert json.loads(out)["watermark"]["scheme"] == "modelvault/watermark/v1"
    assert len(list((tmp_path / "home" / "watermarks").glob("*.json"))) == 1


def test_a_sealed_suspect_is_opened_with_a_grant_and_an_audit_record(run: Run, tmp_path: Path) -> None:
    for role in ("publisher", "recipient", "host"):
        run("keygen", role, "--no-passphrase")
    run("keygen", "recipient", "stranger", "--no-passphrase")
    shutil.copy(samples.MODEL, tmp_path / "cls.onnx")
    run("seal", "cls.onnx", "--watermark", "default")
    out, _ = run("watermark", "verify", "cls.mvlt", "--original", "cls.onnx", "--json")
    assert json.loads(out)["claim"]
    assert json.loads(out)["signed_commitment_opens"]
    _, err = run("watermark", "verify", "cls.mvlt", "--original", "cls.onnx", "--identity", "stranger", code=7)
    assert "no grant to audit" in err
    out, _ = run("audit", "show", "--json")
    assert [r["event"] for r in json.loads(out)] == ["opened", "watermark.checked", "watermark.denied"]
