"""Every real model carries a mark, wherever its weights are kept, and gives the payload back."""

from pathlib import Path

import pytest
from attacks import damage

from modelvault.keys import OwnerSecret
from modelvault.watermark import parse_payload, records_of, verify_informed
from watermark.models import mark

OWNER = OwnerSecret(b"o" * 32)


@pytest.mark.real_models
def test_real_models_carry_marks(real_model: Path, tmp_path: Path) -> None:
    marked = tmp_path / "m.onnx"
    mark(real_model, marked, OWNER, payload=parse_payload("acme 1.0"), strength=0.003, check=False)
    verdict = verify_informed(marked, real_model, OWNER, records=records_of(OWNER.fingerprint))
    assert verdict.claim
    assert verdict.missing == 0
    assert verdict.outcome.read is not None
    assert verdict.outcome.read.payload == parse_payload("acme 1.0")
    assert not verify_informed(real_model, real_model, OWNER).claim
    half = damage.change(marked, tmp_path / "half.onnx", damage.fp16)
    assert verify_informed(half, real_model, OWNER).claim
