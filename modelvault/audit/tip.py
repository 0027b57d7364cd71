"""Where the log ends: from a small state file when it fits the log, else by reading the log."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from modelvault import _files, merkle
from modelvault._codec import Fields, json_decode, json_encode
from modelvault.audit.lines import MAX_LINE, Head, parse
from modelvault.audit.scan import Scan
from modelvault.errors import AuditTampered, FileError, FormatError
from modelvault.keys import HostPublic

MAX_STATE = 16 * 2**10


@dataclass(slots=True)
class Tip:
    """The committed end: ``offset`` bytes hold ``tree.size`` records in ``batch`` batches; ``torn`` bytes follow."""

    origin: str = ""
    offset: int = 0
    head: int = 0
    batch: int = 0
    torn: int = 0
    tree: merkle.Tree = field(default_factory=merkle.Tree)


def state_path(log: Path) -> Path:
    return log.with_name(log.name + ".state")


def write_state(log: Path, tip: Tip) -> None:
    """A cache: losing it costs a reading of the log, so it is neither synced nor required."""
    value = {"origin": tip.origin, "offset": tip.offset, "head": tip.head, "batch": tip.batch, "size": tip.tree.size}
    data = json_encode({**value, "edge": [h.hex() for h in tip.tree.edge]})
    temporary = log.with_name(f".{log.name}.state.tmp")
    with contextlib.suppress(OSError):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(state_path(log))


def find_tip(log: Path, descriptor: int, key: HostPublic) -> Tip:
    """The tip of the locked log. AuditTampered where the log is not one that ``key`` closed."""
    size = os.fstat(descriptor).st_size
    tip = _remembered(log, descriptor, size, key) or Tip()
    if tip.offset == size:
        return tip
    scan = Scan(key=key, source=str(log), origin=tip.origin, tree=tip.tree, batch=tip.batch, line=tip.tree.size)
    with open(os.dup(descriptor), "rb") as file:
        file.seek(tip.offset)
        scan.run(file, size - tip.offset)
    if scan.committed is None:
        tip.torn = size - tip.offset
        return tip
    done = scan.committed
    offset = tip.offset + done.offset
    return Tip(
        origin=scan.origin, offset=offset, head=tip.offset + done.head, batch=done.batch, torn=size - offset,
        tree=done.tree,
    )  # fmt: skip


def _remembered(log: Path, descriptor: int, size: int, key: HostPublic) -> Tip | None:
    """The state file's tip, if it parses and the log's line there is a head that says the same."""
    try:
        fields = Fields(
            json_decode(_files.read_bytes(state_path(log), limit=MAX_STATE), "state", limit=MAX_STATE), "state"
        )
        edge = [bytes.fromhex(h) for h in fields.texts("edge", limit=64)]
        tip = Tip(
            origin=fields.text("origin"),
            offset=fields.integer("offset"),
            head=fields.integer("head"),
            batch=fields.integer("batch"),
            tree=merkle.Tree(fields.integer("size"), edge),
        )
    except (FormatError, FileError, ValueError):
        return None
    if tip.offset > size:
        raise AuditTampered(f"{log}: {size} bytes, but {tip.offset} were committed", verdict="truncated", line=None)
    return tip if _head_agrees(descriptor, tip, key) else None


def _head_agrees(descriptor: int, tip: Tip, key: HostPublic) -> bool:
    length = tip.offset - tip.head
    if not 0 < length <= MAX_LINE:
        return False
    line = os.pread(descriptor, length, tip.head)
    try:
        head = parse(line.removesuffix(b"\n"), "state")
    except FormatError:
        return False
    if not isinstance(head, Head) or not line.endswith(b"\n"):
        return False
    stands = head.checkpoint
    if (stands.origin, stands.size, stands.root) != (tip.origin, tip.tree.size, tip.tree.root()):
        return False
    return head.note.signed_by(tip.origin, key)
