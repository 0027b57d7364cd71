"""Values that the log holds as salted commitments only; their openings stand in a side file, and can be deleted."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, b64encode, json_decode, json_encode
from modelvault.audit.lines import MAX_LINE, Record
from modelvault.audit.segments import locked_file
from modelvault.errors import AuditUnavailable, FileError, FormatError

SALT = 32
CONCEALED = "concealed"
MAX_OPENING = 2 * MAX_LINE
REDACTED = "(redacted)"


def openings_path(log: Path) -> Path:
    return _files.beside(log, ".openings")


def commitment(salt: bytes, value: Any) -> str:
    """Base64 of SHA-256(salt || canonical JSON of the value): says nothing without the salt."""
    return b64encode(hashlib.sha256(salt + json_encode(value)).digest())


def conceal(log: Path, fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields with commitments for the named ones, whose openings are on disk when this returns.

    Raises AuditUnavailable.
    """
    result, lines = dict(fields), b""
    for name in names:
        if name in fields:
            salt = secrets.token_bytes(SALT)
            mark = commitment(salt, fields[name])
            lines += json_encode({"commitment": mark, "salt": b64encode(salt), "value": fields[name]}) + b"\n"
            result[name] = {CONCEALED: mark}
    if lines:
        _append(openings_path(log), lines)
    return result


def _append(path: Path, lines: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked_file(path) as descriptor:
            end = os.lseek(descriptor, 0, os.SEEK_END)
            if os.pwrite(descriptor, lines, end) != len(lines):
                os.ftruncate(descriptor, end)
                raise AuditUnavailable(f"{path}: no room")
            os.fdatasync(descriptor)
    except OSError as error:
        raise AuditUnavailable(f"{path}: {_files.reason(error)}") from None
    except FileError as error:
        raise AuditUnavailable(str(error)) from None


def read_openings(log: Path) -> dict[str, Any]:
    """Values by commitment; openings that do not fit their commitment, or were never wholly written, are left out."""
    path, found = openings_path(log), {}
    if not _files.exists(path):
        return {}
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        while line := file.readline(MAX_OPENING):
            if (opening := _parse(line)) is not None:
                found[opening[0]] = opening[1]
    return found


def _parse(line: bytes) -> tuple[str, Any] | None:
    try:
        value = json_decode(line, "opening", limit=MAX_OPENING)
        fields = Fields(value, "opening")
        salt, mark = fields.binary("salt", size=SALT), fields.text("commitment", limit=44)
    except FormatError:
        return None
    return (mark, value.get("value")) if commitment(salt, value.get("value")) == mark else None


def marks(record: Record) -> dict[str, str]:
    """The record's concealed fields and their commitments."""
    return {
        name: str(value[CONCEALED])
        for name, value in record.fields.items()
        if isinstance(value, dict) and value.keys() == {CONCEALED}
    }


def reveal(record: Record, openings: dict[str, Any]) -> Record:
    """The record as it was meant; what was redacted says so."""
    found = {name: openings.get(mark, REDACTED) for name, mark in marks(record).items()}
    return replace(record, fields={**record.fields, **found}) if found else record


def forget(log: Path, wanted: Callable[[str], bool]) -> int:
    """Delete the openings whose commitment is wanted gone, and overwrite the file they stood in; returns how many.

    Raises FileError.
    """
    path = openings_path(log)
    if not _files.exists(path):
        return 0
    with _files.failures(path), locked_file(path) as descriptor:
        with open(os.dup(descriptor), "rb") as file:
            lines = list(file)
        kept = [line for line in lines if (opening := _parse(line)) is not None and not wanted(opening[0])]
        if len(kept) < len(lines):
            _files.write_bytes(path, b"".join(kept), mode=0o600)
            os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
            os.fsync(descriptor)
    return len(lines) - len(kept)
