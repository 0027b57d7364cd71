"""The mark is made as light as the budget asks, and no lighter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from attacks import quantise
from onnx import helper

from modelvault.cli.hints import hint_for
from modelvault.errors import FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.watermark.embedding import Budget, Plan, make_plan
from modelvault.watermark.fidelity import Bench, Drift, Feed
from watermark.models import mlp

OWNER = OwnerSecret(b"o" * 32)
SHAPE = {"width": 192, "hidden": 768, "classes": 192}
FINE = Drift(inputs="x", runs=8, cosine=0.9999, agreement=1.0, flipped=0, decided=1.0, turned=0, largest=0.1, mean=0.01)


def feeds(count: int = 16) -> list[Feed]:
    rng = np.random.default_rng(5)
    return [{"x": rng.standard_normal((32, SHAPE["width"])).astype(np.float32)} for _ in range(count)]


def drift_of(plan: Plan) -> Drift:
    assert plan.drift is not None
    return plan.drift


def test_a_budget_tells_ties_from_decisions() -> None:
    budget = Budget()
    assert budget.meets(FINE)
    ties = replace(FINE, agreement=0.99, flipped=5)
    assert budget.allows(ties)
    assert not budget.meets(ties)
    assert not budget.allows(replace(ties, decided=0.99, turned=5))
    assert budget.allows(replace(FINE, decided=0.9, turned=1))  # one row of ten
    assert not budget.allows(replace(FINE, cosine=0.9994))
    assert budget.relief(ties) == pytest.approx(0.9 * 0.5)
    assert budget.relief(replace(FINE, cosine=0.998)) == pytest.approx(0.9 * 0.5)
    assert budget.relief(replace(FINE, agreement=0.875, flipped=2)) == pytest.approx(0.9 * 0.5)  # two rows of 16


def test_strength_is_lowered_until_the_budget_is_met(tmp_path: Path) -> None:
    original = mlp(tmp_path / "o.onnx", **SHAPE)
    free = make_plan(original, OWNER, inputs=feeds(), budget=Budget(cosine=0, agreement=0))
    budget = Budget(cosine=1 - (1 - drift_of(free).cosine) / 3, agreement=0)
    plan = make_plan(original, OWNER, inputs=feeds(), budget=budget)
    assert budget.meets(drift_of(plan))
    assert free.strength / 3 < plan.strength < free.strength
    with pytest.raises(ModelError, match="changes the model too much"):
        make_plan(original, OWNER, inputs=feeds(), budget=Budget(cosine=1.0, agreement=0))


def test_ties_weaken_a_mark_only_while_it_stays_strong(tmp_path: Path) -> None:
    original = mlp(tmp_path / "o.onnx", **SHAPE)
    budget = Budget(cosine=0, agreement=0.99999)
    model = onnx.load(original)
    for tensor in model.graph.initializer:
        if tensor.name == "b1":  # two classes of equal weight: every row is a tie between them
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.eye(1, 192, dtype=np.float32)[0] * 0, "b1"))
        if tensor.name == "w1":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[:] = np.abs(values[:, :1]) + 1e-6 * values
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    onnx.save(model, original)
    plan = make_plan(original, OWNER, inputs=feeds(), budget=budget)
    drift = drift_of(plan)
    assert drift.flipped > 1
    assert drift.turned <= 1
    assert not plan.left_out
    assert plan.strength == make_plan(original, OWNER, check=False).strength


def test_quantised_tensors_that_cost_most_are_left_out(tmp_path: Path) -> None:
    plain = mlp(tmp_path / "p.onnx", **SHAPE)
    original = quantise.static_qdq(plain, tmp_path / "q.onnx", [dict(f) for f in feeds(2)])
    whole = make_plan(original, OWNER, inputs=feeds(), strength=0.003, budget=Budget(cosine=0, agreement=0))
    assert not whole.left_out
    budget = Budget(cosine=1 - (1 - drift_of(whole).cosine) * 0.8, agreement=0)
    try:
        plan = make_plan(original, OWNER, inputs=feeds(), budget=budget)
    except ModelError as error:
        assert "too small" in str(error)  # half of so few quantised weights is too little
    else:
        assert plan.left_out
        assert budget.meets(drift_of(plan))


def identity(path: Path, kind: int, shape: list[str | int]) -> Path:
    """y = x."""
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_model_whose_drift_cannot_be_measured_is_told_so(tmp_path: Path) -> None:
    model = identity(tmp_path / "m.onnx", onnx.TensorProto.INT64, ["n"])
    with pytest.raises(ModelError, match="no output is a float tensor, so drift cannot be measured") as refused:
        Bench(model, None, "").drift(model)
    assert "--no-check" in str(hint_for(refused.value))
    model = identity(tmp_path / "m.onnx", onnx.TensorProto.STRING, ["n"])
    with pytest.raises(ModelError, match=r"no random inputs for 'x', which is a tensor\(string\)") as refused:
        Bench(model, None, "")
    assert "--inputs" in str(hint_for(refused.value))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_a_budget_is_a_share(bad: float) -> None:
    """Nothing is less than NaN: such a budget would allow any damage."""
    with pytest.raises(FormatError, match="budget: agreement: expected a number from 0 to 1"):
        Budget(agreement=bad)
    with pytest.raises(FormatError, match="budget: cosine: expected a number from 0 to 1"):
        Budget(cosine=bad)
