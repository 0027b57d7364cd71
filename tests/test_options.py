"""The allow-list of onnxruntime options: what passes, and every door that does not."""

import os
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from conftest import Parties

from modelvault import options
from modelvault.errors import ForbiddenOption

CPU = "CPUExecutionProvider"


def session_options(**attributes: Any) -> onnxruntime.SessionOptions:
    result = onnxruntime.SessionOptions()
    for name, value in attributes.items():
        setattr(result, name, value)
    return result


def test_harmless_options_pass() -> None:
    given = session_options(intra_op_num_threads=3, enable_mem_pattern=False, logid="svc", log_severity_level=4)
    given.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    given.add_session_config_entry("session.intra_op.allow_spinning", "0")
    fresh = options.rebuild(given, onnxruntime.SessionOptions())
    assert fresh is not given
    assert (fresh.intra_op_num_threads, fresh.enable_mem_pattern, fresh.logid) == (3, False, "svc")
    assert fresh.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert fresh.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert fresh.log_severity_level == 4


def test_warnings_are_silenced_since_they_name_initializers() -> None:
    assert options.rebuild(None, onnxruntime.SessionOptions()).log_severity_level == options.ERROR
    given = session_options(log_severity_level=2)
    assert options.rebuild(given, onnxruntime.SessionOptions()).log_severity_level == options.ERROR


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_profiling", True),
        ("optimized_model_filepath", "/tmp/out.onnx"),
        ("log_severity_level", 0),
        ("log_severity_level", 1),
        ("log_verbosity_level", 1),
    ],
)
def test_attributes_that_are_doors(parties: Parties, sealed: Path, name: str, value: Any) -> None:
    with pytest.raises(ForbiddenOption, match=f"SessionOptions.{name}"):
        parties.load(sealed, sess_options=session_options(**{name: value}))
    assert parties.events() == ["opened", "load.denied"]


@pytest.mark.parametrize("key", options.CONFIG_DOORS)
def test_config_entries_that_are_doors(parties: Parties, sealed: Path, key: str) -> None:
    given = onnxruntime.SessionOptions()
    given.add_session_config_entry(key, "1")
    with pytest.raises(ForbiddenOption, match=key):
        parties.load(sealed, sess_options=given)


def test_an_unknown_config_entry_does_not_reach_the_session(parties: Parties, sealed: Path) -> None:
    given = onnxruntime.SessionOptions()
    given.add_session_config_entry("session.some_future_dump", "/tmp/x")
    with parties.load(sealed, sess_options=given) as session, pytest.raises(RuntimeError):
        session.get_session_options().get_session_config_entry("session.some_future_dump")


def test_session_options_do_not_hand_out_the_weights(parties: Parties, sealed: Path) -> None:
    """Options of a live session, used for another graph, must not resolve the file of weights."""
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights"), ("offset", "0"), ("length", "4000")):
        tensor.external_data.add(key=key, value=value)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1000])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [tensor])
    thief = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with parties.load(sealed) as session, pytest.raises(Exception, match=r"(?i)external|file"):
        onnxruntime.InferenceSession(thief, session.get_session_options()).run(None, {})


@pytest.mark.parametrize(
    "provider",
    [
        "OpenVINOExecutionProvider",
        "QNNExecutionProvider",
        "CoreMLExecutionProvider",
        "NothingExecutionProvider",
        ("CUDAExecutionProvider", {"user_compute_stream": "0"}),
        ("TensorrtExecutionProvider", {"trt_engine_cache_enable": "1"}),
        ("TensorrtExecutionProvider", {"trt_dump_ep_context_model": "1"}),
    ],
)
def test_providers_that_are_doors(parties: Parties, sealed: Path, provider: Any) -> None:
    with pytest.raises(ForbiddenOption, match="not allowed in a guarded session"):
        parties.load(sealed, providers=[provider])


def test_providers_as_onnxruntime_takes_them() -> None:
    assert options.providers(None, None, [CPU]) == {CPU: {}}
    assert options.providers(["CUDAExecutionProvider", CPU], None, [CPU]) == {CPU: {}}
    assert options.providers(["CUDAExecutionProvider"], None, [CPU]) == {CPU: {}}
    both: options.Providers = [("CUDAExecutionProvider", {"device_id": 1}), CPU]
    assert options.providers(both, None, ["CUDAExecutionProvider", CPU]) == {
        "CUDAExecutionProvider": {"device_id": "1"},
        CPU: {},
    }
    assert options.providers([CPU], [{"arena_extend_strategy": "kSameAsRequested"}], [CPU]) == {
        CPU: {"arena_extend_strategy": "kSameAsRequested"}
    }
    with pytest.raises(ValueError, match="same length"):
        options.providers([CPU], [], [CPU])


def test_hostile_environment_variables(parties: Parties, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    with parties.load(sealed) as session:
        assert session._read_config_from_model is False
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
