"""Give up old records and keep their hashes: all proofs still hold, and the log says itself that it was allowed."""

from collections import deque
from datetime import datetime
from pathlib import Path

from modelvault import _files, merkle
from modelvault._codec import parse_time
from modelvault.audit.lines import HEAD_START, PRUNED, PRUNED_START, ROTATED, Head, Pruned, Record, parse
from modelvault.audit.log import AuditLog
from modelvault.audit.segments import closed_segments, last_lines
from modelvault.audit.verification import verify_log
from modelvault.errors import AuditTampered
from modelvault.keys import HostPublic


def prune(log: AuditLog, key: HostPublic, before: datetime) -> tuple[int, list[Path]]:
    """Replace the records of closed segments that ended before a moment by their hashes.

    A ``pruned`` record goes first: without it, missing records are damage. What is kept of a segment is the log's
    opening, the record that ends the epoch, and its closing head. Returns the first record kept whole, and the
    segments changed. Raises as AuditLog.append and verify_log; FileError.
    """
    report = verify_log(log.path, key)
    ends = [began for began, _ in report.keys[1:]]
    paths = []
    minimum = 0
    for number, path in enumerate(closed_segments(log.path)[: len(ends)]):
        if _ended(path) >= before:
            break
        minimum = ends[number]
        if _is_whole(path):
            paths.append(path)
    if not paths:
        return report.pruned, []
    log.append(PRUNED, minimum=minimum, segments=[path.name for path in paths])
    with log.locked():
        for path in paths:
            _shorten(path)
    return minimum, paths


def _ended(path: Path) -> datetime:
    """When the segment's epoch ended."""
    record = parse(last_lines(path, 2)[0], str(path))
    if not isinstance(record, Record) or record.event != ROTATED:
        raise AuditTampered(f"{path}: the segment does not end with the end of its epoch")
    return parse_time(record.time, f"{path}: time")


def _is_whole(path: Path) -> bool:
    """A segment holds a head for each of its batches until it is pruned."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        heads = (line for line in file if line.startswith(HEAD_START))
        return next(heads, None) is not None and next(heads, None) is not None


def _shorten(path: Path) -> None:
    """Keep the opening and the last two lines, and of every other record its hash."""
    held: deque[bytes] = deque()
    with (
        _files.failures(path),
        open(_files.open_regular(path), "rb") as whole,
        _files.atomic_write(path, mode=0o600) as file,
    ):
        for line in whole:
            held.append(line)
            if len(held) > 2:
                file.write(_hashed(held.popleft(), str(path)))
        file.writelines(held)


def _hashed(line: bytes, source: str) -> bytes:
    if line.startswith(PRUNED_START):
        return line
    value = parse(line[:-1], source)
    if isinstance(value, Head):
        return b""
    opening = isinstance(value, Record) and value.seq == 0
    return line if opening else Pruned(leaf=merkle.leaf_hash(line[:-1])).to_line() + b"\n"
