"""Slots of the weights region that are sealed twice, and the keys by which each recipient gets one variant of each.

What a slot holds is decided in :mod:`modelvault.fingerprint`; here is only who can read it (docs/FORMAT.md section 9).
"""

import bisect
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from modelvault._codec import Fields
from modelvault._primitives import LABEL_FINGERPRINT, TAG, InvalidTag, aead_open_into, aead_seal, hkdf
from modelvault.errors import FormatError, PayloadTampered

SCHEME = "modelvault/fingerprint/v1"
KEY = 32
MAX_SLOTS = 4096  # a grant that holds a key for each stays below 256 KiB
MAX_SLOT = 2**16
UNIT = 64  # bytes; a slot is a multiple of it, so that it holds whole elements of any type
MAX_COALITION = 16
BITS = (0, 1)
PLACE = 8  # bytes of a slot's offset in the region
_TO_DIGITS, _FROM_DIGITS = bytes.maketrans(b"\0\1", b"01"), bytes.maketrans(b"01", b"\0\1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variants:
    """What the model statement says of fingerprints: ``slots`` slots of ``length`` bytes each; ``owner`` can trace.

    ``original``: digest over the original's carriers; ``coalition``: how many recipients' blended copies the code was
    made for; ``commitment``: SHA-256 that fixes the layout and the owner's code before any copy leaves.
    """

    owner: str
    original: bytes
    slots: int
    length: int
    coalition: int
    commitment: bytes

    @property
    def store(self) -> int:
        """Bytes of the variants extent: each slot's place; then of each the first one's tag, the second, its tag."""
        return store_size(self.slots, self.length)

    def to_dict(self) -> dict[str, Any]:
        return {
            "coalition": self.coalition,
            "commitment": self.commitment.hex(),
            "length": self.length,
            "original": self.original.hex(),
            "owner": self.owner,
            "scheme": SCHEME,
            "slots": self.slots,
        }

    @classmethod
    def from_dict(cls, value: Any, field: str) -> "Variants":
        """Parse strictly; FormatError names the field below ``field``."""
        fields = Fields(value, field)
        fields.exactly("scheme", SCHEME)
        found = cls(
            owner=fields.fingerprint("owner"),
            original=fields.digest("original"),
            slots=fields.integer("slots", low=8, high=MAX_SLOTS),
            length=fields.integer("length", low=UNIT, high=MAX_SLOT),
            coalition=fields.integer("coalition", low=1, high=MAX_COALITION),
            commitment=fields.digest("commitment"),
        )
        fields.done()
        if found.slots % 8 or found.length % UNIT:
            raise FormatError(f"{field}: expected slots in eights and a length in multiples of {UNIT}")
        return found


def store_size(slots: int, length: int) -> int:
    """Bytes that the slots' places, the second variants, and all tags, take."""
    return slots * (PLACE + length + 2 * TAG)


class MasterKey:
    """The key that every variant key of one file is derived from: only the owner's secret gives it.

    A grant for audits holds it, and with it the model without fingerprints.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def derive(cls, secret: bytes, nonce: bytes) -> "MasterKey":
        """``secret``: the owner's 32 bytes; ``nonce``: the statement's."""
        return cls(hkdf(secret, salt=nonce, info=LABEL_FINGERPRINT + b"variants"))

    def __repr__(self) -> str:
        return "<MasterKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a master key cannot be pickled or copied")

    def to_bytes(self) -> bytes:
        return self._key

    def slot(self, number: int, bit: int) -> bytes:
        """The key of one variant of one slot."""
        return hkdf(self._key, salt=b"", info=LABEL_FINGERPRINT + b"slot" + number.to_bytes(4, "big") + bytes([bit]))

    def ring(self, word: bytes) -> "KeyRing":
        """The keys that a code word (a byte, 0 or 1, for each slot) chooses."""
        return KeyRing(word, b"".join(self.slot(number, bit) for number, bit in enumerate(word)))


class KeyRing:
    """One recipient's code word and the key of the variant it names in each slot."""

    __slots__ = ("_keys", "word")

    def __init__(self, word: bytes, keys: bytes) -> None:
        self.word = word
        self._keys = keys

    def __repr__(self) -> str:
        return "<KeyRing>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key ring cannot be pickled or copied")

    def slot(self, number: int, bit: int) -> bytes:
        """KeyError unless ``bit`` is what the code word says: there is no other key here."""
        if self.word[number] != bit:
            raise KeyError(f"slot {number}: no key of variant {bit}")
        return self._keys[number * KEY : (number + 1) * KEY]

    def chosen(self, slots: range) -> Iterator[tuple[int, int, bytes]]:
        """(slot, the code word's bit, the key of that variant) for a run of slots."""
        keys = struct.unpack(f"{KEY}s" * len(slots), self._keys[slots.start * KEY : slots.stop * KEY])
        return zip(slots, self.word[slots.start : slots.stop], keys, strict=True)

    def to_bytes(self) -> bytes:
        digits = self.word.translate(_TO_DIGITS).decode()
        return int(digits, 2).to_bytes(len(self.word) // 8) + self._keys

    @classmethod
    def from_bytes(cls, data: bytes, slots: int, field: str) -> "KeyRing":
        """Inverse; ``slots`` in eights. FormatError where the length is another."""
        if len(data) != slots // 8 + slots * KEY:
            raise FormatError(f"{field}: expected the keys of {slots} slots, got {len(data)} bytes")
        digits = f"{int.from_bytes(data[: slots // 8]):0{slots}b}"
        return cls(digits.encode().translate(_FROM_DIGITS), data[slots // 8 :])


Keys = MasterKey | KeyRing


def open_keys(data: bytes, variants: Variants, *, purpose: str, field: str) -> Keys:
    """What a grant holds for a file of variants: the master key for audits, else a key ring. FormatError."""
    if purpose != "audit":
        return KeyRing.from_bytes(data, variants.slots, field)
    if len(data) != KEY:
        raise FormatError(f"{field}: expected {KEY} bytes, got {len(data)}")
    return MasterKey(data)


def seal_slot(master: MasterKey, number: int, first: bytes, second: bytes) -> tuple[bytes, bytes]:
    """(ciphertext for the slot's own place in the region, its part of the variants extent)."""
    sealed = aead_seal(master.slot(number, 0), first)
    return sealed[:-TAG], sealed[-TAG:] + aead_seal(master.slot(number, 1), second)


def store_of(places: Sequence[int], sealed: Sequence[bytes]) -> bytes:
    """The variants extent: where each slot begins in the region, and what :func:`seal_slot` kept of it."""
    return struct.pack(f"<{len(places)}Q", *places) + b"".join(sealed)


class SlotReader:
    """Decrypts the slots of a weights region in place, from the plain bytes of the variants extent, ``store``.

    ``places``: where each slot begins in the region. FormatError where slots overlap, or leave the region.
    """

    def __init__(self, variants: Variants, region: memoryview, store: memoryview, source: str) -> None:
        self.length = variants.length
        self.places = struct.unpack_from(f"<{variants.slots}Q", store)
        self._region = region
        self._store = store[PLACE * variants.slots :]
        self._step = variants.length + 2 * TAG
        self._source = source
        ends = (place + self.length for place in self.places)
        for number, (end, following) in enumerate(zip(ends, (*self.places[1:], len(region)), strict=True)):
            if end > following:
                raise FormatError(f"{source}: slots[{number}]: overlaps the next one, or the region's end")

    def inside(self, start: int, stop: int) -> range:
        """The slots that lie whole in these bytes of the region."""
        first = bisect.bisect_left(self.places, start)
        return range(first, max(first, bisect.bisect_right(self.places, stop - self.length)))

    def choose(self, ring: KeyRing, slots: range) -> None:
        """Put the ring's variant into a run of slots. PayloadTampered where a key does not open its slot."""
        scratch, number = bytearray(self.length + TAG), slots.start
        try:  # thousands of turns in every load: nothing in them but the work
            for number, bit, key in ring.chosen(slots):
                place = self.places[number]
                out = self._region[place : place + self.length]
                aead_open_into(key, self._sealed(number, bit, scratch), out)
        except InvalidTag:
            raise PayloadTampered(f"{self._source}: slot {number}: does not decrypt") from None

    def open(self, number: int, bit: int, key: bytes) -> bytearray:
        """One variant of one slot, plain."""
        out = bytearray(self.length)
        try:
            aead_open_into(key, self._sealed(number, bit, bytearray(self.length + TAG)), memoryview(out))
        except InvalidTag:
            raise PayloadTampered(f"{self._source}: slot {number}: does not decrypt") from None
        return out

    def _sealed(self, number: int, bit: int, scratch: bytearray) -> bytearray | memoryview:
        """A variant's ciphertext and tag; those of the first stand apart, and are put together in ``scratch``."""
        at = number * self._step
        if bit:
            return self._store[at + TAG : at + self._step]
        place = self.places[number]
        scratch[: self.length] = self._region[place : place + self.length]
        scratch[self.length :] = self._store[at : at + TAG]
        return scratch

    def put(self, number: int, data: bytes) -> None:
        """Plain bytes into a slot."""
        place = self.places[number]
        self._region[place : place + self.length] = data
