"""Every way that LOADER names for a decrypted model to leave onnxruntime, tried; and what memory holds afterwards."""

import multiprocessing
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Parties
from watermark.models import mlp

from modelvault import hardening, samples
from modelvault.errors import ForbiddenOption, HostUnsafe, ModelVaultError, SessionClosed
from modelvault.onnxfile import split


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder, home and temporary folder in which nothing may appear."""
    folder = tmp_path / "watched"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(folder))
    yield folder
    assert list(folder.rglob("*")) == []


def session_options(**attributes: Any) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    for name, value in attributes.items():
        setattr(options, name, value)
    return options


def with_entry(key: str, value: str) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(key, value)
    return options


DOORS: dict[str, Any] = {
    "optimized_model_filepath": lambda: session_options(optimized_model_filepath="out.onnx"),
    "profiling": lambda: session_options(enable_profiling=True, profile_file_prefix="prof"),
    "node memory": lambda: with_entry("session.collect_node_memory_stats_to_file", "stats.csv"),
    "node partition": lambda: with_entry("session.node_partition_config_file", "nodes.txt"),
    "external initializers": lambda: with_entry("session.optimized_model_external_initializers_file_name", "w.bin"),
    "ep context": lambda: with_entry("ep.context_enable", "1"),
    "ep context file": lambda: with_entry("ep.context_file_path", "ctx.onnx"),
    "ep context weights": lambda: with_entry("ep.context_model_external_initializers_file_name", "w.bin"),
    "debug layout": lambda: with_entry("session.debug_layout_transformation", "1"),
    "moe state": lambda: with_entry("session.moe_expert_counter_state_file", "moe.bin"),
    "folder": lambda: with_entry("session.model_external_initializers_file_folder_path", "."),
}


@pytest.mark.parametrize("door", DOORS)
def test_options_that_would_write(parties: Parties, sealed: Path, watched: Path, door: str) -> None:
    with pytest.raises(ForbiddenOption):
        parties.load(sealed, sess_options=DOORS[door]())


@pytest.mark.parametrize("memory", ["lean", "fast"])
def test_a_live_session_holds_nothing_to_take(
    parties: Parties, sealed: Path, watched: Path, memory: str, sample_input: dict[str, Any]
) -> None:
    with parties.load(sealed, memory=memory) as session:
        session.run(None, sample_input)
        assert session._model_bytes is None
        assert session._model_path is None
        for call in (
            session.set_providers,
            session.enable_fallback,
            session.end_profiling,
            session.get_provider_graph_assignment_info,
            session.get_tuning_results,
            lambda: session.set_providers(["CPUExecutionProvider"]),
            lambda: session._reset_session(["CPUExecutionProvider"], None),
            lambda: session.run_with_ortvaluevector(None, [], [], [], [], []),
        ):
            with pytest.raises(ForbiddenOption):
                call()
        compiler: Any = onnxruntime.ModelCompiler
        with pytest.raises(Exception, match=r"(?i)model|type|NoneType"):
            compiler(session.get_session_options(), session._model_bytes).compile_to_file("out.onnx")


def test_options_in_the_models_own_metadata_are_not_taken(
    parties: Parties, watched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_input: dict[str, Any]
) -> None:
    """A publisher's model that asks onnxruntime to profile it, on a host whose environment says yes to that."""
    import json

    import onnx

    model = onnx.load(samples.MODEL)
    wish = {"session_options": {"enable_profiling": 1, "profile_file_prefix": "prof"}}
    model.metadata_props.add(key="ort_config", value=json.dumps(wish))
    onnx.save(model, tmp_path / "m.onnx")
    path = parties.seal(tmp_path / "m.onnx", allow=["active-metadata"])
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    with parties.load(path) as session:
        session.run(None, sample_input)


def test_wrong_arguments_do_not_print_weights(parties: Parties, sealed: Path) -> None:
    """The bindings answer a wrong type with a TypeError that shows every argument, buffers included."""
    model = split(samples.MODEL)
    weights = b"".join(bytes(v) for v in model.stream(2**20))
    seen = []
    with parties.load(sealed) as session:
        for call in (
            lambda: session.run(None, "x"),
            lambda: session.run(None, [1, 2]),
            lambda: session.run(3, {"x": np.zeros((1, 3, 48, 192), np.float32)}),
            lambda: session.run(None, {"x": object()}),
            lambda: session.run(None, {1: 2}),
            lambda: session.run_async(None, 5, None, None),
            lambda: session.run_with_ort_values(None, {"x": 3}),
            lambda: session.run_with_iobinding("x"),
        ):
            with pytest.raises((TypeError, ValueError, AttributeError, RuntimeError, ModelVaultError)) as caught:
                call()
            seen.append(str(caught.value))
    text = "\n".join(seen)
    assert len(text) < 20_000
    for at in range(0, len(weights) - 16, 4096):
        assert repr(weights[at : at + 16])[2:-1] not in text


CHILD = """
import sys
from pathlib import Path
from modelvault.audit import AuditLog
from modelvault.keys import HostKey, RecipientKey
from modelvault.loader import load
import numpy as np
folder = Path(sys.argv[1])
customer = RecipientKey.from_pem((folder / "customer.key").read_bytes(), None, "customer")
log = AuditLog(folder / "audit.log", HostKey.from_pem((folder / "host.key").read_bytes(), None, "host"))
session = load(folder / "model.mvlt", identity=customer, trust=folder / "trust.toml", audit=log, memory=sys.argv[2])
session.run(None, {"x": np.zeros((1, 3, 48, 192), np.float32)})
kept = session.get_inputs(), session.get_outputs(), session.get_modelmeta()
print("open", flush=True)
sys.stdin.readline()
session.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def memory_of(pid: int, only: str = "") -> Iterator[bytes]:
    """What another process has written: the present pages of its writable mappings (of those with this name)."""
    page = os.sysconf("SC_PAGE_SIZE")
    with (
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pages,
    ):
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if "rw" not in line.split()[1] or not line.endswith(only):
                continue
            pages.seek(low // page * 8)
            present = np.frombuffer(pages.read((high - low) // page * 8), np.uint64) >> np.uint64(63)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], present.astype(np.int8), [0]])))
            for start, end in edges.reshape(-1, 2).tolist():
                memory.seek(low + start * page)
                yield memory.read((end - start) * page)


def found(pid: int, needles: list[bytes]) -> list[bytes]:
    return [n for data in memory_of(pid) for n in needles if n in data]


def neighbours(words: Any) -> Any:
    """Pairs of different neighbouring floats, each as one number, sorted: enough to tell a weight from chance."""
    first, second = words[:-1].astype(np.uint64), words[1:].astype(np.uint64)
    return np.unique((first | second << np.uint64(32))[(first != 0) & (second != 0) & (first != second)])


def shown(pid: int, pairs: Any, only: str = "") -> int:
    """How many of the pairs stand in another process' memory, at any multiple of four bytes."""
    there = np.zeros(len(pairs), bool)
    for data in memory_of(pid, only):
        for start in (0, 4):
            words = np.frombuffer(data[start : start + (len(data) - start) // 8 * 8], np.uint64)
            places = np.minimum(np.searchsorted(pairs, words), len(pairs) - 1)
            there[places[pairs[places] == words]] = True
    return int(there.sum())


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="reading another process' memory needs root")
@pytest.mark.parametrize("memory", ["lean", "fast"])
def test_memory_after_close_holds_no_weights_and_no_names(parties: Parties, sealed: Path, memory: str) -> None:
    """Root reads the process from outside: the weights while it is open, nothing of them once it is closed."""
    (parties.folder / "customer.key").write_bytes(parties.customer.to_pem(None))
    (parties.folder / "host.key").write_bytes(parties.host.to_pem(None))
    model = split(samples.MODEL, keep_docs=True)
    weights = neighbours(np.frombuffer(b"".join(bytes(v) for v in model.stream(2**20)), np.uint32))
    names = [n for n in set(re.findall(rb"(?:batch_norm|conv)[0-9a-z_]+[._][a-z_.0-9]+", model.graph)) if len(n) > 12]
    names = sorted(names)[::8]
    assert len(names) > 20
    command = [sys.executable, "-c", CHILD, str(parties.folder), memory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "open\n"
        assert shown(child.pid, weights) == len(weights)  # the search finds what is there
        assert found(child.pid, names) == []
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert shown(child.pid, weights) < len(weights) // 10_000
        assert found(child.pid, names) == []
        child.stdin.write("\n")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="reading another process' memory needs root")
def test_stacks_hold_no_pieces_of_weights_after_close(parties: Parties) -> None:
    """Without prepacking, matrix products pack weights on the stacks of all threads that compute them."""
    (parties.folder / "customer.key").write_bytes(parties.customer.to_pem(None))
    (parties.folder / "host.key").write_bytes(parties.host.to_pem(None))
    mlp(parties.folder / "mlp.onnx", width=192, hidden=768, classes=192)
    parties.seal(parties.folder / "mlp.onnx")
    model = split(parties.folder / "mlp.onnx")
    weights = neighbours(np.frombuffer(b"".join(bytes(v) for v in model.stream(2**24)), np.uint32))
    script = CHILD.replace("(1, 3, 48, 192)", "(64, 192)")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(parties.folder), "lean"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "open\n"
        assert shown(child.pid, weights, "[stack]") > 1000  # there is something to be overwritten
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        assert shown(child.pid, weights) == 0
        child.stdin.write("\n")


def test_what_a_caller_keeps_does_not_keep_the_native_session(parties: Parties, sealed: Path) -> None:
    """onnxruntime's own descriptions of inputs and outputs do, with the copies of weights that it made."""
    plain = onnxruntime.InferenceSession(samples.MODEL)
    session = parties.load(sealed)
    native = weakref.ref(session._sess)
    for given, expected in (
        (session.get_inputs(), plain.get_inputs()),
        (session.get_outputs(), plain.get_outputs()),
        ([session.get_modelmeta()], [plain.get_modelmeta()]),
    ):
        for mine, theirs in zip(given, expected, strict=True):
            names = [name for name in dir(theirs) if not name.startswith("_")]
            assert len(names) >= 3
            assert {n: getattr(mine, n) for n in names if "graph" not in n and "name" not in n} == {
                n: getattr(theirs, n) for n in names if "graph" not in n and "name" not in n
            }
    kept = session.get_inputs(), session.get_outputs(), session.get_modelmeta()
    session.close()
    assert native() is None
    assert kept[0][0].name == "x"


def in_child(session: Any, feed: dict[str, Any], results: Any) -> None:
    try:
        session.run(None, feed)
        results.put("ran")
    except SessionClosed as error:
        results.put(str(error))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_cannot_use_the_session(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    context = multiprocessing.get_context("fork")
    with parties.load(sealed) as session:
        results: Any = context.Queue()
        child = context.Process(target=in_child, args=(session, sample_input, results))
        child.start()
        assert "belongs to the process that loaded it" in results.get(timeout=60)
        child.join(60)
        assert len(session.run(None, sample_input)) == 1
    assert parties.events().count("session.closed") == 1


def test_standard_hardening(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed):
        states = {p.name: p for p in hardening.report()}
        assert states["process dumps"].holds
    done = parties.records()[2]
    assert (done.event, done.fields["hardening"]) == ("load.done", "standard")


def test_strict_hardening_names_what_is_missing(
    parties: Parties, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardening, "_forbid_core_files", lambda: None)
    for name, holds in (("_core_files", False), ("_tracer", False)):
        with monkeypatch.context() as patch:
            patch.setattr(hardening, "_core_files", lambda: missing("core files", True))
            patch.setattr(hardening, name, lambda: missing("the one", False))
            assert not holds
            with pytest.raises(HostUnsafe, match="the one: seen; do something"):
                parties.load(sealed, hardening="strict")
    assert {r.event for r in parties.records()} == {"opened", "load.denied"}
    with pytest.raises(ValueError, match="hardening: expected one of"):
        parties.load(sealed, hardening="none")


def missing(name: str, holds: bool) -> hardening.Protection:
    return hardening.Protection(name=name, holds=holds, seen="seen", advice="do something")


def test_strict_refuses_unlocked_buffers_while_swap_is_on(
    parties: Parties, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardening, "_core_files", lambda: missing("core files", True))
    monkeypatch.setattr(hardening, "_forbid_core_files", lambda: None)
    monkeypatch.setattr(hardening, "_swap", lambda: missing("swap", False))
    monkeypatch.setattr("modelvault._memory._mlock2", None)
    with pytest.raises(HostUnsafe, match="memory lock: the weights could not be locked"):
        parties.load(sealed, hardening="strict")
    parties.load(sealed).close()


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace is Linux's")
def test_a_traced_process_is_noticed() -> None:
    """A real tracer: the process as strace sees it."""
    import shutil

    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    code = "from modelvault import hardening; print([p.holds for p in hardening.report() if p.name == 'debugger'])"
    traced = [strace, "-f", "-qq", "-o", "/dev/null", sys.executable, "-c", code]
    for command, expected in (([sys.executable, "-c", code], "[True]"), (traced, "[False]")):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_the_drop_in(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    import modelvault.ort as ort
    from modelvault.keys import store

    for role, key in (("recipient", parties.customer), ("host", parties.host)):
        store.write_pair(store.folder(role), "default", key.to_pem(None), key.public.to_pem())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    arguments: dict[str, Any] = {"trust": parties.folder / "trust.toml"}
    session = ort.InferenceSession(sealed, options, ["CPUExecutionProvider"], **arguments)
    assert isinstance(session, onnxruntime.InferenceSession)
    assert repr(session) == "<InferenceSession direction 1>"
    assert ort.get_available_providers() == onnxruntime.get_available_providers()
    assert len(session.run([session.get_outputs()[0].name], sample_input)) == 1
    session.close()
    with pytest.raises(ModelVaultError, match="not a sealed model"):
        ort.InferenceSession(samples.MODEL, **arguments)
    with pytest.raises(TypeError, match="expected the path of a sealed model, got bytes"):
        ort.InferenceSession(sealed.read_bytes(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ForbiddenOption, match="read_config_from_model"):
        ort.InferenceSession(sealed, read_config_from_model=1, **arguments)
