"""The command: exit statuses by severity, table, JSON after its schema, SARIF after the standard's requirements."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from modelvault.cli.main import main
from modelvault.cli.scan import ERRORS, WARNINGS
from modelvault.scan import RULES
from scan.samples import SAMPLES, model, save

DOCS = Path(__file__).parents[2] / "docs"
Run = Callable[..., tuple[str, str]]


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

    return call


def built(tmp_path: Path, rule: str) -> Path:
    (tmp_path / rule).mkdir()
    return SAMPLES[rule].bad(tmp_path / rule)


@pytest.mark.parametrize(
    ("rule", "code"),
    [("allocation-bomb", ERRORS), ("nan-weights", WARNINGS), ("stack-trace", 0), ("script-asset", WARNINGS)],
)
def test_the_status_is_the_worst_severity(run: Run, tmp_path: Path, rule: str, code: int) -> None:
    path = built(tmp_path, rule)
    out, _ = run("scan", path, code=code)
    assert rule in out
    assert f"why: {RULES[rule].why[:40]}" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    out, _ = run("scan", path, "--json", code=code)
    report = json.loads(out)
    jsonschema.validate(report, json.loads((DOCS / "schemas" / "scan.schema.json").read_text()))
    assert report["counts"][RULES[rule].severity] >= 1


def test_a_clean_model(run: Run, tmp_path: Path) -> None:
    out, _ = run("scan", save(model())(tmp_path))
    assert "0 errors, 0 warnings, 0 notes" in out


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_what_is_no_model_is_one_error(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    _, err = run("scan", "m.onnx", code=5)
    assert err.startswith("modelvault: error: m.onnx: not an ONNX model")


def test_every_rule_is_documented_as_it_is() -> None:
    page = " ".join((DOCS / "SCAN.md").read_text().split())
    for rule in RULES.values():
        assert f"- `{rule.id}` ({rule.severity}): {rule.why}." in page
        assert f"*Fix*: {rule.fix}." in page
    table = (DOCS / "CLI.md").read_text()
    assert f"| {WARNINGS} | | `scan`" in table
    assert f"| {ERRORS} | | `scan`" in table


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def listed(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


# The part of SARIF 2.1.0 (OASIS, errata 01) that is written: names, types and what is required, by its sections.
TEXT: dict[str, Any] = {"type": "string"}
LEVEL = {"enum": ["none", "note", "warning", "error"]}  # 3.27.10
MESSAGE = closed({"text": TEXT}, "text")  # 3.11.8
BAG = {"type": "object"}  # 3.8
URI = {"type": "string", "format": "uri-reference"}  # 3.4.3
ARTIFACT = closed({"uri": URI}, "uri")  # 3.4
RULE = closed(
    {
        "id": TEXT,
        "shortDescription": MESSAGE,
        "help": MESSAGE,
        "defaultConfiguration": closed({"level": LEVEL}),
        "properties": BAG,
    },
    "id",
)  # 3.49
DRIVER = closed({"name": TEXT, "semanticVersion": TEXT, "rules": {**listed(RULE), "uniqueItems": True}}, "name")  # 3.19
LOCATION = closed(
    {
        "physicalLocation": closed({"artifactLocation": ARTIFACT}),
        "logicalLocations": {**listed(closed({"fullyQualifiedName": TEXT, "kind": TEXT})), "uniqueItems": True},
    }
)  # 3.28
RESULT = closed(
    {
        "ruleId": TEXT,
        "ruleIndex": {"type": "integer", "minimum": -1},
        "level": LEVEL,
        "message": MESSAGE,
        "locations": listed(LOCATION),
        "partialFingerprints": {"type": "object", "additionalProperties": TEXT},
    },
    "message",
)  # 3.27
RUN = closed(
    {
        "tool": closed({"driver": DRIVER}, "driver"),
        "artifacts": {**listed(closed({"location": ARTIFACT})), "uniqueItems": True},
        "results": listed(RESULT),
        "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
        "properties": BAG,
    },
    "tool",
)  # 3.14
SARIF = closed({"$schema": URI, "version": {"const": "2.1.0"}, "runs": listed(RUN)}, "version", "runs")  # 3.13


@pytest.mark.parametrize("rule", ["allocation-bomb", "embedded-secret", "pickle-asset", "deceptive-name"])
def test_sarif(run: Run, tmp_path: Path, rule: str) -> None:
    path = built(tmp_path, rule)
    run("scan", path, "--sarif", "out.sarif", code=ERRORS if RULES[rule].severity == "error" else WARNINGS)
    log = json.loads((tmp_path / "out.sarif").read_text())
    jsonschema.validate(log, SARIF, format_checker=jsonschema.FormatChecker())
    (made,) = log["runs"]
    rules = made["tool"]["driver"]["rules"]
    for result in made["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == rules[result["ruleIndex"]]["defaultConfiguration"]["level"]
    assert rule in {r["ruleId"] for r in made["results"]}
    assert len({r["partialFingerprints"]["place/v1"] for r in made["results"]}) == len(made["results"])
    _, err = run("scan", path, "--sarif", "out.sarif", code=3)
    assert "exists already" in err
    run("scan", path, "--sarif", "out.sarif", "--force", code=ERRORS if RULES[rule].severity == "error" else WARNINGS)


def test_the_whole_way(run: Run, tmp_path: Path) -> None:
    """Seal refuses, allows, shows; the sealed file is scanned with a key and without."""
    for role in ("publisher", "recipient", "host"):
        run("keygen", role, "--no-passphrase")
    path = built(tmp_path, "allocation-bomb")
    _, err = run("seal", path, "-o", "b.mvlt", code=5)
    assert "graph/n: ConstantOfShape makes 'y' of about 32.0 GiB (scan rule allocation-bomb)" in err
    assert "hint: modelvault scan shows all; seal --allow RULE lets one pass, on record" in err
    run("seal", path, "-o", "b.mvlt", "--allow", "allocation-bomb")
    out, _ = run("inspect", "b.mvlt")
    assert "errors allowed by the publisher: allocation-bomb" in out
    out, _ = run("verify", "b.mvlt")
    assert "errors allowed by the publisher: allocation-bomb" in out
    assert json.loads(run("verify", "b.mvlt", "--json")[0])["scan_allowed"] == ["allocation-bomb"]
    out, _ = run("scan", "b.mvlt", code=WARNINGS)
    assert "allowed-finding" in out
    assert "content-unseen" in out
    out, _ = run("scan", "b.mvlt", "--identity", "default", "--json", code=ERRORS)
    report = json.loads(out)
    assert report["kind"] == "sealed"
    assert {"allocation-bomb", "allowed-finding"} <= {f["rule"] for f in report["findings"]}
    assert "scan.checked" in run("audit", "show", "--json")[0]


def test_options_that_do_not_go_together(run: Run, tmp_path: Path) -> None:
    path = save(model())(tmp_path)
    assert "--identity and --grant open a sealed file" in run("scan", path, "--identity", "default", code=2)[1]
    run("keygen", "owner", "--no-passphrase")
    assert "no record of a mark" in run("scan", path, "--owner", "default", code=5)[1]
    (tmp_path / "c.json").write_text('{"scheme": "other"}')
    assert "scheme" in run("scan", path, "--commitment", "c.json", code=4)[1]


def test_owners_and_commitments(run: Run, tmp_path: Path) -> None:
    from watermark.models import mlp

    mlp(tmp_path / "m.onnx", width=1024, hidden=2048, classes=1024)
    for role in ("publisher", "recipient", "host", "owner"):
        run("keygen", role, "--no-passphrase")
    run("seal", "m.onnx", "--watermark", "default")
    out, _ = run("scan", "m.onnx", "--commitment", "m.mvlt", code=ERRORS)
    assert "foreign-original" in out
    run("watermark", "embed", "m.onnx", "-o", "marked.onnx", "--strength", "0.01", "--no-check")
    out, _ = run("scan", "marked.onnx", "--owner", "default", code=ERRORS)
    assert "foreign-watermark" in out
    out, _ = run("scan", "m.onnx", "--owner", "default")
    assert "0 errors, 0 warnings" in out
    assert "need --identity" in run("scan", "m.mvlt", "--owner", "default", code=2)[1]
