"""Slots of the weights region that are sealed twice, and the keys by which each recipient gets one variant of each.

What a slot holds is decided in :mod:`modelvault.fingerprint`; here is only who can read it (docs/FORMAT.md section 9).
"""

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
        """Bytes of the variants extent: of each slot the first variant's tag, the second one and its tag."""
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
    """Bytes that the second variants, and all tags, take."""
    return slots * (length + 2 * TAG)


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

    @property
    def keys(self) -> Iterator[bytes]:
        """The key of each slot's variant, in order."""
        return (self._keys[at : at + KEY] for at in range(0, len(self._keys), KEY))

    def to_bytes(self) -> bytes:
        packed = bytes(
            sum(bit << (7 - place) for place, bit in enumerate(self.word[at : at + 8]))
            for at in range(0, len(self.word), 8)
        )
        return packed + self._keys

    @classmethod
    def from_bytes(cls, data: bytes, slots: int, field: str) -> "KeyRing":
        """Inverse; ``slots`` in eights. FormatError where the length is another."""
        if len(data) != slots // 8 + slots * KEY:
            raise FormatError(f"{field}: expected the keys of {slots} slots, got {len(data)} bytes")
        word = bytes((byte >> shift) & 1 for byte in data[: slots // 8] for shift in range(7, -1, -1))
        return cls(word, data[slots // 8 :])


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


class SlotReader:
    """Decrypts slots of a region in place. ``places``: each slot's offset in ``region``, in bytes."""

    def __init__(self, variants: Variants, places: Sequence[int], region: memoryview, store: memoryview) -> None:
        self.length = variants.length
        self.places = places
        self._region = region
        self._store = store
        self._scratch = bytearray(variants.length + TAG)

    def choose(self, ring: KeyRing, source: str) -> None:
        """Put the ring's variant into every slot. PayloadTampered where a key does not open its slot."""
        region, store, scratch, keys = self._region, self._store, self._scratch, ring.keys
        length, step, at = self.length, self.length + 2 * TAG, 0
        try:  # thousands of turns in every load: nothing in them but the work
            for bit, place, key in zip(ring.word, self.places, keys, strict=True):
                out = region[place : place + length]
                if bit:
                    aead_open_into(key, store[at + TAG : at + step], out)
                else:
                    scratch[:length] = out
                    scratch[length:] = store[at : at + TAG]
                    aead_open_into(key, scratch, out)
                at += step
        except InvalidTag:
            raise PayloadTampered(f"{source}: slot {at // step}: does not decrypt") from None

    def open(self, number: int, bit: int, key: bytes, out: memoryview, source: str) -> None:
        """Decrypt one variant into ``out``, which may be the slot's own place."""
        at, length = number * (self.length + 2 * TAG), self.length
        if bit:
            sealed: memoryview | bytearray = self._store[at + TAG : at + 2 * TAG + length]
        else:
            sealed, place = self._scratch, self.places[number]
            sealed[:length] = self._region[place : place + length]
            sealed[length:] = self._store[at : at + TAG]
        try:
            aead_open_into(key, sealed, out)
        except InvalidTag:
            raise PayloadTampered(f"{source}: slot {number}: does not decrypt") from None

    def put(self, number: int, data: bytes) -> None:
        """Plain bytes into a slot."""
        place = self.places[number]
        self._region[place : place + self.length] = data
