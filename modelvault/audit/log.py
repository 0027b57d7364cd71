"""Append to the audit log, from any number of threads and processes."""

import contextlib
import copy
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from modelvault._codec import json_encode, parse_time
from modelvault.audit.keyfile import LogKey
from modelvault.audit.lines import MAX_LINE, MEMORY, RESERVED, Record
from modelvault.audit.openings import conceal
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Decide, Event, LogFile
from modelvault.auditterms import AuditTerms
from modelvault.errors import AuditUnavailable, FormatError, ModelVaultError
from modelvault.keys.remote import HostSigner

OWN_FIELDS = 1024  # room in a line for what every record holds


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
    The fields named by ``concealed`` are written as commitments, so that they can be redacted later, all but those that
    counting depends on.
    ``observe`` is told every record that this object wrote.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: HostSigner | LogKey,
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
        self._file = LogFile(self.path, key if isinstance(key, LogKey) else LogKey(key))
        self._begin()
        _logs.add(self)

    def _begin(self) -> None:
        """Nobody waits or writes: at the start, and in a forked process, where the parent's threads do not exist."""
        self._waiting: list[_Waiting] = []
        self._queue = threading.Lock()
        self._writer = threading.Lock()

    def __repr__(self) -> str:
        return f"<AuditLog {self.path}>"

    @property
    def key_fingerprint(self) -> str:
        """The host key that an auditor pins: the first epoch's."""
        return self._file.key.first.fingerprint

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
        mine = _Waiting(self._prepared((event, fields)))
        with self._queue:
            self._waiting.append(mine)
        with self._writer:
            if mine.record is None and mine.error is None:
                self._write_waiting()
        if mine.error is not None:
            raise copy.copy(mine.error)
        assert mine.record is not None
        self._tell(mine.record)
        return mine.record

    def append_decided(self, decide: Decide) -> list[Record]:
        """Write the records that ``decide`` asks for, if any, in one batch; whatever it raises, nothing is written.

        ``decide`` is called under the lock with the log's standing: nobody can append between its look at the log and
        the records that follow from it. Raises as :meth:`append`.
        """
        with self._writer:
            records = self._file.commit(lambda at: [self._prepared(event) for event in decide(at)], self._due)
        for record in records:
            self._tell(record)
        return records

    def _prepared(self, event: Event) -> Event:
        """The event as it is written, if a record can hold it: with commitments where fields are concealed."""
        name, fields = event
        if clash := RESERVED & fields.keys():
            raise ValueError(f"audit field {sorted(clash)[0]!r} is reserved")
        if (length := len(json_encode(fields))) > MAX_LINE - OWN_FIELDS:
            raise FormatError(f"audit record: {length} bytes, above the limit of {MAX_LINE - OWN_FIELDS}")
        concealed = [field for field in self.concealed if field not in MEMORY]
        return (name, conceal(self.path, fields, concealed) if concealed else fields)

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
            return self._file.rotate(reason)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every writer, and every reader that begins, out of the log."""
        with self._writer, self._file.locked():
            yield

    def _write_waiting(self) -> None:
        with self._queue:
            batch, self._waiting = self._waiting, []
        try:
            records = self._file.commit(lambda at: [w.event for w in batch], self._due)
        except BaseException as error:
            failure = error if isinstance(error, ModelVaultError) else AuditUnavailable(f"{self.path}: interrupted")
            for waiting in batch:
                waiting.error = failure
            if failure is not error:
                raise
            return
        for waiting, record in zip(batch, records, strict=True):
            waiting.record = record

    def _due(self, at: Standing) -> str | None:
        """Why the epoch must end now, if it must. A clock that stepped back only delays it."""
        if self.rotate_records is not None and at.tree.size - at.began >= self.rotate_records:
            return "count"
        if self.rotate_after is not None and at.since:
            age = datetime.now(UTC) - parse_time(at.since, "since")
            return "age" if age >= self.rotate_after else None
        return None


def _begin_all() -> None:
    for log in list(_logs):
        log._file.leave_fork()
        log._begin()


os.register_at_fork(after_in_child=_begin_all)
