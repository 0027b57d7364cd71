"""Fuzz with atheris: python tests/fuzz/run.py [TARGET ...] --seconds 40

Without a target, one process a core fuzzes all of them together, the first byte of an input naming the target; with
targets, each is fuzzed for so many seconds, one after another. What makes one fail is kept in the folder --artifacts.
Add it to FINDINGS in make_corpus.py, so that test_fuzz.py tries it with every run of the suite, and mend the parser.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

MEMORY = 1024  # MiB; a parser that needs more for a few KiB is not bounded
LONGEST = 10  # seconds for one input
ALL = "all"


def fuzz(target: str, seconds: int, artifacts: str) -> None:
    """Fuzz one target, or all, in this process, which ends with libFuzzer's own status."""
    import atheris

    with atheris.instrument_imports(include=["modelvault"]):
        from fuzz import seeds, targets
    names = list(targets.TARGETS)

    def chosen(data: bytes) -> None:
        if data:
            targets.TARGETS[names[data[0] % len(names)]](data[1:])

    if target == ALL:
        found = [bytes([n]) + data for n, name in enumerate(names) for data in seeds.seeds(name)]
    else:
        found = seeds.seeds(target)
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(found):
            (Path(corpus) / str(number)).write_bytes(data)
        limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={LONGEST}", "-max_len=16384"]
        options = [*limits, f"-artifact_prefix={artifacts}/{target}-", corpus]
        atheris.Setup([sys.argv[0], *options], chosen if target == ALL else targets.TARGETS[target])
        atheris.Fuzz()


def start(target: str, seconds: int, artifacts: str) -> bool:
    """Fuzz in a process of its own; whether it found nothing."""
    command = [sys.executable, __file__, target, "--one", "--seconds", str(seconds), "--artifacts", artifacts]
    environment = {**os.environ, "MODELVAULT_HOME": artifacts}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    runs = next((line.split()[1] for line in done.stderr.splitlines() if line.startswith("Done ")), "?")
    words = f"{runs} inputs" if done.returncode == 0 else f"FAILED\n{done.stderr[-4000:]}"
    print(f"{target}: {words}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--artifacts", default=tempfile.gettempdir())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        fuzz(given.targets[0], given.seconds, given.artifacts)
        return 0
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(1 if given.targets else cores) as pool:
        work = given.targets or [ALL] * cores
        clean = list(pool.map(lambda name: start(name, given.seconds, given.artifacts), work))
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
