"""What each required dependency is for, how much disk it takes and how long its import: writes docs/DEPENDENCIES.md.

    python tests/benchmarks/dependencies.py

Run it in an environment that holds modelvault; import costs are the least of some fresh interpreters, measured in turn.
"""

import importlib.metadata as metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 11
PURPOSES = {
    "click": ("click", "the command line alone: options, help, completion"),
    "cryptography": ("cryptography.hazmat.primitives.hpke", "every encryption, key derivation, signature and key file"),
    "numpy": ("numpy", "weights as arrays: watermarks, guards of inputs, dequantised suspects"),
    "onnx": ("onnx", "reading, splitting and editing models; a loader of sealed models does without it"),
    "onnxruntime": ("onnxruntime", "the session that a sealed model runs in"),
}
HEADER = """# Dependencies

Written by `python tests/benchmarks/dependencies.py`. `pip install modelvault` brings these five and what they need
themselves. Each is imported where it is used: `import modelvault` imports none of them.

"""


def required() -> list[str]:
    """The names of what modelvault itself requires, without extras."""
    requirements = metadata.requires("modelvault") or []
    return sorted(re.split(r"[^A-Za-z0-9-]", r, maxsplit=1)[0] for r in requirements if "extra ==" not in r)


def below(name: str, seen: set[str]) -> set[str]:
    """The distribution and everything it requires in turn."""
    key = name.lower().replace("_", "-")
    if key in seen:
        return seen
    seen.add(key)
    for requirement in metadata.requires(name) or []:
        if "extra ==" not in requirement:
            inner = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
            try:
                metadata.distribution(inner)
            except metadata.PackageNotFoundError:
                continue  # for another platform or Python
            below(inner, seen)
    return seen


def megabytes(name: str) -> float:
    """Installed files of one distribution, as listed in its RECORD."""
    files = metadata.distribution(name).files or []
    return sum(f.size or 0 for f in files) / 1e6


def milliseconds(statements: dict[str, str]) -> dict[str, float]:
    """The least time of each statement in fresh interpreters: what else the machine does only adds to it."""
    code = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(ROUNDS):
        for name, statement in statements.items():
            command = [sys.executable, "-c", code.format(statement)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            times[name].append(1000 * float(done.stdout))
    return {name: min(values) for name, values in times.items()}


def page() -> str:
    names = required()
    assert names == sorted(PURPOSES), f"this script does not know what {names} are for"
    costs = milliseconds({name: f"import {PURPOSES[name][0]}" for name in names} | {"itself": "import modelvault"})
    lines = [
        "| package | version | for | needs besides | size | with what it needs | import |",
        "|---|---|---|---|---|---|---|",
    ]
    everything: set[str] = set()
    for name in names:
        needs = below(name, set())
        everything |= needs
        others = ", ".join(sorted(needs - {name})) or "nothing"
        sizes = f"{megabytes(name):.1f} MB | {sum(megabytes(n) for n in needs):.1f} MB"
        version = metadata.version(name)
        lines.append(f"| {name} | {version} | {PURPOSES[name][1]} | {others} | {sizes} | {costs[name]:.0f} ms |")
    total, own = sum(megabytes(n) for n in everything), costs["itself"]
    where = f"{platform.machine()}, Python {platform.python_version()}, files in the page cache"
    notes = f"""
Together {total:.0f} MB on disk, {len(everything)} packages. `import modelvault` itself takes {own:.0f} ms. Times
are the least of {ROUNDS} fresh interpreters each, every import alone, so what two share is counted twice
({where}).

What is an extra is only for those who use it: key services and tokens, remote places, plots, SBOMs, telemetry.
`requirements-dev.lock` pins everything that development and CI install, with hashes; `.ci/audit` asks for known
vulnerabilities of these; `.ci/release` builds wheel and sdist of a commit, the same bytes every time."""
    lines += notes.splitlines()
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "DEPENDENCIES.md").write_text(page())
