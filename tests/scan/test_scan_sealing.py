"""Seal runs the scan: an error stops it, an allowed one is signed; sealed files are scanned with and without a key."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import Parties
from watermark.models import mlp

import modelvault
from modelvault.errors import FormatError, ModelError, NoMatchingKey
from modelvault.keys import OwnerSecret
from modelvault.manifest import ModelStatement
from modelvault.onnxfile import OpenModel
from modelvault.onnxfile.lean import open_lean
from modelvault.scan import RULES, Claims, ScanReport, scan, scan_decrypted, scan_public
from modelvault.scan.finding import ASSETS, CONTENT, OWNERSHIP, PUBLIC, STRUCTURE
from modelvault.sealedfile import SealedFile
from modelvault.verification import inspect, verify
from modelvault.watermark import embedding
from modelvault.watermark.sealed import Auditor, decrypted
from scan.samples import SAMPLES, Called, array, beside, model, save, weighted

# Errors that sealing refuses by itself, whatever the scan says.
REFUSED = {
    "external-absolute", "external-beyond-end", "external-escape", "external-malformed", "external-missing",
    "external-symlink", "duplicate-initializer", "inconsistent-tensor", "ir-version-range", "opset-range", "link-asset",
    "special-file",
}  # fmt: skip
STOPPING = sorted(n for n, r in RULES.items() if r.severity == "error" and r.stage in (STRUCTURE, ASSETS))


def found(report: ScanReport) -> set[str]:
    return {f.rule for f in report.findings}


def built(folder: Path, rule: str) -> Path:
    folder.mkdir()
    return SAMPLES[rule].bad(folder)


@pytest.mark.parametrize("rule", STOPPING)
def test_every_error_stops_a_seal(parties: Parties, tmp_path: Path, rule: str) -> None:
    source = built(tmp_path / "bad", rule)
    with pytest.raises(modelvault.ModelVaultError) as refusal:
        parties.seal(source)
    assert rule in REFUSED or "(scan rule " in str(refusal.value)
    assert not (parties.folder / "model.mvlt").exists()


def test_the_refusal_names_rule_and_place(parties: Parties, tmp_path: Path) -> None:
    path = built(tmp_path / "bad", "allocation-bomb")
    with pytest.raises(
        ModelError, match=r"m\.onnx: graph/n: ConstantOfShape makes 'y' .*\(scan rule allocation-bomb\)"
    ):
        parties.seal(path)


@pytest.mark.parametrize("rule", sorted(set(STOPPING) - REFUSED))
def test_an_allowed_rule_is_signed(parties: Parties, tmp_path: Path, rule: str) -> None:
    source = built(tmp_path / "bad", rule)
    needed = {f.rule for f in scan(source).findings if f.severity == "error"}
    sealed = parties.seal(source, allow=[*needed, "pickle-asset"])
    assert verify(sealed, parties.trust).statement.allowed == tuple(sorted(needed))
    assert inspect(sealed).to_dict()["scan_allowed"] == sorted(needed)


def test_one_allowed_rule_does_not_let_another_pass(parties: Parties, tmp_path: Path) -> None:
    folder = beside("key.p12", b"x")(tmp_path)
    (folder / "ops.so").write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(ModelError, match="native-asset"):
        parties.seal(folder, allow=["secret-asset"])
    with pytest.raises(ModelError, match=r"scan rule native-asset, and 1 more finding\)"):
        parties.seal(folder)


def test_what_needs_no_allowance_records_none(parties: Parties, tmp_path: Path) -> None:
    plain = SealedFile(parties.seal(save(model())(tmp_path), allow=["allocation-bomb"]))
    with plain:
        assert plain.statement.allowed == ()
        assert b"scanAllowed" not in plain.envelope.payload


def test_only_a_rule_can_be_allowed(parties: Parties, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-rule: not a rule of the scan"):
        parties.seal(save(model())(tmp_path), allow=["no-such-rule"])


def test_assets_given_one_by_one_are_looked_at(parties: Parties, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(pickle.dumps(Called()))
    with pytest.raises(ModelError, match=r"labels\.json: is a pickle of protocol \d \(scan rule pickle-asset\)"):
        parties.seal(save(model())(tmp_path), assets=[tmp_path / "labels.json"])


@pytest.mark.parametrize("value", [[], ["b", "a"], ["a", "a"], ["A"], [""], ["a" * 65], [1], "a", ["a"] * 65])
def test_a_statement_with_odd_allowances_is_refused(parties: Parties, value: Any) -> None:
    with SealedFile(parties.seal()) as sealed:
        statement = json.loads(sealed.envelope.payload)
    statement["predicate"]["scanAllowed"] = value
    data = json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(FormatError, match="scanAllowed"):
        ModelStatement.from_bytes(data, "statement")
    statement["predicate"]["scanAllowed"] = ["a", "b-2"]
    data = json.dumps(statement, separators=(",", ":"), sort_keys=True).encode()
    assert ModelStatement.from_bytes(data, "statement").allowed == ("a", "b-2")


# Sealed files


def opened(parties: Parties, path: Path, **settings: Any) -> ScanReport:
    who = Auditor(identity=settings.pop("identity", parties.customer), trust=parties.trust, log=parties.log)
    with decrypted(path, who, purpose="scan") as parts:
        return scan_decrypted(path, parts, **settings)


def test_without_a_key_only_what_is_public_is_assessed(parties: Parties, tmp_path: Path) -> None:
    report = scan_public(parties.seal(built(tmp_path / "bad", "nan-weights")))
    assert found(report) == {"content-unseen"}
    assert report.kind == "public"
    assert set(report.rules) == {n for n, r in RULES.items() if r.stage == PUBLIC}


@pytest.mark.parametrize(
    ("rule", "settings"), [("public-names", {"public_io": True}), ("allowed-finding", {"allow": ["allocation-bomb"]})]
)
def test_public_rules(parties: Parties, tmp_path: Path, rule: str, settings: dict[str, Any]) -> None:
    bomb = parties.seal(built(tmp_path / "bad", "allocation-bomb"), allow=["allocation-bomb"])
    plain = parties.seal(save(model())(tmp_path), "plain.mvlt", **({} if rule == "allowed-finding" else settings))
    bad, near = (bomb, plain) if rule == "allowed-finding" else (plain, bomb)
    assert rule in found(scan_public(bad))
    assert rule not in found(scan_public(near))


def test_with_a_key_weights_and_assets_are_assessed_and_that_is_recorded(parties: Parties, tmp_path: Path) -> None:
    folder = beside("w.json", b"#!/bin/sh\n")(tmp_path)
    save(weighted([[float("nan")] * 32] * 32))(folder)
    report = opened(parties, parties.seal(folder))
    assert {"nan-weights", "script-asset"} <= found(report)
    assert "content-unseen" not in found(report)
    assert set(report.rules) == {
        n for n, r in RULES.items() if r.stage in (STRUCTURE, CONTENT, ASSETS, OWNERSHIP, PUBLIC)
    }
    assert "scan.checked" in parties.events()


def test_a_stranger_sees_nothing(parties: Parties, tmp_path: Path) -> None:
    with pytest.raises(NoMatchingKey):
        opened(parties, parties.seal(save(model())(tmp_path)), identity=parties.stranger)
    assert "scan.denied" in parties.events()


# Whose weights


def test_an_owners_mark_and_a_committed_original_are_found(parties: Parties, tmp_path: Path) -> None:
    original = mlp(tmp_path / "m.onnx", width=1024, hidden=2048, classes=1024)
    other = mlp(tmp_path / "other.onnx", width=1024, hidden=2048, classes=1024, seed=1)
    secret = OwnerSecret.generate()
    payload = embedding.parse_payload("theirs")
    plan = embedding.make_plan(original, secret, payload=payload, strength=0.01, check=False)
    sealed = parties.seal(original, watermark=plan)
    record = plan.record("m.onnx")
    marks = [(secret, [record])]
    who = Auditor(identity=parties.customer, trust=parties.trust, log=parties.log)
    with decrypted(sealed, who, purpose="scan") as p:
        inside = OpenModel(sealed, graph=bytes(p.graph.view), region=p.weights.view)
        marked = scan_decrypted(sealed, p, claims=Claims(model=inside, owners=marks, commitments=[plan.commitment]))
    assert found(marked) & {"foreign-watermark", "foreign-original"} == {"foreign-watermark"}
    for path, rules in ((original, {"foreign-original"}), (other, set())):
        claims = Claims(model=open_lean(path), owners=marks, commitments=[plan.commitment])
        assert found(scan(path, claims=claims)) & {"foreign-watermark", "foreign-original"} == rules


def test_a_hidden_value_does_not_reach_the_terminal(tmp_path: Path) -> None:
    made = model(weights=[array("w\x1b[31m", [1.0])])
    report = scan(save(made)(tmp_path))
    assert all("\x1b" not in f.where + f.message for f in report.findings)
    assert "deceptive-name" in found(report)
