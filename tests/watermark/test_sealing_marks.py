"""Mark while sealing: the unmarked weights are never written, and the statement holds the commitment."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Parties

from modelvault.commitment import Commitment
from modelvault.errors import FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.manifest import ModelStatement
from modelvault.verification import inspect
from modelvault.watermark import record
from modelvault.watermark.embedding import make_plan, parse_payload
from watermark.models import mark, mlp

OWNER = OwnerSecret(b"o" * 32)
PAYLOAD = parse_payload("bank 2.1")


@pytest.fixture(params=["inline", "external", "subgraph"])
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = mlp(tmp_path / "original.onnx")
    model = onnx.load(path)
    if request.param == "external":
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if request.param == "subgraph":
        onnx.save(inside_an_if(model), path)
    return path


def inside_an_if(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network as the branch of an If that is always taken."""
    inner = model.graph
    branch = onnx.helper.make_graph(list(inner.node), "branch", [], list(inner.output), list(inner.initializer))
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Softmax", ["x"], ["y2"])], "other", [],
        [onnx.helper.make_tensor_value_info("y2", onnx.TensorProto.FLOAT, ["batch", 64])],
    )  # fmt: skip
    condition = onnx.numpy_helper.from_array(np.array(True), "yes")
    node = onnx.helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=other)
    output = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["batch", 64])
    graph = onnx.helper.make_graph([node], "outer", list(inner.input), [output], [condition])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


def test_the_sealed_model_is_the_marked_one(parties: Parties, tmp_path: Path, original: Path) -> None:
    plan = make_plan(original, OWNER, payload=PAYLOAD)
    sealed = parties.seal(original, name="m", watermark=plan)
    mark(original, tmp_path / "marked.onnx", OWNER, payload=PAYLOAD)
    import onnxruntime

    plain = onnxruntime.InferenceSession(tmp_path / "marked.onnx")
    unmarked = onnxruntime.InferenceSession(original)
    feed = {"x": np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)}
    with parties.load(sealed) as session:
        got = session.run(None, feed)[0]
    np.testing.assert_allclose(got, np.asarray(plain.run(None, feed)[0]), rtol=1e-4)  # kernels round differently
    assert not np.allclose(got, np.asarray(unmarked.run(None, feed)[0]), rtol=1e-4, atol=0)


def test_the_statement_holds_the_commitment(parties: Parties, original: Path) -> None:
    plan = make_plan(original, OWNER, payload=PAYLOAD)
    facts = inspect(parties.seal(original, name="m", watermark=plan))
    assert facts.statement.watermark == plan.commitment
    assert record.opens(OWNER, plan.commitment, PAYLOAD)
    assert ModelStatement.from_bytes(facts.statement.to_bytes(), "s") == facts.statement
    assert facts.to_dict()["watermark"]["owner"] == OWNER.fingerprint


def test_without_a_mark_the_statement_says_nothing(parties: Parties) -> None:
    facts = inspect(parties.seal())
    assert facts.statement.watermark is None
    assert b"watermark" not in facts.statement.to_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [("scheme", "other"), ("owner", "me"), ("strength", 0), ("commitment", "00"), ("original", 5), ("extra", 1)],
)
def test_a_commitment_is_parsed_strictly(field: str, value: object) -> None:
    good = Commitment(owner=OWNER.fingerprint, original=b"o" * 32, strength=3000, value=b"v" * 32)
    assert Commitment.from_dict(good.to_dict(), "w") == good
    with pytest.raises(FormatError, match=rf"w\.{field}|unknown key 'extra'"):
        Commitment.from_dict({**good.to_dict(), field: value}, "w")


def test_a_source_that_changes_is_refused(parties: Parties, tmp_path: Path) -> None:
    original = mlp(tmp_path / "o.onnx")
    plan = make_plan(original, OWNER)
    mlp(original, seed=5)
    with pytest.raises(ModelError, match="changed while it was being marked"):
        parties.seal(original, name="m", watermark=plan)
    assert not (parties.folder / "model.mvlt").exists()


def test_tree_leaves_carry_marks(tmp_path: Path) -> None:
    """A regressor of 2048 leaves: its leaf weights are a list of floats, no tensor."""
    rng, count = np.random.default_rng(3), 2048
    node = onnx.helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", name="trees",
        nodes_treeids=list(range(count)), nodes_nodeids=[0] * count, nodes_featureids=[0] * count,
        nodes_modes=["LEAF"] * count, nodes_values=[0.0] * count, nodes_truenodeids=[0] * count,
        nodes_falsenodeids=[0] * count, target_treeids=list(range(count)), target_nodeids=[0] * count,
        target_ids=[0] * count, target_weights=rng.standard_normal(count).tolist(), n_targets=1,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node], "trees",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 1])],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "trees.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    mark(path, tmp_path / "m.onnx", OWNER, strength=0.01, check=False)
    from modelvault.watermark.verifying import verify_informed

    verdict = verify_informed(tmp_path / "m.onnx", path, OWNER)
    assert verdict.claim
    assert verdict.tensors[0].name == "trees.target_weights"
    assert json.loads(json.dumps(verdict.to_dict()))["claim"]
