"""The log's two kinds of line: records and signed heads. Bytes to values (docs/AUDITING.md, "Line format")."""

from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields, json_decode, json_encode, parse_time
from modelvault.checkpoint import Checkpoint, Note
from modelvault.errors import FormatError

VERSION = 1
MAX_LINE = 65_535
EVENTS = frozenset(
    {
        "opened", "recovered", "load.intent", "load.done", "load.denied", "session.closed",
        "watermark.checked", "watermark.denied", "key.rotated",
    }
)  # fmt: skip
RESERVED = frozenset({"v", "seq", "batch", "epoch", "time", "boot", "pid", "event"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. ``seq`` counts records from 0, ``batch`` the heads before it; ``fields`` are the event's own."""

    seq: int
    batch: int
    epoch: int
    time: str
    boot: str
    pid: int
    event: str
    fields: dict[str, Any]

    def to_line(self) -> bytes:
        """The exact bytes that the tree hashes, without the newline; FormatError above MAX_LINE."""
        own = {"v": VERSION, "seq": self.seq, "batch": self.batch, "epoch": self.epoch, "time": self.time}
        line = json_encode({**self.fields, **own, "boot": self.boot, "pid": self.pid, "event": self.event})
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


def parse(line: bytes, field: str) -> Record | Head:
    """A line without its newline; FormatError names ``field``. An event this version does not know is accepted."""
    value = json_decode(line, field, limit=MAX_LINE)
    fields = Fields(value, field)
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
        fields={key: item for key, item in value.items() if key not in RESERVED},
    )
    parse_time(record.time, f"{field}.time")
    return record
