"""Read a log line by line and check all that a reader with the host's public key can check."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from modelvault import merkle
from modelvault.audit.lines import MAX_LINE, Head, Record, parse
from modelvault.errors import AuditTampered, FormatError, SignatureInvalid
from modelvault.keys import HostPublic


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What the last good head closes: bytes read up to its end and to its start, batches, the tree."""

    offset: int
    head: int
    batch: int
    tree: merkle.Tree


class Scan:
    """One reading of a log. ``committed`` is None until a head closed a batch; ``torn_line`` starts an open tail."""

    def __init__(
        self,
        *,
        key: HostPublic,
        source: str,
        origin: str = "",
        tree: merkle.Tree | None = None,
        batch: int = 0,
        line: int = 0,
        visit: Callable[[Record], None] | None = None,
    ) -> None:
        self.key = key
        self.source = source
        self.origin = origin
        self.committed: Committed | None = None
        self.torn_line: int | None = None
        self._tree = merkle.Tree(tree.size, tree.edge) if tree else merkle.Tree()
        self._batch = batch
        self._line = line + batch  # every batch before has its head's line too
        self._open = 0
        self._visit = visit

    def run(self, file: BinaryIO, size: int) -> None:
        """Read ``size`` bytes; AuditTampered names the verdict and the line of the first thing that is wrong."""
        done = 0
        while done < size:
            line = file.readline(min(MAX_LINE + 2, size - done))
            start, done = done, done + len(line)
            self._line += 1
            if not line.endswith(b"\n"):
                if done < size:
                    raise self._tampered("modified", "line is longer than the limit" if line else "file is cut")
                self.torn_line = self.torn_line or self._line
                return
            self._take(line[:-1], start, done)

    def _take(self, line: bytes, start: int, end: int) -> None:
        try:
            value = parse(line, "record")
        except FormatError as error:
            raise self._tampered("modified", str(error)) from None
        if isinstance(value, Record):
            self._record(value, line)
        else:
            self._head(value)
            self.committed = Committed(
                offset=end, head=start, batch=self._batch, tree=merkle.Tree(self._tree.size, self._tree.edge)
            )

    def _record(self, record: Record, line: bytes) -> None:
        expected = self._tree.size
        if record.seq < expected:
            raise self._tampered("forked", f"seq {record.seq} appears again, expected {expected}")
        if record.seq > expected:
            raise self._tampered("modified", f"seq {record.seq} follows {expected - 1}: records are missing")
        if record.batch != self._batch:
            raise self._tampered("modified", f"batch {record.batch}, expected {self._batch}: a head is missing")
        if expected == 0:
            self._opened(record)
        self._tree.append(merkle.leaf_hash(line))
        self._open += 1
        self.torn_line = self.torn_line or self._line
        if self._visit:
            self._visit(record)

    def _opened(self, record: Record) -> None:
        origin = record.fields.get("origin")
        if record.event != "opened" or not isinstance(origin, str):
            raise self._tampered("modified", "the log does not begin with its opening")
        if record.fields.get("key") != self.key.fingerprint:
            raise self._tampered("unknown-key", f"opened with key {str(record.fields.get('key'))[:80]}")
        self.origin = origin

    def _head(self, head: Head) -> None:
        if not self._open:
            raise self._tampered("modified", "a head closes no record")
        if head.checkpoint.origin != self.origin:
            raise self._tampered("modified", "the head belongs to another log")
        try:
            signed = head.note.signed_by(self.origin, self.key)
        except SignatureInvalid:
            raise self._tampered("modified", "the head's signature does not verify") from None
        if not signed:
            raise self._tampered("unknown-key", f"the head is not signed by {self.key.fingerprint}")
        if (head.checkpoint.size, head.checkpoint.root) != (self._tree.size, self._tree.root()):
            first = self.torn_line or self._line
            raise self._tampered("modified", f"lines {first} to {self._line - 1} are not what the head signs")
        self._batch, self._open, self.torn_line = self._batch + 1, 0, None

    def _tampered(self, verdict: str, words: str) -> AuditTampered:
        return AuditTampered(f"{self.source}: line {self._line}: {words}", verdict=verdict, line=self._line)
