"""Where the log ends: from a small state file when it fits the log, else by reading the log."""

import contextlib
import os
from pathlib import Path

from modelvault import _files, merkle
from modelvault._codec import Fields, b64encode, json_decode, json_encode
from modelvault.audit.lines import HEAD_START, MAX_LINE, ROTATED, Head, Record, digest, parse
from modelvault.audit.quick import QuickScan
from modelvault.audit.scan import Scan
from modelvault.audit.segments import Segment, closed_segments, last_lines, open_segment, segment_path
from modelvault.audit.standing import Standing, next_key
from modelvault.errors import AuditTampered, FileError, FormatError, SignatureInvalid
from modelvault.keys import HostPublic

MAX_STATE = 16 * 2**10


class Tip:
    """The committed end of the log, and how many ``torn`` bytes follow it in the open segment."""

    def __init__(self, standing: Standing, torn: int = 0) -> None:
        self.at = standing
        self.torn = torn


def state_path(log: Path) -> Path:
    return _files.beside(log, ".state")


def write_state(log: Path, at: Standing) -> None:
    """A cache: losing it costs a reading of the log, so it is neither synced nor required."""
    value = {
        "origin": at.origin,
        "epoch": at.epoch,
        "began": at.began,
        "since": at.since,
        "key": b64encode(at.key.public_bytes),
        "ended": at.ended,
        "offset": at.offset,
        "head": at.head,
        "batch": at.batch,
        "size": at.tree.size,
        "edge": [h.hex() for h in at.tree.edge],
    }
    data = json_encode(value)
    # In place: a rename over the old file would make some file systems wait for the disk. Half a state is no state.
    with contextlib.suppress(OSError):
        descriptor = os.open(state_path(log), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, data, 0)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


def find_tip(log: Path, descriptor: int, first: HostPublic) -> Tip:
    """The tip of the locked log. AuditTampered where it is not a log that began with key ``first``.

    Raises FileError, FormatError.
    """
    size = os.fstat(descriptor).st_size
    state = _read_state(log)
    if state is not None:
        if state.ended and segment_path(log, state.epoch - 1).exists():
            state.next_segment()  # killed between closing the segment and saying so
        if state.offset > size:
            raise AuditTampered(f"{log}: {size} bytes, but {state.offset} were committed", verdict="truncated")
        if _agrees(log, descriptor, state):
            with contextlib.suppress(AuditTampered):  # the reading from the start finds the line
                return _after(log, descriptor, state, size)
    tip = _after(log, descriptor, _read_closed(log, first), size)
    if state is not None:
        _check_memory(log, tip.at, state)
    return tip


def _check_memory(log: Path, at: Standing, state: Standing) -> None:
    if state.origin != at.origin and at.origin:
        raise AuditTampered(f"{log}: another log stood here, {state.origin}", verdict="rollback")
    if at.tree.size < state.tree.size:
        raise AuditTampered(f"{log}: {at.tree.size} records, but {state.tree.size} were committed", verdict="truncated")


def _after(log: Path, descriptor: int, at: Standing, size: int) -> Tip:
    """Read what stands in the open segment after ``at``."""
    if at.offset == size:
        return Tip(at)
    with open(os.dup(descriptor), "rb") as file:
        if at.offset == 0:
            quick = QuickScan(at)
            if quick.accepts([Segment(path=log, file=file, size=size)]):
                return Tip(quick.standing)
        file.seek(at.offset)
        scan = Scan(at)
        scan.run(log, file, size - at.offset)
    return Tip(scan.committed, size - scan.committed.offset)


def _read_closed(log: Path, first: HostPublic) -> Standing:
    """What all closed segments amount to."""
    with contextlib.ExitStack() as stack:
        segments = [open_segment(path, stack) for path in closed_segments(log)]
        if not segments:
            return Standing.first(first)
        start = Standing.first(first)
        start.minimum = 2**63  # the record that allows pruning may stand in the open segment
        quick = QuickScan(start)
        if not quick.accepts(segments) or not quick.standing.ended:
            for segment in segments:
                segment.file.seek(0)
            scan = Scan(start)
            scan.run_all(segments)
            scan.end_segment()
            return scan.committed
    quick.standing.next_segment()
    return quick.standing


def _read_state(log: Path) -> Standing | None:
    """What the state file says, if it can be parsed."""
    try:
        data = json_decode(_files.read_bytes(state_path(log), limit=MAX_STATE), "state", limit=MAX_STATE)
        fields = Fields(data, "state")
        edge = [bytes.fromhex(h) for h in fields.texts("edge", limit=64)]
        return Standing(
            key=HostPublic.from_bytes(fields.binary("key", size=32), "state.key"),
            origin=fields.text("origin"),
            epoch=fields.integer("epoch"),
            began=fields.integer("began"),
            since=fields.text("since", limit=40),
            ended=fields.boolean("ended"),
            offset=fields.integer("offset"),
            head=fields.integer("head"),
            batch=fields.integer("batch"),
            tree=merkle.Tree(fields.integer("size"), edge),
        )
    except (FormatError, FileError, ValueError):
        return None


def _agrees(log: Path, descriptor: int, state: Standing) -> bool:
    """Whether the log's own last head says what the state file says; completes ``state`` with that head's digest."""
    try:
        if state.offset == 0:
            return _begins_after(log, state)
        line = os.pread(descriptor, min(max(state.offset - state.head, 0), MAX_LINE + 1), state.head)
        return _is_head(line, state, None if state.ended else state.key)
    except (FormatError, SignatureInvalid, FileError, ValueError, OSError):
        return False


def _begins_after(log: Path, state: Standing) -> bool:
    """The open segment is empty: the closed one before must end by handing over to ``state.key``."""
    closed = closed_segments(log)
    if not closed or len(closed) != state.epoch:
        return False
    rotated, head = last_lines(closed[-1], 2)
    record = parse(rotated, "state")
    if not isinstance(record, Record) or record.event != ROTATED:
        return False
    same = next_key(record, "state").fingerprint == state.key.fingerprint
    return same and _is_head(head + b"\n", state, None)


def _is_head(line: bytes, state: Standing, key: HostPublic | None) -> bool:
    if not line.endswith(b"\n") or not line.startswith(HEAD_START):
        return False
    head = parse(line[:-1], "state")
    if not isinstance(head, Head):
        return False
    state.prev = digest(line[:-1])
    stands = head.checkpoint
    if (stands.origin, stands.size, stands.root) != (state.origin, state.tree.size, state.tree.root()):
        return False
    return key is None or head.note.signed_by(state.origin, key)
