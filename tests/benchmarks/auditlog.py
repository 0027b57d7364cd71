"""Rates of the audit log: python tests/benchmarks/auditlog.py [--records 1000000] [--json]

Appends with and without the sync, one thread and several; then verifies a log of many records, one head a record (the
loader's way) and one head a hundred (under load). What is measured side by side is printed as a ratio, too.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from modelvault.audit import AuditLog, LogKey, verify_log
from modelvault.audit.standing import Standing
from modelvault.audit.tip import find_tip
from modelvault.keys import HostKey

RECORD = {
    "load": "0123456789abcdef",
    "file": "fraud-detector.mvlt",
    "model": {"name": "fraud-detector", "version": "2.4.1"},
    "statement": "ab" * 32,
    "publisher": "acme",
    "recipient": "SHA256:" + "A" * 43,
}


@contextmanager
def _no_sync() -> Iterator[None]:
    with mock.patch.object(os, "fdatasync"):
        yield


def _rate(count: int, work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def _append(log: AuditLog, count: int) -> None:
    for _ in range(count):
        log.append("load.intent", **RECORD)


def _append_from_threads(log: AuditLog, count: int, threads: int) -> None:
    workers = [threading.Thread(target=_append, args=(log, count // threads)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def appending(folder: Path, count: int) -> dict[str, float]:
    log = AuditLog(folder / "append.log", HostKey.generate())
    _append(log, 10)
    synced = _rate(count, lambda: _append(log, count))
    together = _rate(count, lambda: _append_from_threads(log, count, 16))
    with _no_sync():
        unsynced = _rate(count, lambda: _append(log, count))
    return {"append_per_s": synced, "append_16_threads_per_s": together, "append_without_sync_per_s": unsynced}


def fill(path: Path, host: HostKey, records: int, batch: int) -> None:
    """A log as AuditLog writes it, made faster: one lock and no sync for all of it."""
    log = AuditLog(path, host)
    log.append("load.intent", **RECORD)
    with _no_sync(), log._file.locked() as descriptor:
        at: Standing = find_tip(path, descriptor, LogKey(host).first).at
        with mock.patch("modelvault.audit.writing.write_state"):
            for _ in range((records - at.tree.size) // batch):
                log._file._write(descriptor, at, [("load.intent", RECORD)] * batch)


def verifying(folder: Path, records: int, batch: int) -> dict[str, float]:
    host = HostKey.generate()
    path = folder / f"verify-{batch}.log"
    fill(path, host, records, batch)
    began = time.perf_counter()
    report = verify_log(path, host.public)
    seconds = time.perf_counter() - began
    size = path.stat().st_size
    path.unlink()
    return {"records": report.size, "heads": report.heads, "mb": size / 1e6, "seconds": seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--appends", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="On the disk to measure. Default: the temporary folder.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        result: dict[str, Any] = {"append": appending(folder, options.appends)}
        for batch in (1, 100):
            result[f"verify_batches_of_{batch}"] = verifying(folder, options.records, batch)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(result, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
