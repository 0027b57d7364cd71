"""The evidence page: what it says, that it needs nothing from elsewhere, and that it cannot be written by names."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Parties

from modelvault.audit import AuditLog
from modelvault.errors import FormatError
from modelvault.keys import OwnerSecret
from modelvault.watermark import evidence, null, record
from modelvault.watermark.embedding import make_plan, parse_payload
from modelvault.watermark.verdict import Verdict
from modelvault.watermark.verifying import verify_informed
from watermark.models import mark, mlp

OWNER = OwnerSecret(b"o" * 32)
PAYLOAD = parse_payload("bank 2.1")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Tensors whose names try to be HTML and mathematics."""
    path = mlp(tmp_path / "original.onnx")
    model = onnx.load(path)
    for old, new in (("w0", "<script>alert(1)</script>"), ("w1", "$x^{2}$ & more")):
        next(t for t in model.graph.initializer if t.name == old).name = new
        for node in model.graph.node:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new
    onnx.save(model, path)
    return path


def verdict_on(suspect: Path, original: Path, **settings: object) -> Verdict:
    return verify_informed(
        suspect,
        original,
        OWNER,
        records=record.records_of(OWNER.fingerprint),
        **settings,  # type: ignore[arg-type]
    )


def test_the_page_tells_the_whole_story(parties: Parties, tmp_path: Path, original: Path) -> None:
    plan = make_plan(original, OWNER, payload=PAYLOAD)
    sealed = parties.seal(original, name="m", watermark=plan)
    with parties.load(sealed):
        pass
    mark(original, tmp_path / "leaked.onnx", OWNER, payload=PAYLOAD)
    published = evidence.publication(sealed, parties.trust, parties.folder / "audit.log", parties.host.public)
    verdict = verdict_on(tmp_path / "leaked.onnx", original, commitments=[published.commitment])
    evidence.write(tmp_path / "e.html", verdict, tmp_path / "leaked.onnx", original, published)
    page = (tmp_path / "e.html").read_text()
    assert "leaked.onnx</b> carries the watermark" in page
    assert "10<sup>&minus;77.1</sup>" in page
    assert "bank 2.1" in page
    assert "the owner's key and the message open the commitment" in page
    assert f"{published.statement.hex()}" in page
    assert published.record is not None
    assert published.record.event == "load.intent"
    assert page.count("<svg") == 2
    assert "Scores of 1000 random keys on the very same weights" in page


def test_the_page_is_self_contained_and_escapes(tmp_path: Path, original: Path) -> None:
    mark(original, tmp_path / "m.onnx", OWNER)
    evidence.write(tmp_path / "e.html", verdict_on(tmp_path / "m.onnx", original), tmp_path / "m.onnx", original)
    page = (tmp_path / "e.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert all(link.startswith("#") for link in links)


def test_no_claim_is_said_plainly(tmp_path: Path, original: Path) -> None:
    other = mlp(tmp_path / "other.onnx", seed=7)
    evidence.write(tmp_path / "e.html", verdict_on(other, original), other, original)
    page = (tmp_path / "e.html").read_text()
    assert "No claim" in page
    assert "carries the watermark" not in page


def test_a_log_that_does_not_name_the_statement_proves_nothing(parties: Parties, original: Path) -> None:
    sealed = parties.seal(original, name="m", watermark=make_plan(original, OWNER))
    AuditLog(parties.folder / "audit.log", parties.host).append("load.done", file="other")
    with pytest.raises(FormatError, match="no record names the statement"):
        evidence.publication(sealed, parties.trust, parties.folder / "audit.log", parties.host.public)


def test_random_keys_are_normal(tmp_path: Path, original: Path) -> None:
    mark(original, tmp_path / "m.onnx", OWNER)
    found = verdict_on(tmp_path / "m.onnx", original).finding.found
    chance = null.measure({digest: f.sample for digest, f in found.items()})
    assert len(chance.whole) == null.KEYS
    assert abs(float(np.mean(chance.whole))) < 0.15
    assert float(np.std(chance.whole)) == pytest.approx(1, abs=0.1)
