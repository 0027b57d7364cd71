"""Read on in a log from a place that was reached before, up to a standing that is known to be good."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modelvault import _files, merkle
from modelvault.audit.lines import HEAD_START, MAX_LINE, Pruned, Record, parse
from modelvault.audit.segments import segment_path
from modelvault.audit.standing import Standing
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


def replay(log: Path, start: Place, at: Standing, visit: Callable[[Record], None]) -> bool:
    """Hand the records between ``start`` and ``at`` to ``visit``; False where some of them were pruned.

    The caller holds the log's lock. AuditTampered unless the lines are those under the root of ``at``; ``visit`` has
    seen some of them by then. Raises FileError.
    """
    tree, whole = merkle.Tree(start.size, start.edge), True
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
            whole = False
    if tree.root() != at.tree.root():
        raise AuditTampered(f"{log}: records before line {at.tree.size} are not those under the last head")
    return whole


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
        path = log if epoch == at.epoch else segment_path(log, epoch)
        with _files.failures(path), open(_files.open_regular(path), "rb") as file:
            done = file.seek(start.offset if epoch == start.epoch else 0)
            limit = at.offset if epoch == at.epoch else 2**63
            while done < limit and (line := file.readline(min(MAX_LINE + 2, limit - done))):
                done += len(line)
                yield line.removesuffix(b"\n"), f"{path}: record"
