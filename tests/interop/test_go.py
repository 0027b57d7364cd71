"""Go's own sumdb/note and sumdb/tlog accept what the audit log signs and proves (Debian: golang-golang-x-mod-dev)."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from modelvault import merkle
from modelvault._codec import b64encode
from modelvault.audit import AuditLog, read_leaves, verify_log
from modelvault.audit.proofs import consistency
from modelvault.keys import HostKey

GOPATH = "/usr/share/gocode"
PROGRAM = Path(__file__).parent / "go" / "main.go"


@pytest.fixture(scope="module")
def crosscheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = not shutil.which("go") or not Path(GOPATH, "src/golang.org/x/mod/sumdb/tlog").is_dir()
    if missing and "go" in os.environ.get("MODELVAULT_REQUIRE", "").split(","):
        pytest.fail("Go or golang.org/x/mod is not there")
    if missing:
        pytest.skip("Go with golang.org/x/mod is not there: apt-get install golang-go golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    environment = {**os.environ, "GOPATH": GOPATH, "GO111MODULE": "off", "GOCACHE": str(folder / "cache")}
    command = ["go", "build", "-o", str(folder / "crosscheck"), str(PROGRAM)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    return folder / "crosscheck"


def ask(program: Path, question: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program], input=json.dumps(question), capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two checkpoints of one log, all its records, a proof for each, and one from the old head to the new."""
    host = HostKey.generate()
    writer = AuditLog(tmp_path_factory.mktemp("log") / "audit.log", host)
    for number in range(20):
        writer.append("load.intent", number=number, model={"name": "fraud", "version": "1.0"})
    old = verify_log(writer.path, host.public)
    for number in range(17):
        writer.append("load.done", number=number)
    report, leaves = read_leaves(writer.path, host.public)
    lines = [line for line in writer.path.read_bytes().splitlines() if not line.startswith(b'{"checkpoint"')]
    return {
        "VerifierKey": report.verifier,
        "Old": old.head,
        "New": report.head,
        "Records": [b64encode(line) for line in lines],
        "Inclusion": [
            {"Index": at, "Path": [b64encode(h) for h in merkle.inclusion_proof(leaves, at)]}
            for at in range(report.size)
        ],
        "Consistency": [b64encode(h) for h in consistency(report, leaves, old.size)],
    }


def test_go_accepts_checkpoints_and_proofs(crosscheck: Path, question: dict[str, Any]) -> None:
    done = ask(crosscheck, question)
    assert (done.returncode, done.stdout) == (0, "ok: 38 inclusion proofs, consistency from 21 to 38\n"), done.stderr


@pytest.mark.parametrize("change", ["VerifierKey", "Old", "New", "Inclusion", "Consistency", "Records"])
def test_go_refuses_what_was_changed(crosscheck: Path, question: dict[str, Any], change: str) -> None:
    zeros = b64encode(bytes(32))
    wrong = {
        "VerifierKey": question["VerifierKey"][:-6] + "AAAAA=",
        "Old": question["Old"].replace("\n21\n", "\n20\n"),
        "New": question["New"].replace("\n38\n", "\n37\n"),
        "Inclusion": [{"Index": 3, "Path": [zeros, *question["Inclusion"][3]["Path"][1:]]}],
        "Consistency": [zeros, *question["Consistency"][1:]],
        "Records": [*question["Records"][1:], question["Records"][0]],
    }
    assert ask(crosscheck, {**question, change: wrong[change]}).returncode != 0
