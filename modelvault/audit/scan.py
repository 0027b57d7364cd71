"""Read a log line by line and check all that a reader with the host's first public key can check.

The precise reading: it says which line is wrong, and why. The reading in ``quick`` only says that nothing is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from modelvault import merkle
from modelvault.audit.lines import HEAD_START, MAX_LINE, PRUNED, ROTATED, Head, Pruned, Record, digest, parse
from modelvault.audit.segments import Segment
from modelvault.audit.standing import Standing, new_minimum, next_key
from modelvault.errors import AuditTampered, FormatError, SignatureInvalid
from modelvault.keys import HostPublic


class Scan:
    """One reading. ``committed`` is what the last good head closed; ``torn_line`` starts an open tail after it."""

    def __init__(self, start: Standing, *, watch: int | None = None) -> None:
        self.committed = start.copy()
        self.torn_line: int | None = None
        self.watched: bytes | None = None
        self._now = start.copy()
        self._watch = watch
        self._source = Path()
        self._line = 0
        self._open = 0
        self._linked = True
        self._next: HostPublic | None = None

    def run_all(self, segments: Sequence[Segment]) -> None:
        """Every file of a snapshot, of which only the last may be open; AuditTampered names what is wrong."""
        for segment in segments[:-1]:
            self.run(segment.path, segment.file, segment.size)
            self.end_segment()
        for segment in segments[-1:]:
            self.run(segment.path, segment.file, segment.size)
        if self.committed.dropped > self.committed.minimum:
            raise self._tampered(
                "modified",
                f"records below {self.committed.dropped} are pruned, but the log allows it below "
                f"{self.committed.minimum} only",
            )

    def end_segment(self) -> None:
        """The file just read was a closed segment, and the next one follows."""
        if self.torn_line is not None or not self.committed.ended:
            raise self._tampered("modified", "the segment does not end with the end of its epoch")
        self._now.next_segment()
        self.committed = self._now.copy()

    def run(self, source: Path, file: BinaryIO, size: int) -> None:
        """Read ``size`` bytes of one file from where it stands; AuditTampered names verdict and line."""
        self._source, self._line = source, 0
        base = self._now.offset
        for data, start, end in _lines(file, size):
            self._line += 1
            if not data.endswith(b"\n"):
                if end < size:
                    raise self._tampered("modified", "the line is longer than the limit" if data else "the file is cut")
                self.torn_line = self.torn_line or self._line
                return
            try:
                value = parse(data[:-1], "record")
            except FormatError as error:
                if not self._sealed_later(file, size - end):
                    self.torn_line = self.torn_line or self._line
                    return
                raise self._tampered("modified", str(error)) from None
            self._take(value, data[:-1])
            if isinstance(value, Head):
                self._now.head, self._now.offset = base + start, base + end
                self.committed = self._now.copy()

    def _sealed_later(self, file: BinaryIO, left: int) -> bool:
        """Whether a good head follows: then the line before it was damaged, else it was never wholly written."""
        for data, _, _ in _lines(file, left):
            if data.startswith(HEAD_START):
                try:
                    value = parse(data.removesuffix(b"\n"), "head")
                    if isinstance(value, Head) and value.note.signed_by(value.checkpoint.origin, self._now.key):
                        return True
                except (FormatError, SignatureInvalid):
                    continue
        return False

    def _take(self, value: Record | Head | Pruned, line: bytes) -> None:
        if self._now.ended:
            raise self._tampered("modified", "the epoch ended before this line")
        if not isinstance(value, Record) and value.to_line() != line:
            raise self._tampered("modified", "JSON is not canonical")  # no hash covers these bytes
        if isinstance(value, Head):
            self._head(value, line)
            return
        if self._next is not None:
            raise self._tampered("modified", "the line before ends the epoch, and no head closes it")
        if isinstance(value, Pruned):
            self._linked = False
            self._leaf(value.leaf)
            self._now.dropped = self._now.tree.size
        else:
            self._record(value)
            self._leaf(merkle.leaf_hash(line))

    def _leaf(self, leaf: bytes) -> None:
        self._now.tree.append(leaf)
        self._open += 1
        self.torn_line = self.torn_line or self._line
        if self._now.tree.size == self._watch:
            self.watched = self._now.tree.root()

    def _record(self, record: Record) -> None:
        now, expected = self._now, self._now.tree.size
        if record.seq < expected:
            raise self._tampered("forked", f"seq {record.seq} appears again, expected {expected}")
        if record.seq > expected:
            raise self._tampered("modified", f"seq {record.seq} follows {expected - 1}: records are missing")
        if record.epoch != now.epoch:
            raise self._tampered("modified", f"epoch {record.epoch}, expected {now.epoch}")
        if self._linked:
            self._link(record)
        else:
            now.batch = record.batch  # the heads between were pruned
        now.since = now.since or record.time
        if expected == 0:
            self._opened(record)
        try:
            if record.event == ROTATED:
                self._next = next_key(record, "record")
            if record.event == PRUNED:
                now.minimum = max(now.minimum, new_minimum(record, "record"))
        except FormatError as error:
            raise self._tampered("modified", str(error)) from None

    def _link(self, record: Record) -> None:
        if record.batch != self._now.batch:
            raise self._tampered("modified", f"batch {record.batch}, expected {self._now.batch}: a head is missing")
        if (record.prev or "") != ("" if self._open else self._now.prev):
            raise self._tampered("modified", "the head before this line is not the one that was written")

    def _opened(self, record: Record) -> None:
        origin = record.fields.get("origin")
        if record.event != "opened" or not isinstance(origin, str):
            raise self._tampered("modified", "the log does not begin with its opening")
        if record.fields.get("key") != self._now.key.fingerprint:
            raise self._tampered("unknown-key", f"opened with key {str(record.fields.get('key'))[:80]}")
        self._now.origin = origin

    def _head(self, head: Head, line: bytes) -> None:
        now = self._now
        if not self._open:
            raise self._tampered("modified", "a head closes no record")
        if head.checkpoint.origin != now.origin:
            raise self._tampered("modified", "the head belongs to another log")
        try:
            signed = head.note.signed_by(now.origin, now.key)
        except SignatureInvalid:
            raise self._tampered("modified", "the head's signature does not verify") from None
        if not signed:
            raise self._tampered("unknown-key", f"the head is not signed by {now.key.fingerprint}, epoch {now.epoch}")
        if (head.checkpoint.size, head.checkpoint.root) != (now.tree.size, now.tree.root()):
            first = self.torn_line or self._line
            lines = f"line {first} is" if first >= self._line - 1 else f"lines {first} to {self._line - 1} are"
            raise self._tampered("modified", f"{lines} not what the head signs")
        now.batch += 1
        now.prev = digest(line)
        self._open, self.torn_line, self._linked = 0, None, True
        if self._next is not None:
            now.hand_over(self._next)
            self._next = None

    def _tampered(self, verdict: str, words: str) -> AuditTampered:
        return AuditTampered(f"{self._source}: line {self._line}: {words}", verdict=verdict, line=self._line)


def _lines(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Lines with their start and end, at most ``size`` bytes in all; a line above the limit comes in pieces."""
    done = 0
    while done < size:
        data = file.readline(min(MAX_LINE + 2, size - done))
        start, done = done, done + len(data)
        yield data, start, done
        if not data:
            return
