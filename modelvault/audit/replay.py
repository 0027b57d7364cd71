"""Read on in a log from a place that was reached before, up to a standing that is known to be good."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelvault import _files, merkle
from modelvault._codec import json_encode
from modelvault.audit.lines import HEAD_START, MAX_LINE, Pruned, Record, parse
from modelvault.audit.segments import segment_path
from modelvault.audit.standing import Standing
from modelvault.checkpoint import Checkpoint
from modelvault.errors import AuditTampered, FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The end of a batch: ``offset`` bytes into the segment of ``epoch``, after ``size`` records under ``edge``."""

    epoch: int = 0
    offset: int = 0
    size: int = 0
    edge: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, at: Standing) -> "Place":
        return cls(epoch=at.epoch, offset=at.offset, size=at.tree.size, edge=tuple(at.tree.edge))


def replay(log: Path, start: Place, at: Standing, visit: Callable[[Record], None], missing: Callable[[], None]) -> None:
    """Hand the records between ``start`` and ``at`` to ``visit``; ``missing`` is called for those that were pruned.

    The caller holds the log's lock. AuditTampered unless the lines are those under the root of ``at``; ``visit`` has
    seen some of them by then. Raises FileError.
    """
    tree = merkle.Tree(start.size, start.edge)
    for line, source in _lines(log, start, at):
        if line.startswith(HEAD_START):
            continue
        try:
            value = parse(line, source)
        except FormatError as error:
            raise AuditTampered(str(error)) from None
        if isinstance(value, Record):
            tree.append(merkle.leaf_hash(line))
            visit(value)
        elif isinstance(value, Pruned):
            tree.append(value.leaf)
            missing()
    if tree.root() != at.tree.root():
        raise AuditTampered(f"{log}: records before line {at.tree.size} are not those under the last head")


def record_at(log: Path, place: Place, at: Standing) -> Record | None:
    """The record that begins at a place, or None where there is none."""
    for line, source in _lines(log, place, at):
        try:
            value = parse(line, source)
        except FormatError:
            return None
        return value if isinstance(value, Record) and value.seq == place.size else None
    return None


def _lines(log: Path, start: Place, at: Standing) -> Iterator[tuple[bytes, str]]:
    for epoch in range(start.epoch, at.epoch + 1):
        place = start if epoch == start.epoch else Place(epoch=epoch)
        yield from _segment(log, place, at if epoch == at.epoch else None)


def _segment(log: Path, start: Place, at: Standing | None) -> Iterator[tuple[bytes, str]]:
    """The lines of one segment from a place on; of the open one, those that ``at`` covers."""
    path = log if at else segment_path(log, start.epoch)
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        done = file.seek(start.offset)
        limit = at.offset if at else 2**63
        while done < limit and (line := file.readline(min(MAX_LINE + 2, limit - done))):
            done += len(line)
            yield line.removesuffix(b"\n"), f"{path}: record"


def holds_checkpoint(log: Path, checkpoint: Checkpoint, at: Standing) -> bool:
    """Whether one of the log's heads up to ``at`` is this checkpoint."""
    wanted = json_encode({"checkpoint": checkpoint.to_text()}).removesuffix(b'"}')  # the signatures follow
    for epoch in range(at.epoch, -1, -1):
        start = Place(epoch=epoch)
        until = at if epoch == at.epoch else None
        if any(line.startswith(wanted) for line, _ in _segment(log, start, until)):
            return True
    return False
