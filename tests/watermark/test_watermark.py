"""Embed and detect: the mark is found with its key alone, the bound holds, forgeries fail."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from attacks import damage

from modelvault import samples
from modelvault.errors import FormatError, ModelError
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel, Weight
from modelvault.watermark import record
from modelvault.watermark.carriers import find_carriers, model_digest, to_float
from modelvault.watermark.code import NO_PAYLOAD
from modelvault.watermark.detect import Difference, Evidence, difference, log10_bound, score
from modelvault.watermark.embedding import Budget, parse_payload
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.verifying import verify_blind, verify_informed
from watermark.models import mark, mlp

OWNER = OwnerSecret(b"o" * 32)
OTHER = OwnerSecret(b"x" * 32)
PAYLOAD = parse_payload("bank 2.1")


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return mlp(tmp_path / "original.onnx")


@pytest.fixture
def marked(tmp_path: Path, original: Path) -> Path:
    mark(original, tmp_path / "marked.onnx", OWNER, payload=PAYLOAD)
    return tmp_path / "marked.onnx"


def test_the_owner_finds_the_mark_and_reads_the_payload(original: Path, marked: Path) -> None:
    verdict = verify_informed(marked, original, OWNER, records=record.records_of(OWNER.fingerprint))
    assert verdict.claim
    assert verdict.outcome.log10_p == pytest.approx(-256 * math.log10(2))
    assert verdict.outcome.read is not None
    assert verdict.outcome.read.payload == PAYLOAD
    assert verdict.record is not None
    assert verdict.missing == 0


def test_without_a_record_the_payload_is_paid_for(original: Path, marked: Path) -> None:
    verdict = verify_informed(marked, original, OWNER)
    assert verdict.claim
    assert not verdict.outcome.named
    assert verdict.record is None


def test_nobody_else_finds_anything(original: Path, marked: Path) -> None:
    assert not verify_informed(marked, original, OTHER).claim
    assert not verify_informed(original, original, OWNER).claim
    noisy = damage.change(original, original.with_name("noisy.onnx"), damage.noise(0.01))
    assert not verify_informed(noisy, original, OWNER).claim


def test_a_copy_of_the_original_scores_zero(original: Path) -> None:
    assert verify_informed(original, original, OWNER).outcome.z == 0


def test_blind_detection_needs_a_record(tmp_path: Path, original: Path) -> None:
    big = mlp(tmp_path / "big.onnx", width=1024, hidden=2048, classes=1024)
    mark(big, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    with pytest.raises(ModelError, match="no record of a mark"):
        verify_blind(tmp_path / "m.onnx", OTHER, [])
    records = record.records_of(OWNER.fingerprint)
    verdict = verify_blind(tmp_path / "m.onnx", OWNER, records)
    assert verdict.claim
    assert verdict.mode == "blind"
    assert not verify_blind(big, OWNER, records).claim


def test_blind_detection_reads_each_tensor_once_for_all_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("small.onnx", "big.onnx", "turned.onnx")
    for name, sizes in zip(names, ((32, 64, 32), (1024, 2048, 1024), (2048, 1024, 2048)), strict=True):
        width, hidden, classes = sizes
        plain = mlp(tmp_path / name, width=width, hidden=hidden, classes=classes)
        mark(plain, tmp_path / f"marked-{name}", OWNER, payload=parse_payload(name), strength=0.01, check=False)
    records = record.records_of(OWNER.fingerprint)
    reads: list[str] = []
    read = OpenModel.read

    def count(self: OpenModel, weight: Weight) -> bytes:
        reads.append(weight.name)
        return read(self, weight)

    monkeypatch.setattr(OpenModel, "read", count)
    verdict = verify_blind(tmp_path / "marked-big.onnx", OWNER, records)
    assert sorted(reads) == ["w0", "w1"]
    assert verdict.trials == 3
    assert verdict.claim
    assert verdict.record is not None
    assert verdict.record.payload == parse_payload("big.onnx")


def test_of_several_tensors_that_fit_a_record_the_likest_one_counts(tmp_path: Path) -> None:
    big = mlp(tmp_path / "big.onnx", width=1024, hidden=2048, classes=1024)
    mark(big, tmp_path / "m.onnx", OWNER, payload=PAYLOAD, strength=0.01, check=False)
    [note] = record.records_of(OWNER.fingerprint)
    alone = verify_blind(tmp_path / "m.onnx", OWNER, [note])
    model = onnx.load(tmp_path / "m.onnx")
    likeness = model.graph.initializer.add()
    likeness.CopyFrom(next(t for t in model.graph.initializer if t.name == "w0"))
    values = onnx.numpy_helper.to_array(likeness).copy()
    values[:200] *= -1
    for place, name in ((0, "before"), (len(model.graph.initializer), "after")):
        again = onnx.ModelProto()
        again.CopyFrom(model)
        del again.graph.initializer[-1]
        again.graph.initializer.insert(place, onnx.numpy_helper.from_array(values, name))
        onnx.save(again, tmp_path / f"{name}.onnx")
        verdict = verify_blind(tmp_path / f"{name}.onnx", OWNER, [note])
        assert [t.found for t in verdict.tensors] == [t.found for t in alone.tensors]
        assert verdict.outcome.z == alone.outcome.z


def test_the_record_is_private_and_survives_its_codec(marked: Path) -> None:
    [path] = record.folder().glob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600
    [note] = record.records_of(OWNER.fingerprint)
    assert record.Record.from_bytes(note.to_bytes(), "r") == note
    assert record.opens(OWNER, note.commitment, PAYLOAD)
    assert not record.opens(OWNER, note.commitment, NO_PAYLOAD)
    with pytest.raises(FormatError, match=r"r\.commitment\.strength"):
        record.Record.from_bytes(note.to_bytes().replace(b'"strength":', b'"strength":0,"x":'), "r")


def test_marking_is_deterministic_and_changes_what_it_says(tmp_path: Path, original: Path, marked: Path) -> None:
    report = mark(original, tmp_path / "again.onnx", OWNER, payload=PAYLOAD)
    assert (tmp_path / "again.onnx").read_bytes() == marked.read_bytes()
    assert set(report.changes) == {"w0", "w1"}
    for change in report.changes.values():
        assert change == pytest.approx(report.plan.strength, rel=0.1)
    assert report.plan.drift is not None
    assert report.plan.drift.cosine >= 0.9995


def test_a_model_too_small_or_a_budget_too_tight_is_refused(tmp_path: Path, original: Path) -> None:
    tiny = mlp(tmp_path / "tiny.onnx", width=8, hidden=16, classes=8)
    with pytest.raises(ModelError, match="too small"):
        mark(tiny, tmp_path / "out.onnx", OWNER)
    with pytest.raises(ModelError, match=r"changes the model too much: at strength 0.05 output cosine 0\.9"):
        mark(original, tmp_path / "out.onnx", OWNER, strength=0.05, budget=Budget(cosine=0.999999))
    assert not (tmp_path / "out.onnx").exists()
    assert not list(tmp_path.glob("home/watermarks/*"))


def test_constant_nodes_carry_marks(tmp_path: Path) -> None:
    report = mark(samples.MODEL, tmp_path / "m.onnx", OWNER, payload=PAYLOAD)
    assert sum(c.count for c in report.plan.carriers) > 100_000
    assert verify_informed(tmp_path / "m.onnx", samples.MODEL, OWNER).claim


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE])
def test_other_float_types_carry_marks(tmp_path: Path, original: Path, kind: int) -> None:
    model = onnx.load(original)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        kept = onnx.helper.make_tensor(tensor.name, kind, tensor.dims, values.reshape(-1))
        tensor.CopyFrom(kept)
    onnx.save(model, tmp_path / "typed.onnx")
    mark(tmp_path / "typed.onnx", tmp_path / "m.onnx", OWNER, payload=PAYLOAD, check=False)
    verdict = verify_informed(tmp_path / "m.onnx", tmp_path / "typed.onnx", OWNER)
    assert verdict.claim
    assert verdict.outcome.read is not None


def test_external_data_is_marked_tensor_by_tensor(tmp_path: Path, original: Path) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    model = onnx.load(original)
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    mark(folder / "m.onnx", tmp_path / "out.onnx", OWNER, payload=PAYLOAD)
    assert (tmp_path / "out.onnx.data").stat().st_size >= (folder / "w.bin").stat().st_size
    assert (tmp_path / "out.onnx").stat().st_size < 4096
    assert verify_informed(tmp_path / "out.onnx", original, OWNER).claim


def test_equal_tensors_are_one_carrier(tmp_path: Path, original: Path) -> None:
    model = onnx.load(original)
    twin = onnx.TensorProto()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "twin"
    model.graph.initializer.append(twin)
    onnx.save(model, tmp_path / "twins.onnx")
    report = mark(tmp_path / "twins.onnx", tmp_path / "m.onnx", OWNER)
    assert len(report.plan.carriers) == 2
    held = {t.name: t.raw_data for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert held["twin"] == held["w0"] != model.graph.initializer[0].raw_data


def differences(suspect: Path, original: Path) -> dict[bytes, Difference]:
    """Without alignment: both files have the same tensors in the same order."""
    a, b = OpenModel(original), OpenModel(suspect)
    theirs = {w.name: w for w in b.weights}
    found = {}
    for c in find_carriers(a):
        w = c.weight
        found[c.digest] = difference(
            w.dtype, w.shape, to_float(w.dtype, b.read(theirs[w.name])), to_float(w.dtype, a.read(w))
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", ["marked", "noisy"])
def test_ten_thousand_wrong_keys_stay_within_the_bound(tmp_path: Path, which: str) -> None:
    original = mlp(tmp_path / "o.onnx", width=32, hidden=128, classes=32)
    marked = tmp_path / "m.onnx"
    mark(original, marked, OWNER, strength=0.01, check=False)
    suspect = marked if which == "marked" else damage.change(original, tmp_path / "n.onnx", damage.noise(0.05))
    found = differences(suspect, original)
    zs = []
    for number in range(10_000):
        key = ModelKey(number.to_bytes(32, "big"), b"d" * 32)
        zs.append(Evidence.of(score(key, d, f) for d, f in found.items()).z(np.ones(4096, np.int8)))
    ordered = np.sort(zs)[::-1]
    assert abs(np.mean(zs)) < 0.05
    assert np.std(zs) < 1.03
    for t in (1.0, 2.0, 3.0, 4.0):
        assert np.mean(ordered >= t) <= math.exp(-t * t / 2)
    assert log10_bound(float(ordered[0]), math.log2(10_000)) > -3


def test_a_key_ground_against_an_unmarked_model_fails(tmp_path: Path) -> None:
    """A thief searches secrets for one that "finds" its mark: the bound pays for every trial."""
    original = mlp(tmp_path / "o.onnx", width=32, hidden=64, classes=32)
    noisy = damage.change(original, tmp_path / "n.onnx", damage.noise(0.05))
    found = differences(noisy, original)
    digest = model_digest(found)
    best = max(
        Evidence.of(score(ModelKey(n.to_bytes(32, "big"), digest), d, f) for d, f in found.items()).z(
            np.ones(4096, np.int8)
        )
        for n in range(2000)
    )
    assert log10_bound(best, 0) > -12


def test_a_fitted_original_does_not_carry_the_forgers_key(tmp_path: Path, original: Path, marked: Path) -> None:
    """A thief subtracts its own pattern from the stolen file and calls the result its original.

    The key is derived from that original's digest, so subtracting changed the very pattern to be found.
    """
    stolen, fake, fitted = marked, marked, tmp_path / "fake.onnx"
    for _ in range(3):  # chasing the digest does not help
        model = OpenModel(stolen)
        carriers = find_carriers(OpenModel(fake))
        key = ModelKey(OTHER.secret, model_digest(c.digest for c in carriers))
        mine = find_carriers(model)
        marker = Marker(key, 0.003, NO_PAYLOAD, frozenset(c.digest for c in mine))
        model.save(fitted, partial(_minus, marker))
        fake = fitted
        assert not verify_informed(stolen, fitted, OTHER).claim


def _minus(marker: Marker, dtype: str, shape: tuple[int, ...], data: bytes) -> bytes | None:
    plus = marker.edit(dtype, shape, data)
    if plus is None:
        return None
    old, new = np.frombuffer(data, "<f4"), np.frombuffer(plus, "<f4")
    return bytes((2 * old - new).astype("<f4").tobytes())


def test_keys_made_after_the_fact_open_no_signed_commitment(original: Path, marked: Path) -> None:
    """A thief searches secrets against the stolen file: none opens the commitment that the owner had signed before."""
    [note] = record.records_of(OWNER.fingerprint)
    signed = [note.commitment]
    assert verify_informed(marked, original, OWNER, records=[note], commitments=signed).commitment == note.commitment
    for number in range(20):
        thief = OwnerSecret(number.to_bytes(32, "big"))
        verdict = verify_informed(marked, original, thief, records=[note], commitments=signed)
        assert not verdict.claim
        assert verdict.commitment is None
        assert verdict.record is None
    renamed = replace(note.commitment, owner=OTHER.fingerprint)
    assert not record.opens(OTHER, renamed, PAYLOAD)


def test_whoever_marks_a_stolen_file_loses_by_the_dispute_rule(tmp_path: Path, original: Path, marked: Path) -> None:
    """The thief's mark is found in its own file, but its "original" carries the owner's mark, and not the reverse."""
    mark(marked, tmp_path / "thief.onnx", OTHER)
    assert verify_informed(tmp_path / "thief.onnx", marked, OTHER).claim
    assert verify_informed(marked, original, OWNER).claim
    assert not verify_informed(original, marked, OTHER).claim
    assert verify_informed(tmp_path / "thief.onnx", original, OWNER).claim


def test_a_record_that_the_key_does_not_open_names_nothing(original: Path, marked: Path) -> None:
    [note] = record.records_of(OWNER.fingerprint)
    forged = record.Record(
        commitment=note.commitment, payload=b"f" * 16, model="m", created=note.created, carriers=note.carriers
    )
    verdict = verify_informed(marked, original, OWNER, records=[forged])
    assert verdict.record is None
    assert not verdict.outcome.named


def test_a_payload_that_is_no_text() -> None:
    with pytest.raises(FormatError, match=r"^payload: not UTF-8$"):
        parse_payload("bank \udcff")
