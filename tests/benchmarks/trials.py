"""A thief trains on, or tries keys: on a network for scikit-learn's digits."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from attacks import damage, training
from watermark.models import mark

from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.carriers import find_carriers, model_digest, to_float
from modelvault.watermark.code import NO_PAYLOAD, SLOTS
from modelvault.watermark.detect import Difference, Evidence, difference, score
from modelvault.watermark.embedding import EmbedReport, parse_payload
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import opens, records_of
from modelvault.watermark.verifying import verify_blind, verify_informed

OWNER = OwnerSecret(b"benchmark owner".ljust(32, b"."))
PAYLOAD = parse_payload("acme 1.0")
KEYS = 10_000


def network(work: Path) -> tuple[Path, Path, EmbedReport]:
    """The owner's network for the digits, and its marked copy."""
    data, original, marked = training.Digits.load(), work / "digits.onnx", work / "digits-marked.onnx"
    training.save(training.train(training.fresh(), data.owner, epochs=15, rate=1e-3), original)
    inputs = [{"x": data.test[0]}]
    report = mark(original, marked, OWNER, payload=PAYLOAD, inputs=inputs, inputs_name="300 test images")
    return original, marked, report


def training_table(work: Path) -> str:
    """Fine-tuning with real gradients on scikit-learn's digits."""
    data = training.Digits.load()
    original, marked, report = network(work)
    held, drift = training.read(original), report.plan.drift
    assert drift is not None
    start = training.read(marked)
    lines = [
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


def wrong_keys(work: Path) -> str:
    """The tail of KEYS random keys on the marked digits network and on the unmarked one under noise."""
    original, marked, _ = network(work)
    noisy = damage.change(original, work / "digits-noisy.onnx", damage.noise(0.05))
    lines = [
        f"{KEYS:,} random keys on the digits network: share of scores at or above t, and the bound.\n",
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


def _differences(original: Path, suspect: Path, names: list[bytes] | None = None) -> dict[bytes, Difference]:
    """By digest of the original's tensors, or by ``names``; both files have the same tensors in the same order."""
    a, b, found = OpenModel(original), OpenModel(suspect), {}
    theirs = {w.name: w for w in b.weights}
    for number, c in enumerate(find_carriers(a)):
        w = c.weight
        values = [to_float(w.dtype, m.read(v)) for m, v in ((b, theirs[w.name]), (a, w))]
        found[names[number] if names else c.digest] = difference(w.dtype, w.shape, *values)
    return found


def _scores(original: Path, suspect: Path) -> Any:
    found, signs, zs = _differences(original, suspect), np.ones(SLOTS, np.int8), []
    for number in range(KEYS):
        key = ModelKey(number.to_bytes(32, "big"), b"d" * 32)
        zs.append(Evidence.of(score(key, d, f) for d, f in found.items()).z(signs))
    return np.array(zs)


def forged_keys(work: Path) -> str:
    """What a thief gets who makes a key, or an original, after the fact."""
    original, marked, report = network(work)
    noisy = damage.change(original, work / "digits-noisy.onnx", damage.noise(0.05))
    ground = float(_scores(original, noisy).max())
    thief, carriers = OwnerSecret(b"thief".ljust(32, b".")), find_carriers(OpenModel(marked))
    digest = model_digest(c.digest for c in carriers)
    marker = Marker(ModelKey(thief.secret, digest), 0.003, NO_PAYLOAD, frozenset(c.digest for c in carriers))
    fake = work / "fake.onnx"
    OpenModel(marked).save(fake, partial(_minus, marker))
    found = _differences(fake, marked, names=[c.digest for c in carriers])
    free = Evidence.of(score(ModelKey(thief.secret, digest), d, f) for d, f in found.items()).z(np.ones(SLOTS, np.int8))
    bound = verify_informed(marked, fake, thief).outcome.z
    commitment = report.plan.commitment
    opened = opens(thief, commitment, NO_PAYLOAD) or opens(thief, commitment, PAYLOAD)
    return f"""On the digits network.

| what the thief does | result |
|---|---|
| tries {KEYS:,} secrets on an unmarked model, under 5 % noise | best score {ground:.2f} |
| subtracts a pattern from the stolen file, calls the result its original | score {bound:.2f} |
| the same, were keys not bound to the original's digest | score {free:.0f} |
| opens the owner's signed commitment with its own key | {"yes" if opened else "no"} |

A claim needs 7.6, and a commitment that was signed before the dispute."""


def _minus(marker: Marker, dtype: str, shape: tuple[int, ...], data: bytes) -> bytes | None:
    plus = marker.edit(dtype, shape, data)
    if plus is None:
        return None
    old, new = np.frombuffer(data, "<f4"), np.frombuffer(plus, "<f4")
    return bytes((2 * old - new).astype("<f4").tobytes())
