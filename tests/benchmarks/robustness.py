"""Writes docs/ROBUSTNESS.md: what each attack leaves of a mark, and of the model. Run from the repository's root:

python tests/benchmarks/robustness.py [MODELS FOLDER]
"""

import itertools
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]

import fetch_models
import numpy as np
import onnx
import synthetic
from attacks import damage, quantise, structure, training
from real_inputs import inputs
from watermark.models import mark

from modelvault.errors import ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import find_carriers, model_digest, to_float
from modelvault.watermark.code import SLOTS
from modelvault.watermark.detect import Evidence, difference, score
from modelvault.watermark.embedding import EmbedReport, parse_payload
from modelvault.watermark.fidelity import Bench
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record, records_of
from modelvault.watermark.verifying import verify_blind, verify_informed

OWNER = OwnerSecret(b"benchmark owner".ljust(32, b"."))
PAYLOAD = parse_payload("acme 1.0")
MODELS = ("minilm-l3", "ppocr-rec", "ppocr-cls", "silero-vad", "magika", "minilm-int8")
KEYS = 10_000
LARGE = 30  # weights of 4096 x 4096 in the synthetic model

Attack = Callable[[Path, Path], Path]


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
    """One attack on one model. ``cosine`` and ``agreement``: of the attacked model's outputs with the original's."""

    z: float
    log10_p: float
    payload: bool
    blind: float
    cosine: float | None
    agreement: float | None

    def cell(self) -> str:
        own = "-" if self.cosine is None else f"{self.cosine:.3f}"
        return f"{self.z:.0f}{'' if self.payload else ' (no payload)'}; {self.blind:.1f}; {own}"


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["MODELVAULT_HOME"] = str(work / "home")
        subjects = [prepare(folder / f"{m}.onnx", work) for m in MODELS]
        text = [HEAD, fidelity_table(subjects), attack_table(subjects, work), training_table(work)]
        text += [sweep_table(subjects, work), wrong_keys(work), speed(work, subjects[0])]
    path = ROOT / "docs" / "ROBUSTNESS.md"
    path.write_text("\n".join(text).rstrip() + "\n")
    print(f"wrote {path}")


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


def fidelity_table(subjects: list[Subject]) -> str:
    lines = [
        "## What the mark costs\n",
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
    lines.append("\nLeft out because single tensors dominated the drift: " + ("; ".join(left) or "none") + ".")
    lines.append("Arg-max is along the outputs' last axis; a tie is a row whose two largest values differ by less than")
    lines.append("5 % of its largest size. Where the outputs are no classes (embeddings), ties are what differs.\n")
    return "\n".join(lines)


def changed(how: damage.Change) -> Attack:
    return lambda source, output: damage.change(source, output, how)


def chain(*attacks: Attack) -> Attack:
    def run(source: Path, output: Path) -> Path:
        current = source
        for number, attack in enumerate(attacks):
            current = attack(current, output.with_name(f"{output.stem}-{number}.onnx"))
        return current

    return run


def more_marks(source: Path, output: Path) -> Path:
    """Three other owners' marks of the default strength."""
    current = source
    for number in range(3):
        after = output.with_name(f"{output.stem}-{number}.onnx")
        mark(current, after, OwnerSecret(bytes([number]) * 32), strength=0.003, check=False)
        current = after
    return current


def hidden(source: Path, output: Path, *, share: float = 0.0) -> Path:
    """Hidden units of every feed-forward block shuffled, or the weakest taken out."""
    layers = feed_forward(onnx.load(source, load_external_data=False))
    if not layers:
        raise ModelError("no feed-forward block")
    if share:
        return structure.remove_hidden(source, output, layers, share)
    return structure.shuffle_hidden(source, output, layers)


def feed_forward(model: onnx.ModelProto) -> list[tuple[str, str | None, str]]:
    """(first, bias, second) of each pair of float matrices (d, h), (h, d) with h > d that follow each other."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    order = [
        (n.input[1], shapes[n.input[1]]) for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in shapes
    ]
    found: list[tuple[str, str | None, str]] = []
    for (first, a), (second, b) in itertools.pairwise(order):
        if a == b[::-1] and a[1] > a[0]:
            after = next(n.output[0] for n in model.graph.node if first in n.input)
            adds = [i for n in model.graph.node if n.op_type == "Add" and after in n.input for i in n.input]
            bias = next(i for i in adds if shapes.get(i) == (a[1],))
            found.append((first, bias, second))
    return found


def projections(source: Path, output: Path) -> Path:
    """Query, key and value matrices, which read the same input, in one tensor."""
    model = onnx.load(source)
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and len(set(shapes.get(node.input[1], (0, 1)))) == 1:
            readers.setdefault(node.input[0], []).append(node.input[1])
    groups = [names for names in readers.values() if len(names) == 3]
    if not groups:
        raise ModelError("no attention")
    return structure.fuse(source, output, groups)


def halves(source: Path, output: Path) -> Path:
    """Every square matrix split in two."""
    model = onnx.load(source)
    names = [
        t.name for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] == t.dims[1] and t.data_type == 1
    ]
    if not names:
        raise ModelError("no square matrices")
    return structure.split(source, output, names)


def attacks(feeds: list[dict[str, Any]]) -> dict[str, Attack]:
    """Every attack, by name. ``feeds``: what activations are calibrated on."""
    noise3 = changed(damage.noise(0.03))
    return {
        "none": lambda source, _: source,
        "fp16": changed(damage.fp16),
        "bf16": changed(damage.bf16),
        "int8, dynamic": quantise.dynamic_int8,
        "int8, dynamic, per channel": lambda s, d: quantise.dynamic_int8(s, d, per_channel=True),
        "int8, static QDQ": lambda s, d: quantise.static_qdq(s, d, feeds),
        "int4, blocks of 32 (MatMulNBits)": quantise.int4,
        "int4, blocks of 128 (MatMulNBits)": lambda s, d: quantise.int4(s, d, block=128),
        "prune 50 %": changed(damage.prune(0.5)),
        "prune 70 %": changed(damage.prune(0.7)),
        "prune 90 %": changed(damage.prune(0.9)),
        "prune 50 %, refill with noise": changed(damage.refill(0.5)),
        "rows, 30 % zeroed": changed(damage.prune_rows(0.3)),
        "hidden units, 30 % taken out": lambda s, d: hidden(s, d, share=0.3),
        "noise, 10 % of sigma": changed(damage.noise(0.1)),
        "renamed and reordered": structure.rename,
        "transposed": structure.transpose,
        "onnxruntime offline optimisation": structure.optimise,
        "onnxslim": structure.slim,
        "hidden units shuffled": hidden,
        "every matrix permuted, rescaled, flipped": structure.scramble,
        "query, key, value fused": projections,
        "matrices split": halves,
        "three more owners' marks": more_marks,
        "fp16 + renamed + noise 3 %": chain(changed(damage.fp16), structure.rename, noise3),
        "prune 50 % + transposed + renamed": chain(changed(damage.prune(0.5)), structure.transpose, structure.rename),
        "hidden shuffled + int8 + noise 3 %": chain(noise3, hidden, quantise.dynamic_int8),
        "onnxslim + noise 3 % + bf16": chain(structure.slim, noise3, changed(damage.bf16)),
    }


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
        drift = subject.bench.drift(suspect)
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
        agreement=drift.agreement if drift else None,
    )


def attack_table(subjects: list[Subject], work: Path) -> str:
    names = list(attacks([]))
    lines = ["## Attacks\n"]
    lines.append("Informed score, whether the payload could not be read; blind score; cosine of the attacked model's")
    lines.append("outputs with the original's (- where it no longer runs). n/a: the model has nothing of the kind.\n")
    lines.append("| attack | " + " | ".join(s.name for s in subjects) + " |")
    lines.append("|---|" + "---|" * len(subjects))
    least = math.inf
    for name in names:
        cells = []
        for subject in subjects:
            row = strike(subject, attacks(subject.feeds)[name], work)
            cells.append(row if isinstance(row, str) else row.cell())
            if not isinstance(row, str):
                least = min(least, row.z)
            print(f"{name}: {subject.name}: {cells[-1]}", flush=True)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append(f"\nThe lowest informed score of the table is {least:.1f}.\n")
    lines.append(
        "An attack that finds nothing to change in a model (int4 and transposes where there is no MatMul with a"
    )
    lines.append("constant, onnxruntime's dynamic quantiser inside If branches) leaves the score where it was.\n")
    return "\n".join(lines)


def training_table(work: Path) -> str:
    """Fine-tuning with real gradients on scikit-learn's digits."""
    data = training.Digits.load()
    held = training.train(training.fresh(), data.owner, epochs=15, rate=1e-3)
    original, marked = training.save(held, work / "digits.onnx"), work / "digits-marked.onnx"
    feeds: list[Any] = [{"x": data.test[0]}]
    report = mark(original, marked, OWNER, payload=PAYLOAD, inputs=feeds, inputs_name="300 test images")
    drift = report.plan.drift
    assert drift is not None
    start = training.read(marked)
    lines = [
        "## Fine-tuning with real gradients\n",
        f"A network of {sum(h.size for h in held):,} weights for scikit-learn's digits, trained by its owner on 750",
        f"images to {training.accuracy(held, data.test):.1%} on 300 others; marked at strength {report.plan.strength},",
        f"cosine {drift.cosine:.6f}, arg-max agreement {drift.agreement:.1%}. A thief fine-tunes it on 747 others,",
        "ten epochs of Adam.\n",
        "| learning rate | relative change of the weights | accuracy after | score | payload | blind |",
        "|---|---|---|---|---|---|",
    ]
    notes = records_of(OWNER.fingerprint)
    for rate in (1e-4, 1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2):
        tuned = training.train(start, data.thief, epochs=10, rate=rate, seed=1)
        suspect = training.save(tuned, work / "digits-tuned.onnx")
        found = verify_informed(suspect, original, OWNER, records=notes)
        blind = verify_blind(suspect, OWNER, [r for r in notes if r.commitment.original == found.original])
        lines.append(
            f"| {rate:g} | {training.moved(start, tuned):.1%} | {training.accuracy(tuned, data.test):.1%} | "
            f"{found.outcome.z:.1f} | {'read' if found.outcome.read else 'lost'} | {blind.outcome.z:.1f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join([*lines, ""])


def _rounded(bits: int) -> damage.Change:
    """Each row rounded to 2^bits levels."""

    def how(array: Any) -> Any:
        table = array.reshape(array.shape[0], -1)
        step = np.abs(table).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 0.5)
        return (np.round(table / np.where(step > 0, step, 1)) * step).reshape(array.shape)

    return how


def sweeps() -> Iterator[tuple[str, list[tuple[str, damage.Change]]]]:
    yield "noise, of sigma", [(f"{s:.0%}", damage.noise(s)) for s in (0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0)]
    yield "magnitude pruning", [(f"{s:.1%}", damage.prune(s)) for s in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998)]
    yield "prune and refill", [(f"{s:.0%}", damage.refill(s)) for s in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)]
    yield "levels a row", [(f"{b} bits", _rounded(b)) for b in (8, 6, 5, 4, 3, 2)]


def sweep_table(subjects: list[Subject], work: Path) -> str:
    chosen = [s for s in subjects if s.name in ("minilm-l3", "ppocr-rec", "magika")]
    lines = ["## Where it ends\n", "Each attack made stronger until detection ends: informed score; output cosine. A"]
    lines += ["claim needs 7.6; below it the cell is in brackets.\n"]
    outlived = []
    for title, steps in sweeps():
        lines += [f"| {title} | " + " | ".join(s.name for s in chosen) + " |", "|---|" + "---|" * len(chosen)]
        for name, how in steps:
            cells = []
            for subject in chosen:
                row = strike(subject, changed(how), work)
                assert isinstance(row, Row)
                cell = f"{row.z:.1f}; {'-' if row.cosine is None else f'{row.cosine:.3f}'}"
                cells.append(cell if row.log10_p <= -12 else f"({cell})")
                if row.log10_p > -12 and (row.cosine or 0) >= 0.7:
                    outlived.append(f"{subject.name} at {title}, {name}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
        lines.append("")
    lines.append(f"The mark is lost while the cosine is still 0.7 or more: {'; '.join(outlived) or 'nowhere'}.\n")
    return "\n".join(lines)


def wrong_keys(work: Path) -> str:
    """The tail of KEYS random keys on the marked digits network and on the unmarked one under noise."""
    original, marked = work / "digits.onnx", work / "digits-marked.onnx"
    noisy = damage.change(original, work / "digits-noisy.onnx", damage.noise(0.05))
    lines = [
        f"## Wrong keys\n\n{KEYS:,} random keys on the digits network: share of scores at or above t, and the bound.\n",
        "| t | marked | unmarked, 5 % noise | exp(-t^2/2) |",
        "|---|---|---|---|",
    ]
    tails = [_scores(original, suspect) for suspect in (marked, noisy)]
    for t in (1.0, 2.0, 3.0, 3.5, 4.0):
        shares = " | ".join(f"{float(np.mean(z >= t)):.5f}" for z in tails)
        lines.append(f"| {t} | {shares} | {math.exp(-t * t / 2):.5f} |")
    highest = " and ".join(f"{float(z.max()):.2f}" for z in tails)
    lines.append(f"\nHighest scores: {highest}; a claim needs 7.6: none was made.\n")
    return "\n".join(lines)


def _scores(original: Path, suspect: Path) -> Any:
    a, b, found = OpenModel(original), OpenModel(suspect), {}
    theirs = {w.name: w for w in b.weights}
    for c in find_carriers(a):
        w = c.weight
        values = [to_float(w.dtype, m.read(v)) for m, v in ((b, theirs[w.name]), (a, w))]
        found[c.digest] = difference(w.dtype, w.shape, *values)
    signs, zs = np.ones(SLOTS, np.int8), []
    for number in range(KEYS):
        key = ModelKey(number.to_bytes(32, "big"), b"d" * 32)
        zs.append(Evidence.of(score(key, d, f) for d, f in found.items()).z(signs))
    return np.array(zs)


def speed(work: Path, subject: Subject) -> str:
    """On a synthetic model with external weights: one core's seconds, and the wall clock of whole commands."""
    original = synthetic.write(work / "large", LARGE)
    model = OpenModel(original)
    count = sum(math.prod(w.shape) for w in model.weights)
    started = time.process_time()
    carriers = find_carriers(model)
    first = time.process_time() - started
    key = ModelKey(OWNER.secret, model_digest(c.digest for c in carriers))
    marker = Marker(key, 0.003, PAYLOAD, frozenset(c.digest for c in carriers))
    spent = 0.0
    for weight in model.weights:
        data = model.read(weight)
        started = time.process_time()
        marker.edit(weight.dtype, weight.shape, data)
        spent += time.process_time() - started
    wall = time.perf_counter()
    mark(original, work / "large-marked.onnx", OWNER, payload=PAYLOAD, check=False)
    embed_wall = time.perf_counter() - wall
    record = next(
        r for r in records_of(OWNER.fingerprint) if r.commitment.original == model_digest(c.digest for c in carriers)
    )
    clock, wall = time.process_time(), time.perf_counter()
    blind = verify_blind(work / "large-marked.onnx", OWNER, [record])
    blind_cpu, blind_wall = time.process_time() - clock, time.perf_counter() - wall
    wall = time.perf_counter()
    informed = verify_informed(work / "large-marked.onnx", original, OWNER, records=[record])
    informed_wall = time.perf_counter() - wall
    aligned = [f"| as it is | {_verified_in(subject, subject.marked):.1f} |"]
    for name in ("renamed and reordered", "query, key, value fused", "hidden units shuffled"):
        suspect = attacks(subject.feeds)[name](subject.marked, work / "aligned.onnx")
        aligned.append(f"| {name} | {_verified_in(subject, suspect):.1f} |")
    scrambled = structure.scramble(subject.marked, work / "aligned.onnx")
    aligned.append(f"| every matrix permuted, rescaled, flipped | {_verified_in(subject, scrambled):.1f} |")
    rows = "\n".join(aligned)
    scale = 1e8 / count
    return f"""## Speed

A synthetic model of {count:,} float32 weights in external data; one thread does the work. Load of the machine
meanwhile: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; wall clocks grow with it, processor seconds hardly.

| step | seconds for 100 M weights |
|---|---|
| find and hash carriers (read included) | {first * scale:.2f} processor |
| mark | {spent * scale:.2f} processor |
| `watermark embed`, without running the model, files written and synced | {embed_wall * scale:.2f} wall clock |
| blind verification (read included) | {blind_cpu * scale:.2f} processor, {blind_wall * scale:.2f} wall clock |
| informed verification (both files read) | {informed_wall * scale:.2f} wall clock |

On it: blind score {blind.outcome.z:.1f}, informed score {informed.outcome.z:.0f}, payload \
{"read" if informed.outcome.read else "lost"}.

Informed verification of {subject.name} ({sum(c.count for c in subject.report.plan.carriers):,} weights), alignment
included, wall clock:

| suspect | seconds |
|---|---|
{rows}
"""


def _verified_in(subject: Subject, suspect: Path) -> float:
    started = time.perf_counter()
    verify_informed(suspect, subject.original, OWNER, records=[subject.record])
    return time.perf_counter() - started


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(fetch_models.DEFAULT))
