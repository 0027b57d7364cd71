"""Decide on what the audit log holds, and record the decision, with nobody appending in between.

What the log amounts to (:class:`Usage`) is kept in a side file, LOG.usage, so that a load need not read the whole log.
The record that follows holds that file's digest: a file that was edited is not believed, an old copy is read on from
its own place, a lost one is made anew from the log.
"""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import json_decode, json_encode
from modelvault.audit import AuditLog
from modelvault.audit.lines import Record
from modelvault.audit.replay import Place, record_at, replay
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event
from modelvault.errors import AuditTampered, FileError, FormatError
from modelvault.usage import Usage

MAX_SIDE = 16 * 2**20


def decided(log: AuditLog, decide: Callable[[Usage, Standing], list[Event]]) -> list[Record]:
    """Write the records that ``decide`` asks for, in one batch; whatever it raises, nothing is written.

    Raises AuditUnavailable, AuditTampered.
    """
    side = b""

    def look(at: Standing) -> list[Event]:
        nonlocal side
        usage = current(log.path, at)
        side = _encode(Place.of(at), usage)
        (event, fields), *others = decide(usage, at)
        return [(event, {**fields, "usage": _digest(side)}), *others]

    records = log.append_decided(look)
    _write(log.path, side)
    return records


def keep(log: AuditLog) -> None:
    """Write what the log amounts to into the log itself, so that earlier records may be pruned and still count.

    Raises AuditUnavailable, AuditTampered.
    """
    decided(log, lambda usage, at: [("usage.kept", {"kept": part}) for part in usage.parts()])


def peek(log: AuditLog) -> tuple[Usage, Standing] | None:
    """What the log holds now, and where it stands; None where there is no log yet. Writes no record.

    Raises AuditUnavailable, AuditTampered.
    """
    found: list[tuple[Usage, Standing]] = []

    def look(at: Standing) -> list[Event]:
        found.append((current(log.path, at), at))
        return []

    if log.path.exists():
        log.append_decided(look)
    return found[0] if found else None


def current(log: Path, at: Standing) -> Usage:
    """What the records before ``at`` amount to; the caller holds the log's lock. Raises AuditTampered."""
    place, usage = _remembered(log, at) or (Place(), Usage())
    try:
        replay(log, place, at, usage.apply, usage.miss)
    except (FormatError, FileError) as error:
        raise AuditTampered(str(error)) from None
    return usage


def side_path(log: Path) -> Path:
    return _files.beside(log, ".usage")


def _remembered(log: Path, at: Standing) -> tuple[Place, Usage] | None:
    """The side file's place and usage, if the log's record at that place vouches for the file."""
    with contextlib.suppress(FileError, FormatError, LookupError, TypeError, ValueError, AttributeError):
        data = _files.read_bytes(side_path(log), limit=MAX_SIDE)
        value = json_decode(data, "usage", limit=MAX_SIDE)
        place = _place(value["place"])
        if place.size <= at.tree.size and place.epoch <= at.epoch:
            record = record_at(log, place, at)
            if record is not None and record.fields.get("usage") == _digest(data):
                return place, Usage.from_dict(value["usage"])
    return None


def _place(value: dict[str, Any]) -> Place:
    edge = tuple(bytes.fromhex(item) for item in value["edge"])
    return Place(epoch=int(value["epoch"]), offset=int(value["offset"]), size=int(value["size"]), edge=edge)


def _encode(place: Place, usage: Usage) -> bytes:
    where = {"epoch": place.epoch, "offset": place.offset, "size": place.size, "edge": [h.hex() for h in place.edge]}
    return json_encode({"place": where, "usage": usage.to_dict()})


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(log: Path, data: bytes) -> None:
    """Losing it costs a reading of the log, so it is neither synced nor required."""
    temporary = log.with_name(f".{log.name}.usage.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(side_path(log))
    except OSError:
        _files.remove(temporary)
