"""The house: layers, what the wheel holds, what an import costs, and what the README promises."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"modelvault": ROOT / "modelvault", "modelvault.keys": ROOT / "keys", "modelvault.cli": ROOT / "cli"}

GROUND = {"errors", "_primitives", "_codec", "_files", "_memory", "_version"}
VALUES = {
    "commitment",
    "container",
    "manifest",
    "merkle",
    "checkpoint",
    "cosignature",
    "envelope",
    "envelopes",
    "index",
    "omsbundle",
    "filekey",
    "graphcheck",
    "onnxfile",
    "variants",
}
FOREIGN = {
    "onnx": {"onnxfile"},
    "google": {"onnxfile", "keys"},
    "onnxruntime": {"session", "binding", "ort"},
    "cryptography": {"_primitives", "keys"},
    "click": {"cli"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[0] not in ("cli", "keys", "samples") or package != "modelvault":
                found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def top(module: str) -> str:
    """modelvault.audit.log -> audit; the package itself -> (root)."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "(root)"


def layer(name: str) -> int:
    if name in GROUND:
        return 0
    if name == "keys":
        return 1
    # policy's Terms stand in the statements, so policy sits with the values
    if name in VALUES or name in ("policy", "termtable"):
        return 2
    return {"(root)": 4, "__main__": 6, "cli": 5}.get(name, 3)


def imports(path: Path) -> set[str]:
    """Modules imported at any depth, not under TYPE_CHECKING; ``from modelvault import x`` counts as modelvault.x."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"modelvault.{a.name}" for a in node.names] if node.module == "modelvault" else [node.module]
            found.update(names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    own = top(module)
    for name in imports(modules()[module]):
        if name.startswith("modelvault"):
            assert layer(top(name)) <= layer(own), f"{module} imports {name}"
        for foreign, allowed in FOREIGN.items():
            if name.split(".")[0] == foreign:
                assert own in allowed or own == "cli", f"{module} imports {name}"


def test_the_layer_test_sees_a_violation(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    from modelvault import loader\n    import click\n")
    assert imports(tmp_path / "x.py") == {"modelvault.loader", "click"}


@pytest.mark.slow
def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    wanted = ["modelvault", "keys", "cli", "samples", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    for name in wanted:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(tree),
    ]
    subprocess.run(build, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = {n for n in wheel.namelist() if ".dist-info/" not in n}
    expected = set()
    for name, place in (
        ("modelvault", "modelvault"),
        ("keys", "modelvault/keys"),
        ("cli", "modelvault/cli"),
        ("samples", "modelvault/samples"),
    ):
        for path in (tree / name).rglob("*"):
            below = path.relative_to(tree / name)
            linked = name == "modelvault" and below.parts[0] in ("keys", "cli", "samples")
            if path.is_file() and not linked:
                expected.add(f"{place}/{below.as_posix()}")
    assert inside == expected


def test_import_is_light() -> None:
    code = "import sys, modelvault; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "modelvault" in loaded
    assert not {"onnx", "onnxruntime", "click", "numpy", "cryptography"} & set(loaded)


def test_public_names() -> None:
    import modelvault

    assert len(modelvault.__all__) <= 15
    for name in modelvault.__all__:
        assert getattr(modelvault, name) is not None
    assert not hasattr(modelvault, "nothing")


def test_the_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "\n    pip install . && modelvault demo\n" in readme
    assert "\n    pip install '.[test]' && pytest\n" in readme
    assert "pip install -q --disable-pip-version-check '.[test]'" in (ROOT / ".ci" / "run").read_text()


def test_docs_link_to_files_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_worked_example_is_the_committed_file() -> None:
    from modelvault import merkle
    from modelvault.keys import PublisherPublic
    from modelvault.sealedfile import SealedFile

    page, vectors = (ROOT / "docs" / "FORMAT.md").read_text(), ROOT / "tests" / "vectors"
    example = page[page.index("## 9.") :]
    data = (vectors / "example.mvlt").read_bytes()
    shown = re.findall(r"^    ((?:[0-9a-f]{2} )*[0-9a-f]{2})  ", example, re.M)
    assert bytes.fromhex("".join(shown)) == data[:28]
    statement = "\n".join(re.findall(r"^    (.*)", example[example.index("    {") :], re.M)).split("\n}\n")[0] + "}"
    with SealedFile(vectors / "example.mvlt") as sealed:
        assert json.loads(statement) == json.loads(sealed.envelope.payload)
        key = PublisherPublic.from_pem((vectors / "example.pub").read_bytes(), "example.pub")
        assert sealed.envelope.verified_by([key]) == {key.fingerprint}
        sealed.verify_payload()
        assert sealed.statement_digest.hex() in example
        assert sealed.statement.root.hex() in example
        payload = data[sealed.payload_offset :]
    for start, end, leaf in re.findall(r"payload\[(\d+):(\d+)\]\) +([0-9a-f]{64})", example):
        assert merkle.leaf_hash(payload[int(start) : int(end)]).hex() == leaf
    assert data[1034:].startswith(b'{"payload":')


def test_statuses_are_documented() -> None:
    from modelvault.cli.main import STATUSES, VERDICTS

    table = (ROOT / "docs" / "CLI.md").read_text()
    for kind, status in STATUSES:
        assert f"| {status} | `{kind.__name__}`" in table
    for verdict, status in VERDICTS.items():
        assert f"| {status} | `AuditTampered` {verdict}" in table


def test_the_demo_tells_its_story() -> None:
    done = subprocess.run([sys.executable, "-m", "modelvault", "demo"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) <= 40
    for word in ("NoMatchingKey", "PayloadTampered", "equal to the plain model's", "records verified", "AuditTampered"):
        assert word in done.stdout
