"""The file key, the keys of variants, and the bundles in which they travel."""

import copy
import hashlib
import pickle
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from layers.slots import EIGHT, OWNER, PLACES, sealed_slots, variants
from modelvault._primitives import ExtentDecryptor, InvalidTag, hkdf, sealed_length
from modelvault.errors import FormatError, NoMatchingKey, PayloadTampered
from modelvault.filekey import FileKey
from modelvault.keys import RecipientKey
from modelvault.manifest import Extent, GrantStatement, ModelStatement
from modelvault.policy import Terms
from modelvault.variants import (
    KeyRing,
    MasterKey,
    SlotReader,
    Variants,
    open_keys,
    store_size,
)

NONCE = bytes(range(32))
RAW = bytes([9] * 32)


def refused(error: type[Exception], words: str) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(words)}$")


def statement(key: FileKey, found: Variants | None = None) -> ModelStatement:
    kinds = [("graph", 100), *([("variants", found.store)] if found else []), ("index", 10)]
    extents, offset = [], 0
    for kind, plain in kinds:
        extents.append(Extent(kind=kind, offset=offset, length=sealed_length(plain)))
        offset += sealed_length(plain)
    return ModelStatement(
        name="m", version="1", created=datetime(2026, 1, 1, tzinfo=UTC), nonce=NONCE, root=bytes(32),
        extents=tuple(extents), key_commitment=key.commitment(NONCE), policy=Terms(), publishers=("p",), variants=found,
    )  # fmt: skip


def digest(found: ModelStatement) -> bytes:
    return hashlib.sha256(found.to_bytes()).digest()


def test_everything_is_derived_from_key_and_nonce() -> None:
    key = FileKey(RAW)
    assert key.commitment(NONCE) == hkdf(RAW, salt=NONCE, info=b"modelvault/v1/commit")
    assert key.commitment(bytes(32)) != key.commitment(NONCE)
    encryptor = key.encryptor(NONCE, 3)
    sealed = encryptor.update(b"plain") + encryptor.finalize()
    decryptor = key.decryptor(NONCE, 3)
    assert decryptor.update(sealed) + decryptor.finalize() == b"plain"
    place = b"modelvault/v1/extent" + b"\0\0\0\x03"
    direct = ExtentDecryptor(hkdf(RAW, salt=NONCE, info=place), place + NONCE)
    assert direct.update(sealed) + direct.finalize() == b"plain"
    ring = KeyRing(b"\0", RAW)
    assert (FileKey(RAW).variants, FileKey(RAW, ring).variants) == (None, ring)


@pytest.mark.parametrize(
    ("key", "nonce", "number"), [(RAW, NONCE, 4), (RAW, bytes(32), 3), (bytes(32), NONCE, 3), (RAW, NONCE, 3 + 256)]
)
def test_an_extent_opens_in_its_own_place_alone(key: bytes, nonce: bytes, number: int) -> None:
    encryptor = FileKey(RAW).encryptor(NONCE, 3)
    sealed = encryptor.update(b"plain") + encryptor.finalize()
    decryptor = FileKey(key).decryptor(nonce, number)
    with pytest.raises((InvalidTag, ValueError)):
        decryptor.update(sealed) + decryptor.finalize()


def test_keys_do_not_show_or_copy_themselves() -> None:
    keys = FileKey(RAW), MasterKey(RAW), KeyRing(b"\0", RAW)
    names = (
        "file key cannot be pickled",
        "master key cannot be pickled or copied",
        "key ring cannot be pickled or copied",
    )
    for key, words in zip(keys, names, strict=True):
        assert repr(key) == f"<{type(key).__name__}>"
        for attempt in (copy.copy, pickle.dumps):
            with refused(TypeError, f"a {words}"):
                attempt(key)
    assert FileKey.generate().commitment(NONCE) != FileKey.generate().commitment(NONCE)


def test_a_grant_brings_the_key() -> None:
    identity, key = RecipientKey.generate("x25519"), FileKey(RAW)
    model = statement(key)
    before = datetime.now(UTC) - timedelta(seconds=1)
    grant = key.grant(identity.public, "m", digest(model))
    assert before <= grant.created <= datetime.now(UTC)
    assert grant.created.microsecond == 0
    assert (grant.model_name, grant.model, grant.purpose, grant.licence) == ("m", digest(model), "run", Terms())
    assert (grant.recipient, grant.algorithm, grant.variants) == (identity.public.fingerprint, "x25519", None)
    assert re.fullmatch("[0-9a-f]{32}", grant.grant_id)
    assert key.grant(identity.public, "m", digest(model)).grant_id != grant.grant_id
    opened = FileKey.open(grant, identity, model)
    assert opened.commitment(NONCE) == key.commitment(NONCE)
    assert opened.variants is None
    limited = key.grant(identity.public, "m", digest(model), licence=Terms(max_sessions=1), purpose="audit")
    assert (limited.licence.max_sessions, limited.purpose) == (1, "audit")


def regranted(grant: GrantStatement, **changes: Any) -> GrantStatement:
    return replace(grant, **changes)


def test_grants_that_do_not_open() -> None:
    identity, other, key = RecipientKey.generate("x25519"), RecipientKey.generate("x25519"), FileKey(RAW)
    model = statement(key)
    grant = regranted(key.grant(identity.public, "m", digest(model)), grant_id="7" * 32)
    where = "grant " + "7" * 32
    with refused(NoMatchingKey, f"{where}: wrapped with {'p' * 64!r}, expected x25519"):
        FileKey.open(regranted(grant, algorithm="p" * 70), identity, model)
    with pytest.raises(NoMatchingKey, match="does not open"):
        FileKey.open(grant, other, model)
    with pytest.raises(NoMatchingKey, match="does not open"):  # the bundle is bound to the model's digest
        FileKey.open(regranted(grant, model=bytes(32)), identity, model)
    info = b"modelvault/v1/grant" + digest(model)
    for bundle in (b"", b"\x01" + RAW[1:], b"\x01" + RAW + b"x", b"\x02" + RAW, b"\x02" + RAW + RAW):
        with refused(NoMatchingKey, f"{where}: unknown key bundle"):
            FileKey.open(regranted(grant, wrapped=identity.public.wrap(bundle, info)), identity, model)
    foreign = regranted(grant, wrapped=identity.public.wrap(b"\x01" + bytes(32), info))
    with refused(PayloadTampered, f"{where}: its key is not the one that the publisher committed to"):
        FileKey.open(foreign, identity, model)


@pytest.mark.parametrize("purpose", ["run", "audit"])
def test_a_grant_brings_the_keys_of_variants(purpose: str) -> None:
    identity, key, found = RecipientKey.generate("x25519"), FileKey(RAW), variants()
    model, master = statement(key, found), MasterKey.derive(bytes([5] * 32), NONCE)
    given = master if purpose == "audit" else master.ring(EIGHT)
    grant = key.grant(identity.public, "m", digest(model), purpose=purpose, variants=given)
    opened = FileKey.open(grant, identity, model)
    assert opened.variants is not None
    assert type(opened.variants) is type(given)
    assert opened.variants.to_bytes() == given.to_bytes()
    where = f"grant {grant.grant_id}"
    for bad in (None, b"", bytes(40), grant.variants[:-1] if grant.variants else b""):
        with refused(PayloadTampered, f"{where}: variants: do not decrypt"):
            FileKey.open(regranted(grant, variants=bad), identity, model)
    with refused(NoMatchingKey, f"{where}: unknown key bundle"):  # a plain grant for a file of variants
        FileKey.open(
            regranted(key.grant(identity.public, "m", digest(model)), grant_id=grant.grant_id), identity, model
        )
    with refused(NoMatchingKey, f"{where}: unknown key bundle"):  # and the other way round
        FileKey.open(grant, identity, statement(key))
    other = "run" if purpose == "audit" else "audit"
    with pytest.raises(FormatError, match=f"^{where}: variants: expected "):
        FileKey.open(regranted(grant, purpose=other), identity, model)


def test_variant_keys_are_apart() -> None:
    master = MasterKey.derive(bytes([5] * 32), NONCE)
    assert master.to_bytes() == hkdf(bytes([5] * 32), salt=NONCE, info=b"modelvault/v1/fingerprint/variants")
    info = b"modelvault/v1/fingerprint/slot" + b"\0\0\x01\x02\x01"
    assert master.slot(0x102, 1) == hkdf(master.to_bytes(), salt=b"", info=info)
    assert len({master.slot(number, bit) for number in range(300) for bit in (0, 1)}) == 600
    assert MasterKey.derive(bytes([5] * 32), bytes(32)).to_bytes() != master.to_bytes()


def test_a_ring_holds_what_its_word_says_and_nothing_else() -> None:
    master = MasterKey.derive(bytes([5] * 32), NONCE)
    ring = master.ring(EIGHT)
    assert ring.word == EIGHT
    for number, bit in enumerate(EIGHT):
        assert ring.slot(number, bit) == master.slot(number, bit)
        with pytest.raises(KeyError, match=f"slot {number}: no key of variant {1 - bit}"):
            ring.slot(number, 1 - bit)
    data = ring.to_bytes()
    assert data[:1] == b"\x61"  # 0b01100001, the first slot in the highest bit
    assert len(data) == 1 + 8 * 32
    again = KeyRing.from_bytes(data, 8, "r")
    assert (again.word, again.to_bytes()) == (EIGHT, data)
    sixteen = master.ring(EIGHT + bytes([1] * 8)).to_bytes()
    assert sixteen[:2] == b"\x61\xff"
    assert KeyRing.from_bytes(sixteen, 16, "r").word == EIGHT + bytes([1] * 8)
    for bad in (data[:-1], data + b"\0"):
        with refused(FormatError, f"r: expected the keys of 8 slots, got {len(bad)} bytes"):
            KeyRing.from_bytes(bad, 8, "r")


def test_what_a_grant_holds_depends_on_its_purpose() -> None:
    assert isinstance(open_keys(RAW, variants(), purpose="audit", field="g"), MasterKey)
    assert isinstance(open_keys(bytes(1 + 256), variants(), purpose="run", field="g"), KeyRing)
    for size in (31, 33, 257):
        with refused(FormatError, f"g: expected 32 bytes, got {size}"):
            open_keys(bytes(size), variants(), purpose="audit", field="g")


def reader_of(region: bytes | bytearray, store: bytes) -> SlotReader:
    return SlotReader(variants(), memoryview(region), memoryview(store), "m")


def test_slots_open_by_their_own_key() -> None:
    found, master = variants(), MasterKey(RAW)
    sealed, store = sealed_slots(master)
    assert len(store) == found.store == store_size(8, 64) == 8 * (8 + 96)
    region = bytearray(sealed)
    reader = reader_of(region, store)
    assert reader.places == PLACES
    for number in range(8):
        for bit in (0, 1):
            assert reader.open(number, bit, master.slot(number, bit)) == bytes([128 * bit + number]) * 64
            with refused(PayloadTampered, f"m: slot {number}: does not decrypt"):
                reader.open(number, bit, master.slot(number, 1 - bit))
    assert bytes(region) == sealed
    ring = master.ring(EIGHT)
    reader.choose(ring, range(2, 5))
    for number, (at, bit) in enumerate(zip(PLACES, EIGHT, strict=True)):
        chosen = bytes([128 * bit + number]) * 64
        assert region[at : at + 64] == (chosen if number in (2, 3, 4) else sealed[at : at + 64])
        assert region[at + 64 : at + 100] == bytes(36)
    reader.choose(ring, range(2))
    reader.choose(ring, range(5, 8))
    assert [region[at] for at in PLACES] == [128 * bit + number for number, bit in enumerate(EIGHT)]
    for first in (0, 3):
        with refused(PayloadTampered, f"m: slot {first}: does not decrypt"):
            reader_of(bytearray(sealed), store).choose(MasterKey(bytes(32)).ring(EIGHT), range(first, 8))
    reader.put(7, b"p" * 64)
    assert region[700:] == b"p" * 64 + bytes(36)
    with pytest.raises(ValueError, match="shorter"):
        list(KeyRing(EIGHT[:7], bytes(8 * 32)).chosen(range(8)))


def test_slots_are_found_by_the_bytes_they_lie_in() -> None:
    reader = reader_of(*sealed_slots(MasterKey(RAW)))
    for start, stop, slots in (
        (0, 800, range(8)), (0, 764, range(8)), (0, 763, range(7)), (0, 64, range(1)), (0, 63, range(0)),
        (1, 800, range(1, 8)), (100, 164, range(1, 2)), (101, 264, range(2, 3)), (101, 263, range(2, 2)),
        (764, 800, range(8, 8)), (110, 120, range(2, 2)), (0, 0, range(0)),
    ):  # fmt: skip
        assert reader.inside(start, stop) == slots


@pytest.mark.parametrize(
    ("number", "place"), [(0, 37), (1, 137), (1, 2**64 - 1), (6, 637), (6, 701), (7, 737), (7, 2**64 - 1)]
)
def test_slots_that_overlap_or_leave_the_region_are_refused(number: int, place: int) -> None:
    region, store = sealed_slots(MasterKey(RAW))
    assert reader_of(region, place_at(store, number, PLACES[number])).places == PLACES
    with refused(FormatError, f"m: slots[{number}]: overlaps the next one, or the region's end"):
        reader_of(region, place_at(store, number, place))


def place_at(store: bytes, number: int, place: int) -> bytes:
    return store[: 8 * number] + place.to_bytes(8, "little") + store[8 * number + 8 :]


def test_slots_may_touch_each_other_and_the_regions_end() -> None:
    region, store = sealed_slots(MasterKey(RAW))
    for number, place in ((0, 36), (3, 336), (7, 736)):
        assert reader_of(region, place_at(store, number, place)).places[number] == place


def a_dict(**changes: Any) -> dict[str, Any]:
    return {
        "coalition": 2, "commitment": "0a" * 32, "length": 64, "original": "0b" * 32, "owner": OWNER,
        "scheme": "modelvault/fingerprint/v1", "slots": 8, **changes,
    }  # fmt: skip


def test_variants_in_a_statement() -> None:
    found = Variants.from_dict(a_dict(), "f")
    assert found == variants(original=b"\x0b" * 32, commitment=b"\x0a" * 32)
    assert found.to_dict() == a_dict()
    assert Variants.from_dict(a_dict(slots=4096, length=65536, coalition=16), "f").slots == 4096
    assert Variants.from_dict(a_dict(coalition=1), "f").coalition == 1
    for changes, words in (
        ({"scheme": "x"}, "f.scheme: expected modelvault/fingerprint/v1, got x"),
        ({"owner": "x"}, "f.owner: expected a SHA256: fingerprint, got 'x'"),
        ({"owner": "x" * 65}, "f.owner: longer than 64 characters"),
        ({"slots": 7}, "f.slots: expected 8 to 4096, got 7"),
        ({"slots": 4097}, "f.slots: expected 8 to 4096, got 4097"),
        ({"slots": 12}, "f: expected slots in eights and a length in multiples of 64"),
        ({"length": 63}, "f.length: expected 64 to 65536, got 63"),
        ({"length": 65537}, "f.length: expected 64 to 65536, got 65537"),
        ({"length": 96}, "f: expected slots in eights and a length in multiples of 64"),
        ({"coalition": 0}, "f.coalition: expected 1 to 16, got 0"),
        ({"coalition": 17}, "f.coalition: expected 1 to 16, got 17"),
        ({"more": 1}, "f: unknown key 'more'"),
    ):
        with refused(FormatError, words):
            Variants.from_dict(a_dict(**changes), "f")
