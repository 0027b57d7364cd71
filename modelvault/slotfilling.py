"""Decrypt a file's slots of variants into the weights region, most of them while other weights are still decrypted."""

from modelvault.errors import ModelVaultError
from modelvault.index import TensorPlace
from modelvault.variants import KeyRing, Keys, SlotReader, Variants


class SlotFiller:
    """Fills slots with what ``keys`` open: the variants of a ring, or with a master key, once all is there, their mean.

    Threads tell it what has become plain. What it finds wrong it keeps for ``finish``, which is called when the root
    is known to be the signed one: before that nothing may be said, or handed out, about what the file holds.
    """

    def __init__(self, variants: Variants, keys: Keys, region: memoryview, store: memoryview, source: str) -> None:
        self._variants = variants
        self._keys = keys
        self._parts = region, store
        self._source = source
        self._reader: SlotReader | None = None
        self._filled: list[range] = []
        self._errors: dict[int, ModelVaultError] = {}

    def store_is_plain(self) -> None:
        """The variants extent is decrypted."""
        try:
            self._reader = SlotReader(self._variants, *self._parts, self._source)
        except ModelVaultError as error:
            self._errors[-1] = error

    def region_is_plain(self, start: int, stop: int) -> None:
        """These bytes of the region are decrypted: the slots in them can be filled, where their places are known."""
        reader, keys = self._reader, self._keys
        if reader is None or not isinstance(keys, KeyRing):
            return
        slots = reader.inside(start, stop)
        try:
            reader.choose(keys, slots)
            self._filled.append(slots)
        except ModelVaultError as error:
            self._errors[start] = error

    def finish(self, tensors: tuple[TensorPlace, ...]) -> None:
        """Fill what is left: slots across two extents, say. ``tensors``: for a master key.

        Raises PayloadTampered, FormatError, of several the one that stands first.
        """
        reader, self._reader = self._reader, None
        if self._errors or reader is None:
            raise self._errors[min(self._errors)]
        if isinstance(self._keys, KeyRing):
            done, end = 0, self._variants.slots
            for filled in sorted((*self._filled, range(end, end)), key=lambda slots: slots.start):
                reader.choose(self._keys, range(done, filled.start))
                done = filled.stop
        else:
            from modelvault.fingerprint.base import restore

            restore(reader, self._keys, tensors, self._source)
