"""The model without fingerprints, for audits: each slot's two variants lie evenly on both sides of it."""

import bisect

import numpy as np

from modelvault.errors import FormatError
from modelvault.index import TensorPlace
from modelvault.variants import BITS, MasterKey, SlotReader
from modelvault.watermark.carriers import FLOATS, STEPS, Float, to_float


def restore(reader: SlotReader, key: MasterKey, tensors: tuple[TensorPlace, ...], source: str) -> None:
    """Put the mean of both variants into every slot. Raises PayloadTampered, FormatError."""
    ordered = sorted(tensors, key=lambda t: t.offset)
    starts = [t.offset for t in ordered]
    for number, place in enumerate(reader.places):
        found = bisect.bisect_right(starts, place) - 1
        if found < 0 or place + reader.length > ordered[found].offset + ordered[found].length:
            raise FormatError(f"{source}: slots[{number}]: lies in no tensor")
        dtype = ordered[found].dtype
        both = [to_float(dtype, reader.open(number, bit, key.slot(number, bit))) for bit in BITS]
        reader.put(number, _stored(dtype, (both[0] + both[1]) * np.float32(0.5)))


def _stored(dtype: str, values: Float) -> bytes:
    """The nearest elements of that type, little-endian."""
    if dtype == "BFLOAT16":
        return ((values.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype("<u2").tobytes()
    return (np.rint(values) if dtype in STEPS else values).astype(FLOATS.get(dtype) or STEPS[dtype]).tobytes()
