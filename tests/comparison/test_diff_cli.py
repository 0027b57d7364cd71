"""The command: its statuses, JSON, page, sealed files, and files that try to break it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from attacks import damage, structure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watermark.models import mlp

from modelvault import samples
from modelvault.cli.diff import DIFFERENT
from modelvault.cli.main import main
from modelvault.diff import compare
from modelvault.diff.report import to_dict
from modelvault.errors import ModelVaultError

Run = Callable[..., tuple[str, str]]
TRICK = "<script>alert(1)</script>\x1b[31m\x1b]0;owned\x07"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    mlp(tmp_path / "a.onnx")

    def call(*args: str | Path, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        assert int(exit_.value.code or 0) == code, captured.err
        assert "Traceback" not in captured.err
        return captured.out, captured.err

    return call


def test_statuses(run: Run) -> None:
    out, _ = run("diff", "a.onnx", "a.onnx")
    assert "identical" in out
    structure.rename(Path("a.onnx"), Path("r.onnx"))
    out, _ = run("diff", "a.onnx", "r.onnx")
    assert "same-function" in out
    damage.change(Path("a.onnx"), Path("n.onnx"), damage.noise(0.1))
    out, _ = run("diff", "a.onnx", "n.onnx", code=DIFFERENT)
    assert "fine-tuned" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_json_names_the_change(run: Run) -> None:
    damage.change(Path("a.onnx"), Path("n.onnx"), damage.noise(0.1))
    facts = json.loads(run("diff", "a.onnx", "n.onnx", "--json", code=DIFFERENT)[0])
    assert facts["verdict"] == "fine-tuned"
    assert {t["a"] for t in facts["tensors"]} == {"w0", "w1"}
    assert facts["tensors"][0]["change"]["relative"] == pytest.approx(0.1, rel=0.05)
    assert facts["graph"]["same_structure"]
    assert facts["drift"] is None


def test_drift_is_measured_when_asked(run: Run) -> None:
    damage.change(Path("a.onnx"), Path("n.onnx"), damage.noise(0.1))
    facts = json.loads(run("diff", "a.onnx", "n.onnx", "--run", "--json", code=DIFFERENT)[0])
    assert 0.5 < facts["drift"]["cosine"] < 1
    np.savez("x.npz", x=np.ones((3, 64), np.float32))
    facts = json.loads(run("diff", "a.onnx", "a.onnx", "--run", "--inputs", "x.npz", "--json")[0])
    assert facts["drift"]["cosine"] == 1
    assert facts["drift"]["inputs"] == "x.npz"
    run("diff", "a.onnx", "n.onnx", "--inputs", "x.npz", code=2)
    np.savez("w.npz", w=np.ones(200, np.float32))
    _, err = run("diff", "a.onnx", "w.npz", "--run", code=5)
    assert "onnxruntime does not load" in err


def test_sealed_files_are_opened_with_a_grant_and_a_record(run: Run, tmp_path: Path) -> None:
    for role in ("publisher", "recipient", "host"):
        run("keygen", role, "--no-passphrase")
    run("keygen", "recipient", "stranger", "--no-passphrase")
    shutil.copy(samples.MODEL, tmp_path / "cls.onnx")
    run("seal", "cls.onnx")
    facts = json.loads(run("diff", "cls.onnx", "cls.mvlt", "--json")[0])
    assert facts["verdict"] == "same-function"
    run("diff", "cls.mvlt", "cls.mvlt", "--html", "page.html")
    _, err = run("diff", "cls.onnx", "cls.mvlt", "--identity", "stranger", code=7)
    assert "no grant" in err
    run("diff", "cls.onnx", "cls.mvlt", "--run", code=2)
    events = [r["event"] for r in json.loads(run("audit", "show", "--json")[0])]
    assert events.count("diff.checked") >= 3
    assert events.count("diff.denied") == 1
    assert events[0] == "opened"


def tricky(path: Path) -> Path:
    """Names of tensors, nodes and metadata that try to be HTML and terminal commands."""
    model = onnx.load(mlp(path))
    for node in model.graph.node:
        node.name = TRICK
        node.input[:] = [TRICK if i == "w0" else i for i in node.input]
    next(t for t in model.graph.initializer if t.name == "w0").name = TRICK
    model.metadata_props.add(key=TRICK, value=TRICK)
    model.graph.node[5].attribute[0].i = 1
    onnx.save(model, path)
    return path


def test_the_page_is_self_contained_and_escapes(run: Run, tmp_path: Path) -> None:
    tricky(tmp_path / "t.onnx")
    damage.change(tmp_path / "t.onnx", tmp_path / "n.onnx", damage.noise(0.1))
    out, _ = run("diff", "a.onnx", "n.onnx", "--html", "page.html", code=DIFFERENT)
    assert "\x1b" not in out
    assert "\x07" not in out
    page = Path("page.html").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in page
    assert "mathdefault" not in page
    _, err = run("diff", "a.onnx", "n.onnx", "--html", "page.html", code=3)
    assert "exists already" in err
    run("diff", "a.onnx", "a.onnx", "--html", "page.html", "--force")
    assert "identical" in Path("page.html").read_text()


def test_a_page_of_another_architecture_shows_operators(run: Run) -> None:
    run("diff", "a.onnx", samples.MODEL, "--html", "page.html", code=DIFFERENT)
    assert Path("page.html").read_text().count("<svg") >= 2
    assert "Nodes without a counterpart" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("empty", b"", 5, "not an ONNX model"),
        ("text", b"hello, world", 5, "not an ONNX model"),
        ("zip", b"PK\x03\x04garbage", 4, "not a readable .npz archive"),
        ("safe", b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at all}", 4, "header"),
        ("sealed", b"modelvault", 5, "not an ONNX model"),
    ],
)
def test_garbage(run: Run, name: str, content: bytes, code: int, words: str) -> None:
    Path(name).write_bytes(content)
    for pair in ((name, "a.onnx"), ("a.onnx", name)):
        _, err = run("diff", *pair, "--html", "page.html", code=code)
        assert words in err
        assert name in err
    assert not Path("page.html").exists()


def test_files_that_are_none(run: Run) -> None:
    Path("folder").mkdir()
    for name in ("missing", "folder"):
        _, err = run("diff", "a.onnx", name, code=3)
        assert name in err


PLACES = st.integers(0, 400) | st.integers(0, 30_000)  # more of them where the structure is


class Samples(dict[str, bytes]):
    """Whole files by name; a failing example need not print them."""

    def __repr__(self) -> str:
        return "Samples"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("valid")
    mlp(folder / "m.onnx", width=32, hidden=64, classes=32)
    arrays: dict[str, Any] = {"a": np.ones((32, 64), np.float32), "b": np.ones((64, 32), np.float16)}
    np.savez(folder / "w.npz", allow_pickle=False, **arrays)
    structure.as_safetensors(arrays, folder / "w.safetensors")
    return Samples({p.name: p.read_bytes() for p in folder.iterdir()})


@pytest.mark.parametrize("name", ["m.onnx", "w.npz", "w.safetensors"])
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, 400) | st.integers(0, 30_000), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.none() | st.integers(0, 20_000),
)
def test_damaged_files(
    valid: Samples, tmp_path: Path, name: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    """Either an error of ours, or a verdict; and what is not byte for byte the same is never called identical."""
    content = bytearray(valid[name])
    for place, value in edits:
        content[place % len(content)] = value
    if cut is not None:
        del content[cut:]
    (tmp_path / "a").write_bytes(valid[name])
    (tmp_path / "b").write_bytes(content)
    try:
        found = compare(tmp_path / "a", tmp_path / "b", align=True)
    except ModelVaultError as error:
        assert str(error)
    else:
        assert json.dumps(to_dict(found), allow_nan=False)
        assert (found.verdict.word == "identical") == (bytes(content) == valid[name])
