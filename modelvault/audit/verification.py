"""Verify a log with the public key of its first epoch alone."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelvault import merkle
from modelvault._codec import b64encode
from modelvault.audit.lines import HEAD_START, PRUNED_START, Head, Pruned, Record, parse
from modelvault.audit.quick import Progress, QuickScan
from modelvault.audit.scan import Scan
from modelvault.audit.segments import Segment, last_lines, snapshot
from modelvault.audit.standing import Standing
from modelvault.checkpoint import Checkpoint, Note, verifier_key
from modelvault.errors import AuditTampered, FormatError, SignatureInvalid
from modelvault.keys import HostPublic


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """A log that is what its host signed: ``size`` records in ``heads`` batches under ``root``.

    ``key`` is the first epoch's, ``verifier`` the present epoch's in the text form of Go's sumdb/note. Of the first
    ``pruned`` records only hashes are left. ``head`` is the last head, a signed checkpoint; ``keys`` are all epochs'.
    """

    path: Path
    origin: str
    key: str
    verifier: str
    size: int
    heads: int
    root: bytes
    epoch: int
    pruned: int
    head: str
    keys: tuple[tuple[int, HostPublic], ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": "ok",
            "log": str(self.path),
            "origin": self.origin,
            "key": self.key,
            "verifier": self.verifier,
            "records": self.size,
            "pruned": self.pruned,
            "heads": self.heads,
            "epochs": self.epoch + 1,
            "root": b64encode(self.root),
        }


def verify_log(
    path: str | os.PathLike[str],
    key: HostPublic,
    *,
    against: str | None = None,
    visit: Callable[[Record], None] | None = None,
    visit_leaf: Callable[[bytes, bytes | None], None] | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Check every line of a log, live or copied; then hand its records, or leaf hashes and lines, to a visitor.

    ``key`` is the host's first key; those of later epochs follow from it. ``against`` is a checkpoint of this log that
    was kept elsewhere: the log must extend it. ``progress`` is told bytes as they are read.

    AuditTampered says in ``verdict`` what is wrong: modified, forked, unknown-key, unsealed, torn, and with a kept
    checkpoint truncated and rollback. A log cut off at a head is whole in itself: that it was longer can only be known
    from a checkpoint kept elsewhere. Raises FileError; FormatError where ``against`` is no checkpoint.
    """
    path = Path(path)
    kept = _kept(against) if against is not None else None
    with snapshot(path) as segments:
        standing, watched = _read(path, segments, key, kept[1].size if kept else None, progress)
        head = _last_head(segments, standing)
        if kept:
            _extends(path, standing, watched, *kept)
        if visit or visit_leaf:
            _visit(path, segments, standing.tree.root(), visit, visit_leaf)
    return AuditReport(
        path=path,
        origin=standing.origin,
        key=key.fingerprint,
        verifier=verifier_key(standing.origin, standing.key),
        size=standing.tree.size,
        heads=standing.batch,
        root=standing.tree.root(),
        epoch=standing.epoch,
        pruned=standing.dropped,
        head=head,
        keys=standing.keys,
    )


def read_records(path: str | os.PathLike[str], key: HostPublic) -> list[Record]:
    """Every record of a verified log, but those that were pruned."""
    records: list[Record] = []
    verify_log(path, key, visit=records.append)
    return records


def read_leaves(path: str | os.PathLike[str], key: HostPublic) -> tuple[AuditReport, list[bytes]]:
    """A verified log's leaf hashes, in order: what proofs are made of."""
    leaves: list[bytes] = []
    report = verify_log(path, key, visit_leaf=lambda leaf, line: leaves.append(leaf))
    return report, leaves


def read_entries(path: str | os.PathLike[str], key: HostPublic) -> tuple[AuditReport, list[bytes], list[bytes | None]]:
    """A verified log's leaf hashes and the records' lines; None for those that were pruned."""
    leaves: list[bytes] = []
    entries: list[bytes | None] = []

    def visit(leaf: bytes, line: bytes | None) -> None:
        leaves.append(leaf)
        entries.append(line)

    return verify_log(path, key, visit_leaf=visit), leaves, entries


def _read(
    path: Path, segments: Sequence[Segment], key: HostPublic, watch: int | None, progress: Progress | None
) -> tuple[Standing, bytes | None]:
    """The fast reading; where it is not sure, the precise one. Also the root of the first ``watch`` records."""
    quick = QuickScan(Standing.first(key), watch=watch, progress=progress)
    if quick.accepts(segments):
        return quick.standing, quick.watched
    for segment in segments:
        segment.file.seek(0)
    scan = Scan(Standing.first(key), watch=watch)
    scan.run_all(segments)
    if scan.committed.tree.size == 0:
        raise AuditTampered(f"{path}: no signed head: nothing vouches for this log", verdict="unsealed")
    if scan.torn_line is not None:
        raise AuditTampered(
            f"{path}: line {scan.torn_line}: what follows the last head was never committed",
            verdict="torn",
            line=scan.torn_line,
        )
    return scan.committed, scan.watched


def _kept(text: str) -> tuple[Note, Checkpoint]:
    note = Note.from_text(text, "saved checkpoint")
    return note, Checkpoint.from_text(note.text, "saved checkpoint")


def _extends(path: Path, standing: Standing, root: bytes | None, note: Note, saved: Checkpoint) -> None:
    """AuditTampered unless the log contains all that the kept checkpoint covers."""
    if saved.origin != standing.origin:
        raise AuditTampered(
            f"{path}: log {standing.origin}, the saved checkpoint is of {saved.origin}", verdict="rollback"
        )
    if saved.size > standing.tree.size:
        raise AuditTampered(
            f"{path}: {standing.tree.size} records, the saved checkpoint covers {saved.size}", verdict="truncated"
        )
    key = standing.key_at(saved.size)
    try:
        if key is None or not note.signed_by(saved.origin, key):
            raise AuditTampered("saved checkpoint: not signed by this log's key", verdict="unknown-key")
    except SignatureInvalid as error:
        raise AuditTampered(f"saved checkpoint: {error}", verdict="unknown-key") from None
    if root != saved.root:
        raise AuditTampered(
            f"{path}: the first {saved.size} records are not those of the saved checkpoint", verdict="rollback"
        )


def last_note(path: Path) -> str:
    """The signed checkpoint in the last line of a file that ends with a head. Raises FileError, FormatError."""
    return _note(last_lines(path, 1)[0], str(path))


def _note(line: bytes, source: str) -> str:
    head = parse(line, source)
    if not isinstance(head, Head):
        raise FormatError(f"{source}: the last line is no head")
    return head.note.to_text()


def _last_head(segments: Sequence[Segment], standing: Standing) -> str:
    """The last head of a snapshot, whatever was written since."""
    if not standing.offset:  # the open segment is still empty
        return last_note(segments[-2].path)
    file = segments[-1].file
    file.seek(standing.head)
    return _note(file.read(standing.offset - standing.head - 1), str(segments[-1].path))


def _visit(
    path: Path,
    segments: Sequence[Segment],
    root: bytes,
    visit: Callable[[Record], None] | None,
    visit_leaf: Callable[[bytes, bytes | None], None] | None,
) -> None:
    """A second reading, of a log found good: hands out records, and makes sure that they are the same ones."""
    tree = merkle.Tree()
    for line, source in _record_lines(segments):
        try:
            value = parse(line, source) if visit or line.startswith(PRUNED_START) else None
        except FormatError as error:
            raise AuditTampered(str(error)) from None
        pruned = isinstance(value, Pruned)
        leaf = value.leaf if isinstance(value, Pruned) else merkle.leaf_hash(line)
        tree.append(leaf)
        if visit_leaf:
            visit_leaf(leaf, None if pruned else line)
        if visit and isinstance(value, Record):
            visit(value)
    if tree.root() != root:
        raise AuditTampered(f"{path}: changed while it was being read")


def _record_lines(segments: Sequence[Segment]) -> Iterator[tuple[bytes, str]]:
    for segment in segments:
        segment.file.seek(0)
        left, number = segment.size, 0
        while left:
            line = segment.file.readline(left)
            left -= len(line)
            number += 1
            if not line:
                return
            if not line.startswith(HEAD_START):
                yield line[:-1], f"{segment.path}: line {number}"
