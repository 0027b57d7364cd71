"""Input, query and output guards: each limit from both sides, through real sessions."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Parties
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelvault.envelopes import InputEnvelope, TensorEnvelope
from modelvault.errors import ForbiddenOption, FormatError, InputRejected, ModelVaultError, QueryRefused
from modelvault.guards import OutputLimits, QueryGuard, QueryLimits, calibrate, harden
from modelvault.guards.inputs import check_array

SHAPE = (1, 3, 48, 192)


def images(seed: int, count: int = 1) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SHAPE[1:])).astype(np.float32)


@pytest.fixture
def calibrated(parties: Parties) -> Path:
    """The bundled model, calibrated with images from -1 to 1, in batches of 1 to 4."""
    return parties.seal(guard=calibrate([{"x": images(1, 1)}, {"x": images(2, 4)}]))


def with_value(value: float) -> Any:
    array = images(3)
    array[0, 1, 2, 3] = value
    return array


REJECTED = [
    (images(3).astype(np.float64), "expected float32, got float64"),
    (images(3)[0], "expected rank 4, got 3"),
    (images(3)[:, :2], "dimension 1: expected 3, got 2"),
    (images(3, 5), "dimension 0: expected 1 to 4, got 5"),
    (with_value(np.nan), "values are not finite"),
    (with_value(np.inf), "values are not finite"),
    (with_value(5.0), r"values out of range: expected -1\.2\d* to 1\.1\d*|expected -1\.19\d* to 1\.19\d*"),
    (with_value(-5.0), "values out of range"),
]


@pytest.mark.parametrize(("array", "words"), REJECTED)
def test_what_a_calibrated_model_rejects(parties: Parties, calibrated: Path, array: Any, words: str) -> None:
    with parties.load(calibrated) as session:
        with pytest.raises(InputRejected, match=words):
            session.run(None, {"x": array})
        session.run(None, {"x": with_value(1.1)})
        session.run(None, {"x": images(4, 4)})
    closed = parties.records()[-1]
    assert (closed.fields["runs"], closed.fields["rejected"]) == (3, 1)


def test_every_way_in_is_guarded(parties: Parties, calibrated: Path) -> None:
    bad = with_value(9)
    with parties.load(calibrated) as session:
        for call in (
            lambda: session.run_with_ort_values(None, {"x": onnxruntime.OrtValue.ortvalue_from_numpy(bad)}),
            lambda: session.run_async(None, {"x": bad}, print, None),
        ):
            with pytest.raises(InputRejected):
                call()
        for bind in ("bind_cpu_input", "bind_ortvalue_input"):
            binding = session.io_binding()
            value = bad if bind == "bind_cpu_input" else onnxruntime.OrtValue.ortvalue_from_numpy(bad)
            getattr(binding, bind)("x", value)
            with pytest.raises(InputRejected):
                session.run_with_iobinding(binding)
        changing = images(5)
        binding = session.io_binding()
        binding.bind_cpu_input("x", changing)
        binding.bind_output(session.get_outputs()[0].name)
        session.run_with_iobinding(binding)
        changing[0, 0, 0, 0] = np.nan  # what is checked is what stands there when it runs
        with pytest.raises(InputRejected):
            session.run_with_iobinding(binding)
        with pytest.raises(ForbiddenOption, match="behind a raw pointer"):
            binding.bind_input("x", "cpu", 0, np.float32, SHAPE, changing.ctypes.data)
        with pytest.raises(ForbiddenOption, match="made by this session"):
            session.run_with_iobinding(onnxruntime.IOBinding(session))


def test_warn_and_off(parties: Parties, calibrated: Path) -> None:
    for mode, rejected in (("warn", 1), ("off", 0)):
        with parties.load(calibrated, input_guard=mode) as session:
            session.run(None, {"x": with_value(9)})
        assert parties.records()[-1].fields["rejected"] == rejected
    with pytest.raises(ValueError, match="input_guard: expected one of"):
        parties.load(calibrated, input_guard="maybe")


def test_without_calibration_the_models_own_signature_is_checked(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed) as session:
        session.run(None, {"x": with_value(1e6)})
        session.run(None, {"x": images(1, 7)})
        for bad in (images(1).astype(np.int64), images(1)[0], images(1)[:, :2]):
            with pytest.raises(InputRejected):
                session.run(None, {"x": bad})
        with pytest.raises(ValueError, match="missing from input feed"):
            session.run(None, {})


def test_calibration_that_does_not_fit_the_model(parties: Parties) -> None:
    path = parties.seal(guard=calibrate([{"x": images(1).astype(np.float64)}]))
    with pytest.raises(FormatError, match="does not fit the model's input"):
        parties.load(path)


def test_calibration_refuses_what_it_cannot_use() -> None:
    with pytest.raises(FormatError, match="no inputs"):
        calibrate([])
    with pytest.raises(FormatError, match="not finite"):
        calibrate([{"x": np.array([np.nan])}])
    with pytest.raises(FormatError, match="differ in dtype or rank"):
        calibrate([{"x": np.zeros(3)}, {"x": np.zeros((3, 1))}])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.uint8]),
            hnp.array_shapes(min_dims=2, max_dims=2),
            elements={"min_value": 0, "max_value": 200},
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_was_calibrated_passes(samples: list[Any]) -> None:
    kind = samples[0].dtype
    envelope = calibrate([{"x": s.astype(kind)} for s in samples])
    again = InputEnvelope.from_list(envelope.to_list(), "guard")
    assert again == envelope
    for sample in samples:
        check_array(sample.astype(kind), kind, again.inputs[0])


@pytest.mark.parametrize(
    "item",
    [
        {"name": "x", "dtype": "float32", "shape": [[2, 1]]},
        {"name": "x", "dtype": "float32", "shape": [[-1, 1]]},
        {"name": "x", "dtype": "float32", "shape": [[1]]},
        {"name": "x", "dtype": "float32", "shape": [[1, True]]},
        {"name": "x", "dtype": "float32", "shape": [], "values": [1, "2"]},
        {"name": "x", "dtype": "float32", "shape": [], "other": 1},
    ],
)
def test_envelopes_that_do_not_parse(item: Any) -> None:
    with pytest.raises(FormatError):
        TensorEnvelope.from_dict(item, "guard[0]")


def test_limits_by_caller(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed, queries=QueryLimits(total=3)) as session:
        with session.caller("tenant-7"):
            for seed in range(3):
                session.run(None, {"x": images(seed)})
            with pytest.raises(QueryRefused, match="caller 'tenant-7': more than 3 calls"):
                session.run(None, {"x": images(9)})
        with session.caller("tenant-8"):
            session.run(None, {"x": images(1)})
    summary = parties.records()[-1].fields["queries"]
    assert summary["callers"]["tenant-7"] == {"calls": 4, "refused": 1, "rejected": 0}
    assert summary["callers"]["tenant-8"]["calls"] == 1
    assert summary["exceeded"] == {"more than 3 calls": 1}


def test_callers_belong_to_threads(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed, queries=QueryLimits(total=10**6)) as session:

        def work(name: str) -> None:
            with session.caller(name):
                for seed in range(5):
                    session.run(None, {"x": images(seed)})

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    callers = parties.records()[-1].fields["queries"]["callers"]
    assert {name: c["calls"] for name, c in callers.items()} == {f"t{n}": 5 for n in range(4)}


def feed(guard: QueryGuard, array: Any, caller: str = "c") -> str | None:
    try:
        guard.admit(caller, {"x": array})
    except QueryRefused as error:
        return str(error)
    return None


def test_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("modelvault.guards.queries.time.monotonic", lambda: now[0])
    guard = QueryGuard(QueryLimits(per_minute=5))
    assert [feed(guard, np.zeros(2)) for _ in range(5)] == [None] * 5
    assert "more than 5 calls a minute" in (feed(guard, np.zeros(2)) or "")
    now[0] = 61.0
    assert feed(guard, np.zeros(2)) is None


def test_patterns_of_extraction() -> None:
    """Ordinary traffic passes; small steps around a seed, and a walk along a grid, do not."""
    rng = np.random.default_rng(0)
    limits = QueryLimits(near_duplicates=0.5, equal_steps=0.5)
    ordinary = QueryGuard(limits)
    assert [feed(ordinary, rng.uniform(0, 1, 3000).astype(np.float32)) for _ in range(600)] == [None] * 600
    around = QueryGuard(limits)
    seed = rng.uniform(0, 1, 3000).astype(np.float32)
    answers = [feed(around, seed + rng.normal(0, 1e-3, 3000).astype(np.float32)) for _ in range(200)]
    assert "near-duplicate" in str(answers[-1])
    walk = QueryGuard(QueryLimits(equal_steps=0.5))
    step = np.zeros(3000, np.float32)
    step[::30] = 0.5
    answers = [feed(walk, seed + n * step) for n in range(200)]
    assert "equal steps" in str(answers[-1])


def test_the_share_of_rejected_inputs(parties: Parties, calibrated: Path) -> None:
    with parties.load(calibrated, queries=QueryLimits(rejected=0.5)) as session:
        seen = set()
        for _ in range(100):
            with pytest.raises(ModelVaultError) as caught:
                session.run(None, {"x": with_value(9)})
            seen.add(type(caught.value))
        assert seen == {InputRejected, QueryRefused}


def test_counting_without_refusing() -> None:
    guard = QueryGuard(QueryLimits(total=1, refuse=False))
    assert [feed(guard, np.zeros(2)) for _ in range(3)] == [None] * 3
    assert guard.summary()["exceeded"] == {"more than 1 calls": 2}


def test_memory_of_the_query_guard_is_bounded() -> None:
    guard = QueryGuard(QueryLimits(total=5))
    for number in range(10_500):
        feed(guard, np.zeros(1), caller=str(number))
    assert len(guard._callers) == 10_000


def test_limited_outputs(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed) as session:
        exact = session.run(None, {"x": images(0)})[0]
    with parties.load(sealed, outputs=OutputLimits(decimals=1, top_k=1)) as session:
        limited = session.run(None, {"x": images(0)})[0]
        assert np.array_equal(limited, np.round(np.where(exact == exact.max(), exact, 0), 1))
        with pytest.raises(ForbiddenOption, match="outputs cannot be limited"):
            session.run_with_ort_values(None, {})


def test_harden_leaves_other_outputs_alone() -> None:
    labels, scores = np.array([3, 4]), np.array([[0.123, 0.5, 0.377]], np.float32)
    hardened = harden([labels, scores, [{"a": 1.0}]], OutputLimits(top_k=2))
    assert hardened[0] is labels
    assert hardened[1].tolist() == [[0.0, 0.5, np.float32(0.377).item()]]
    assert scores[0, 0] != 0
    assert hardened[2] == [{"a": 1.0}]
