"""The command line: the whole chain with default keys, errors as one line with their own exit status, no leftovers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import errors, samples
from modelvault.cli.main import COMMANDS, INTERNAL, INTERRUPTED, STATUSES, VERDICTS, main
from modelvault.keys import store


class Result:
    """What a command printed, and its exit status."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in a folder of its own; a failure never shows a traceback."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copy(samples.MODEL, work / "model.onnx")

    def call(*args: str | Path, code: int = 0) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        result = Result(int(exit_.value.code or 0), captured.out, captured.err)
        assert result.code == code, captured.err
        assert "Traceback" not in captured.err
        return result

    return call


@pytest.fixture
def ready(run: Run) -> Run:
    """Default keys of every role, unprotected, and the sample sealed as model.mvlt."""
    for role in store.ROLES:
        run("keygen", role, "--no-passphrase")
    run("seal", "model.onnx")
    return run


def test_the_default_chain_needs_no_arguments(ready: Run) -> None:
    facts = ready("run", "model.mvlt", "--random", "--shape", "x=1,3,48,192", "--json").json
    assert facts["outputs"] == [{"name": "save_infer_model/scale_0.tmp_1", "dtype": "float32", "shape": [1, 2]}]
    assert ready("verify", "model.mvlt", "--json").json["publisher"] == "default"
    assert ready("audit", "verify", "--json").json["records"] == 4
    shown = ready("audit", "show", "--json").json
    assert [r["event"] for r in shown] == ["opened", "load.intent", "load.done", "session.closed"]
    assert ready("trust", "list", "--json").json["publishers"][0]["models"] == ["*"]


def test_inputs_and_outputs(ready: Run, tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 48, 192)).astype(np.float32)
    np.save("x.npy", array)
    np.savez("x.npz", x=array)
    for source in ("x.npy", "x.npz"):
        ready("run", "model.mvlt", "--input", source, "--output", "y.npz")
        with np.load("y.npz") as outputs:
            assert outputs["save_infer_model/scale_0.tmp_1"].shape == (2, 2)
    Path("bad.npz").write_bytes(b"PK\x03\x04 not really")
    before = Path("y.npz").read_bytes()
    failed = ready("run", "model.mvlt", "--input", "bad.npz", "--output", "y.npz", code=4)
    assert "bad.npz: not an .npy or .npz file" in failed.err
    np.savez("wrong.npz", x=array, y=array)
    assert "the run failed" in ready("run", "model.mvlt", "--input", "wrong.npz", "--output", "y.npz", code=5).err
    assert Path("y.npz").read_bytes() == before


def test_random_inputs_of_no_size(ready: Run) -> None:
    for shape in ("x", "x=", "x=1,-3", "x=²", "x=1." + "9" * 30):
        assert "expected INPUT=N,N" in ready("run", "model.mvlt", "--random", "--shape", shape, code=2).err
    assert "no input 'y'" in ready("run", "model.mvlt", "--random", "--shape", "y=1", code=2).err
    huge = ready("run", "model.mvlt", "--random", "--shape", "x=1000000,3,480,1920", code=5)
    assert "a random input of shape (1000000, 3, 480, 1920) is beyond" in huge.err


def test_a_path_that_is_not_utf_8(ready: Run) -> None:
    odd = os.fsdecode(b"m\xff")
    Path("model.mvlt").rename(f"{odd}.mvlt")
    ready("run", f"{odd}.mvlt", "--random", "--shape", "x=1,3,48,192")
    (record,) = ready("audit", "show", "--event", "load.intent", "--json").json
    assert record["file"] == "m\\udcff.mvlt"
    Path("model.onnx").rename(f"{odd}.onnx")
    assert "not UTF-8" in ready("seal", f"{odd}.onnx", "-o", "x.mvlt", code=4).err
    assert not Path("x.mvlt").exists()


def test_grant_and_ungrant(ready: Run) -> None:
    ready("keygen", "recipient", "bank", "--no-passphrase", "--algorithm", "x25519")
    arguments = ("run", "model.mvlt", "--identity", "bank")
    assert "hint: ask the publisher" in ready(*arguments, code=7).err
    ready("grant", "model.mvlt", "--to", "bank", "-o", "bank.grant")
    ready(*arguments, "--grant", "bank.grant")
    assert "exists already" in ready("grant", "model.mvlt", "--to", "bank", "-o", "bank.grant", code=3).err
    payload = Path("model.mvlt").read_bytes()[-500_000:]
    ready("grant", "model.mvlt", "--to", "bank", "--embed")
    ready(*arguments)
    assert Path("model.mvlt").read_bytes()[-500_000:] == payload
    assert "may keep it" in ready("ungrant", "model.mvlt", "bank").out
    ready(*arguments, code=7)
    assert "no embedded grant" in ready("ungrant", "model.mvlt", "bank", code=7).err
    ready("verify", "model.mvlt")


def test_passphrases(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "neither MODELVAULT_PASSPHRASE" in run("keygen", "publisher", code=6).err
    Path("secret").write_text("correct horse\n")
    Path("secret").chmod(0o644)
    assert "lets others use it" in run("keygen", "publisher", "--passphrase-file", "secret", code=6).err
    Path("secret").chmod(0o600)
    made = run("keygen", "publisher", "--passphrase-file", "secret", "--json").json
    private = Path(made["private"])
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    assert private.read_bytes().count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "wrong")
    assert "wrong passphrase" in run("seal", "model.onnx", code=6).err
    assert not Path("model.mvlt").exists()
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "correct horse")
    run("seal", "model.onnx")
    run("keygen", "owner")
    owner = store.folder("owner") / "default.key"
    assert b"BEGIN ENCRYPTED MODELVAULT OWNER SECRET" in owner.read_bytes()
    assert "exists already" in run("keygen", "owner", code=3).err
    private.chmod(0o640)
    assert "mode 0640 lets others use it" in run("seal", "model.onnx", "--force", code=6).err


def test_seal_writes_nothing_when_it_fails(run: Run) -> None:
    assert "hint: make one with: modelvault keygen publisher" in run("seal", "model.onnx", code=6).err
    run("keygen", "publisher", "--no-passphrase")
    Path("bad.onnx").write_bytes(b"\x08garbage")
    Path("policy.toml").write_text("not_afer = 2030-01-01T00:00:00Z\n")
    for arguments, code in (
        (("bad.onnx",), 5),
        (("missing.onnx",), 3),
        (("model.onnx", "--name", "../x"), 4),
        (("model.onnx", "--version", "one"), 4),
        (("model.onnx", "--to", "nobody"), 6),
        (("model.onnx", "--asset", "missing.json"), 3),
        (("model.onnx", "--policy", "policy.toml"), 4),
        (("model.onnx", "-o", "no/such/folder/x.mvlt"), 3),
    ):
        failed = run("seal", *arguments, code=code)
        assert re.fullmatch(r"modelvault: error: .+\n(modelvault: hint: .+\n)?", failed.err), failed.err
    assert sorted(p.name for p in Path().iterdir()) == ["bad.onnx", "model.onnx", "policy.toml"]
    dry = run("seal", "model.onnx", "--dry-run", "--json").json
    assert dry["dry_run"] and dry["tensors"] == 45
    assert not Path("model.mvlt").exists()
    run("seal", "model.onnx")
    assert "exists already" in run("seal", "model.onnx", code=3).err
    run("seal", "model.onnx", "--force")


def test_public_io_is_shown_only_when_chosen(ready: Run) -> None:
    assert ready("inspect", "model.mvlt", "--json").json["io"] is None
    ready("seal", "model.onnx", "-o", "open.mvlt", "--public-io")
    assert ready("inspect", "open.mvlt", "--json").json["io"]["inputs"][0]["name"] == "x"
    assert "not verified" in ready("inspect", "open.mvlt").out


@pytest.mark.parametrize("command", ["inspect", "verify", "run", "grant"])
def test_hostile_files_give_one_line(ready: Run, command: str) -> None:
    data = bytearray(Path("model.mvlt").read_bytes())
    Path("short.mvlt").write_bytes(data[:1000])
    Path("junk.mvlt").write_bytes(b"\x7fELF" * 100)
    extra = ("--to", "default", "-o", "x.grant") if command == "grant" else ()
    for name, code in (("short.mvlt", 4), ("junk.mvlt", 4), ("missing.mvlt", 3), (".", 3)):
        failed = ready(command, name, *extra, code=code)
        assert failed.out == ""
        assert failed.err.startswith("modelvault: error: ")
        assert len(failed.err.splitlines()) <= 2
    assert not Path("x.grant").exists()


def test_each_kind_of_refusal_has_its_own_status(ready: Run) -> None:
    data = bytearray(Path("model.mvlt").read_bytes())
    data[-1] ^= 1
    Path("model.mvlt").write_bytes(data)
    ready("verify", "model.mvlt", code=10)
    ready("verify", "model.mvlt", "--trust", "none.toml", code=9)
    log = store.home() / "audit" / "audit.log"
    ready("run", "model.mvlt", code=10)
    log.write_bytes(log.read_bytes().replace(b"PayloadTampered", b"PayloadTamperee"))
    ready("audit", "verify", code=VERDICTS["modified"])
    log.write_bytes(b"")
    ready("audit", "verify", code=VERDICTS["unsealed"])
    statuses = [s for _, s in STATUSES] + list(VERDICTS.values())
    assert len(statuses) == len(set(statuses))
    named = {kind for kind, _ in STATUSES}
    leaves = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.ModelVaultError)}
    assert leaves - named == {errors.AuditTampered, errors.SessionClosed}


def test_trust_add_keeps_comments(run: Run) -> None:
    run("keygen", "publisher", "--no-passphrase", "--no-trust")
    policy = store.home() / "trust.toml"
    assert not policy.exists()
    run("trust", "add", "default", "--name", "acme", "--models", "fraud-*")
    policy.write_text("# why: contract 12\n" + policy.read_text())
    run("keygen", "publisher", "second", "--no-passphrase", "--no-trust")
    run("trust", "add", "second", "--models", "x", "--minimum-version", "2.1")
    assert "# why: contract 12" in policy.read_text()
    publishers = run("trust", "list", "--json").json["publishers"]
    assert [(p["name"], p["models"], p["minimum_version"]) for p in publishers] == [
        ("acme", ["fraud-*"], "0"),
        ("second", ["x"], "2.1"),
    ]
    assert "is there already" in run("trust", "add", "second", "--models", "y", code=4).err


@pytest.mark.parametrize("command", [[], *[[c] for c in sorted(COMMANDS)], ["trust", "add"], ["audit", "show"]])
def test_help_has_examples_and_fits(run: Run, command: list[str]) -> None:
    shown = run(*command, "--help").out
    assert max(map(len, shown.splitlines())) <= 80
    if command and command != ["demo"] and command not in (["trust"], ["audit"]):
        assert "Example" in shown


def test_tables_fit_80_columns(ready: Run) -> None:
    ready("run", "model.mvlt")
    for command in (
        ("inspect", "model.mvlt"),
        ("audit", "show"),
        ("trust", "list"),
        ("keygen", "recipient", "b", "--no-passphrase"),
    ):
        assert max(map(len, ready(*command).out.splitlines())) <= 140
        table = ready(*command).out if command[0] != "keygen" else ""
        assert all(
            len(line) <= 80 for line in table.splitlines() if not line.startswith(" " * 12) and "SHA256" not in line
        )


def test_unknown_errors_show_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import modelvault.cli.inspect as module

    def fail(path: Path) -> None:
        raise RuntimeError("the secret is 1234")

    monkeypatch.setattr(module, "inspect", fail)
    failed = run("inspect", "x", code=70)
    assert "internal error: RuntimeError" in failed.err
    assert "1234" not in failed.err


def test_the_installed_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("modelvault")
    environment = {**os.environ, "MODELVAULT_HOME": str(tmp_path / "h")}
    version = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env=environment)
    assert version.stdout.startswith("modelvault, version ")
    failed = subprocess.run([script, "verify", "nothing"], capture_output=True, text=True, check=False, env=environment)
    assert failed.returncode == 9
    assert failed.stderr.startswith("modelvault: error: no trust policy at ")
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [script, "completion", shell], capture_output=True, text=True, check=True, env=environment
        )
        assert "_MODELVAULT_COMPLETE" in done.stdout


def test_the_documented_statuses_are_the_real_ones() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?)\|", Path(__file__).parents[1].joinpath("docs/CLI.md").read_text(), re.M)
    documented = {int(status): words.replace("`", "").strip() for status, words in rows}
    real = {status: kind.__name__ for kind, status in STATUSES}
    real |= {status: f"AuditTampered {verdict}" for verdict, status in VERDICTS.items()}
    assert {status: words for status, words in documented.items() if words} == real
    assert {0, 2, INTERNAL, INTERRUPTED} <= documented.keys()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_takes_back_what_it_began(
    ready: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    sync = os.fsync

    def stopped(descriptor: int) -> None:
        os.kill(os.getpid(), number)
        sync(descriptor)

    before = sorted(Path().iterdir())
    for arguments in (("seal", "model.onnx", "-o", "new.mvlt"), ("grant", "model.mvlt", "--to", "default", "-o", "g")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", stopped)
            ready(*arguments, code=128 + number)
        assert sorted(Path().iterdir()) == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored(ready: Run) -> None:
    """As nohup asks for; and a thread of an embedding program cannot set handlers."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ready("verify", "model.mvlt")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
    codes: list[object] = []

    def elsewhere() -> None:
        try:
            main(["verify", "model.mvlt"])
        except SystemExit as ended:
            codes.append(ended.code)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("modelvault")
    done = subprocess.run(
        ["sh", "-c", f"{script} --help | head -1"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == ""


def test_model_signatures(run: Run) -> None:
    run("keygen", "publisher", "release", "--no-passphrase", "--algorithm", "ecdsa-p256", "--no-trust")
    Path("m/sub").mkdir(parents=True)
    Path("m/sub/w.bin").write_bytes(b"weights")
    signed = run("sign-model", "m", "--key", "release", "--json").json
    assert signed["files"] == 1
    assert signed["signature"].endswith("/m.sig")
    assert run("verify-model", "m", "--key", "release", "--json").json["digest"] == signed["digest"]
    assert "exists already" in run("sign-model", "m", "--key", "release", code=3).err
    Path("m/sub/w.bin").write_bytes(b"Weights")
    assert "is not the file that was signed" in run("verify-model", "m", "--key", "release", code=10).err
    run("keygen", "publisher", "--no-passphrase")
    assert "first key: expected ecdsa-p256" in run("sign-model", "m", "--key", "default", "--force", code=4).err
    assert run("verify-model", "m", "--key", "default", code=8).err.startswith("modelvault: error: ")


def test_calibration_and_the_guards(ready: Run) -> None:
    array = np.random.default_rng(0).uniform(-1, 1, (2, 3, 48, 192)).astype(np.float32)
    np.savez("good.npz", x=array)
    np.savez("bad.npz", x=array * 100)
    np.save("unnamed.npy", array)
    ready("seal", "model.onnx", "-o", "guarded.mvlt", "--calibrate", "good.npz")
    ready("run", "guarded.mvlt", "--input", "good.npz")
    assert "values out of range" in ready("run", "guarded.mvlt", "--input", "bad.npz", code=16).err
    ready("run", "guarded.mvlt", "--input", "bad.npz", "--input-guard", "off")
    assert "expected an .npz" in ready("seal", "model.onnx", "-o", "x.mvlt", "--calibrate", "unnamed.npy", code=4).err


def test_doctor(run: Run) -> None:
    names = [p["name"] for p in run("doctor", "--json").json]
    assert {"process dumps", "core files", "debugger", "memory lock", "swap"} <= set(names)
    assert all(len(line) <= 80 for line in run("doctor").out.splitlines())
