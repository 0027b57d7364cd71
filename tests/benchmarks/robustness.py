"""Writes docs/ROBUSTNESS.md: what each attack leaves of a mark, and of the model. Run from the repository's root:

python tests/benchmarks/robustness.py [MODELS FOLDER] [--only WORDS]
"""

import argparse
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

import fetch_models
import marking_speed
import trials
from real_inputs import inputs
from run import replaced
from thefts import Attack, attacks, sweeps
from trials import OWNER, PAYLOAD
from watermark.models import mark

from modelvault.errors import ModelError
from modelvault.watermark.embedding import EmbedReport
from modelvault.watermark.fidelity import Bench
from modelvault.watermark.record import Record, records_of
from modelvault.watermark.verifying import verify_blind, verify_informed

MODELS = ("minilm-l3", "ppocr-rec", "ppocr-cls", "silero-vad", "magika", "minilm-int8")
SWEPT = ("minilm-l3", "ppocr-rec", "magika", "minilm-int8")
CLAIM_Z = 7.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model under attack: files, what it is run on, its record."""

    name: str
    original: Path
    marked: Path
    described: str
    feeds: list[dict[str, Any]]
    report: EmbedReport
    record: Record
    bench: Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One attack on one model. ``cosine``: of the attacked model's outputs with the original's."""

    z: float
    log10_p: float
    payload: bool
    blind: float
    cosine: float | None

    def cell(self) -> str:
        own = "-" if self.cosine is None else f"{self.cosine:.3f}"
        blind = f"**{self.blind:.1f}**" if self.blind >= CLAIM_Z else f"{self.blind:.1f}"
        return f"{self.z:.0f}{'' if self.payload else ' (no payload)'}; {blind}; {own}"


@dataclass(frozen=True)
class Subjects:
    """The benchmark's models, marked when the first section needs them."""

    folder: Path
    work: Path

    @cached_property
    def all(self) -> list[Subject]:
        return [prepare(self.folder / f"{m}.onnx", self.work) for m in MODELS]


def sections(folder: Path, work: Path) -> dict[str, Callable[[], str]]:
    """Every section by its title."""
    subjects = Subjects(folder, work)
    return {
        "What the mark costs": lambda: fidelity_table(subjects.all),
        "Attacks": lambda: attack_table(subjects.all, work),
        "Fine-tuning with real gradients": lambda: trials.training_table(work),
        "Where it ends": lambda: sweep_table(subjects.all, work),
        "Wrong keys": lambda: trials.wrong_keys(work),
        "Forged keys": lambda: trials.forged_keys(work),
        "Speed": lambda: marking_speed.table(folder / "minilm-l3.onnx", work),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(fetch_models.DEFAULT), help="the models' folder")
    parser.add_argument("--only", action="append", metavar="WORDS", help="sections whose title holds WORDS; repeatable")
    options = parser.parse_args()
    target = ROOT / "docs" / "ROBUSTNESS.md"
    page = target.read_text() if options.only and target.exists() else HEAD
    with tempfile.TemporaryDirectory() as name:
        os.environ["MODELVAULT_HOME"] = str(Path(name) / "home")
        for title, measure in sections(options.folder, Path(name)).items():
            if options.only and not any(words in title for words in options.only):
                continue
            page = replaced(page, title, f"## {title}\n\n{measure().strip()}\n")
            target.write_text(page)
            print(f"wrote {title}", flush=True)


HEAD = f"""# What a mark survives

Every number was measured by `python tests/benchmarks/robustness.py`, with onnxruntime on {platform.machine()} and the
default strength. A score is in standard deviations: a claim needs 7.6 (p <= 1e-12), or 15.3 where the payload was not
known beforehand. The scheme and its bound are WATERMARK.md.
"""


def prepare(original: Path, work: Path) -> Subject:
    name, marked = original.stem, work / f"{original.stem}.onnx"
    described, feeds = inputs(original)
    report = mark(original, marked, OWNER, payload=PAYLOAD, inputs=feeds, inputs_name=described)
    digest = report.plan.original
    record = next(r for r in records_of(OWNER.fingerprint) if r.commitment.original == digest)
    print(f"{name}: strength {report.plan.strength}, {report.plan.drift}", flush=True)
    return Subject(
        name=name, original=original, marked=marked, described=described, feeds=feeds, report=report, record=record,
        bench=Bench(original, feeds, described),
    )  # fmt: skip


FIDELITY = """Arg-max is along the outputs' last axis; a tie is a row whose two largest values differ by less than
5 % of its largest size. Where the outputs are no classes (embeddings, states), ties are what differs."""


def fidelity_table(subjects: list[Subject]) -> str:
    lines = [
        "| model | carriers | weights | strength | output cosine | arg-max agreement | without ties | inputs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for s in subjects:
        plan, drift = s.report.plan, s.report.plan.drift
        assert drift is not None
        lines.append(
            f"| {s.name} | {len(plan.carriers)} | {sum(c.count for c in plan.carriers):,} | {plan.strength} | "
            f"{drift.cosine:.6f} | {drift.agreement:.2%} | {drift.decided:.2%} | {s.described} |"
        )
    left = [f"{s.name}: {', '.join(s.report.plan.left_out)}" for s in subjects if s.report.plan.left_out]
    lines.append("\nLeft out because their marks alone cost most: " + ("; ".join(left) or "none") + ".")
    lines.append(f"\n{FIDELITY}")
    return "\n".join(lines)


def strike(subject: Subject, attack: Attack, work: Path) -> Row | str:
    """Run an attack and look for the mark; in words why it could not be run."""
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        suspect = attack(subject.marked, folder / "suspect.onnx")
    except Exception as error:  # tools of others fail in their own ways
        return "n/a" if isinstance(error, ModelError) else f"tool fails: {type(error).__name__}"
    informed = verify_informed(suspect, subject.original, OWNER, records=[subject.record])
    blind = verify_blind(suspect, OWNER, [subject.record])
    try:
        drift = subject.bench.drift(suspect, probe=True)
    except ModelError:
        drift = None
    read = informed.outcome.read
    for path in folder.iterdir():
        path.unlink()
    return Row(
        z=informed.outcome.z,
        log10_p=informed.outcome.log10_p,
        payload=read is not None and read.payload == PAYLOAD,
        blind=blind.outcome.z,
        cosine=drift.cosine if drift else None,
    )


LEGEND = """Informed score, whether the payload could not be read; blind score, bold where it suffices for a claim;
cosine of the attacked model's outputs with the original's (- where it no longer runs), on eight of the inputs.
n/a: the model has nothing of the kind.
"""

UNTOUCHED = """An attack that finds nothing to change in a model (int4 and transposes where there is no MatMul with a
constant, onnxruntime's dynamic quantiser inside If branches, cutting and permuting matrices where there are no float
ones) leaves the score where it was."""


def attack_table(subjects: list[Subject], work: Path) -> str:
    names = list(attacks(subjects[0].feeds))
    lines = [LEGEND]
    lines.append("| attack | " + " | ".join(s.name for s in subjects) + " |")
    lines.append("|---|" + "---|" * len(subjects))
    least, blind = dict.fromkeys((s.name for s in subjects), (math.inf, "")), dict.fromkeys(names, 0)
    for name in names:
        cells = []
        for subject in subjects:
            row = strike(subject, attacks(subject.feeds)[name], work)
            cells.append(row if isinstance(row, str) else row.cell())
            if not isinstance(row, str):
                least[subject.name] = min(least[subject.name], (row.z, name))
                blind[name] += row.blind >= CLAIM_Z
            print(f"{name}: {subject.name}: {cells[-1]}", flush=True)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lowest = "; ".join(f"{model} {z:.1f} ({name})" for model, (z, name) in least.items())
    lines.append(f"\nThe lowest informed score of each model: {lowest}.\n")
    lines.append(f"Blind detection claims {blind['none']} of the {len(subjects)} marked models as they are: it needs")
    lines.append(f"many weights, or weights of many sizes. Whoever keeps the original does not need it.\n\n{UNTOUCHED}")
    return "\n".join(lines)


def sweep_table(subjects: list[Subject], work: Path) -> str:
    chosen = [s for s in subjects if s.name in SWEPT]
    lines = ["Each attack made stronger until detection ends or nothing is left of the model: informed score; output"]
    lines += ["cosine. A claim needs 7.6; below it the cell is in brackets.\n"]
    outlived = []
    for title, steps in sweeps():
        lines += [f"| {title} | " + " | ".join(s.name for s in chosen) + " |", "|---|" + "---|" * len(chosen)]
        for name, how in steps:
            cells = []
            for subject in chosen:
                row = strike(subject, how, work)
                if isinstance(row, str):
                    cells.append(row)
                    continue
                cell = f"{row.z:.1f}; {'-' if row.cosine is None else f'{row.cosine:.3f}'}"
                cells.append(cell if row.log10_p <= -12 else f"({cell})")
                if row.log10_p > -12 and (row.cosine or 0) >= 0.7:
                    outlived.append(f"{subject.name} at {title}, {name}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
        lines.append("")
    lines.append(
        "Scrambled matrices break a model by themselves: a thief who permutes it in ways that leave its function"
    )
    lines.append("alone pays the noise only, so there the noise sweep's cosines hold.\n")
    lines.append(f"The mark is lost while the cosine is still 0.7 or more: {'; '.join(outlived) or 'nowhere'}.\n")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
