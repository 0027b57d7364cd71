"""Write to the log's files: lock, find the tip, append a batch with its head, sync; end epochs, recover."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files, merkle
from modelvault._codec import b64encode, format_time
from modelvault.audit.keyfile import LogKey
from modelvault.audit.lines import ROTATED, Head, Record, digest
from modelvault.audit.segments import locked_file, segment_path
from modelvault.audit.standing import Standing
from modelvault.audit.tip import Tip, find_tip, write_state
from modelvault.checkpoint import Checkpoint, sign
from modelvault.errors import AuditTampered, AuditUnavailable, FileError, FormatError
from modelvault.keys import HostPublic

ORIGIN_PREFIX = "modelvault/audit/"

Event = tuple[str, dict[str, Any]]
Decide = Callable[[Standing], list[Event]]


class LogFile:
    """The files of one log. Nothing about them is remembered between calls; one thread at a time."""

    def __init__(self, path: Path, key: LogKey) -> None:
        self.path = path
        self.key = key
        self._broken: str | None = None
        self._held: int | None = None

    def commit(self, decide: Decide, due: Callable[[Standing], str | None]) -> list[Record]:
        """One batch for the events decided on; first the end of the epoch, while ``due`` gives a reason for it.

        ``decide`` is called under the lock. Raises AuditUnavailable, AuditTampered, FormatError.
        """
        while True:
            with self.locked() as descriptor:
                at = self._tip(descriptor).at
                if at.ended:
                    self._close_segment(at)
                elif reason := due(at):
                    self._end_epoch(descriptor, at, reason)
                    self._close_segment(at)
                else:
                    events = decide(at)
                    return self._write(descriptor, at, events) if events else []

    def rotate(self, reason: str) -> Record:
        """End the epoch; its last record. Raises as commit."""
        while True:
            with self.locked() as descriptor:
                at = self._tip(descriptor).at
                record = None if at.ended else self._end_epoch(descriptor, at, reason)
                self._close_segment(at)
                if record:
                    return record

    def leave_fork(self) -> None:
        """In a forked process: else the parent's lock would outlive the parent."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _end_epoch(self, descriptor: int, at: Standing, reason: str) -> Record:
        following = self.key.prepare()
        fields = {"next": following.public.fingerprint, "public": b64encode(following.public.public_bytes)}
        records = self._write(descriptor, at, [(ROTATED, {**fields, "reason": reason})], following.public)
        self.key.adopt(following)
        return records[0]

    def _close_segment(self, at: Standing) -> None:
        """Give the ended segment its number; the next append begins a new file."""
        self.key.of(at.key, self.path)
        closed = segment_path(self.path, at.epoch - 1)
        if closed.exists():
            raise AuditTampered(f"{closed}: stands where the ended segment belongs", verdict="forked")
        with self._failures():
            self.path.rename(closed)
            at.next_segment()
            write_state(self.path, at)
            self.path.touch(mode=0o600)
            _files.sync_folder(self.path.parent)

    def _tip(self, descriptor: int) -> Tip:
        """The committed end of the log; opens a new log, and puts a torn tail aside."""
        try:
            tip = find_tip(self.path, descriptor, self.key.first)
        except FormatError as error:
            raise AuditTampered(str(error)) from None
        except FileError as error:
            raise AuditUnavailable(str(error)) from None
        self.key.of(tip.at.key, self.path)
        count, name = tip.torn, ""
        if tip.torn:
            name = self._quarantine(descriptor, tip)
        if tip.at.origin == "":
            tip.at.origin = ORIGIN_PREFIX + secrets.token_hex(8)
            opened = {"origin": tip.at.origin, "key": tip.at.key.fingerprint}
            opened["public"] = b64encode(tip.at.key.public_bytes)
            self._write(descriptor, tip.at, [("opened", opened)])
        elif count and not tip.at.ended:
            self._write(descriptor, tip.at, [("recovered", {"quarantined": name, "bytes": count})])
        return tip

    def _quarantine(self, descriptor: int, tip: Tip) -> str:
        """Keep what follows the last head in a side file, and cut the log there."""
        name = f"{self.path.name}.torn-{tip.at.tree.size}-{secrets.token_hex(4)}"
        with self._failures():
            with (
                _files.atomic_write(self.path.with_name(name), mode=0o600) as side,
                open(os.dup(descriptor), "rb") as torn,
            ):
                torn.seek(tip.at.offset)
                shutil.copyfileobj(torn, side)
            os.ftruncate(descriptor, tip.at.offset)
        tip.torn = 0
        return name

    def _write(
        self, descriptor: int, at: Standing, events: list[Event], following: HostPublic | None = None
    ) -> list[Record]:
        """One batch: records, head, one sync. ``at`` moves on only when all of it is on disk.

        ``following`` is the key that the batch hands over to.
        """
        tree = merkle.Tree(at.tree.size, at.tree.edge)
        records, data = [], bytearray()
        for number, (event, fields) in enumerate(events):
            record = _record(at, tree.size, event, fields, first=number == 0)
            line = record.to_line()
            tree.append(merkle.leaf_hash(line))
            data += line + b"\n"
            records.append(record)
        checkpoint = Checkpoint(origin=at.origin, size=tree.size, root=tree.root())
        head = Head(checkpoint=checkpoint, note=sign(checkpoint, self.key.of(at.key, self.path))).to_line()
        start = at.offset + len(data)
        self._commit(descriptor, bytes(data) + head + b"\n", at.offset)
        if at.tree.size == at.began:
            at.since = records[0].time
        at.tree, at.batch, at.prev = tree, at.batch + 1, digest(head)
        at.head, at.offset = start, start + len(head) + 1
        if following:
            at.hand_over(following)
        write_state(self.path, at)
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
        except FileError as error:
            raise AuditUnavailable(str(error)) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """A descriptor of the open segment, locked against every other writer."""
        if self._broken:
            raise AuditUnavailable(self._broken)
        with contextlib.ExitStack() as stack:
            with self._failures():
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._held = stack.enter_context(locked_file(self.path))
            stack.callback(setattr, self, "_held", None)
            yield self._held


def _record(at: Standing, seq: int, event: str, fields: dict[str, Any], *, first: bool) -> Record:
    return Record(
        seq=seq,
        batch=at.batch,
        epoch=at.epoch,
        time=format_time(datetime.now(UTC)),
        boot=boot_id(),
        pid=os.getpid(),
        event=event,
        prev=at.prev if first and at.prev else None,
        fields=fields,
    )


def boot_id() -> str:
    """The kernel's name for this run of the machine; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
