"""The log's kinds of line: records, signed heads, pruned records. Bytes to values (docs/AUDITING.md, "Line format")."""

import hashlib
from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields, b64encode, json_decode, json_encode, parse_time
from modelvault.checkpoint import Checkpoint, Note
from modelvault.errors import FormatError

VERSION = 1
MAX_LINE = 65_535
RESERVED = frozenset({"v", "seq", "batch", "epoch", "time", "boot", "pid", "event", "prev", "checkpoint", "leaf"})
# What loaders count and remember by. Names in these fields are hashed (modelvault.usage): none need be concealed.
MEMORY = frozenset({"load", "counts", "seats", "runs", "lease", "loaded", "revocations", "handovers", "usage", "kept"})
HEAD_START = b'{"checkpoint":"'  # canonical JSON: every head begins so, and no record can
PRUNED_START = b'{"leaf":"'
ROTATED = "key.rotated"
PRUNED = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. ``seq`` counts records from 0, ``batch`` the heads before it; ``fields`` are the event's own.

    ``prev`` stands in the first record of a batch: the digest of the head before, so that a later head's signature
    covers every earlier head, too.
    """

    seq: int
    batch: int
    epoch: int
    time: str
    boot: str
    pid: int
    event: str
    fields: dict[str, Any]
    prev: str | None = None

    def to_line(self) -> bytes:
        """The exact bytes that the tree hashes, without the newline; FormatError above MAX_LINE."""
        own: dict[str, Any] = {
            "v": VERSION,
            "seq": self.seq,
            "batch": self.batch,
            "epoch": self.epoch,
            "time": self.time,
        }
        own |= {"boot": self.boot, "pid": self.pid, "event": self.event}
        own |= {"prev": self.prev} if self.prev is not None else {}
        line = json_encode({**self.fields, **own})
        if len(line) > MAX_LINE:
            raise FormatError(f"audit record: {len(line)} bytes, above the limit of {MAX_LINE}")
        return line

    def to_dict(self) -> dict[str, Any]:
        own = {"seq": self.seq, "time": self.time, "event": self.event, "pid": self.pid, "boot": self.boot}
        return {**own, "batch": self.batch, "epoch": self.epoch, **self.fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A signed checkpoint that closes a batch of records; its signature has not been checked."""

    checkpoint: Checkpoint
    note: Note

    def to_line(self) -> bytes:
        return json_encode({"checkpoint": self.note.to_text()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning leaves of a record: its leaf hash."""

    leaf: bytes

    def to_line(self) -> bytes:
        return json_encode({"leaf": b64encode(self.leaf)})


def digest(line: bytes) -> str:
    """A head's digest, as the next record's ``prev`` holds it: base64 of SHA-256 over the line without newline."""
    return b64encode(hashlib.sha256(line).digest())


def parse(line: bytes, field: str) -> Record | Head | Pruned:
    """A line without its newline; FormatError names ``field``. An event this version does not know is accepted."""
    value = json_decode(line, field, limit=MAX_LINE)
    fields = Fields(value, field)
    if "leaf" in value:
        pruned = Pruned(leaf=fields.binary("leaf", size=32))
        fields.done()
        return pruned
    if "checkpoint" in value:
        note = Note.from_text(fields.text("checkpoint", limit=MAX_LINE), field)
        fields.done()
        return Head(checkpoint=Checkpoint.from_text(note.text, field), note=note)
    fields.integer("v", low=VERSION, high=VERSION)
    record = Record(
        seq=fields.integer("seq"),
        batch=fields.integer("batch"),
        epoch=fields.integer("epoch"),
        time=fields.text("time", limit=40),
        boot=fields.text("boot", limit=64),
        pid=fields.integer("pid"),
        event=fields.text("event", limit=64),
        prev=fields.text("prev", None, limit=44),
        fields={key: item for key, item in value.items() if key not in RESERVED},
    )
    parse_time(record.time, f"{field}.time")
    return record
