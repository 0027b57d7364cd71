"""Pass a model's tensors by, and put one variant, or the ciphertext of both, into their slots."""

from collections.abc import Callable, Sequence
from pathlib import Path

from modelvault.errors import ModelError
from modelvault.fingerprint.layout import Layout, SlotTensor
from modelvault.fingerprint.slots import Patterns, variants
from modelvault.index import TensorPlace
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import Edit
from modelvault.onnxfile.layout import Data
from modelvault.variants import MasterKey, seal_slot, store_of
from modelvault.watermark.carriers import Shape, tensor_digest

Put = Callable[[int, bytes, bytes], bytes]
"""(slot, variant 0, variant 1) -> the bytes for the slot's place, as many."""


class SlotEdit:
    """What onnxfile passes each tensor through: ``before`` first (a watermark's edit), then ``put`` for each slot."""

    def __init__(self, secret: OwnerSecret, layout: Layout, put: Put, before: Edit | None = None) -> None:
        self._layout = layout
        self._put = put
        self._before = before
        self._patterns = Patterns(secret, layout)
        self._kinds = {(t.dtype, t.shape) for t in layout.tensors}
        self._waiting: dict[bytes, tuple[int, SlotTensor]] = {}
        first = 0
        for tensor in layout.tensors:
            self._waiting[tensor.digest] = first, tensor
            first += len(tensor.starts)

    def edit(self, dtype: str, shape: Shape, data: bytes) -> Data | None:
        """The edited elements; the watermark's, or None, for a tensor without slots."""
        digest = tensor_digest(dtype, shape, data) if (dtype, shape) in self._kinds else b""
        base = self._before(dtype, shape, data) if self._before else None
        if digest not in self._waiting:
            return base
        first, tensor = self._waiting.pop(digest)
        edited = bytearray(data if base is None else base)
        for number, (at, *both) in enumerate(variants(self._layout, tensor, self._patterns, bytes(edited)), first):
            edited[at : at + self._layout.length] = self._put(number, *both)
        return edited

    def check_complete(self, path: Path) -> None:
        """ModelError unless every tensor came by: the source changed after it was planned."""
        if missing := len(self._waiting):
            raise ModelError(f"{path}: changed while it was being fingerprinted ({missing} tensors did not come by)")


def copy_edit(secret: OwnerSecret, layout: Layout, word: Sequence[int], before: Edit | None = None) -> Edit:
    """Makes the copy that the recipient of this code word will have."""
    return SlotEdit(secret, layout, lambda number, first, second: second if word[number] else first, before).edit


class SlotSealer:
    """Puts ciphertext into the slots, and keeps the rest of it for the variants extent."""

    def __init__(self, secret: OwnerSecret, layout: Layout, nonce: bytes, before: Edit | None = None) -> None:
        """``nonce``: the model statement's."""
        self.layout = layout
        self._master = MasterKey.derive(secret.secret, nonce)
        self._stored: dict[int, bytes] = {}
        self._slots = SlotEdit(secret, layout, self._seal, before)
        self.edit = self._slots.edit

    def _seal(self, number: int, first: bytes, second: bytes) -> bytes:
        inside, self._stored[number] = seal_slot(self._master, number, first, second)
        return inside

    def store(self, tensors: Sequence[TensorPlace], path: Path) -> bytes:
        """The variants extent, once every tensor came by. ``tensors``: where each is in the region.

        ModelError where one is missing.
        """
        self._slots.check_complete(path)
        offsets = {t.name: t.offset for t in tensors}
        if missing := [t.name for t in self.layout.tensors if t.name not in offsets]:
            raise ModelError(f"{path}: changed while it was being fingerprinted ({len(missing)} tensors are gone)")
        places = [offsets[t.name] + start * t.item for t in self.layout.tensors for start in t.starts]
        return store_of(places, [self._stored[number] for number in range(self.layout.slots)])
