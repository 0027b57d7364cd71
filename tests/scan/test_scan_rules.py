"""Every rule finds its sample and not its near miss; every shape of a backdoor and of a pickle; what is measured."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from modelvault.scan import RULES, ScanReport, scan
from modelvault.scan.finding import OWNERSHIP, PUBLIC, SEVERITIES
from scan.samples import (
    BACKDOORS,
    FALSE_KEY,
    HARMLESS,
    INNOCENT,
    MASK,
    PICKLES,
    SAMPLES,
    W,
    array,
    beside,
    loop,
    model,
    node,
    noted,
    save,
    shaped,
)


def found(report: ScanReport) -> set[str]:
    return {f.rule for f in report.findings}


def test_every_rule_has_a_sample() -> None:
    """Those that need keys or a sealed file have theirs in test_scan_sealed."""
    assert {name for name, r in RULES.items() if r.stage not in (OWNERSHIP, PUBLIC)} == SAMPLES.keys()


@pytest.mark.parametrize("rule", sorted(SAMPLES))
def test_a_rule_finds_its_sample_alone(tmp_path: Path, rule: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "near").mkdir()
    report = scan(SAMPLES[rule].bad(tmp_path / "bad"))
    hits = [f for f in report.findings if f.rule == rule]
    assert hits
    assert {f.severity for f in hits} == {RULES[rule].severity}
    assert all(f.message.isascii() and f.message.isprintable() for f in report.findings)
    assert rule not in found(scan(SAMPLES[rule].near(tmp_path / "near")))


@pytest.mark.parametrize("name", sorted(BACKDOORS))
def test_a_backdoor_is_found(tmp_path: Path, name: str) -> None:
    hits = [f for f in scan(save(BACKDOORS[name])(tmp_path)).findings if f.rule == "hidden-branch"]
    assert [f.where for f in hits] == ["graph/choose"]


@pytest.mark.parametrize("name", sorted(INNOCENT))
def test_what_exporters_make_is_no_backdoor(tmp_path: Path, name: str) -> None:
    assert "hidden-branch" not in found(scan(save(INNOCENT[name])(tmp_path)))


@pytest.mark.parametrize("name", sorted(PICKLES))
def test_a_pickle_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    report = scan(beside(name, PICKLES[name])(tmp_path))
    assert [f.file for f in report.findings if f.rule == "pickle-asset"] == [name]


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_data_is_no_pickle(tmp_path: Path, name: str) -> None:
    assert "pickle-asset" not in found(scan(beside(name, HARMLESS[name])(tmp_path)))


SECRETS = {
    "key": FALSE_KEY,
    "aws": "AKIA" + "A1B2C3D4" * 2,
    "github": "ghp_" + "a1B2" * 9,
    "api": "sk-" + "a1B2c3D4" * 5,
    "slack": "xoxb-" + "12345-67890-abcdef" * 2,
    "jwt": ".".join(["eyJ" + "a" * 20, "eyJ" + "b" * 20, "c" * 40]),
    "url": "postgres://admin:hunter2x@db.example.com/x",
    "password": 'password = "correct8horse"',
}
OPEN = (
    "password = args.password",
    "api_key=os.environ[KEY_1]",
    "access_token: none",
    "https://example.com:8080/a@b",
    "sk-learn",
)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_secrets_of_every_kind(tmp_path: Path, name: str) -> None:
    report = scan(save(noted(f"see {SECRETS[name]} there"))(tmp_path))
    hits = [f for f in report.findings if f.rule == "embedded-secret"]
    assert [f.where for f in hits] == ["graph/mm: doc_string"]
    assert SECRETS[name] not in str(report)


@pytest.mark.parametrize("text", OPEN)
def test_what_only_mentions_secrets(tmp_path: Path, text: str) -> None:
    assert "embedded-secret" not in found(scan(save(noted(text))(tmp_path)))


@pytest.mark.parametrize(
    ("value", "is_code"), [("exec(open('x').read())", True), ("after model.eval(), 3 GPUs", False)]
)
def test_metadata_that_is_code(tmp_path: Path, value: str, is_code: bool) -> None:
    assert ("active-metadata" in found(scan(save(noted(note=value))(tmp_path)))) == is_code


BOMBS = {
    "expand": shaped("Expand", ["x", "s"], {"s": np.array([2**30, 32], "i8")}),
    "tile": shaped("Tile", ["x", "s"], {"s": np.array([2**20, 2**20], "i8")}),
    "range": shaped("Range", ["a", "b", "c"], {"a": np.int64(0), "b": np.int64(2**40), "c": np.int64(1)}),
    "resize": shaped("Resize", ["x", "", "s"], {"s": np.array([2.0**20, 2.0**20], "f4")}),
    "sizes": shaped("Resize", ["x", "", "", "s"], {"s": np.array([2**20, 2**20], "i8")}),
    "pad": shaped("Pad", ["x", "s"], {"s": np.array([0, 0, 2**30, 2**10], "i8")}),
    "one-hot": shaped("OneHot", ["x", "d", "v"], {"d": np.int64(2**40), "v": np.array([0, 1], "f4")}),
    "overflow": shaped("ConstantOfShape", ["s"], {"s": np.array([2**62, 2**62], "i8")}),
    "random": shaped("RandomNormal", [], {}, shape=[2**20, 2**20]),
    "outer": model(
        [node("MatMul", ["a", "b"], ["y"], "n")],
        [array("a", np.ones((2**17, 1), "f4")), array("b", np.ones((1, 2**17), "f4"))],
    ),
    "worked out": model(
        [
            node("Mul", ["k", "k"], ["kk"]),
            node("Unsqueeze", ["kk", "axes"], ["row"]),
            node("Concat", ["row", "row"], ["s"], axis=0),
            node("ConstantOfShape", ["s"], ["y"], "n"),
        ],
        [array("k", np.int64(2**20)), array("axes", np.array([0], "i8"))],
    ),
    "twice": model(
        [node("Tile", ["x", "s"], ["m"]), node("Relu", ["m"], ["r"]), node("Tile", ["r", "s"], ["y"], "n")],
        [array("s", np.array([2**12, 2**6], "i8"))],
    ),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_bomb_is_worked_out_before_anything_runs(tmp_path: Path, name: str) -> None:
    hits = [f for f in scan(save(BOMBS[name])(tmp_path)).findings if f.rule == "allocation-bomb"]
    assert [f.where for f in hits] == ["graph/n"]


def test_an_enormous_trip_count_is_no_bound(tmp_path: Path) -> None:
    assert "unbounded-loop" in found(scan(save(loop(2**40, "worked out"))(tmp_path)))


@pytest.mark.parametrize("dtype", ["FLOAT16", "BFLOAT16", "DOUBLE"])
@pytest.mark.parametrize(("value", "rule"), [(np.nan, "nan-weights"), (-np.inf, "infinite-weights"), (1.0, None)])
def test_weights_of_every_float_type_are_read(tmp_path: Path, dtype: str, value: float, rule: str | None) -> None:
    values = W.copy()
    values[31, 31] = value
    kind = getattr(onnx.TensorProto, dtype)
    tensor = onnx.helper.make_tensor("w", kind, W.shape, values.ravel().tolist())
    report = found(scan(save(model(weights=[tensor]))(tmp_path)))
    assert report & {"nan-weights", "infinite-weights"} == ({rule} if rule else set())


def test_weights_in_other_files_and_across_pieces_are_read(tmp_path: Path) -> None:
    large = np.random.default_rng(1).standard_normal((32, 2**16)).astype("<f4")
    large[31, 2**16 - 1] = np.nan
    made = model(weights=[array("w", large)])
    onnx.save_model(made, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    assert found(scan(tmp_path / "m.onnx")) == {"nan-weights"}
    assert found(scan(tmp_path)) == {"nan-weights"}  # the data file is no asset


def test_a_mask_is_no_broken_weight_and_a_broken_mask_is(tmp_path: Path) -> None:
    broken = MASK.copy()
    broken[0, 0] = 1
    assert "infinite-weights" in found(scan(save(model(weights=[array("w", broken)]))(tmp_path)))


def test_findings_are_sorted_counted_and_capped(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["a"], "same"), node("Relu", ["x"], ["b"], "same"), node("Add", ["a", "b"], ["y"])]
    many = [array(f"v{n}", W) for n in range(80)]
    report = scan(save(model([*nodes, node("Relu", ["nobody"], ["z"])], many))(tmp_path))
    order = [SEVERITIES.index(f.severity) for f in report.findings]
    assert order == sorted(order)
    assert report.worst == "error"
    unused = [f for f in report.findings if f.rule == "unused-weights"]
    assert len(unused) == 51
    assert unused[-1].message == "more than 50 findings: the rest is left out"
    assert report.counts()["note"] == 52


def test_the_runtime_takes_the_newest_versions_that_pass(tmp_path: Path) -> None:
    path = save(model(ir=onnx.IR_VERSION, opset=onnx.defs.onnx_opset_version()))(tmp_path)
    assert scan(path).worst is None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.real_models
def test_real_models_give_no_error_and_no_warning(real_model: Path) -> None:
    assert [f for f in scan(real_model).findings if f.severity != "note"] == []
