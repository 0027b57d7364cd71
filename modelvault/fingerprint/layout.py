"""Where the slots lie in the original's tensors, and how strong their mark is: the owner's private map. Values only."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields, json_encode
from modelvault._primitives import LABEL_FINGERPRINT, hkdf
from modelvault.errors import FormatError
from modelvault.keys import OwnerSecret
from modelvault.variants import MAX_COALITION, MAX_SLOT, MAX_SLOTS, UNIT, Variants, store_size
from modelvault.watermark.carriers import FLOATS, STEPS, Shape

MILLION = 1_000_000
MAX_TENSORS = MAX_SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTensor:
    """A tensor that holds slots. ``digest``: the original's content; ``density``: of whole steps, in 1/256.

    ``starts``: first element of each of its slots, ascending, row-major.
    """

    name: str
    dtype: str
    shape: Shape
    digest: bytes
    density: int
    starts: tuple[int, ...]

    @property
    def item(self) -> int:
        """Bytes an element."""
        return item_size(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All slots of one sealed model, numbered tensor by tensor; each is ``length`` bytes long.

    ``original``: digest over the original's carriers; ``strength``: change of an element over its scale in either
    variant, in millionths; ``coalition``: how many blended copies the code was made for.
    """

    original: bytes
    strength: int
    coalition: int
    length: int
    tensors: tuple[SlotTensor, ...]

    @property
    def slots(self) -> int:
        return sum(len(t.starts) for t in self.tensors)

    @property
    def store(self) -> int:
        """Bytes of the variants extent."""
        return store_size(self.slots, self.length)

    def count(self, tensor: SlotTensor) -> int:
        """Elements of one of the tensor's slots."""
        return self.length // tensor.item

    def to_dict(self) -> dict[str, Any]:
        return {
            "coalition": self.coalition,
            "length": self.length,
            "original": self.original.hex(),
            "strength": self.strength,
            "tensors": [
                {
                    "density": t.density,
                    "digest": t.digest.hex(),
                    "dtype": t.dtype,
                    "name": t.name,
                    "shape": list(t.shape),
                    "starts": list(t.starts),
                }
                for t in self.tensors
            ],
        }

    @classmethod
    def from_dict(cls, value: Any, field: str) -> "Layout":
        """Parse strictly; FormatError names the field below ``field``."""
        fields = Fields(value, field)
        length = fields.integer("length", low=UNIT, high=MAX_SLOT)
        tensors = fields.items("tensors", limit=MAX_TENSORS)
        layout = cls(
            original=fields.digest("original"),
            strength=fields.integer("strength", low=1, high=MILLION),
            coalition=fields.integer("coalition", low=1, high=MAX_COALITION),
            length=length,
            tensors=tuple(_tensor(item, f"{field}.tensors[{n}]", length) for n, item in enumerate(tensors)),
        )
        fields.done()
        if not 0 < layout.slots <= MAX_SLOTS:
            raise FormatError(f"{field}.tensors: expected 1 to {MAX_SLOTS} slots, got {layout.slots}")
        return layout

    def variants(self, secret: OwnerSecret) -> Variants:
        """What the model statement says of these slots."""
        opening = hkdf(secret.secret, salt=self.original, info=LABEL_FINGERPRINT + b"commitment")
        body = LABEL_FINGERPRINT + b"commitment\n" + opening + json_encode(self.to_dict())
        return Variants(
            owner=secret.fingerprint,
            original=self.original,
            slots=self.slots,
            length=self.length,
            coalition=self.coalition,
            commitment=hashlib.sha256(body).digest(),
        )


def item_size(dtype: str) -> int:
    """Bytes an element of a carrier's type."""
    kind = FLOATS.get(dtype) or STEPS.get(dtype) or "<u2"  # bfloat16
    return int(kind[-1])


def _tensor(value: Any, field: str, length: int) -> SlotTensor:
    fields = Fields(value, field)
    shape, starts = fields.items("shape", limit=64), fields.items("starts", limit=MAX_SLOTS)
    dtype = fields.text("dtype", limit=32)
    if dtype not in FLOATS and dtype not in STEPS and dtype != "BFLOAT16":
        raise FormatError(f"{field}.dtype: {dtype!r} carries no fingerprint")
    if not all(type(n) is int and n >= 0 for n in (*shape, *starts)):
        raise FormatError(f"{field}: expected counts in shape and starts")
    tensor = SlotTensor(
        name=fields.text("name", limit=2**16),
        dtype=dtype,
        shape=tuple(shape),
        digest=fields.digest("digest"),
        density=fields.integer("density", high=256),
        starts=tuple(starts),
    )
    fields.done()
    count = length // tensor.item
    ends = (*tensor.starts[1:], math.prod(tensor.shape))
    if not starts or any(a + count > b for a, b in zip(tensor.starts, ends, strict=True)):
        raise FormatError(f"{field}.starts: expected slots that do not overlap, inside the tensor")
    return tensor
