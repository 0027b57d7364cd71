"""Verify a log with the host's public key alone."""

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import b64encode
from modelvault.audit.lines import Record
from modelvault.audit.scan import Scan
from modelvault.checkpoint import verifier_key
from modelvault.errors import AuditTampered
from modelvault.keys import HostPublic


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """A log that is what its host signed: ``size`` records in ``heads`` batches under ``root``."""

    path: Path
    origin: str
    key: str
    verifier: str
    size: int
    heads: int
    root: bytes

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": "ok",
            "log": str(self.path),
            "origin": self.origin,
            "key": self.key,
            "verifier": self.verifier,
            "records": self.size,
            "heads": self.heads,
            "root": b64encode(self.root),
        }


def verify_log(
    path: str | os.PathLike[str], key: HostPublic, *, visit: Callable[[Record], None] | None = None
) -> AuditReport:
    """Check every line of a log, live or copied, and hand its records to ``visit``.

    AuditTampered says in ``verdict`` what is wrong: modified, forked, unknown-key, unsealed, torn. A log cut off at a
    head is whole in itself: that it was longer can only be known from a checkpoint kept elsewhere.
    """
    path = Path(path)
    scan = Scan(key=key, source=str(path), visit=visit)
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        scan.run(file, _snapshot(file.fileno()))
    done = scan.committed
    if done is None:
        raise AuditTampered(f"{path}: no signed head: nothing vouches for this log", verdict="unsealed")
    if scan.torn_line is not None:
        raise AuditTampered(
            f"{path}: line {scan.torn_line}: records after the last head were never committed",
            verdict="torn",
            line=scan.torn_line,
        )
    return AuditReport(
        path=path,
        origin=scan.origin,
        key=key.fingerprint,
        verifier=verifier_key(scan.origin, key),
        size=done.tree.size,
        heads=done.batch,
        root=done.tree.root(),
    )


def read_records(path: str | os.PathLike[str], key: HostPublic) -> list[Record]:
    """Every record of a verified log."""
    records: list[Record] = []
    verify_log(path, key, visit=records.append)
    return records


def _snapshot(descriptor: int) -> int:
    """The log's size between two appends: a running writer is not damage."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        return os.fstat(descriptor).st_size
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
