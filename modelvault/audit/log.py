"""Append to the audit log: under a lock, synced, and closed by a signed head before anybody relies on it."""

import contextlib
import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files, merkle
from modelvault._codec import b64encode, format_time
from modelvault.audit.lines import RESERVED, Head, Record
from modelvault.audit.tip import Tip, find_tip, write_state
from modelvault.checkpoint import Checkpoint, sign
from modelvault.errors import AuditTampered, AuditUnavailable, FormatError
from modelvault.keys.remote import HostSigner

LOCK_SECONDS = 30.0
EPOCH = 0
ORIGIN_PREFIX = "modelvault/audit/"


class AuditLog:
    """One log file, shared by any number of threads and processes of a host.

    Nothing about the file is remembered between appends: each takes the lock, finds the tip, writes, syncs.
    """

    def __init__(self, path: str | os.PathLike[str], key: HostSigner) -> None:
        self.path = Path(path)
        self._key = key
        self._broken: str | None = None
        self._thread = threading.Lock()

    def __repr__(self) -> str:
        return f"<AuditLog {self.path}>"

    @property
    def key_fingerprint(self) -> str:
        """The host key that signs this log."""
        return self._key.public.fingerprint

    def append(self, event: str, **fields: Any) -> Record:
        """Write one record and its head; when this returns, both are on disk.

        Raises AuditUnavailable where that can't be done, AuditTampered where the log is not what this host wrote.
        """
        if clash := RESERVED & fields.keys():
            raise ValueError(f"audit field {sorted(clash)[0]!r} is reserved")
        with self._thread, self._locked() as descriptor:
            tip = self._tip(descriptor)
            return self._write(descriptor, tip, [(event, fields)])[-1]

    def _tip(self, descriptor: int) -> Tip:
        """The committed end of the log; opens a new log, and puts a torn tail aside."""
        try:
            tip = find_tip(self.path, descriptor, self._key.public)
        except FormatError as error:
            raise AuditTampered(str(error)) from None
        if tip.origin == "":
            if tip.torn:
                self._quarantine(descriptor, tip)
            tip.origin = ORIGIN_PREFIX + secrets.token_hex(8)
            opened = {"origin": tip.origin, "key": self._key.public.fingerprint}
            opened["public"] = b64encode(self._key.public.public_bytes)
            self._write(descriptor, tip, [("opened", opened)])
        elif tip.torn:
            count = tip.torn
            name = self._quarantine(descriptor, tip)
            self._write(descriptor, tip, [("recovered", {"quarantined": name, "bytes": count})])
        return tip

    def _quarantine(self, descriptor: int, tip: Tip) -> str:
        """Keep what follows the last head in a side file, and cut the log there."""
        name = f"{self.path.name}.torn-{tip.tree.size}-{secrets.token_hex(4)}"
        with self._failures():
            _files.write_bytes(self.path.with_name(name), os.pread(descriptor, tip.torn, tip.offset), mode=0o600)
            os.ftruncate(descriptor, tip.offset)
        tip.torn = 0
        return name

    def _write(self, descriptor: int, tip: Tip, events: list[tuple[str, dict[str, Any]]]) -> list[Record]:
        """One batch: records, head, one sync. ``tip`` moves on only when all of it is on disk."""
        tree = merkle.Tree(tip.tree.size, tip.tree.edge)
        records = []
        data = b""
        for event, fields in events:
            record = _record(tree.size, tip.batch, event, fields)
            line = record.to_line()
            tree.append(merkle.leaf_hash(line))
            data += line + b"\n"
            records.append(record)
        checkpoint = Checkpoint(origin=tip.origin, size=tree.size, root=tree.root())
        head = Head(checkpoint=checkpoint, note=sign(checkpoint, self._key)).to_line() + b"\n"
        self._commit(descriptor, data + head, tip.offset)
        tip.tree, tip.batch = tree, tip.batch + 1
        tip.head, tip.offset = tip.offset + len(data), tip.offset + len(data) + len(head)
        write_state(self.path, tip)
        return records

    def _commit(self, descriptor: int, data: bytes, offset: int) -> None:
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], offset + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, offset)
            raise AuditUnavailable(f"{self.path}: {_files.reason(error)}") from None
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            # The kernel may have dropped the pages: what a later sync says about them means nothing.
            self._broken = f"{self.path}: could not be synced ({_files.reason(error)})"
            raise AuditUnavailable(self._broken) from None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AuditUnavailable(f"{self.path}: {_files.reason(error)}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """A descriptor of the log, locked against every other writer. flock: closing another one keeps it."""
        if self._broken:
            raise AuditUnavailable(self._broken)
        with self._failures():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = _open_locked(self.path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        created = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if created:
                _files.sync_folder(path.parent)
            _flock(descriptor, deadline)
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was replaced while we waited


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise OSError(errno.EDEADLK, "lock held by another process") from None
            time.sleep(0.001)
        else:
            return


def _record(seq: int, batch: int, event: str, fields: dict[str, Any]) -> Record:
    moment = format_time(datetime.now(UTC))
    return Record(
        seq=seq, batch=batch, epoch=EPOCH, time=moment, boot=_boot_id(), pid=os.getpid(), event=event, fields=fields
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
