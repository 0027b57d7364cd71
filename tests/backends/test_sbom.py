"""The bill of materials: valid CycloneDX, the same each time, and silent about what is sealed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import needs
import pytest

from modelvault import samples
from modelvault.cli.main import main


@pytest.fixture
def run(parties: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    needs.module("cyclonedx")
    monkeypatch.setenv("MODELVAULT_TRUST", str(parties.folder / "trust.toml"))
    monkeypatch.setenv("MODELVAULT_HOST_KEY", "env:HOST")
    monkeypatch.setenv("HOST", parties.host.to_pem(None).decode())
    monkeypatch.setenv("CUSTOMER", parties.customer.to_pem(None).decode())

    def call(*args: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(["sbom", *args])
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == code, captured.err
        return captured.out or captured.err

    return call


def test_it_is_valid_and_repeatable(parties: Any, run: Any, tmp_path: Path) -> None:
    needs.module("jsonschema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (tmp_path / "tokenizer.json").write_text("the secret vocabulary")
    path = parties.seal(name="direction", version="2.1", assets=[tmp_path / "tokenizer.json"])
    text = run(str(path))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert run(str(path)) == text
    component = json.loads(text)["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert (component["name"], component["version"], component["publisher"]) == ("direction", "2.1", "acme")
    assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
    facts = {p["name"]: p["value"] for p in component["properties"]}
    assert facts["modelvault:signer"] == parties.publisher.public.fingerprint
    for sealed in ("tokenizer", "components", "save_infer_model", samples.INPUT[0] + '"'):
        assert sealed not in json.dumps(component)

    inside = run(str(path), "--identity", "env:CUSTOMER", "--audit", str(tmp_path / "audit.log"))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(inside) is None
    (asset,) = json.loads(inside)["metadata"]["component"]["components"]
    assert asset["name"] == "tokenizer.json"
    assert asset["hashes"][0]["content"] == hashlib.sha256(b"the secret vocabulary").hexdigest()
    assert b"load.done" in (tmp_path / "audit.log").read_bytes()


def test_nothing_unverified_is_listed(parties: Any, run: Any, tmp_path: Path) -> None:
    path = parties.seal(name="direction")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert run(str(path), "-o", str(tmp_path / "x.json"), code=10).startswith("modelvault: error: ")
    assert not (tmp_path / "x.json").exists()
