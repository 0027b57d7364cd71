"""Writes docs/TRACING.md: whom a leak names, after every attack. Run from the repository's root:

python tests/benchmarks/tracing.py [MODELS FOLDER] [TRIALS]
"""

import itertools
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one process a core instead
ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

import fetch_models
import numpy as np
import numpy.typing as npt
from coalitions import DAMAGES, MORE, RECIPIENTS, STRATEGIES, Theatre, Trial
from real_inputs import inputs
from thefts import attacks

from modelvault.errors import ModelError
from modelvault.fingerprint.code import biases, code_key, code_word
from modelvault.fingerprint.embed import SlotEdit, copy_edit
from modelvault.fingerprint.planning import FingerprintPlan, make_plan
from modelvault.fingerprint.registry import Issued, Record, Sealed, now
from modelvault.fingerprint.rings import Owner
from modelvault.fingerprint.score import score
from modelvault.fingerprint.tracing import NAME_BELOW, Base, Trace, trace
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import STEPS, to_float
from modelvault.watermark.fidelity import Bench

OWNER = OwnerSecret(b"benchmark owner".ljust(32, b"."))
STATEMENT = bytes(32)
DESIGNED = {"minilm-l3": 8, "ppocr-rec": 5, "minilm-int8": 8}
SIZES, BEYOND = (2, 3, 5, 8), (12, 16, 24)
TRIALS, FEWER = 200, 50
EVERY = 4  # how much of the benchmark's inputs fingerprints are planned on
LEAKER = 7
SINGLE = -9.0
MANY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model that was sealed for RECIPIENTS recipients."""

    name: str
    original: Path
    feeds: list[dict[str, Any]]
    described: str
    plan: FingerprintPlan
    theatre: Theatre

    @property
    def records(self) -> list[Record]:
        layout = self.plan.layout
        sealed = Sealed(statement=STATEMENT, name=self.name, version="1", created=now(), layout=layout)
        return [sealed, *(_issued(f"recipient {n}", layout.original) for n in range(RECIPIENTS))]

    def word(self, number: int) -> npt.NDArray[np.uint8]:
        layout, key = self.plan.layout, code_key(OWNER.secret, self.plan.layout.original)
        return code_word(key, f"recipient {number}", biases(key, layout.slots, layout.coalition))

    def copy(self, number: int, output: Path) -> Path:
        edit = copy_edit(OWNER, self.plan.layout, self.word(number).tolist())
        output.write_bytes(OpenModel(self.original).to_bytes(edit))
        return output

    def trace(self, suspect: Path) -> Trace:
        return trace(suspect, Base.of_model(self.original), OWNER, self.records)


def _issued(recipient: str, original: bytes) -> Issued:
    return Issued(
        statement=STATEMENT, original=original, recipient=recipient, label=recipient, kind="slots", created=now()
    )


SUBJECTS: dict[str, Subject] = {}
"""Filled before worker processes are forked."""


def main(folder: Path, trials: int) -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        os.environ["MODELVAULT_HOME"] = str(Path(name) / "home")
        for model in DESIGNED:
            SUBJECTS[model] = prepare(folder / f"{model}.onnx")
        with multiprocessing.get_context("fork").Pool() as pool:
            parts, work = [plans()], Path(name)
            steps: list[Callable[[], str]] = [lambda: leaks(pool, trials), lambda: beyond(pool)]
            steps += [lambda: whole_files(pool, work), lambda: targeted(pool), lambda: singles(pool, work), speed]
            for measure in steps:
                parts.append(measure())
                minutes = (time.perf_counter() - began) / 60
                write([*parts, f"All of this took {minutes:.0f} minutes.\n"])


def write(parts: Sequence[str]) -> None:
    path = ROOT / "docs" / "TRACING.md"
    path.write_text("\n".join([HEAD, *parts]).rstrip() + "\n")
    print(f"wrote {path}", flush=True)


HEAD = f"""# Whom a leak names

Every number was measured by `python tests/benchmarks/tracing.py`, on {os.cpu_count()} processors of
{platform.machine()}. Each model was sealed once for {RECIPIENTS:,} recipients. A recipient is named where the bound on
the chance that any innocent scores so high is 10^{NAME_BELOW:.0f} or less; the least that is ever said is 10^-77. The
code, the score and its bound are FINGERPRINTS.md.
"""


def prepare(original: Path) -> Subject:
    described, feeds = inputs(original)
    chosen = feeds[::EVERY]
    plan = make_plan(
        original,
        Owner(OWNER),
        coalition=DESIGNED[original.stem],
        inputs=chosen,
        inputs_name=f"{len(chosen)} of {described}",
    )
    print(f"{original.stem}: {plan.summary}, {plan.drift}", flush=True)
    return Subject(
        name=original.stem,
        original=original,
        feeds=feeds,
        described=described,
        plan=plan,
        theatre=Theatre(OpenModel(original), OWNER, plan.layout),
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def plans() -> str:
    rows = []
    for s in SUBJECTS.values():
        plan, layout = s.plan, s.plan.layout
        assert plan.drift is not None
        rows.append(
            (
                s.name, layout.coalition, f"{layout.slots:,}", layout.length, layout.strength / 1e6,
                f"{plan.amplitude:.1f}", f"{layout.store / s.original.stat().st_size:.1%}",
                f"{plan.drift.cosine:.5f}", f"{plan.drift.decided:.2%}", plan.drift.inputs,
            )
        )  # fmt: skip
    head = ("model", "coalition", "slots", "bytes each", "strength", "a slot's mark over 10 % noise", "file grows by")
    return "## What was sealed\n\n" + table((*head, "output cosine", "arg-max agreement", "inputs"), rows)


def _single(name: str, attack: str, work: Path) -> tuple[str, float, float]:
    """(why it could not be run, log10 p of the leaker, of the surest innocent)."""
    subject = SUBJECTS[name]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        source = subject.copy(LEAKER, Path(folder) / "copy.onnx")
        try:
            suspect = attacks(subject.feeds)[attack](source, Path(folder) / "suspect.onnx")
        except Exception as error:  # tools of others fail in their own ways
            return "n/a" if isinstance(error, ModelError) else f"tool fails: {type(error).__name__}", 0.0, 0.0
        found = subject.trace(suspect)
    leaker = next(s.log10_p for s in found.suspicions if s.issued.recipient == f"recipient {LEAKER}")
    others = min(s.log10_p for s in found.suspicions if s.issued.recipient != f"recipient {LEAKER}")
    return "", leaker, others


def singles(pool: Any, work: Path) -> str:
    names = list(attacks([]))
    jobs = [(s, a, work) for a in names for s in SUBJECTS]
    found = dict(zip([j[:2] for j in jobs], pool.starmap(_single, jobs, chunksize=1), strict=True))
    rows = [(a, *(found[s, a][0] or f"{found[s, a][1]:.1f}" for s in SUBJECTS)) for a in names]
    leakers = [f[1] for f in found.values() if not f[0]]
    above = [f"{s} after {a}" for (s, a), f in found.items() if not f[0] and f[1] > SINGLE]
    innocent = min(f[2] for f in found.values())
    print(f"single leakers: worst {max(leakers):.1f}, innocents {innocent:.1f}, above {above}", flush=True)
    return (
        "## One leaker, every attack of ROBUSTNESS.md\n\nPowers of ten of the bound, the recipient who leaked; whole "
        "files, aligned as `watermark trace` does.\n\n"
        + table(("attack", *SUBJECTS), rows)
        + f"\nThe weakest is 10^{max(leakers):.1f}; above 10^{SINGLE:.0f}: {', '.join(above) or 'none'}. The surest "
        f"innocent of all these tries: 10^{innocent:.1f}.\n"
    )


def _trials(name: str, damage: str, size: int, strategy: str, count: int) -> list[Trial]:
    return SUBJECTS[name].theatre.trials(damage, size, strategy, count, NAME_BELOW)


def _run(pool: Any, jobs: list[tuple[str, str, int, str, int]]) -> dict[tuple[str, str, int, str], list[Trial]]:
    """Jobs of one stage one after the other, so that a process makes few stages."""
    groups = [list(g) for _, g in itertools.groupby(jobs, key=lambda j: j[:3])]
    done = pool.map(_group, groups, chunksize=1)
    return {
        job[:4]: found for group, each in zip(groups, done, strict=True) for job, found in zip(group, each, strict=True)
    }


def _group(jobs: list[tuple[str, str, int, str, int]]) -> list[list[Trial]]:
    found = [_trials(*job) for job in jobs]
    SUBJECTS[jobs[0][0]].theatre.stage.cache_clear()
    for job, trials in zip(jobs, found, strict=True):
        print(*job[:4], _cell(trials), flush=True)
    return found


def _cell(trials: list[Trial]) -> str:
    share = sum(t.caught > 0 for t in trials) / len(trials)
    caught = sum(t.caught for t in trials) / len(trials)
    return f"{share:.0%}; {caught:.1f}; {float(np.median([t.guilty for t in trials])):.0f}"


def leaks(pool: Any, count: int) -> str:
    """Tables of coalitions, and what became of innocents in all of these leaks."""
    counts = dict.fromkeys(STRATEGIES, count) | dict.fromkeys(MORE, min(count, FEWER))
    jobs = [(m, d, c, s, n) for m in SUBJECTS for d in DAMAGES for c in SIZES for s, n in counts.items()]
    found = _run(pool, jobs)
    parts = [
        f"## Coalitions\n\n{count} leaks a cell for the first five strategies, {min(count, FEWER)} for the others, by "
        "coalitions drawn at random. In each cell: leaks in\nwhich at least one colluder was named; colluders named on "
        "average; median power of ten of the surest. Only the\nweights in slots enter a score, so only these were "
        "blended and damaged (tests/benchmarks/coalitions.py).\n"
    ]
    for model, damage in itertools.product(SUBJECTS, DAMAGES):
        rows = [(s, *(_cell(found[model, damage, c, s]) for c in SIZES)) for s in counts]
        parts.append(f"### {model}, designed for {DESIGNED[model]}; damage afterwards: {damage}\n")
        parts.append(table(("strategy", *(f"{c} recipients" for c in SIZES)), rows))
    short = [
        f"{c} by {s}, {m}, {d} ({sum(t.caught > 0 for t in trials) / len(trials):.1%})"
        for (m, d, c, s), trials in found.items()
        if c <= DESIGNED[m] and sum(t.caught > 0 for t in trials) < 0.99 * len(trials)
    ]
    parts.append(
        f"Cells below 99 % at the size designed for or less: {'; '.join(short) or 'none'}.\n\n" + innocents(found)
    )
    return "\n".join(parts)


def innocents(found: dict[tuple[str, str, int, str], list[Trial]]) -> str:
    trials = [t for each in found.values() for t in each]
    accused = sum(t.innocent <= NAME_BELOW for t in trials)
    scores = [np.concatenate([t.scores for t in each]) for each in found.values()]
    total = sum(len(s) for s in scores)
    rows = []
    for power in range(1, 7):
        over = sum(int(np.count_nonzero(s >= power * math.log(10))) for s in scores)
        rows.append((f"10^{power}", f"{over / total:.2e}", f"{10.0**-power:.0e}"))
    highest = max(float(s.max()) for s in scores) / math.log(10)
    print(f"{len(trials)} leaks, {accused} accuse an innocent, highest {highest:.2f}", flush=True)
    return (
        f"## Innocents\n\nIn {len(trials):,} leaks {total:,} scores of innocent recipients; leaks in which one of "
        f"them was named: {accused}. The\nhighest score was 10^{highest:.2f}; to be named among {RECIPIENTS:,} takes "
        f"10^{math.log10(RECIPIENTS) - NAME_BELOW:.0f}.\n\n"
        + table(("score", "share of innocents who reach it", "bound"), rows)
    )


def beyond(pool: Any) -> str:
    chosen = ("averaging", "interleaving, slot by slot", "minority")
    jobs = [(m, DAMAGES[2], c, s, FEWER) for m in SUBJECTS for c in (*SIZES, *BEYOND) for s in chosen]
    found = _run(pool, jobs)
    rows = [(m, s, *(_cell(found[m, DAMAGES[2], c, s]) for c in (*SIZES, *BEYOND))) for m in SUBJECTS for s in chosen]
    return f"## Larger coalitions than designed for\n\n{FEWER} leaks a cell, each with 10 % noise.\n\n" + table(
        ("model", "strategy", *map(str, (*SIZES, *BEYOND))), rows
    )


def _whole(name: str, how: str, work: Path) -> Trace:
    """A leak as a file, by as many as the code was designed for."""
    subject, rng = SUBJECTS[name], np.random.default_rng(3)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        copies = [OpenModel(subject.copy(n, Path(folder) / f"{n}.onnx")) for n in range(DESIGNED[name])]
        leak = {}
        for number, weights in enumerate(zip(*(c.weights for c in copies), strict=True)):
            w = weights[0]
            if w.dtype in STEPS or w.dtype == "FLOAT":
                values = np.stack([to_float(w.dtype, c.read(x)) for c, x in zip(copies, weights, strict=True)])
                leak[f"t{number}"] = BLENDS[how](values, rng).reshape(w.shape).astype(STEPS.get(w.dtype, "<f4"))
        np.savez(Path(folder) / "leak.npz", **leak)
        return subject.trace(Path(folder) / "leak.npz")


def _as_stored(blend: Any, values: Any) -> Any:
    """A blend of several files' weights, in whole steps where theirs are."""
    return np.rint(blend) if np.array_equal(values, np.rint(values)) else blend


def _picked(values: Any, rng: Any) -> Any:
    which = rng.integers(0, len(values), values.shape[1] // 16 + 1).repeat(16)[: values.shape[1]]
    return np.take_along_axis(values, which[None], axis=0)[0]


BLENDS: dict[str, Callable[[Any, Any], Any]] = {
    "averaged": lambda values, _: _as_stored(values.mean(axis=0), values),
    "runs of 16 weights from one at random": _picked,
    "median of each weight": lambda values, _: _as_stored(np.median(values, axis=0), values),
    "largest of each weight": lambda values, _: values.max(axis=0),
}


def whole_files(pool: Any, work: Path) -> str:
    jobs = [(s, how, work) for s in SUBJECTS for how in BLENDS]
    rows = []
    for (name, how, _), found in zip(jobs, pool.starmap(_whole, jobs, chunksize=1), strict=True):
        guilty = {f"recipient {n}" for n in range(DESIGNED[name])}
        named = [s.issued.recipient for s in found.named]
        rows.append(
            (name, how, f"{len(guilty & set(named))} of {len(guilty)}", len(set(named) - guilty),
             f"{found.suspicions[0].log10_p:.1f}", found.suspicions[0].how)
        )  # fmt: skip
        print(*rows[-1], flush=True)
    return (
        "## Whole files\n\nAs many recipients as the code was designed for blend every weight of their files; the leak "
        "is traced as a file.\n\n"
        + table(("model", "blend", "colluders named", "innocents named", "surest", "fits best"), rows)
    )


def _aimed(name: str, share: float) -> tuple[float, float]:
    """Noise on the slots alone, of so many standard deviations of what is in them: (log10 p, output cosine)."""
    subject, rng = SUBJECTS[name], np.random.default_rng(4)
    layout, word = subject.plan.layout, subject.word(LEAKER)
    kinds = [t.dtype for t in layout.tensors for _ in t.starts]

    def put(number: int, first: bytes, second: bytes) -> bytes:
        values = to_float(kinds[number], second if word[number] else first)
        values = values + np.float32(share * values.std()) * rng.standard_normal(len(values), np.float32)
        if kinds[number] in STEPS:
            limits = np.iinfo(STEPS[kinds[number]])
            return np.clip(np.rint(values), limits.min, limits.max).astype(STEPS[kinds[number]]).tobytes()
        return values.astype("<f4").tobytes()

    data = OpenModel(subject.original).to_bytes(SlotEdit(OWNER, layout, put).edit)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suspect.onnx"
        path.write_bytes(data)
        found = subject.trace(path)
        cosine = Bench(subject.original, subject.feeds[::EVERY], subject.described).drift(path).cosine
    return next(s.log10_p for s in found.suspicions if s.issued.recipient == f"recipient {LEAKER}"), cosine


def targeted(pool: Any) -> str:
    levels = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
    jobs = [(s, level) for s in SUBJECTS for level in levels]
    found = dict(zip(jobs, pool.starmap(_aimed, jobs, chunksize=1), strict=True))
    rows = [
        (f"{level:.0%}", *(f"{found[s, level][0]:.1f}; {found[s, level][1]:.4f}" for s in SUBJECTS)) for level in levels
    ]
    return (
        "## An attacker who knows the places\n\nWho decrypts slots knows where they are. One leaker adds noise to\n"
        "these weights alone, of so many standard deviations of each slot's weights: power of ten of the bound;\n"
        "cosine of the model's outputs with the original's.\n\n" + table(("noise on slots", *SUBJECTS), rows)
    )


def speed() -> str:
    rows = []
    for s in SUBJECTS.values():
        layout, key = s.plan.layout, code_key(OWNER.secret, s.plan.layout.original)
        thresholds = biases(key, layout.slots, layout.coalition)
        stage = s.theatre.stage(DAMAGES[2], 2)
        leak = stage.leak(2 * s.word(LEAKER).astype(np.intp), np.random.default_rng(0))
        clock, wall = time.process_time(), time.perf_counter()
        score(leak, thresholds, key, [f"recipient {n}" for n in range(MANY)])
        rows.append(
            (s.name, f"{layout.slots:,}", f"{time.process_time() - clock:.1f}", f"{time.perf_counter() - wall:.1f}")
        )
    head = ("model", "slots", "processor seconds", "wall clock seconds")
    return f"## {MANY:,} recipients\n\nScored on one core, code words drawn anew.\n\n" + table(head, rows)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(fetch_models.DEFAULT),
        int(sys.argv[2]) if len(sys.argv) > 2 else TRIALS,
    )
