"""Mutation testing of layers 0 to 2: each small change of the code must make a test fail, or be explained.

    python tests/mutation/mutate.py FOLDER [MODULE ...]

stages the package and the tests of tests/layers in FOLDER, runs mutmut there and writes docs/MUTATION.md. In a folder
of an earlier run, whole or cut short by Ctrl-C, only this is run: mutants that have no result, among them those of
functions that changed since; survivors; and every mutant of the modules named.
Status 1 where a survivor is not explained in reasons.toml. About fifteen mutants a second on two cores.
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
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MODULES = (
    "_codec", "_files", "_memory", "_primitives", "errors",
    "keys/cost", "keys/material", "keys/owner", "keys/pem", "keys/remote", "keys/sources", "keys/store",
    "checkpoint", "commitment", "container", "cosignature", "envelope", "envelopes", "filekey", "graphcheck", "index",
    "manifest", "merkle", "omsbundle", "policy", "termtable", "variants",
    "onnxfile/anonymise", "onnxfile/checking", "onnxfile/layout", "onnxfile/lean", "onnxfile/quantised",
    "onnxfile/split", "onnxfile/structure", "onnxfile/tensors", "onnxfile/walk", "onnxfile/weights",
)  # fmt: skip
SETTINGS = """[tool.mutmut]
source_paths = ["modelvault"]
only_mutate = [{modules}]
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:randomly", "-p", "sidebyside"]
pytest_add_cli_args_test_selection = ["tests/layers"]
use_git_change_detection = false

[tool.pytest.ini_options]
pythonpath = ["tests"]
filterwarnings = ["error"]
markers = ["real_models: needs fetched models", "slow: takes more than a few seconds"]
"""
HEADER = """# Mutation testing

Written by `python tests/mutation/mutate.py FOLDER` with [mutmut](https://mutmut.readthedocs.io)
{version}: each mutant is
one small change of the code (another operator, constant, argument, text), and is killed where a test of `tests/layers`
fails or runs without end. Layers 0 to 2 hold everything that reads or writes a format, a key or a signature.

Not mutated: the modules of `keys` for one service each (`awskms`, `azurekms`, `gcpkms`, `pkcs11`, `tpm2`, `vault`),
whose tests need that service; and what mutmut leaves alone everywhere: decorated functions other than class and static
methods (properties, context managers), constants of modules, and annotations. These are held by the branch coverage of
`.ci/run` alone.

A run that is cut short lists what it did not reach; the same command goes on from there.

"""


def stage(folder: Path, modules: tuple[str, ...]) -> None:
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
    shutil.copytree(ROOT / "modelvault", folder / "modelvault", symlinks=False, ignore=skip, dirs_exist_ok=True)
    for name in ("fuzz", "layers", "vectors"):
        shutil.copytree(ROOT / "tests" / name, folder / "tests" / name, ignore=skip)
    for name in ("conftest.py", "fetch_models.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    paths = ", ".join(f'"modelvault/{name}.py"' for name in modules)
    (folder / "pyproject.toml").write_text(SETTINGS.format(modules=paths))


def mutmut(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def run(folder: Path, *mutants: str) -> None:
    """Test the mutants named by patterns; without any, those that have no result."""
    with (folder / "log").open("ab") as log:
        command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", "2", *mutants]
        environment = os.environ | {"PYTHONPATH": str(HERE)}  # where the plugin is
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, env=environment, check=True)


def results(folder: Path) -> dict[str, str]:
    """Each mutant's name and what became of it."""
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


def report(folder: Path, found: dict[str, str]) -> tuple[str, int]:
    """The page, and how many survivors are not explained."""
    reasons = tomllib.loads((HERE / "reasons.toml").read_text())["survivor"]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, verdict in found.items():
        counts[mutant.removeprefix("modelvault.").rsplit(".", 1)[0]][verdict] += 1
    version = mutmut(folder, "--version").split()[-1]
    lines = [
        "| module | mutants | killed | by a time limit or crash | survived | not run |",
        "|---|---|---|---|---|---|",
    ]
    total: Counter[str] = Counter()
    for module, verdicts in sorted(counts.items()):
        total += verdicts
        lines.append(_row(module, verdicts))
    lines += [_row("**all**", total), "", "## Survivors", ""]
    unexplained = 0
    grouped: dict[str, list[str]] = defaultdict(list)
    survivors = sorted(m for m, verdict in found.items() if _survived(verdict))
    for mutant, diff in differences(folder, survivors).items():
        changed = change(mutant, diff)
        why = reason(changed, reasons)
        unexplained += why is None
        grouped[why or "**not explained**"].append(f"`{changed[0]}`: `{changed[1]}` → `{changed[2]}`")
    for why, mutants in sorted(grouped.items()):
        lines += [f"- {why}", *(f"    - {m}" for m in mutants)]
    return HEADER.format(version=version) + "\n".join(lines) + "\n", unexplained


def _survived(verdict: str) -> bool:
    return verdict not in ("killed", "timeout", "segfault", "not checked", "caught by type check")


def _row(name: str, verdicts: "Counter[str]") -> str:
    survived = sum(n for verdict, n in verdicts.items() if _survived(verdict))
    stopped, left = verdicts["timeout"] + verdicts["segfault"], verdicts["not checked"]
    return f"| {name} | {verdicts.total()} | {verdicts['killed']} | {stopped} | {survived} | {left} |"


def main() -> int:
    folder, modules = Path(sys.argv[1]), tuple(sys.argv[2:])
    again = (folder / "mutants").exists()
    stage(folder, MODULES if again else modules or MODULES)
    with contextlib.suppress(KeyboardInterrupt):
        run(folder)
        if again:
            survivors = [mutant for mutant, verdict in results(folder).items() if _survived(verdict)]
            named = [f"modelvault.{name.replace('/', '.')}.*" for name in modules]
            if survivors or named:
                run(folder, *survivors, *named)
    page, unexplained = report(folder, results(folder))
    (ROOT / "docs" / "MUTATION.md").write_text(page)
    print(f"{unexplained} survivors are not explained")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main())
