"""What the lines of a log amount to, read up to some point."""

import dataclasses
from dataclasses import dataclass, field

from modelvault import merkle
from modelvault._codec import Fields
from modelvault.audit.lines import Record
from modelvault.errors import FormatError
from modelvault.keys import HostPublic


@dataclass(slots=True, kw_only=True)
class Standing:
    """The state after a head: ``tree.size`` records in ``batch`` batches.

    ``key`` signs the present ``epoch``, which began with record ``began``, written at ``since``. ``offset`` and
    ``head`` are the end and start of the last head in the present segment; ``prev`` is that head's digest. ``ended``
    says that this head closed the epoch: the segment must end with it. Records below ``minimum`` may be pruned;
    records below ``dropped`` are. ``keys`` holds the first record and the key of every epoch read.
    """

    key: HostPublic
    origin: str = ""
    epoch: int = 0
    began: int = 0
    since: str = ""
    tree: merkle.Tree = field(default_factory=merkle.Tree)
    batch: int = 0
    prev: str = ""
    offset: int = 0
    head: int = 0
    ended: bool = False
    minimum: int = 0
    dropped: int = 0
    keys: tuple[tuple[int, HostPublic], ...] = ()

    @classmethod
    def first(cls, key: HostPublic) -> "Standing":
        """Before the first line of a log whose first key is pinned."""
        return cls(key=key, keys=((0, key),))

    def copy(self) -> "Standing":
        return dataclasses.replace(self, tree=merkle.Tree(self.tree.size, self.tree.edge))

    def hand_over(self, key: HostPublic) -> None:
        """The epoch is closed, and ``key`` signs the next."""
        self.key = key
        self.epoch += 1
        self.began = self.tree.size
        self.since = ""
        self.ended = True
        self.keys += ((self.began, key),)

    def next_segment(self) -> None:
        self.offset = self.head = 0
        self.ended = False

    def key_at(self, size: int) -> HostPublic | None:
        """The key whose heads have this tree size, or None beyond what was read."""
        if size > self.tree.size:
            return None
        return next((key for began, key in reversed(self.keys) if began < size), None)


def next_key(record: Record, field_name: str) -> HostPublic:
    """The key that a ``key.rotated`` record hands over to. Raises FormatError."""
    fields = Fields(record.fields, field_name)
    key = HostPublic.from_bytes(fields.binary("public", size=32), f"{field_name}.public")
    if fields.text("next", limit=128) != key.fingerprint:
        raise FormatError(f"{field_name}.next: not the fingerprint of the public key beside it")
    return key


def new_minimum(record: Record, field_name: str) -> int:
    """The first record that a ``pruned`` record promises to keep. Raises FormatError."""
    minimum = Fields(record.fields, field_name).integer("minimum")
    if minimum > record.seq:
        raise FormatError(f"{field_name}.minimum: expected at most {record.seq}, got {minimum}")
    return minimum
