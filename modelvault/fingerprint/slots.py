"""What the two variants of a slot are: the base plus, and less, a keyed pattern (docs/FINGERPRINTS.md)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_FINGERPRINT, hkdf, keystream
from modelvault.fingerprint.layout import MILLION, Layout, SlotTensor
from modelvault.keys import OwnerSecret
from modelvault.watermark.carriers import FLOATS, STEPS, Float, Scale, to_float
from modelvault.watermark.pattern import SQRT2

Signs = npt.NDArray[np.int8]
Dither = npt.NDArray[np.uint8]


class Patterns:
    """The keyed pattern of every slot, tensor by tensor."""

    def __init__(self, secret: OwnerSecret, layout: Layout) -> None:
        self._key = hkdf(secret.secret, salt=layout.original, info=LABEL_FINGERPRINT + b"pattern")
        self._layout = layout

    def draw(self, tensor: SlotTensor) -> tuple[Signs, Dither]:
        """(integers -4 to 4, bytes), each of shape (slots, elements): ones in a keystream byte less 4, and dither."""
        slots, count = len(tensor.starts), self._layout.count(tensor)
        key = hkdf(self._key, salt=tensor.digest, info=LABEL_FINGERPRINT + b"tensor")
        stream = b"".join(bytes(p) for p in keystream(key, 2 * slots * count))
        table = np.frombuffer(stream, np.uint8).reshape(2, slots, count)
        return (np.bitwise_count(table[0]).astype(np.int8) - np.int8(4)), table[1]

    def directions(self, tensor: SlotTensor) -> Float:
        """Which way variant 1 lies from the base, over the scale: shape (slots, elements), variance at most 1."""
        pattern, dither = self.draw(tensor)
        if tensor.dtype in STEPS:
            return _steps(pattern, dither, tensor).astype(np.float32)
        return pattern * np.float32(1 / SQRT2)


def variants(
    layout: Layout, tensor: SlotTensor, patterns: Patterns, data: bytes | bytearray
) -> Iterator[tuple[int, bytes, bytes]]:
    """(first byte, variant 0, variant 1) of each slot of a tensor whose elements are ``data``."""
    pattern, dither = patterns.draw(tensor)
    count, item = layout.count(tensor), tensor.item
    scale = None if tensor.dtype in STEPS else Scale.of(to_float(tensor.dtype, data), tensor.shape)
    for number, start in enumerate(tensor.starts):
        place = slice(start, start + count)
        base = data[start * item : (start + count) * item]
        if scale is None:
            change = _steps(pattern[number], dither[number], tensor)
            both = _stepped(tensor.dtype, base, change)
        else:
            strength = np.float32(layout.strength / MILLION / SQRT2)
            both = _added(tensor.dtype, base, scale.flat(place) * (strength * pattern[number]), dither[number])
        yield start * item, *both


def _steps(pattern: Signs, dither: Dither, tensor: SlotTensor) -> Signs:
    """Whole steps, on that share of the elements which the tensor's density says."""
    return np.sign(pattern) * (dither < tensor.density)


def _stepped(dtype: str, base: bytes | bytearray, change: Signs) -> tuple[bytes, bytes]:
    values: npt.NDArray[Any] = np.frombuffer(base, STEPS[dtype])
    limits = np.iinfo(values.dtype)
    wide = values.astype(np.int16)
    change = change * ((values > limits.min) & (values < limits.max))
    first, second = (wide - change).astype(values.dtype), (wide + change).astype(values.dtype)
    return first.tobytes(), second.tobytes()


def _added(dtype: str, base: bytes | bytearray, change: Float, dither: Dither) -> tuple[bytes, bytes]:
    values = to_float(dtype, base)
    change = change * (values != 0)  # a pruned model stays pruned
    if dtype != "BFLOAT16":
        exact: npt.NDArray[Any] = np.frombuffer(base, FLOATS[dtype])
        return (exact - change).astype(exact.dtype).tobytes(), (exact + change).astype(exact.dtype).tobytes()
    room = dither.astype(np.uint32) << np.uint32(8)  # rounded so that the mean is kept: steps are larger than the mark
    first, second = (((values + sign * change).view(np.uint32) + room) >> np.uint32(16) for sign in (-1, 1))
    return first.astype("<u2").tobytes(), second.astype("<u2").tobytes()
