"""Read a log fast: say only whether all of it is what the host signed.

Every head but an epoch's last is covered by the digest in the record after it, which is a leaf below the last head:
one signature an epoch is enough, lines are hashed as they stand, and JSON is parsed only where a line may change keys.
Whatever is not plainly right is left to ``scan``, which finds the line and the reason.
"""

import hashlib
from binascii import b2a_base64
from collections.abc import Callable, Iterator, Sequence

from modelvault import merkle
from modelvault.audit.lines import (
    HEAD_START,
    MAX_LINE,
    PRUNED,
    PRUNED_START,
    ROTATED,
    Head,
    Pruned,
    Record,
    digest,
    parse,
)
from modelvault.audit.segments import Segment
from modelvault.audit.standing import Standing, new_minimum, next_key
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.keys import HostPublic

BLOCK = 4 * 2**20
Progress = Callable[[int], None]
_ROTATED, _PRUNED = (f'"event":"{event}"'.encode() for event in (ROTATED, PRUNED))
_PREV = b'"prev":"'


class _Unsure(Exception):
    """Something needs the precise reading."""


class QuickScan:
    """One fast reading, like ``scan.Scan``; ``watched`` is the root of the first ``watch`` records."""

    def __init__(self, start: Standing, *, watch: int | None = None, progress: Progress | None = None) -> None:
        self.standing = start.copy()
        self.watched: bytes | None = None
        self._watch = -1 if watch is None else watch
        self._progress = progress
        self._next: HostPublic | None = None
        self._pruned = False
        self._in_batch = 0
        self._head = self._link = b""

    def accepts(self, segments: Sequence[Segment]) -> bool:
        """Whether every line of the snapshot is right; only then do the other attributes mean anything."""
        now = self.standing
        try:
            for number, segment in enumerate(segments):
                if number:
                    if not now.ended:
                        return False
                    now.next_segment()
                self._segment(segment)
        except (_Unsure, FormatError, SignatureInvalid):
            return False
        return now.batch > 0 and now.dropped <= now.minimum

    def _segment(self, segment: Segment) -> None:
        now, tree = self.standing, self.standing.tree
        offset, self._in_batch, self._pruned, self._head = 0, 0, False, b""
        self._link = f'"prev":"{now.prev}"'.encode() if now.prev else b""
        for line in _lines(segment, self._progress):
            if now.ended:
                raise _Unsure
            if line.startswith(HEAD_START):
                now.head = offset
                self._close(line)
            elif line.startswith(PRUNED_START):
                self._prune(line)
            else:
                self._record(line)
            if tree.size == self._watch and self.watched is None:
                self.watched = tree.root()
            offset += len(line) + 1
        if self._in_batch or (segment.size and not self._head):
            raise _Unsure
        now.offset = offset
        if self._head and not now.ended:
            self._check(self._head)

    def _close(self, line: bytes) -> None:
        if not self._in_batch:
            raise _Unsure
        self.standing.batch += 1
        self._head, self._in_batch = line, 0
        self._link = _PREV + b2a_base64(hashlib.sha256(line).digest(), newline=False) + b'"'
        if self._next is not None or self._pruned:
            self._check(line)

    def _record(self, line: bytes) -> None:
        # A batch's first record names the head before it; any other naming one shows that a head is missing.
        stray = _PREV in line if self._in_batch else self._link not in line
        if (stray and not self._pruned) or self._next is not None or len(line) > MAX_LINE:
            raise _Unsure
        if self.standing.tree.size == self.standing.began or _ROTATED in line or _PRUNED in line:
            self._special(line)
        self.standing.tree.append(merkle.leaf_hash(line))
        self._in_batch += 1

    def _check(self, line: bytes) -> None:
        """A head in full: what it says, and its signature."""
        now = self.standing
        head = parse(line, "head")
        if not isinstance(head, Head) or head.checkpoint.origin != now.origin or head.to_line() != line:
            raise _Unsure
        if (head.checkpoint.size, head.checkpoint.root) != (now.tree.size, now.tree.root()):
            raise _Unsure
        if not head.note.signed_by(now.origin, now.key):
            raise _Unsure
        now.prev = digest(line)
        if self._next is not None:
            now.hand_over(self._next)
            self._next = None

    def _prune(self, line: bytes) -> None:
        value = parse(line, "record")
        if not isinstance(value, Pruned) or value.to_line() != line:
            raise _Unsure
        if self._next is not None or (self._head and not self._pruned):
            raise _Unsure
        self._pruned = True
        self._in_batch += 1
        self.standing.tree.append(value.leaf)
        self.standing.dropped = self.standing.tree.size

    def _special(self, line: bytes) -> None:
        """The opening, a handing over to another key, and a permission to prune."""
        now = self.standing
        record = parse(line, "record")
        if not isinstance(record, Record) or (record.seq, record.epoch) != (now.tree.size, now.epoch):
            raise _Unsure
        if self._pruned:
            now.batch = record.batch
        if record.seq == now.began:
            now.since = record.time
        if record.seq == 0:
            now.origin = str(record.fields.get("origin"))
            if record.event != "opened" or record.fields.get("key") != now.key.fingerprint:
                raise _Unsure
        if record.event == ROTATED:
            self._next = next_key(record, "record")
        if record.event == PRUNED:
            now.minimum = max(now.minimum, new_minimum(record, "record"))


def _lines(segment: Segment, progress: Progress | None) -> Iterator[bytes]:
    """The lines of the snapshot without their newlines; _Unsure where the last one has none."""
    left, rest = segment.size, b""
    segment.file.seek(0)
    while left:
        block = segment.file.read(min(BLOCK, left))
        if not block:
            raise _Unsure
        left -= len(block)
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > MAX_LINE:
            raise _Unsure
        yield from lines
        if progress:
            progress(len(block))
    if rest:
        raise _Unsure
