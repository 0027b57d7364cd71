"""From a leaked copy to the recipient: slots and own files, blends, damage, innocents, and the registry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from test_fingerprint import network

from modelvault.errors import FileError, FormatError, KeyUnavailable, ModelError
from modelvault.fingerprint.code import biases, code_key, code_word
from modelvault.fingerprint.collusion import Observed
from modelvault.fingerprint.embed import copy_edit
from modelvault.fingerprint.observing import observe
from modelvault.fingerprint.ownfile import recipient_secret
from modelvault.fingerprint.planning import FingerprintPlan, make_plan
from modelvault.fingerprint.registry import Issued, Record, Registry, Sealed, now
from modelvault.fingerprint.rings import Owner
from modelvault.fingerprint.score import log10_p, score, weigh
from modelvault.fingerprint.tracing import Base, trace
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import OpenModel
from modelvault.watermark.embedding import make_plan as make_mark
from modelvault.watermark.verifying import verify_informed

STATEMENT = bytes(range(32))
RECIPIENTS = [f"SHA256:recipient-{n}" for n in range(300)]
SECRET = OwnerSecret(bytes(range(32)))


@dataclass(slots=True)
class World:
    """A model whose copies went to many; the first few leak."""

    folder: Path
    model: Path
    plan: FingerprintPlan
    records: list[Record]

    def copy(self, number: int) -> Path:
        key = code_key(SECRET.secret, self.plan.layout.original)
        word = code_word(key, RECIPIENTS[number], biases(key, self.plan.layout.slots, self.plan.layout.coalition))
        path = self.folder / f"copy-{number}.onnx"
        path.write_bytes(OpenModel(self.model).to_bytes(copy_edit(SECRET, self.plan.layout, word.tolist())))
        return path


def issued(recipient: str, original: bytes, kind: str = "slots") -> Issued:
    return Issued(
        statement=STATEMENT, original=original, recipient=recipient, label=recipient[-5:], kind=kind, created=now()
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    model = network(folder / "net.onnx")
    plan = make_plan(model, Owner(SECRET, Registry(folder / "r", SECRET)))
    sealed = Sealed(statement=STATEMENT, name="net", version="1", created=now(), layout=plan.layout)
    records: list[Record] = [sealed, *(issued(r, plan.layout.original) for r in RECIPIENTS)]
    return World(folder, model, plan, records)


def tables(paths: Sequence[Path]) -> dict[str, npt.NDArray[np.float32]]:
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    for path in paths:
        for tensor in onnx.load(path).graph.initializer:
            found.setdefault(tensor.name, []).append(numpy_helper.to_array(tensor))
    return {name: np.stack(values) for name, values in found.items()}


def blend(world: World, numbers: Sequence[int], how: str, noise: float = 0.0) -> Path:
    rng, path = np.random.default_rng(5), world.folder / f"leak-{how}-{len(numbers)}.npz"
    ways: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
        "average": lambda v: v.mean(axis=0),
        "majority": lambda v: np.median(v, axis=0),
        "interleave": lambda v: np.take_along_axis(v, rng.integers(0, len(v), v.shape[1:])[None], axis=0)[0],
        "extremes": lambda v: np.where(rng.random(v.shape[1:]) < 0.5, v.max(axis=0), v.min(axis=0)),
    }
    leak = {}
    for name, values in tables([world.copy(n) for n in numbers]).items():
        mixed = ways[how](values)
        leak[f"x.{name}"] = (mixed + noise * values.std() * rng.standard_normal(mixed.shape)).astype(np.float32)
    np.savez(path, **leak)
    return path


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_one_leaker_is_named_and_nobody_else(world: World, noise: float) -> None:
    found = trace(blend(world, [7], "average", noise), Base.of_model(world.model), SECRET, world.records)
    assert [s.issued.recipient for s in found.named] == [RECIPIENTS[7]]
    assert found.suspicions[0].log10_p < -9
    assert found.suspicions[0].how == "one copy"
    assert found.slots[0] == found.slots[1] == world.plan.layout.slots


@pytest.mark.parametrize("how", ["average", "majority", "interleave", "extremes"])
@pytest.mark.parametrize("size", [2, 3])
def test_blended_copies_name_their_makers(world: World, how: str, size: int) -> None:
    guilty = set(RECIPIENTS[:size])
    found = trace(blend(world, range(size), how, 0.1), Base.of_model(world.model), SECRET, world.records)
    named = {s.issued.recipient for s in found.named}
    assert named and named <= guilty


def test_the_original_names_nobody(world: World) -> None:
    found = trace(world.model, Base.of_model(world.model), SECRET, world.records)
    assert not found.named


def test_innocents_stay_below_the_bound(world: World) -> None:
    """20 000 code words against one leak: a share p at most reaches a ratio of 1/p."""
    layout, rng = world.plan.layout, np.random.default_rng(0)
    key = code_key(SECRET.secret, layout.original)
    thresholds = biases(key, layout.slots, layout.coalition)
    words = [code_word(key, r, thresholds) for r in RECIPIENTS[:3]]
    levels = noisy(2 * np.mean(words, axis=0) - 1, rng)
    scores = score(levels, thresholds, key, [f"innocent {n}" for n in range(20_000)]).values
    for p in (0.1, 0.01, 0.001):
        assert np.mean(scores >= -np.log(p)) <= p
    assert scores.max() < np.log(20_000 / 1e-6)
    assert score(levels, thresholds, key, RECIPIENTS[:3]).values.max() > np.log(20_000 / 1e-6)


def noisy(levels: npt.NDArray[np.float64], rng: np.random.Generator) -> Observed:
    """With as much noise as half the way from the base to a variant."""
    return Observed(levels + 0.5 * rng.standard_normal(len(levels)), np.full(len(levels), 0.5))


def _own_ways(words: npt.NDArray[np.uint8], rng: np.random.Generator) -> dict[str, npt.NDArray[np.float64]]:
    """What no hypothesis of the bank says."""
    size, slots = words.shape
    mean = 2 * words.mean(axis=0) - 1
    one = 2.0 * words[rng.integers(0, size, slots), np.arange(slots)] - 1
    odd = np.where(np.abs(mean) == 1, mean, 2.0 * (words.sum(axis=0) % 2) - 1)
    return {"half averaged, half interleaved": np.where(rng.random(slots) < 0.5, mean, one), "odd or even": odd}


@pytest.mark.parametrize("how", ["half averaged, half interleaved", "odd or even"])
def test_strategies_nobody_thought_of_are_learned(how: str) -> None:
    rng, key = np.random.default_rng(1), code_key(bytes(32), bytes(32))
    thresholds = biases(key, 2048, 5)
    guilty = [f"guilty {n}" for n in range(5)]
    words = np.stack([code_word(key, r, thresholds) for r in guilty])
    levels = noisy(_own_ways(words, rng)[how], rng)
    found = score(levels, thresholds, key, [*guilty, *(f"innocent {n}" for n in range(1000))]).values
    assert log10_p(float(found[:5].max()), 1005) < -6
    assert log10_p(float(found[5:].max()), 1005) > -3


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_noise_is_told_as_it_is(size: float) -> None:
    """Elements where the pattern is 0 are no part of a slot's noise."""
    rng = np.random.default_rng(3)
    directions = (np.bitwise_count(rng.integers(0, 256, (2000, 64), np.uint8)).astype(np.float32) - 4) / np.sqrt(2)
    scales = np.exp(rng.normal(0, 0.5, (2000, 64))).astype(np.float32)
    noise = size * rng.standard_normal((2000, 64)).astype(np.float32)
    for differences in (noise + directions * scales, (noise + directions) * scales):
        found = observe(differences, directions, scales)
        assert abs(((found.levels - 1) / found.noise).std() - 1) < 0.15
        assert abs(found.levels.mean() - 1) < 0.15


def test_slots_that_are_mostly_buried_in_noise() -> None:
    """int8 with one step for a tensor leaves some slots as they were, and drowns others."""
    rng, key = np.random.default_rng(2), code_key(bytes(32), bytes(32))
    thresholds = biases(key, 2048, 5)
    guilty = [f"guilty {n}" for n in range(5)]
    mean = np.mean([code_word(key, r, thresholds) for r in guilty], axis=0)
    noise = np.exp(rng.normal(-0.5, 2, 2048))
    observed = Observed(np.sign(2 * mean - 1) + noise * rng.standard_normal(2048), noise)
    found = score(observed, thresholds, key, [*guilty, *(f"innocent {n}" for n in range(1000))]).values
    assert log10_p(float(found[:5].max()), 1005) < -6
    assert log10_p(float(found[5:].max()), 1005) > -3


def test_every_ratio_has_mean_one(world: World) -> None:
    """Exactly, slot by slot: what the bound rests on."""
    thresholds = biases(bytes(32), 256, 4)
    levels = Observed(np.random.default_rng(0).normal(0, 2, 256), np.full(256, 0.3))
    evidence = weigh(levels, thresholds)
    gains, p = evidence.gains.astype(np.float64), thresholds[:, None] / 65_536
    zeros = -np.log(p * np.exp(gains) + 1 - p)
    assert gains.shape == (256, len(evidence.hypotheses))
    assert np.isclose(evidence.shares.sum(), 1)
    assert np.allclose(zeros.sum(axis=0), evidence.zeros, atol=1e-3)


def test_slots_that_say_nothing(world: World) -> None:
    thresholds = biases(bytes(32), 64, 3)
    assert np.allclose(score(Observed(np.full(64, np.nan), np.ones(64)), thresholds, bytes(32), ["a"]).values, 0)
    assert log10_p(0.0, 1000) == 0


def test_an_own_file_names_its_recipient(world: World) -> None:
    who = RECIPIENTS[4]
    mark = make_mark(world.model, recipient_secret(SECRET, who))
    path = world.folder / "own.onnx"
    path.write_bytes(OpenModel(world.model).to_bytes(mark.marker().edit))
    records = [*world.records, *(issued(r, mark.original, "file") for r in (who, RECIPIENTS[5]))]
    found = trace(
        path, Base.of_model(world.model), SECRET, [r for r in records if not isinstance(r, Issued) or r.kind == "file"]
    )
    assert [s.issued.recipient for s in found.named] == [who]


def test_the_owners_mark_and_fingerprints_leave_each_other_alone(world: World) -> None:
    mark = make_mark(world.model, SECRET)
    plan = make_plan(world.model, Owner(SECRET, Registry(world.folder / "both", SECRET)), watermark=mark)
    key, layout = code_key(SECRET.secret, plan.layout.original), plan.layout
    word = code_word(key, RECIPIENTS[9], biases(key, layout.slots, layout.coalition))
    path = world.folder / "both.onnx"
    path.write_bytes(OpenModel(world.model).to_bytes(copy_edit(SECRET, layout, word.tolist(), mark.marker().edit)))
    sealed = Sealed(statement=STATEMENT, name="net", version="1", created=now(), layout=layout)
    found = trace(path, Base.of_model(world.model), SECRET, [sealed, *world.records[1:]])
    assert [s.issued.recipient for s in found.named] == [RECIPIENTS[9]]
    assert found.suspicions[0].log10_p < -60
    both = verify_informed(path, world.model, SECRET)
    alone = world.folder / "alone.onnx"
    alone.write_bytes(OpenModel(world.model).to_bytes(mark.marker().edit))
    assert both.claim and both.outcome.z > 0.7 * verify_informed(alone, world.model, SECRET).outcome.z


def test_another_original_is_not_in_the_registry(world: World, tmp_path: Path) -> None:
    other = network(tmp_path / "other.onnx", np.float64)
    with pytest.raises(ModelError, match="no copy of this original"):
        trace(world.model, Base.of_model(other), SECRET, world.records)


def test_registry_keeps_what_it_was_told(world: World, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "deep" / "r.mvr", SECRET)
    registry.append(*world.records[:3])
    registry.append(world.records[3])
    assert list(Registry(registry.path, SECRET)) == world.records[:4]
    assert registry.path.stat().st_mode & 0o077 == 0
    with pytest.raises(KeyUnavailable, match="of another owner"):
        list(Registry(registry.path, OwnerSecret.generate()))
    with pytest.raises(KeyUnavailable, match="of another owner"):
        Registry(registry.path, OwnerSecret.generate()).append(world.records[0])
    assert b"recipient" not in registry.path.read_bytes()


def test_registry_survives_torn_writes_and_shows_changes(world: World, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.mvr", SECRET)
    ends = []
    for record in world.records[1:4]:
        registry.append(record)
        ends.append(registry.path.stat().st_size)
    whole = registry.path.read_bytes()
    for cut in (0, 5, ends[0] - 1, ends[1] + 3, ends[2] - 1):
        registry.path.write_bytes(whole[:cut])
        kept = list(registry) if cut else []
        assert kept == world.records[1 : 1 + sum(e <= cut for e in ends)]
        registry.append(world.records[3])
        assert list(registry) == [*kept, world.records[3]]
    registry.path.write_bytes(whole[: ends[0]] + whole[ends[1] :])
    with pytest.raises(FormatError, match="one before it is missing"):
        list(registry)
    for at in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[at] ^= 1
        registry.path.write_bytes(changed)
        try:
            kept = list(registry)
        except (FormatError, KeyUnavailable):
            continue
        assert len(kept) < 3  # a length that now reaches beyond the end: a torn record
    with pytest.raises(FileError):
        list(Registry(tmp_path / "none.mvr", SECRET))
