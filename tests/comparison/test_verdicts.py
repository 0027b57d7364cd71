"""What diff says of changes whose nature is known: on every real model, and on small ones made for it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attacks import damage, quantise, structure
from conftest import Parties
from onnx import numpy_helper
from watermark.models import LAYERS, mlp

from modelvault.diff import SAME, Comparison, compare
from modelvault.filekey import Identity
from modelvault.onnxfile.anonymise import anonymise
from modelvault.watermark.sealed import Auditor, opened


def edit(source: Path, output: Path, how: Any, name: str | None = None) -> Path:
    """Change one float tensor: that of a name, or the largest."""
    model = onnx.load(source)
    held = [t for t in damage.tensors(model) if t.data_type not in (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)]
    held = [t for t in held if t.name == name] if name else [t for t in held if t.data_type == onnx.TensorProto.FLOAT]
    tensor = max(held, key=lambda t: int(np.prod(t.dims)))
    tensor.CopyFrom(numpy_helper.from_array(how(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, output)
    return output


def rename(source: Path, output: Path) -> Path:
    """Numbers for every inner name, in subgraphs too, and the weights in another order."""
    model = onnx.load(source)
    anonymise(model)
    turned = [onnx.TensorProto.FromString(t.SerializeToString()) for t in reversed(model.graph.initializer)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(turned)
    onnx.save(model, output)
    return output


def with_grant(parties: Parties, identity: Identity) -> Auditor:
    return Auditor(identity=identity, trust=parties.trust, log=parties.log)


@pytest.mark.real_models
def test_real_models_against_themselves(real_model: Path) -> None:
    found = compare(real_model, real_model)
    assert found.verdict.word == "identical"
    assert found.verdict.same == found.verdict.tensors == len(found.tensors) > 0
    assert found.verdict.share_same == 1


@pytest.mark.real_models
def test_a_real_model_renamed_computes_the_same(real_model: Path, tmp_path: Path) -> None:
    found = compare(real_model, rename(real_model, tmp_path / "r.onnx"))
    assert found.verdict.word == "same-function"
    assert found.graph is not None
    assert not (found.graph.removed or found.graph.added or found.graph.changed or found.graph.rewired)
    assert not (found.removed or found.added)


@pytest.mark.real_models
def test_a_real_model_and_its_sealed_file(parties: Parties, real_model: Path) -> None:
    sealed = parties.seal(real_model, name="m")
    with opened(sealed, with_grant(parties, parties.customer), purpose="diff") as model:
        found = compare(real_model, model)
    assert found.verdict.word == "same-function"
    assert found.verdict.share_same == 1
    assert found.b.kind == "sealed"
    assert parties.events()[-1] == "diff.checked"


@pytest.mark.real_models
def test_one_fine_tuned_layer_of_a_real_model_is_found(real_model: Path, tmp_path: Path) -> None:
    noise = damage.noise(0.02)
    kept: dict[str, Any] = {}

    def tune(array: Any) -> Any:
        kept["a"], kept["b"] = array, noise(array).astype(np.float32)
        return kept["b"]

    found = compare(real_model, edit(real_model, tmp_path / "t.onnx", tune))
    (tensor,) = [t for t in found.tensors if not t.same]
    assert found.verdict.word == "fine-tuned"
    assert (found.verdict.changed, found.verdict.removed, found.verdict.added) == (1, 0, 0)
    assert tensor.change is not None
    a, off = kept["a"].astype(np.float64), kept["b"].astype(np.float64) - kept["a"]
    expected = np.linalg.norm(off) / np.linalg.norm(a)
    assert tensor.change.relative == pytest.approx(expected, rel=1e-9)
    assert tensor.change.largest == pytest.approx(np.abs(off).max(), rel=1e-9)
    assert tensor.change.share == np.mean(kept["a"] != kept["b"])


@pytest.mark.real_models
def test_a_renamed_and_fine_tuned_real_model(real_model: Path, tmp_path: Path) -> None:
    """Neither names nor contents are left to match large weights by: their places are."""
    rename(real_model, tmp_path / "r.onnx")
    found = compare(real_model, damage.change(tmp_path / "r.onnx", tmp_path / "rt.onnx", damage.noise(0.01)))
    assert found.verdict.word == "fine-tuned"
    assert not found.removed
    assert not found.added
    assert all(t.derived for t in found.tensors if t.count >= 1024)


def test_half_precision_of_real_weights(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    found = compare(source, damage.change(source, tmp_path / "h.onnx", damage.fp16))
    assert found.verdict.word == "converted"
    assert found.verdict.unchanged == 2
    found = compare(source, damage.change(source, tmp_path / "b.onnx", damage.bf16))
    assert found.verdict.word == "fine-tuned"  # bfloat16 stored as float32 is not told from training


def halved(source: Path, output: Path, kind: int) -> Path:
    """Weights of another type, and a Cast back to float behind each."""
    model = onnx.load(source)
    for tensor in list(model.graph.initializer):
        name = tensor.name
        as_type = onnx.helper.tensor_dtype_to_np_dtype(kind)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(as_type), f"{name}_half"))
        model.graph.node.insert(0, onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=1))
    onnx.save(model, output)
    return output


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
def test_weights_of_a_coarser_type(tmp_path: Path, kind: int) -> None:
    source = mlp(tmp_path / "m.onnx")
    found = compare(source, halved(source, tmp_path / "h.onnx", kind))
    assert found.verdict.word == "converted"
    assert found.graph is not None
    assert len(found.graph.added) == 4
    assert all(t.dtype == onnx.TensorProto.DataType.Name(kind) for t in found.tensors)  # type: ignore[attr-defined]
    changed = edit(tmp_path / "h.onnx", tmp_path / "e.onnx", lambda a: a * a.dtype.type(1.5), "w0_half")
    found = compare(source, changed)
    assert found.verdict.word == "fine-tuned"
    assert [t.a.name for t in found.tensors if not t.unchanged] == ["w0"]


def test_quantised_with_its_own_operators(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    feeds = [{"x": np.random.default_rng(k).standard_normal((4, 64)).astype(np.float32)} for k in range(4)]
    for made in (
        quantise.static_qdq(source, tmp_path / "s.onnx", feeds),
        quantise.dynamic_int8(source, tmp_path / "d.onnx"),
        quantise.int4(source, tmp_path / "4.onnx"),
    ):
        found = compare(source, made)
        assert found.verdict.word in ("converted", "restructured"), made
        assert found.verdict.share_derived > 0.99
        matrices = [t for t in found.tensors if t.a.name in ("w0", "w1")]
        assert len(matrices) == 2
        assert all("dequantised" in t.undone and t.change and t.change.relative < 0.2 for t in matrices)


def test_permuted_and_renamed_is_found_with_align_alone(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    structure.shuffle_hidden(source, tmp_path / "p.onnx", LAYERS)
    structure.rename(tmp_path / "p.onnx", tmp_path / "s.onnx")
    assert compare(source, tmp_path / "s.onnx").verdict.word == "weights-only"
    found = compare(source, tmp_path / "s.onnx", align=True)
    assert found.verdict.word == "rearranged"
    assert {t.a.name: t.undone for t in found.tensors if not t.same} == dict.fromkeys(("w0", "w1", "b0"), ("permuted",))
    assert found.verdict.relative == 0


def test_permuted_and_rescaled(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    found = compare(source, structure.permute_hidden(source, tmp_path / "p.onnx", LAYERS), align=True)
    matrices = [t for t in found.tensors if t.a.name in ("w0", "w1")]
    assert all(t.undone == ("permuted", "scale") for t in matrices)
    assert all(t.change is not None and t.change.relative < 0.01 for t in matrices)
    assert found.verdict.word == "fine-tuned"  # the bias was rescaled too, and has no rows to tell by


def test_transposed_fused_and_split(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    found = compare(source, structure.transpose(source, tmp_path / "t.onnx"))
    assert found.verdict.word == "restructured"
    assert [t.undone for t in found.tensors if not t.same] == [("transposed",)] * 2
    assert found.verdict.unchanged == 2
    found = compare(source, structure.split(source, tmp_path / "s.onnx", ["w0"]), align=True)
    (tensor,) = [t for t in found.tensors if t.a.name == "w0"]
    assert tensor.undone == ("split",)
    assert tensor.name == "w0_0, w0_1"
    assert tensor.change is not None
    assert tensor.change.relative == 0


def test_other_weights_and_other_architectures(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    assert compare(source, mlp(tmp_path / "o.onnx", seed=7)).verdict.word == "weights-only"
    assert compare(source, mlp(tmp_path / "w.onnx", hidden=256)).verdict.word == "different-architecture"


def test_files_of_tensors_alone(tmp_path: Path) -> None:
    source = mlp(tmp_path / "m.onnx")
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    renamed = {f"t{n}": a for n, a in enumerate(arrays.values())}
    np.savez(tmp_path / "same.npz", allow_pickle=False, **renamed)
    found = compare(source, tmp_path / "same.npz")
    assert found.verdict.word == "same-weights"
    assert found.graph is None
    structure.as_safetensors(arrays, tmp_path / "h.safetensors")  # every second one as bfloat16, cut and not rounded
    found = compare(source, tmp_path / "h.safetensors")
    assert found.verdict.word == "fine-tuned"
    assert found.verdict.share_derived == 1
    np.savez(tmp_path / "less.npz", allow_pickle=False, w0=arrays["w0"])
    found = compare(source, tmp_path / "less.npz")
    assert found.verdict.word == "different-architecture"
    assert [t.name for t in found.removed] == ["b0", "w1", "b1"]


@pytest.mark.parametrize("word", ["identical", "same-function", "same-weights"])
def test_the_words_of_sameness(word: str) -> None:
    assert word in SAME


def arrays(tmp_path: Path, a: dict[str, Any], b: dict[str, Any]) -> Comparison:
    for name, held in (("a.npz", a), ("b.npz", b)):
        np.savez(tmp_path / name, allow_pickle=False, **held)
    return compare(tmp_path / "a.npz", tmp_path / "b.npz")


def pairs(found: Comparison) -> dict[str, str]:
    return {t.a.name: t.name for t in found.tensors}


def test_content_goes_before_names(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 32, 32))
    assert pairs(arrays(tmp_path, {"p": x, "q": y}, {"p": y, "q": x})) == {"p": "q", "q": "p"}


def test_constants_keep_their_names(tmp_path: Path) -> None:
    """Zeros elsewhere are no sign of a bias that was renamed."""
    zero, some = np.zeros(64), np.random.default_rng(0).standard_normal(64)
    found = arrays(tmp_path, {"b1": zero, "b2": zero}, {"b1": some, "b2": zero, "b3": zero})
    assert pairs(found) == {"b1": "b1", "b2": "b2"}
    assert [t.name for t in found.added] == ["b3"]


def test_figures_of_odd_numbers(tmp_path: Path) -> None:
    nan, inf = np.nan, np.inf
    found = arrays(
        tmp_path,
        {"zero": np.zeros(4), "odd": np.array([1, nan, inf, 2.0]), "int": np.array([1, -5, 7], np.int8), "none": nan},
        {"zero": np.ones(4), "odd": np.array([1, nan, inf, 3.0]), "int": np.array([1, 5, 7], np.int8), "none": nan},
    )
    change = {t.a.name: t.change for t in found.tensors}
    zero, odd, steps = change["zero"], change["odd"], change["int"]
    assert zero is not None and zero.relative == np.inf and zero.cosine == 0
    assert odd is not None and (odd.odd, odd.differ, odd.share) == (2, 1, 0.25)
    assert odd.relative == pytest.approx(1 / np.sqrt(5))
    assert steps is not None and (steps.steps, steps.differ) == (10, 1)
    assert change["none"] is None
    assert found.verdict.word == "weights-only"


def test_integers_too_large_for_floats(tmp_path: Path) -> None:
    """2**53 and its neighbour are equal as doubles; they differ all the same."""
    found = arrays(tmp_path, {"n": np.array([2**53])}, {"n": np.array([2**53 + 1])})
    assert found.verdict.word not in SAME
    (tensor,) = found.tensors
    assert not tensor.same
    assert tensor.change is not None
    assert tensor.change.differ == 1
    assert not tensor.unchanged
