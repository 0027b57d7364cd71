"""Append to the audit log: under a lock, synced, and closed by a signed head before anybody relies on it."""

import contextlib
import copy
import logging
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from modelvault import _files, merkle
from modelvault._codec import b64encode, format_time, json_encode, parse_time
from modelvault.audit.keyfile import LogKey
from modelvault.audit.lines import MAX_LINE, RESERVED, ROTATED, Head, Record, digest
from modelvault.audit.openings import conceal
from modelvault.audit.segments import locked_file, segment_path
from modelvault.audit.standing import Standing
from modelvault.audit.tip import Tip, find_tip, write_state
from modelvault.auditterms import AuditTerms
from modelvault.checkpoint import Checkpoint, sign
from modelvault.errors import AuditTampered, AuditUnavailable, FileError, FormatError, ModelVaultError
from modelvault.keys import HostKey, HostPublic

ORIGIN_PREFIX = "modelvault/audit/"
OWN_FIELDS = 1024  # room in a line for what every record holds

Event = tuple[str, dict[str, Any]]


@dataclass(slots=True)
class _Waiting:
    """A record that a thread wants written, and what became of it."""

    event: Event
    record: Record | None = None
    error: ModelVaultError | None = None


_logs: "weakref.WeakSet[AuditLog]" = weakref.WeakSet()


class AuditLog:
    """One log, shared by any number of threads and processes of a host.

    Nothing about the file is remembered between appends: each takes the lock, finds the tip, writes, syncs. Records
    that threads append while another one is syncing go out together, in one batch.

    ``rotate_records`` and ``rotate_after`` end an epoch by count and by age; a key without a file cannot be rotated.
    The fields named by ``concealed`` are written as commitments, so that they can be redacted later.
    ``observe`` is told every record that this object wrote.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: HostKey | LogKey,
        *,
        rotate_records: int | None = None,
        rotate_after: timedelta | None = None,
        concealed: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self.rotate_records = rotate_records
        self.rotate_after = rotate_after
        self.concealed = tuple(concealed)
        self.observe: Callable[[Record], None] | None = None
        self._key = key if isinstance(key, LogKey) else LogKey(key)
        self._broken: str | None = None
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """Nobody waits or writes: at the start, and in a forked process, where the parent's threads do not exist."""
        self._waiting: list[_Waiting] = []
        self._queue = threading.Lock()
        self._writer = threading.Lock()
        self._held: int | None = None

    def __repr__(self) -> str:
        return f"<AuditLog {self.path}>"

    @property
    def key_fingerprint(self) -> str:
        """The host key that an auditor pins: the first epoch's."""
        return self._key.first.fingerprint

    def obey(self, terms: AuditTerms) -> None:
        """Take over when to rotate and what to conceal, where the trust policy says so."""
        self.rotate_records = terms.rotate_records or self.rotate_records
        self.rotate_after = terms.rotate_after or self.rotate_after
        self.concealed = terms.conceal or self.concealed

    def append(self, event: str, **fields: Any) -> Record:
        """Write one record and its head; when this returns, both are on disk.

        Raises AuditUnavailable where that can't be done, AuditTampered where the log is not what this host wrote,
        FormatError for a record that is too long.
        """
        if clash := RESERVED & fields.keys():
            raise ValueError(f"audit field {sorted(clash)[0]!r} is reserved")
        if (length := len(json_encode(fields))) > MAX_LINE - OWN_FIELDS:
            raise FormatError(f"audit record: {length} bytes, above the limit of {MAX_LINE - OWN_FIELDS}")
        if self.concealed:
            fields = conceal(self.path, fields, self.concealed)
        mine = _Waiting((event, fields))
        with self._queue:
            self._waiting.append(mine)
        with self._writer:
            if mine.record is None and mine.error is None:
                self._write_waiting()
        if mine.error is not None:
            raise copy.copy(mine.error)
        assert mine.record is not None
        if self.observe:
            self._tell(mine.record)
        return mine.record

    def _tell(self, record: Record) -> None:
        """Whoever watches may fail: the record stands."""
        try:
            if self.observe:
                self.observe(record)
        except Exception:
            logging.getLogger("modelvault.audit").exception("observer failed")

    def rotate(self, reason: str = "asked") -> Record:
        """End the epoch: name the next key, sign a last time with the present one and erase it, begin a new segment.

        Raises AuditUnavailable, AuditTampered.
        """
        with self._writer:
            return self._commit_all([], rotate=reason)[0]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every writer, and every reader that begins, out of the log."""
        with self._writer, self._locked():
            yield

    def _write_waiting(self) -> None:
        with self._queue:
            batch, self._waiting = self._waiting, []
        try:
            records = self._commit_all([w.event for w in batch])
        except BaseException as error:
            failure = error if isinstance(error, ModelVaultError) else AuditUnavailable(f"{self.path}: interrupted")
            for waiting in batch:
                waiting.error = failure
            if failure is not error:
                raise
            return
        for waiting, record in zip(batch, records, strict=True):
            waiting.record = record

    def _commit_all(self, events: list[Event], *, rotate: str | None = None) -> list[Record]:
        """One batch for all events; or the end of the epoch, when ``rotate`` says why."""
        while True:
            with self._locked() as descriptor:
                tip = self._tip(descriptor)
                reason = rotate or self._due(tip.at)
                if tip.at.ended:
                    self._close_segment(tip.at)
                elif reason:
                    records = self._end_epoch(descriptor, tip.at, reason)
                    self._close_segment(tip.at)
                    if rotate:
                        return records
                else:
                    return self._write(descriptor, tip.at, events)

    def _due(self, at: Standing) -> str | None:
        """Why the epoch must end now, if it must. A clock that stepped back only delays it."""
        if self.rotate_records is not None and at.tree.size - at.began >= self.rotate_records:
            return "count"
        if self.rotate_after is not None and at.since:
            age = datetime.now(UTC) - parse_time(at.since, "since")
            return "age" if age >= self.rotate_after else None
        return None

    def _end_epoch(self, descriptor: int, at: Standing, reason: str) -> list[Record]:
        following = self._key.prepare()
        fields = {"next": following.public.fingerprint, "public": b64encode(following.public.public_bytes)}
        records = self._write(descriptor, at, [(ROTATED, {**fields, "reason": reason})], following.public)
        self._key.adopt(following)
        return records

    def _close_segment(self, at: Standing) -> None:
        """Give the ended segment its number; the next append begins a new file."""
        self._key.of(at.key, self.path)
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
            tip = find_tip(self.path, descriptor, self._key.first)
        except FormatError as error:
            raise AuditTampered(str(error)) from None
        except FileError as error:
            raise AuditUnavailable(str(error)) from None
        self._key.of(tip.at.key, self.path)
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
        head = Head(checkpoint=checkpoint, note=sign(checkpoint, self._key.of(at.key, self.path))).to_line()
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
    def _locked(self) -> Iterator[int]:
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
        boot=_boot_id(),
        pid=os.getpid(),
        event=event,
        prev=at.prev if first and at.prev else None,
        fields=fields,
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _begin_all() -> None:
    for log in list(_logs):
        if log._held is not None:
            os.close(log._held)  # else the parent's lock would outlive the parent
        log._begin()


os.register_at_fork(after_in_child=_begin_all)
