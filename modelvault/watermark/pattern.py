"""The keyed pattern: what is added to weights, and what is looked for (docs/WATERMARK.md section 3)."""

from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from modelvault._primitives import KEYSTREAM_PIECE, LABEL_WATERMARK, hkdf, keystream
from modelvault.watermark.code import SLOTS, Decoded, decode, encode

Int8 = npt.NDArray[np.int8]

PIECE = KEYSTREAM_PIECE  # a multiple of SLOTS, and of a size that fits a processor's cache
SQRT2 = 2**0.5
"""The pattern's integers have variance 2: divided by this they have 1, and are 1-sub-Gaussian."""


class ModelKey:
    """The key of one owner's mark in one model: bound to the owner's secret and to the original's own weights.

    A pattern cannot be fitted to a model that exists already: whoever changes it, changes the digest and so the key.
    """

    __slots__ = ("_key",)

    def __init__(self, secret: bytes, original: bytes) -> None:
        """``secret``: the owner's 32 bytes; ``original``: the original's digest (carriers.model_digest)."""
        self._key = hkdf(secret, salt=original, info=LABEL_WATERMARK + b"model")

    def __repr__(self) -> str:
        return "<ModelKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a watermark key cannot be pickled or copied")

    def derive(self, tensor: bytes, use: bytes) -> bytes:
        """32 bytes for one use in one tensor; ``tensor`` is its digest, empty for the whole model."""
        return hkdf(self._key, salt=tensor, info=LABEL_WATERMARK + use)

    def signs(self, payload: bytes) -> Int8:
        """The sign of each of the SLOTS slots that spells a payload of 16 bytes."""
        return encode(payload, self.derive(b"", b"payload"))

    def decode(self, sums: npt.NDArray[np.float64]) -> Decoded | None:
        """The payload that the slots' correlations spell, if any."""
        return decode(sums, self.derive(b"", b"payload"))

    def pattern(self, tensor: bytes, count: int) -> Iterator[tuple[slice, Int8]]:
        """Integers -4 to 4, one an element in row-major order: the number of ones in a keystream byte, less 4.

        In pieces of PIECE elements, each valid until the next is taken, with their places.
        """
        ones = np.empty(PIECE, np.int8)
        for number, piece in enumerate(keystream(self.derive(tensor, b"pattern"), count)):
            part = ones[: len(piece)]
            np.bitwise_count(np.frombuffer(piece, np.uint8), out=part.view(np.uint8))
            part -= 4
            yield slice(number * PIECE, number * PIECE + len(piece)), part

    def shifts(self, tensor: bytes, count: int) -> npt.NDArray[np.uint16]:
        """For each block of SLOTS elements, the slot of its first: its element i is in slot (shift + i) % SLOTS."""
        blocks = -(-count // SLOTS)
        stream = b"".join(bytes(p) for p in keystream(self.derive(tensor, b"slots"), 2 * blocks))
        return (np.frombuffer(stream, "<u2") % SLOTS).astype(np.uint16)

    def signed(self, tensor: bytes, count: int, signs: Int8) -> Iterator[tuple[slice, Int8]]:
        """The pattern with each element's slot sign applied, in pieces."""
        twice, shifts = np.concatenate([signs, signs]), self.shifts(tensor, count).tolist()
        for place, piece in self.pattern(tensor, count):
            for at in range(0, len(piece), SLOTS):
                shift = shifts[(place.start + at) // SLOTS]
                block = piece[at : at + SLOTS]
                block *= twice[shift : shift + len(block)]
            yield place, piece

    def dither(self, tensor: bytes, count: int) -> npt.NDArray[np.float32]:
        """Uniform numbers in [0, 1) in steps of 1/256, for rounding that keeps the mean."""
        stream = b"".join(bytes(p) for p in keystream(self.derive(tensor, b"dither"), count))
        return np.frombuffer(stream, np.uint8).astype(np.float32) / np.float32(256)


class SlotSums:
    """Adds up values slot by slot."""

    def __init__(self) -> None:
        self._twice = np.zeros(2 * SLOTS)

    def add(self, values: npt.NDArray[np.float32], shifts: list[int]) -> None:
        """``values``: flat, beginning at a block's beginning; ``shifts``: one for each block."""
        for number, shift in enumerate(shifts):
            block = values[number * SLOTS : (number + 1) * SLOTS]
            self._twice[shift : shift + len(block)] += block

    def sums(self) -> npt.NDArray[np.float64]:
        """SLOTS sums."""
        return self._twice[:SLOTS] + self._twice[SLOTS:]
