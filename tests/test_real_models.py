"""Every real model: seal, verify, load, and the plain model's outputs."""

from pathlib import Path

import onnxruntime
import pytest
from conftest import Parties
from feeds import feed_for, same

from modelvault.verification import verify


@pytest.mark.real_models
@pytest.mark.parametrize("memory", ["lean", "fast"])
def test_outputs_equal_the_plain_models(parties: Parties, real_model: Path, memory: str) -> None:
    sealed = parties.seal(real_model)
    assert verify(sealed, parties.trust).statement.name == real_model.stem
    plain = onnxruntime.InferenceSession(real_model, providers=["CPUExecutionProvider"])
    feed = feed_for(plain, real_model.stem)
    with parties.load(sealed, memory=memory) as session:
        assert [i.name for i in session.get_inputs()] == [i.name for i in plain.get_inputs()]
        assert same(plain.run(None, feed), session.run(None, feed))
