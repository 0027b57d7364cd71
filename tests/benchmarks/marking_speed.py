"""How long marking, detection and alignment take."""

import math
import os
import time
from pathlib import Path

import synthetic
from thefts import attacks
from trials import OWNER, PAYLOAD
from watermark.models import mark

from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import find_carriers, model_digest
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import Record, records_of
from modelvault.watermark.verifying import verify_blind, verify_informed

LARGE = 30  # weights of 4096 x 4096 in the synthetic model


def table(real: Path, work: Path) -> str:
    """On a synthetic model with external weights: one core's seconds, and the wall clock of whole commands.

    ``real``: the model whose alignment is timed.
    """
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
    rows, weights = alignment(real, work)
    scale = 1e8 / count
    return f"""A synthetic model of {count:,} float32 weights in external data; one thread does the work. The load of
the machine meanwhile was {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors: wall clocks grow with it, processor
seconds less.

| step | seconds for 100 M weights |
|---|---|
| find and hash carriers (read included) | {first * scale:.2f} processor |
| mark | {spent * scale:.2f} processor |
| `watermark embed`, without running the model, files written and synced | {embed_wall * scale:.2f} wall clock |
| blind verification (read included) | {blind_cpu * scale:.2f} processor, {blind_wall * scale:.2f} wall clock |
| informed verification (both files read) | {informed_wall * scale:.2f} wall clock |

On it: blind score {blind.outcome.z:.1f}, informed score {informed.outcome.z:.0f}, payload \
{"read" if informed.outcome.read else "lost"}.

Informed verification of {real.stem} ({weights:,} weights), alignment included, the better of two runs:

| suspect | wall clock | processor |
|---|---|---|
{rows}
"""


def alignment(real: Path, work: Path) -> tuple[str, int]:
    """Rows of a table, and how many weights the model's carriers have."""
    report = mark(real, work / "marked.onnx", OWNER, payload=PAYLOAD, check=False)
    record = next(r for r in records_of(OWNER.fingerprint) if r.commitment == report.plan.commitment)
    known, lines = attacks([]), []
    names = ("none", "renamed and reordered", "query, key, value fused", "hidden units shuffled")
    for name in (*names, "every matrix permuted, rescaled, flipped"):
        suspect = known[name](work / "marked.onnx", work / "aligned.onnx")
        wall, cpu = min(_verified_in(suspect, real, record) for _ in range(2))
        lines.append(f"| {'as it is' if name == 'none' else name} | {wall:.1f} | {cpu:.1f} |")
    return "\n".join(lines), sum(c.count for c in report.plan.carriers)


def _verified_in(suspect: Path, original: Path, record: Record) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    verify_informed(suspect, original, OWNER, records=[record])
    return time.perf_counter() - wall, time.process_time() - cpu
