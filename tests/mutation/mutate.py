"""Mutation testing of layers 0 to 2: each small change of the code must make a test fail, or be explained.

    python tests/mutation/mutate.py FOLDER [MODULE ...]

stages the package and its tests in FOLDER, runs mutmut there and writes docs/MUTATION.md. In a folder of an earlier
run, whole or cut short by Ctrl-C, only this is run: mutants that have no result, among them those of functions that
changed since; survivors; and every mutant of the modules named, with their part alone.
There are two parts. The modules of tests/layers make about ten mutants a second on two cores. Those of one service
each, in FOLDER/services, need what the tests of tests/backends need (docs/KEYS.md), and take seconds a mutant.
Status 1 where a survivor is not explained in reasons.toml.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LAYERS = (
    "_codec", "_files", "_memory", "_primitives", "errors",
    "keys/cost", "keys/material", "keys/owner", "keys/pem", "keys/remote", "keys/sources", "keys/store",
    "checkpoint", "commitment", "container", "cosignature", "envelope", "envelopes", "filekey", "graphcheck", "index",
    "manifest", "merkle", "omsbundle", "policy", "termtable", "variants",
    "onnxfile/anonymise", "onnxfile/checking", "onnxfile/layout", "onnxfile/lean", "onnxfile/quantised",
    "onnxfile/split", "onnxfile/structure", "onnxfile/tensors", "onnxfile/walk", "onnxfile/weights",
)  # fmt: skip
SERVICES = ("keys/awskms", "keys/azurekms", "keys/gcpkms", "keys/pkcs11", "keys/tpm2", "keys/vault")
SETTINGS = """[tool.mutmut]
source_paths = ["modelvault"]
only_mutate = [{modules}]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "sidebyside"{plugins}]
pytest_add_cli_args_test_selection = [{tests}]
use_git_change_detection = false
{more}
[tool.pytest.ini_options]
pythonpath = ["tests"]
filterwarnings = ["error"]
markers = ["real_models: needs fetched models", "slow: takes more than a few seconds"]
"""
HEADER = """# Mutation testing

Written by `python tests/mutation/mutate.py FOLDER` with [mutmut](https://mutmut.readthedocs.io)
{version}: each mutant is
one small change of the code (another operator, constant, argument, text), and is killed where a test fails or runs
without end. Layers 0 to 2 hold everything that reads or writes a format, a key or a signature.

The tests are those of `tests/layers`; for the modules of `keys` for one service each, `test_answers.py` of
`tests/backends` and the module's own file there: with SoftHSM2 (`pkcs11`), swtpm (`tpm2`), OpenBao (`vault`), moto
(`awskms`), and doubles of Google's and Azure's services (`gcpkms`, `azurekms`). Each mutant has services of its own.

Not mutated is what mutmut leaves alone everywhere: decorated functions other than class and static methods
(properties, context managers), constants of modules, and annotations. These are held by the branch coverage of
`.ci/run` alone.

A run that is cut short lists what it did not reach; the same command goes on from there.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Modules that are changed together, and the tests that must notice."""

    folder: str
    modules: tuple[str, ...]
    staged: tuple[str, ...]
    tests: tuple[str, ...]
    plugins: tuple[str, ...] = ()
    more: str = ""
    children: int = 2


PARTS = (
    Part(
        folder=".",
        modules=LAYERS,
        staged=("fuzz", "layers", "vectors", "conftest.py", "fetch_models.py"),
        tests=("tests/layers",),
    ),
    Part(
        folder="services",
        modules=SERVICES,
        staged=("backends", "conftest.py", "fetch_models.py", "serving.py"),
        tests=tuple(
            f"tests/backends/test_{name}.py" for name in ("answers", *(s.removeprefix("keys/") for s in SERVICES))
        ),
        plugins=("-p", "services"),
        more='process_isolation = "forkserver"\ntimeout_multiplier = 3.0\ntimeout_constant = 4.0\n',
        children=1,  # side by side, two could take one free port
    ),
)


def stage(part: Part, folder: Path, modules: tuple[str, ...]) -> None:
    """The package as it is installed, with its links followed, and the tests that run on it.

    What mutmut knows of the tests is forgotten, but not its results, except for functions that changed.
    """
    skip = shutil.ignore_patterns("__pycache__", "corpus")
    for old in (folder / "tests", folder / "mutants" / "tests"):
        shutil.rmtree(old, ignore_errors=True)
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    for made in (folder / "mutants" / "modelvault" / f"{name}.py" for name in modules):
        if not made.with_name(f"{made.name}.meta").exists():  # else mutmut takes a new module's copy for its mutants
            made.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "modelvault", folder / "modelvault", symlinks=False, ignore=skip, dirs_exist_ok=True)
    (folder / "tests").mkdir()
    for source in (ROOT / "tests" / name for name in part.staged):
        if source.is_dir():
            shutil.copytree(source, folder / "tests" / source.name, ignore=skip)
        else:
            shutil.copy(source, folder / "tests")
    paths = _listed(f"modelvault/{name}.py" for name in modules)
    plugins = "".join(f", {_listed([plugin])}" for plugin in part.plugins)
    settings = SETTINGS.format(modules=paths, tests=_listed(part.tests), plugins=plugins, more=part.more)
    (folder / "pyproject.toml").write_text(settings)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def mutmut(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def run(folder: Path, children: int, *mutants: str) -> None:
    """Test the mutants named by patterns; without any, those that have no result."""
    with (folder / "log").open("ab") as log:
        command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(children), *mutants]
        environment = os.environ | {"PYTHONPATH": str(HERE)}  # where the plugins are
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, env=environment, check=True)


def results(folder: Path) -> dict[str, str]:
    """Each mutant's name and what became of it; nothing where this part was never run."""
    if not (folder / "mutants").exists():
        return {}
    listed = mutmut(folder, "results", "--all", "true").splitlines()
    return dict(line.strip().split(": ", 1) for line in listed if "__mutmut_" in line)


def differences(folder: Path, mutants: list[str]) -> dict[str, str]:
    """The unified diff of each mutant, all by one process."""
    code = (
        "import json, sys; from mutmut.mutation.diff_apply import get_diff_for_mutant\n"
        "print(json.dumps({name: get_diff_for_mutant(name) for name in json.load(sys.stdin)}))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, input=json.dumps(mutants), capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def change(mutant: str, diff: str) -> tuple[str, str, str]:
    """(function, the lines taken out, the lines put in) of one mutant."""
    shown = diff.splitlines()
    sides = {sign: [x[1:].strip() for x in shown if x[:1] == sign and x[:3] != sign * 3] for sign in "-+"}
    where = re.sub(r"__mutmut_\d+$", "", mutant).removeprefix("modelvault.")
    return re.sub(r"x_|xǁ", "", where, count=1).replace("ǁ", "."), " ".join(sides["-"]), " ".join(sides["+"])


def reason(found: tuple[str, str, str], reasons: list[dict[str, str]]) -> str | None:
    """The first explanation whose function and text fit."""
    for known in reasons:
        if re.fullmatch(known["function"], found[0]) and re.search(
            known.get("change", ""), f"{found[1]} -> {found[2]}"
        ):
            return known["reason"]
    return None


def report(top: Path) -> tuple[str, int]:
    """The page, and how many survivors are not explained."""
    reasons = tomllib.loads((HERE / "reasons.toml").read_text())["survivor"]
    counts: dict[str, Counter[str]] = {name.replace("/", "."): Counter() for part in PARTS for name in part.modules}
    grouped: dict[str, list[str]] = defaultdict(list)
    unexplained = 0
    for folder in (top / part.folder for part in PARTS):
        found = results(folder)
        for mutant, verdict in found.items():
            counts[mutant.removeprefix("modelvault.").rsplit(".", 1)[0]][verdict] += 1
        survivors = sorted(m for m, verdict in found.items() if _survived(verdict))
        for mutant, diff in differences(folder, survivors).items():
            changed = change(mutant, diff)
            why = reason(changed, reasons)
            unexplained += why is None
            grouped[why or "**not explained**"].append(f"`{changed[0]}`: `{changed[1]}` → `{changed[2]}`")
    version = mutmut(top, "--version").split()[-1]
    lines = [
        "| module | mutants | killed | by a time limit or crash | survived | not run |",
        "|---|---|---|---|---|---|",
        *(_row(module, verdicts) for module, verdicts in sorted(counts.items())),
        _row("**all**", sum(counts.values(), Counter())),
        "",
        "## Survivors",
        "",
    ]
    for why, mutants in sorted(grouped.items()):
        lines += [f"- {why}", *(f"    - {m}" for m in mutants)]
    return HEADER.format(version=version) + "\n".join(lines) + "\n", unexplained


def _survived(verdict: str) -> bool:
    return verdict not in ("killed", "timeout", "segfault", "not checked", "caught by type check")


def _row(name: str, verdicts: "Counter[str]") -> str:
    if not verdicts:
        return f"| {name} | | | | | all |"
    survived = sum(n for verdict, n in verdicts.items() if _survived(verdict))
    stopped, left = verdicts["timeout"] + verdicts["segfault"], verdicts["not checked"]
    return f"| {name} | {verdicts.total()} | {verdicts['killed']} | {stopped} | {survived} | {left} |"


def test(part: Part, folder: Path, modules: tuple[str, ...]) -> None:
    """Run what has no result, and in a folder of an earlier run its survivors and the modules named."""
    again = (folder / "mutants").exists()
    stage(part, folder, part.modules if again else modules or part.modules)
    with contextlib.suppress(KeyboardInterrupt):
        run(folder, part.children)
        if again:
            survivors = [mutant for mutant, verdict in results(folder).items() if _survived(verdict)]
            named = [f"modelvault.{name.replace('/', '.')}.*" for name in modules]
            if survivors or named:
                run(folder, part.children, *survivors, *named)


def main() -> int:
    top, modules = Path(sys.argv[1]), tuple(sys.argv[2:])
    for part in PARTS:
        own = tuple(name for name in modules if name in part.modules)
        if own or not modules:
            test(part, top / part.folder, own)
    page, unexplained = report(top)
    (ROOT / "docs" / "MUTATION.md").write_text(page)
    print(f"{unexplained} survivors are not explained")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
