"""A thief fine-tunes with real gradients: the mark outlives a change of more than a fifth of the weights."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra: bench)")

from attacks import training

from modelvault.keys import OwnerSecret
from modelvault.watermark.embedding import parse_payload
from modelvault.watermark.verifying import verify_informed
from watermark.models import mark

OWNER = OwnerSecret(b"o" * 32)


@pytest.mark.slow
def test_fine_tuning_is_survived(tmp_path: Path) -> None:
    data = training.Digits.load()
    held = training.train(training.fresh(), data.owner, epochs=10, rate=1e-3)
    original = training.save(held, tmp_path / "o.onnx")
    report = mark(original, tmp_path / "m.onnx", OWNER, payload=parse_payload("acme"), inputs=[{"x": data.test[0]}])
    assert report.plan.drift is not None
    assert report.plan.drift.agreement >= 0.995
    start = training.read(tmp_path / "m.onnx")
    tuned = training.train(start, data.thief, epochs=6, rate=5e-3, seed=1)
    assert training.moved(start, tuned) > 0.2
    assert training.accuracy(tuned, data.test) > 0.95
    verdict = verify_informed(training.save(tuned, tmp_path / "t.onnx"), original, OWNER)
    assert verdict.claim
    assert verdict.outcome.read is not None
