"""One sealed file, another copy for every recipient: slots, key rings, loads, grants, and what nobody can read."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Parties
from cryptography.exceptions import InvalidTag
from layers.slots import EIGHT, PLACES, sealed_slots, variants
from onnx import helper, numpy_helper

from modelvault import granting
from modelvault.cli.hints import hint_for
from modelvault.decryption import decrypt
from modelvault.errors import FormatError, ModelVaultError, NoMatchingKey, PayloadTampered
from modelvault.filekey import FileKey
from modelvault.fingerprint.planning import FingerprintPlan, make_plan
from modelvault.fingerprint.rings import Owner
from modelvault.keys import OwnerSecret, RecipientKey
from modelvault.sealedfile import SealedFile, UnverifiedGrant
from modelvault.slotfilling import SlotFiller
from modelvault.variants import BITS, KeyRing, MasterKey, Variants, seal_slot

SIDE, LAYERS = 512, 4


def network(path: Path, dtype: type = np.float32) -> Path:
    """Four square layers, the last one twice in the file under two names."""
    rng = np.random.default_rng(0)
    tables = [(rng.standard_normal((SIDE, SIDE)) / SIDE**0.5).astype(dtype) for _ in range(LAYERS)]
    tables.append(tables[-1])
    weights = [numpy_helper.from_array(table, f"w{n}") for n, table in enumerate(tables)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(len(tables))]
    ends = [helper.make_tensor_value_info(f"h{n}", kind, ["n", SIDE]) for n in (0, len(tables))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass(slots=True)
class Story:
    """A fingerprinted file, its plan, and the model that it was sealed from."""

    parties: Parties
    secret: OwnerSecret
    plan: FingerprintPlan
    model: Path
    path: Path

    def grant_to(self, key: RecipientKey, purpose: str = "run") -> Path:
        p = self.parties
        grant = granting.grant(
            self.path, key.public, own=p.own, signer=p.publisher, owner=Owner(self.secret), purpose=purpose
        )
        path = p.folder / f"{key.public.fingerprint[7:15].replace('/', '_')}.grant"
        path.write_bytes(grant)
        return path

    def key(self, identity: RecipientKey, grant: Path | None = None) -> FileKey:
        with SealedFile(self.path) as sealed:
            if grant is None:
                grants = [g.statement for g in sealed.grants()]
            else:
                grants = [UnverifiedGrant.from_bytes(grant.read_bytes(), "grant").statement]
            mine = next(g for g in grants if g.recipient == identity.public.fingerprint)
            return FileKey.open(mine, identity, sealed.statement)

    def region(self, identity: RecipientKey, grant: Path | None = None) -> bytes:
        with SealedFile(self.path) as sealed:
            model = decrypt(sealed, self.key(identity, grant), tensors=True)
            data = bytes(model.weights.view)
            model.wipe()
        return data


@pytest.fixture
def story(parties: Parties, tmp_path: Path) -> Story:
    model, secret = network(tmp_path / "net.onnx"), OwnerSecret.generate()
    plan = make_plan(model, Owner(secret))
    return Story(parties, secret, plan, model, parties.seal(model, fingerprint=plan))


def places(story: Story) -> list[slice]:
    with SealedFile(story.path) as sealed:
        model = decrypt(sealed, story.key(story.parties.customer), tensors=True)
        offsets = {t.name: t.offset for t in model.index.tensors}
        model.wipe()
    layout = story.plan.layout
    starts = [offsets[t.name] + start * t.item for t in layout.tensors for start in t.starts]
    return [slice(at, at + layout.length) for at in starts]


def test_copies_differ_in_the_slots_alone(story: Story) -> None:
    p = story.parties
    mine, other = story.region(p.customer), story.region(p.own)
    slots = places(story)
    one, two = story.key(p.customer).variants, story.key(p.own).variants
    assert isinstance(one, KeyRing) and isinstance(two, KeyRing)
    assert 0.2 < np.mean(np.frombuffer(one.word, np.uint8) != np.frombuffer(two.word, np.uint8)) < 0.8
    for number, place in enumerate(slots):
        assert (mine[place] == other[place]) == (one.word[number] == two.word[number])
    for data in (rest := [bytearray(mine), bytearray(other)]):
        for place in slots:
            data[place] = bytes(story.plan.layout.length)
    assert rest[0] == rest[1]


def test_a_copy_loads_and_computes_nearly_the_same(story: Story) -> None:
    feed = {"h0": np.random.default_rng(1).standard_normal((4, SIDE)).astype(np.float32)}
    plain = np.asarray(onnxruntime.InferenceSession(story.model).run(None, feed)[0])
    outputs = []
    for key in (story.parties.customer, story.parties.stranger):
        grant = None if key is story.parties.customer else story.grant_to(key)
        for memory in ("lean", "fast"):
            with story.parties.load(story.path, identity=key, grant=grant, memory=memory) as session:
                outputs.append(np.asarray(session.run(None, feed)[0]))
    assert not np.array_equal(outputs[0], outputs[2])
    for found in outputs:
        assert np.vdot(found, plain) / np.linalg.norm(found) / np.linalg.norm(plain) > 0.9995
        assert not np.array_equal(found, plain)


def test_a_recipients_keys_open_no_other_variant(story: Story) -> None:
    ring, variants = story.key(story.parties.customer).variants, story.plan.variants
    assert isinstance(ring, KeyRing)
    region = story.region(story.parties.customer)
    with SealedFile(story.path) as sealed:
        master = MasterKey.derive(story.secret.secret, sealed.statement.nonce)
    for number, bit in enumerate(ring.word):
        assert ring.slot(number, bit) == master.slot(number, bit)
        with pytest.raises(KeyError):
            ring.slot(number, 1 - bit)
    # Every key that the recipient has, on every ciphertext that it has not: none opens.
    inside, stored = seal_slot(master, 0, region[:64], region[64:128])
    from modelvault._primitives import aead_open

    other = inside + stored[:16] if ring.word[0] else stored[16:]
    for number, bit in enumerate(ring.word):
        with pytest.raises(InvalidTag):
            aead_open(ring.slot(number, bit), other)
    assert variants.slots == len(ring.word)


def test_the_owners_base_is_in_nobodys_hands_but_an_auditors(story: Story) -> None:
    p = story.parties
    base = onnx.load(story.model)
    weights = {t.name: numpy_helper.to_array(t) for t in base.graph.initializer}
    with SealedFile(story.path) as sealed:
        granted = [decrypt(sealed, story.key(key), tensors=True) for key in (p.customer, p.own)]
        audit = decrypt(sealed, story.key(p.stranger, story.grant_to(p.stranger, "audit")))
        for tensor in granted[0].index.tensors:
            at, end = tensor.offset, tensor.offset + tensor.length
            plain = weights[tensor.name].reshape(-1)
            found = np.frombuffer(audit.weights.view[at:end], np.float32)
            assert np.allclose(found, plain, rtol=0, atol=1e-6)
            touched = [s for s in places(story) if at <= s.start < end]
            assert bool(touched) == (tensor.name in {t.name for t in story.plan.layout.tensors})
            for copy in granted:
                theirs = np.frombuffer(copy.weights.view[at:end], np.float32)
                for s in touched:
                    part = slice((s.start - at) // 4, (s.stop - at) // 4)
                    assert np.abs(theirs[part] - plain[part]).max() > 1e-5


def test_a_tensor_that_stands_twice_has_no_slots(story: Story) -> None:
    assert {t.name for t in story.plan.layout.tensors} == {"w0", "w1", "w2"}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(parties: Parties, tmp_path: Path, dtype: type) -> None:
    secret, model = OwnerSecret.generate(), network(tmp_path / "net.onnx", dtype)
    plan = make_plan(model, Owner(secret))
    story = Story(parties, secret, plan, model, parties.seal(model, fingerprint=plan))
    assert story.region(parties.customer) != story.region(parties.own)


def test_a_grant_without_the_owner_or_with_another(story: Story) -> None:
    p = story.parties
    with pytest.raises(NoMatchingKey, match="only owner SHA256:") as refused:
        granting.grant(story.path, p.stranger.public, own=p.own, signer=p.publisher)
    assert "--owner KEY" in str(hint_for(refused.value))
    with pytest.raises(NoMatchingKey, match="fingerprints are of owner"):
        granting.grant(
            story.path, p.stranger.public, own=p.own, signer=p.publisher, owner=Owner(OwnerSecret.generate())
        )


def test_a_grant_is_small_and_every_key_counts(story: Story) -> None:
    path = story.grant_to(story.parties.stranger)
    assert path.stat().st_size <= 256 * 1024
    data = path.read_bytes()
    assert UnverifiedGrant.from_bytes(data, "grant").statement.variants is not None
    with pytest.raises(ModelVaultError), SealedFile(story.path) as sealed:
        from dataclasses import replace

        statement = UnverifiedGrant.from_bytes(data, "grant").statement
        broken = bytearray(statement.variants or b"")
        broken[100] ^= 1
        FileKey.open(replace(statement, variants=bytes(broken)), story.parties.stranger, sealed.statement)


def test_a_flipped_byte_of_any_variant_is_refused(story: Story) -> None:
    with SealedFile(story.path) as sealed:
        at = sealed.payload_offset + next(e.offset for e in sealed.statement.extents if e.kind == "variants") + 1000
    data = bytearray(story.path.read_bytes())
    data[at] ^= 1
    story.path.write_bytes(data)
    with pytest.raises(PayloadTampered):
        story.parties.load(story.path)


def test_rewrap_draws_for_the_new_key(story: Story) -> None:
    p, new = story.parties, RecipientKey.generate()
    moved = granting.rewrap(
        story.path, p.customer.public.fingerprint, new.public, own=p.own, signer=p.publisher, owner=Owner(story.secret)
    )
    assert moved == 1
    p.load(story.path, identity=new).close()


def test_statement_of_variants_is_strict(story: Story) -> None:
    good = story.plan.variants.to_dict()
    assert Variants.from_dict(good, "x") == story.plan.variants
    for change in ({"slots": 9}, {"slots": 8192}, {"length": 63}, {"coalition": 0}, {"owner": "me"}, {"more": 1}):
        with pytest.raises(FormatError):
            Variants.from_dict(good | change, "x")


def test_key_rings_round_trip() -> None:
    master = MasterKey.derive(bytes(32), bytes(32))
    word = bytes(BITS) * 8
    ring = KeyRing.from_bytes(master.ring(word).to_bytes(), 16, "x")
    assert ring.word == word and ring.slot(3, 1) == master.slot(3, 1)
    with pytest.raises(FormatError):
        KeyRing.from_bytes(ring.to_bytes(), 24, "x")
    assert repr(ring) == "<KeyRing>" and repr(master) == "<MasterKey>"


def test_the_whole_story_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seal, grant, leak, trace: by a plain original and by the sealed file, with a page; then a file for one."""
    from modelvault.cli.main import main

    def run(*words: object, status: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(w) for w in words])
        printed = capsys.readouterr()
        assert int(exit_.value.code or 0) == status, printed.err
        return printed.out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVAULT_PASSPHRASE", "x")
    network(Path("net.onnx"))
    for kind, name in (("publisher", "default"), ("host", "default"), ("owner", "us")):
        run("keygen", kind, name)
    for name in ("bank", "shop", "auditor"):
        run("keygen", "recipient", name)
    run("trust", "add", "default", "--name", "acme", "--models", "*")
    assert "1024 slots" in run("seal", "net.onnx", "--fingerprint", "us", "--to", "bank", "-o", "net.mvlt")
    run("grant", "net.mvlt", "--to", "shop", "--owner", "us", "-o", "shop.grant")
    run("grant", "net.mvlt", "--to", "auditor", "--owner", "us", "-o", "audit.grant", "--purpose", "audit")
    run("grant", "net.mvlt", "--to", "shop", "-o", "x.grant", status=7)
    assert not Path("x.grant").exists()
    leak(Path("net.mvlt"), "shop", "shop.grant", Path("leak.npz"))
    found = json.loads(run("watermark", "trace", "leak.npz", "--owner", "us", "--original", "net.onnx", "--json"))
    assert [r["label"] for r in found["ranking"] if r["named"]] == ["shop"]
    assert found["recipients"] == 3
    out = run(
        *("watermark", "trace", "leak.npz", "--owner", "us", "--sealed", "net.mvlt", "--identity", "auditor"),
        *("--grant", "audit.grant", "--evidence", "leak.html"),
    )
    assert "named        shop" in out and "one copy" in out
    page = Path("leak.html").read_text()
    assert "was made from the copy of <b>shop</b>" in page and "<script" not in page
    run("watermark", "trace", "net.onnx", "--owner", "us", "--original", "net.onnx", status=30)
    run("seal", "net.onnx", "--fingerprint", "us", "--fingerprint-for", "bank", "-o", "bank.mvlt")
    leak(Path("bank.mvlt"), "bank", None, Path("own.npz"))
    found = json.loads(run("watermark", "trace", "own.npz", "--owner", "us", "--original", "net.onnx", "--json"))
    assert [(r["label"], r["kind"]) for r in found["ranking"] if r["named"]] == [("bank", "file")]


def leak(path: Path, name: str, grant: str | None, output: Path) -> None:
    """The weights as a recipient's process has them in memory."""
    from modelvault.keys import store

    identity = store.load_recipient(name, lambda: b"x")
    with SealedFile(path) as sealed:
        given = [UnverifiedGrant.from_bytes(Path(grant).read_bytes(), grant)] if grant else sealed.grants()
        mine = next(g.statement for g in given if g.statement.recipient == identity.public.fingerprint)
        model = decrypt(sealed, FileKey.open(mine, identity, sealed.statement), tensors=True)
        region = bytes(model.weights.view)
        tables: dict[str, Any] = {
            f"t{n}": np.frombuffer(region[t.offset : t.offset + t.length], np.float32).reshape(t.shape)
            for n, t in enumerate(model.index.tensors)
        }
        model.wipe()
    np.savez(output, **tables)


@pytest.mark.parametrize("cuts", [(0, 800), (0, 150, 330, 800), (0, 20, 40, 120, 640, 700, 800)])
@pytest.mark.parametrize("late", [False, True])
def test_slots_are_filled_as_their_surroundings_become_plain(cuts: tuple[int, ...], late: bool) -> None:
    master = MasterKey(bytes(32))
    sealed, store = sealed_slots(master)
    region = bytearray(sealed)
    filler = SlotFiller(variants(), master.ring(EIGHT), memoryview(region), memoryview(store), "m")
    if not late:
        filler.store_is_plain()
    for start, stop in reversed(list(itertools.pairwise(cuts))):
        filler.region_is_plain(start, stop)
    if late:
        assert region == sealed
        filler.store_is_plain()
    filler.finish(())
    assert [bytes(region[at : at + 64]) for at in PLACES] == [
        bytes([128 * bit + number]) * 64 for number, bit in enumerate(EIGHT)
    ]


def test_what_is_wrong_with_slots_is_told_when_the_root_is_known() -> None:
    sealed, store = sealed_slots(MasterKey(bytes(32)))
    ring = MasterKey(b"x" * 32).ring(EIGHT)
    filler = SlotFiller(variants(), ring, memoryview(bytearray(sealed)), memoryview(store), "m")
    filler.store_is_plain()
    for start in (400, 200, 0):
        filler.region_is_plain(start, start + 200)
    with pytest.raises(PayloadTampered, match=r"^m: slot 0: does not decrypt$"):
        filler.finish(())
    filler = SlotFiller(variants(), ring, memoryview(bytearray(sealed)), memoryview(b"\xff" * 8 + store[8:]), "m")
    filler.store_is_plain()
    filler.region_is_plain(0, 800)
    with pytest.raises(FormatError, match=r"^m: slots\[0\]: overlaps the next one, or the region's end$"):
        filler.finish(())


def test_a_changed_table_of_places_is_refused_by_the_root_first(story: Story) -> None:
    """Whoever holds the file key can encrypt an extent anew: places that overlap, then places that do not."""
    with SealedFile(story.path) as sealed:
        statement, start = sealed.statement, sealed.payload_offset
    number = next(n for n, e in enumerate(statement.extents) if e.kind == "variants")
    extent, key = statement.extents[number], story.key(story.parties.customer)
    data = bytearray(story.path.read_bytes())
    place = slice(start + extent.offset, start + extent.offset + extent.length)
    stream = key.decryptor(statement.nonce, number)
    plain = bytearray(stream.update(bytes(data[place])) + stream.finalize())
    for changed in (bytes(8), b"\xff" * 8):
        plain[8:16] = changed
        anew = key.encryptor(statement.nonce, number)
        data[place] = anew.update(bytes(plain)) + anew.finalize()
        story.path.write_bytes(data)
        with SealedFile(story.path) as sealed, pytest.raises(PayloadTampered, match="does not match the signed root"):
            decrypt(sealed, key)


def test_a_file_of_variants_needs_their_keys(story: Story) -> None:
    key = story.key(story.parties.customer)
    key.variants = None
    with SealedFile(story.path) as sealed, pytest.raises(FormatError, match="variants: expected keys of them"):
        decrypt(sealed, key)
