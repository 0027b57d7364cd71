"""What a thief may do to a file's structure, and what of it is undone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from attacks import damage, quantise, structure

from modelvault import samples
from modelvault.errors import FileError, FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.watermark.embedding import parse_payload
from modelvault.watermark.suspects import open_suspect
from modelvault.watermark.verdict import Verdict
from modelvault.watermark.verifying import verify_informed
from watermark.models import LAYERS, mark, mlp

OWNER = OwnerSecret(b"o" * 32)
PAYLOAD = parse_payload("bank 2.1")
SHAPE = {"width": 192, "hidden": 768, "classes": 192}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An original and its marked copy."""
    folder = tmp_path_factory.mktemp("pair")
    original = mlp(folder / "original.onnx", **SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELVAULT_HOME", str(folder / "home"))
        mark(original, folder / "marked.onnx", OWNER, payload=PAYLOAD)
    return original, folder / "marked.onnx"


def check(suspect: Path, original: Path, *, undone: set[str], payload: bool = True) -> Verdict:
    verdict = verify_informed(suspect, original, OWNER)
    assert verdict.claim, verdict.outcome
    assert undone <= {u for t in verdict.tensors for u in t.undone}
    if payload:
        assert verdict.outcome.read is not None
        assert verdict.outcome.read.payload == PAYLOAD
    return verdict


def same_function(left: Path, right: Path) -> None:
    """Both models give the same outputs: the attack left the function alone."""
    x = np.random.default_rng(1).standard_normal((8, SHAPE["width"])).astype(np.float32)
    a, b = (onnxruntime.InferenceSession(p).run(None, {"x": x}) for p in (left, right))
    np.testing.assert_allclose(np.asarray(a[0]), np.asarray(b[0]), atol=1e-4)


STRUCTURE: dict[str, tuple[Callable[[Path, Path], Path], set[str]]] = {
    "renamed": (structure.rename, {"renamed"}),
    "transposed": (structure.transpose, {"transposed"}),
    "optimised": (structure.optimise, set()),
    "permuted": (lambda s, d: structure.permute_hidden(s, d, LAYERS), {"permuted", "scale"}),
    "split": (lambda s, d: structure.split(s, d, ["w0", "w1"]), {"split"}),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_changes_of_structure_are_undone(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    original, marked = pair
    attack, undone = STRUCTURE[name]
    suspect = attack(marked, tmp_path / "suspect.onnx")
    same_function(marked, suspect)
    assert check(suspect, original, undone=undone).outcome.z > 300


def test_fused_tensors_are_taken_apart(tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    model = onnx.load(mlp(folder / "o.onnx", **SHAPE))
    twin = onnx.load(mlp(folder / "p.onnx", **SHAPE, seed=1)).graph.initializer[0]
    twin.name = "w0b"
    model.graph.initializer.append(twin)
    model.graph.node.insert(0, onnx.helper.make_node("MatMul", ["x", "w0b"], ["unused"]))
    onnx.save(model, folder / "o.onnx")
    mark(folder / "o.onnx", folder / "m.onnx", OWNER, payload=PAYLOAD)
    fused = structure.fuse(folder / "m.onnx", folder / "fused.onnx", [["w0", "w0b"]])
    verdict = check(fused, folder / "o.onnx", undone={"fused"})
    assert verdict.missing == 0


def test_hidden_units_taken_out(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    suspect = structure.remove_hidden(marked, tmp_path / "s.onnx", LAYERS, 0.3)
    verdict = check(suspect, original, undone={"permuted"})
    assert all(0.6 < t.coverage < 0.75 for t in verdict.tensors)


def test_everything_permuted_scaled_and_flipped(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    check(structure.scramble(marked, tmp_path / "s.onnx"), original, undone={"permuted", "scale", "signs"})


def test_rows_and_columns_cut_out_of_every_matrix(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    verdict = check(structure.cut(marked, tmp_path / "s.onnx", 0.3), original, undone={"permuted"})
    assert all(0.4 < t.coverage < 0.55 for t in verdict.tensors)


def test_simplified_models(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxsim", reason="extra: bench")
    original, marked = pair
    suspect = structure.simplify(marked, tmp_path / "s.onnx")
    same_function(marked, suspect)
    check(suspect, original, undone=set())


@pytest.mark.parametrize("how", [damage.noise(0.03), damage.prune(0.5), damage.fp16], ids=["noise", "pruned", "fp16"])
def test_combinations_of_three(pair: tuple[Path, Path], tmp_path: Path, how: damage.Change) -> None:
    original, marked = pair
    one = structure.permute_hidden(marked, tmp_path / "1.onnx", LAYERS)
    two = structure.rename(one, tmp_path / "2.onnx")
    three = damage.change(two, tmp_path / "3.onnx", how)
    check(three, original, undone={"permuted", "renamed"}, payload=False)


DAMAGE: dict[str, damage.Change] = {
    "fp16": damage.fp16,
    "bf16": damage.bf16,
    "prune50": damage.prune(0.5),
    "prune70": damage.prune(0.7),
    "prune90": damage.prune(0.9),
    "rows": damage.prune_rows(0.3),
    "noise": damage.noise(0.1),
    "refill": damage.refill(0.5),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_survived(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    original, marked = pair
    check(damage.change(marked, tmp_path / "s.onnx", DAMAGE[name]), original, undone=set(), payload=False)


@pytest.mark.parametrize("per_channel", [False, True])
def test_int8_is_survived(pair: tuple[Path, Path], tmp_path: Path, per_channel: bool) -> None:
    original, marked = pair
    check(quantise.dynamic_int8(marked, tmp_path / "s.onnx", per_channel=per_channel), original, undone={"scale"})


def test_static_qdq_is_survived(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.standard_normal((4, SHAPE["width"])).astype(np.float32)} for _ in range(4)]
    check(quantise.static_qdq(marked, tmp_path / "s.onnx", feeds), original, undone={"dequantised"})


def test_int4_blocks_are_survived(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    suspect = quantise.int4(marked, tmp_path / "s.onnx")
    onnxruntime.InferenceSession(suspect, providers=["CPUExecutionProvider"])
    check(suspect, original, undone={"dequantised", "transposed"}, payload=False)


def test_other_owners_marks_on_top(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    current = marked
    for number in range(3):
        after = tmp_path / f"{number}.onnx"
        mark(current, after, OwnerSecret(bytes([number]) * 32), check=False)
        current = after
    check(current, original, undone=set())


def test_a_quantised_model_carries_a_mark_through_dequantisation(tmp_path: Path) -> None:
    plain = mlp(tmp_path / "plain.onnx", **SHAPE)
    original = quantise.static_qdq(
        plain, tmp_path / "q.onnx", [{"x": np.ones((2, SHAPE["width"]), np.float32)} for _ in range(2)]
    )
    report = mark(original, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.003, check=False)
    assert {c.weight.dtype for c in report.plan.carriers} == {"INT8"}
    check(tmp_path / "m.onnx", original, undone=set())
    check(structure.optimise(tmp_path / "m.onnx", tmp_path / "opt.onnx"), original, undone=set())


def test_batch_norms_folded_by_onnxruntime(tmp_path: Path) -> None:
    mark(samples.MODEL, tmp_path / "m.onnx", OWNER, payload=PAYLOAD)
    verdict = verify_informed(structure.optimise(tmp_path / "m.onnx", tmp_path / "s.onnx"), samples.MODEL, OWNER)
    assert verdict.claim
    assert "scale" in {u for t in verdict.tensors for u in t.undone}


def test_npz_and_safetensors_suspects(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, marked = pair
    arrays = structure.as_arrays(marked, tmp_path / "w.npz")
    check(arrays, original, undone={"renamed"})
    weights = dict(np.load(arrays))
    structure.as_safetensors(weights, tmp_path / "w.safetensors")
    check(tmp_path / "w.safetensors", original, undone={"renamed"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04rubbish",
        (20).to_bytes(8, "little") + b'{"a":{"dtype":"F32",',
        (58).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[64,64],"data_offsets":[0,9]}}',
        (62).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[64,64],"data_offsets":[9,99999]}}',
        b"\x08\x01rubbish",
    ],
)
def test_broken_suspects_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises((FormatError, ModelError, FileError), match="broken"):
        open_suspect(tmp_path / "broken")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", a=np.array([{"x": 1}] * 2000, dtype=object))
    assert open_suspect(tmp_path / "p.npz") == []


def test_an_unrelated_model_is_not_claimed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    original, _ = pair
    other = mlp(tmp_path / "other.onnx", **SHAPE, seed=9)
    verdict = verify_informed(other, original, OWNER)
    assert not verdict.claim
    assert verdict.missing == 2
    shutil.copy(samples.MODEL, tmp_path / "x.onnx")
    assert not verify_informed(tmp_path / "x.onnx", original, OWNER).claim
