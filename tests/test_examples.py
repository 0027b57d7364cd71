"""Every example of the README and of docs/ does what its page says, in a folder with what the page takes for granted.

Shell blocks run in a real shell, line by line in the order of the page; python blocks run after them. An example that
cannot run here stands below ``<!-- not run: why -->``. LICENCES and INCIDENTS have tests in tests/licences.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_fingerprint import network

from modelvault import samples
from modelvault.onnxfile import OpenModel

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"docs/LICENCES.md", "docs/INCIDENTS.md"}
COMMANDS = ("modelvault", "pip", "python", "softhsm2-util", "tpm2_createprimary", "bao", "aws")
MARK = re.compile(r"<!-- not run: (.+?) -->\n+\Z")


@dataclass(frozen=True)
class Example:
    """A block: ``sh`` or ``python``; ``why`` it is not run, if it is not."""

    page: str
    kind: str
    text: str
    why: str | None


def examples(page: Path) -> list[Example]:
    """Fenced blocks of sh and python, and indented ones that begin with a command."""
    text, found = page.read_text(), []
    for match in re.finditer(r"^```(sh|python)\n(.*?)^```|((?:^    \S[^\n]*\n)+)", text, re.M | re.S):
        body = match[2] or re.sub(r"^    ", "", match[3], flags=re.M)
        if match[1] is None and body.split(maxsplit=1)[0] not in COMMANDS:
            continue
        mark = MARK.search(text[: match.start()])
        found.append(Example(str(page.relative_to(ROOT)), match[1] or "sh", body, mark[1] if mark else None))
    return found


PAGES = [ROOT / "README.md", ROOT / "samples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = [example for page in PAGES for example in examples(page)]


def test_how_many_examples_do_not_run() -> None:
    """A page with a new example that cannot run changes this number on purpose."""
    left_out = [e for e in ALL if e.why]
    assert {e.page for e in left_out} <= {"docs/KEYS.md"}
    assert len([e for e in ALL if not e.why]) >= 25


class Shell:
    """A user's shell: a home folder, a passphrase in the environment, and ``modelvault`` on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"MODELVAULT_HOME": str(folder / "home"), "MODELVAULT_PASSPHRASE": "horse", "PATH": places}
        self.environment = {**os.environ, **own}

    def __call__(self, line: str, *, statuses: tuple[int, ...] = (0,)) -> str:
        command = ["bash", "-e", "-c", line]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode in statuses, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shutil.copy(samples.MODEL, tmp_path / "model.onnx")
    shutil.copy(samples.MODEL, tmp_path / "fraud.onnx")
    return Shell(tmp_path)


def installed(page: str) -> list[str]:
    """The page's lines without those that install the package, which .ci/run does in a new environment."""
    return [e.text for e in ALL if e.page == page and e.kind == "sh" and "pip install" not in e.text]


@pytest.mark.slow
def test_readme(shell: Shell) -> None:
    python = [e.text for e in ALL if e.page == "README.md" and e.kind == "python"]
    assert "\n    pip install . && modelvault demo\n" in (ROOT / "README.md").read_text()
    shell("modelvault demo")
    (shell.folder / "q4.toml").write_text("max_sessions = 2\n")
    (block,) = [text for text in installed("README.md") if "keygen" in text]
    for line in block.splitlines():
        if line.startswith("modelvault grant"):
            shell("modelvault keygen recipient bank && cp home/keys/recipient/bank.pub .")
        if "--fingerprint" in line:
            network(shell.folder / "encoder.onnx")
        if line.startswith("modelvault watermark verify"):
            shell("modelvault watermark embed model.onnx -o suspect.onnx --owner default")
        shell(line)
    shell("modelvault seal fraud.onnx --name fraud")
    (service,) = python
    given = "import numpy\nfeatures = numpy.zeros((1, 3, 48, 192), numpy.float32)\n"
    run_python(shell, given + service + "\nprint(scores.shape)")


def run_python(shell: Shell, code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=shell.folder, env=shell.environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_samples(shell: Shell) -> None:
    """The service itself is run by tests/test_samples.py, over its port; here it is loaded and not started."""
    (block,) = installed("samples/README.md")
    assert "uvicorn --app-dir samples serve:app" in block
    shutil.copytree(ROOT / "samples", shell.folder / "samples")
    for line in block.splitlines():
        shell(line if not line.startswith("uvicorn") else "modelvault run direction.mvlt --random")


@pytest.mark.slow
def test_auditing(shell: Shell) -> None:
    """``/mnt/elsewhere`` is a folder of the test's own."""
    (shell.folder / "elsewhere").mkdir()
    (page,) = [e for e in ALL if e.page == "docs/AUDITING.md" and e.kind == "sh"]
    for line in page.text.replace("/mnt/elsewhere", "elsewhere").splitlines():
        if line.startswith("modelvault audit verify") and "#" in line:
            shell("modelvault keygen publisher && modelvault keygen recipient && modelvault seal model.onnx")
            shell("modelvault run model.mvlt --random")
        if "h7.log" in line:
            shell(
                "cp home/audit/audit.log h7.log && cp home/keys/host/default.pub h7.pub && cp elsewhere/h7.checkpoint ."
            )
        shell(line)


@pytest.mark.slow
def test_watermarks(shell: Shell) -> None:
    rng = np.random.default_rng(0)
    calibration: Any = {samples.INPUT[0]: rng.standard_normal((4, 3, 48, 192)).astype("float32")}
    np.savez(shell.folder / "samples.npz", **calibration)
    shell("modelvault keygen publisher && modelvault keygen recipient && modelvault keygen host")
    marked, leaked = shell.folder / "fraud-marked.onnx", shell.folder / "leaked.onnx"
    for line in next(e.text for e in ALL if e.page == "docs/WATERMARK.md" and e.kind == "sh").splitlines():
        if marked.exists() and not leaked.exists():
            shutil.copy(marked, leaked)
            (shell.folder / "leaked.safetensors").write_bytes(safetensors(OpenModel(leaked)))
        if "evidence" in line:
            shell("modelvault run fraud.mvlt --random && cp home/audit/audit.log audit.log")
        told = shell(line, statuses=(30,) if "no claim" in line else (0,))
        if "verify" in line:  # what the page says of these two
            claim, score = ("no claim", (0, 7)) if "safetensors" in line else ("CLAIM", (300, 400))
            assert re.match(f"verdict +{claim}", told)
            (found,) = re.findall(r"^score +(\S+) standard", told, re.M)
            assert score[0] < float(found) < score[1]
    assert "<html" in (shell.folder / "page.html").read_text()


def safetensors(model: OpenModel) -> bytes:
    """The format's whole: a length, a JSON header, and the bytes."""
    header, data = {}, b""
    for weight in model.weights:
        if weight.dtype == "FLOAT":
            place = [len(data), len(data) + weight.size]
            header[weight.name] = {"dtype": "F32", "shape": list(weight.shape), "data_offsets": place}
            data += model.read(weight)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.slow
def test_loader(shell: Shell) -> None:
    shell("modelvault keygen publisher && modelvault keygen recipient && modelvault keygen host")
    shell("modelvault seal fraud.onnx --name fraud")
    first, second = [e.text for e in ALL if e.page == "docs/LOADER.md" and e.kind == "python"]
    given = "import onnxruntime as plain, numpy\noptions = plain.SessionOptions()\n"
    feed = "feed = {session.get_inputs()[0].name: numpy.zeros((1, 3, 48, 192), numpy.float32)}\n"
    run_python(shell, given + first + feed + "session.run(None, feed)")
    limited = "import numpy\nfrom modelvault import load\nfrom modelvault.guards import QueryLimits\n"
    limited += "session = load('fraud.mvlt', queries=QueryLimits(per_minute=5))\n"
    run_python(shell, limited + feed + second)


@pytest.mark.slow
def test_scan(shell: Shell) -> None:
    """Each command may answer with warnings (40) or errors (41)."""
    shell("modelvault keygen publisher && modelvault keygen recipient && modelvault keygen host")
    shell("modelvault keygen recipient auditor && modelvault keygen owner acme && mkdir bundle")
    shell("cp fraud.onnx bundle/ && cp fraud.onnx suspect.onnx && modelvault seal fraud.onnx --to auditor")
    shell("modelvault seal fraud.onnx -o acme.mvlt --watermark acme")
    (page,) = installed("docs/SCAN.md")
    for line in page.splitlines():
        shell(f"{line.split('  #')[0]} || [ $? -ge 40 ]")
    assert (shell.folder / "scan.sarif").exists()
    assert "foreign-original" in shell(f"{line} || [ $? -eq 41 ]")


def test_diff(shell: Shell) -> None:
    """Models that differ answer with 35."""
    shell("modelvault keygen publisher && modelvault keygen recipient && modelvault keygen host")
    for name in ("fraud", "fraud-2.0", "fraud-2.1", "fraud-int8"):
        network(shell.folder / f"{name}.onnx")
    model = onnx.load(shell.folder / "fraud-2.1.onnx")
    tables = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(1.01 * tables["w0"], "w0"))
    onnx.save(model, shell.folder / "fraud-2.1.onnx")
    size = tables["w0"].nbytes
    header = {
        f"x.{name}": {"dtype": "F32", "shape": table.shape, "data_offsets": [n * size, (n + 1) * size]}
        for n, (name, table) in enumerate(tables.items())
    }
    head, body = json.dumps(header).encode(), b"".join(table[::-1].tobytes() for table in tables.values())
    (shell.folder / "suspect.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + body)
    np.savez(shell.folder / "samples.npz", h0=np.ones((2, 512), np.float32))
    shell("modelvault seal fraud.onnx --name fraud")
    (page,) = installed("docs/DIFF.md")
    answers = [shell(line, statuses=(0, 35)) for line in page.splitlines()]
    assert "w0" in answers[0]
    assert (shell.folder / "diff.html").exists()


def test_every_page_is_followed() -> None:
    """No page with an example is without a test."""
    followed = {
        "README.md",
        "samples/README.md",
        "docs/AUDITING.md",
        "docs/DIFF.md",
        "docs/WATERMARK.md",
        "docs/LOADER.md",
        "docs/SCAN.md",
    } | ELSEWHERE
    assert {e.page for e in ALL if e.why is None} == followed
