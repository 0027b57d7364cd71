"""The last head that a witness cosigned, kept beside the log, and the demand that it be fresh."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from modelvault import _files
from modelvault._codec import CLOCK_AHEAD
from modelvault.audit.lines import MAX_LINE, Record, parse
from modelvault.audit.segments import closed_segments
from modelvault.checkpoint import MAX_NOTE, Checkpoint, Note
from modelvault.cosignature import VerifierKey, cosigned_at
from modelvault.errors import FormatError, PolicyDenied, SignatureInvalid


def cosigned_path(log: Path) -> Path:
    """Where the last cosigned checkpoint of a log is kept."""
    return _files.beside(log, ".cosigned")


def read_cosigned(path: Path) -> Note:
    """Raises FileError, FormatError."""
    try:
        return Note.from_text(_files.read_bytes(path, limit=MAX_NOTE).decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise FormatError(f"{path}: not UTF-8") from None


def check_cosigned(text: str, witness: VerifierKey, source: str) -> datetime:
    """When a witness cosigned this checkpoint.

    Raises SignatureInvalid where it did not, or its signature is wrong; FormatError where this is no checkpoint.
    """
    note = Note.from_text(text, source)
    Checkpoint.from_text(note.text, source)
    if (moment := cosigned_at(note, witness)) is None:
        raise SignatureInvalid(f"{source}: no cosignature by {witness.name}")
    return moment


def check_fresh(log: Path, witnesses: Sequence[VerifierKey], threshold: int, within: timedelta, now: datetime) -> None:
    """PolicyDenied unless ``threshold`` witnesses cosigned this log within the time before ``now``."""
    found, path = 0, cosigned_path(log)
    if _files.exists(path):
        note = read_cosigned(path)
        if Checkpoint.from_text(note.text, str(path)).origin != _origin(log):
            raise PolicyDenied(f"{path}: the checkpoint of another log")
        try:
            moments = [cosigned_at(note, witness) for witness in witnesses]
        except SignatureInvalid as error:
            raise PolicyDenied(f"{path}: {error}") from None
        found = sum(moment is not None and now - within <= moment <= now + CLOCK_AHEAD for moment in moments)
    if found < threshold:
        hours = round(within.total_seconds() / 3600, 1)
        raise PolicyDenied(f"audit log: {found} of {threshold} witnesses cosigned it in the last {hours} hours")


def _origin(log: Path) -> str:
    """The origin that the log's first line names, unverified."""
    first = [*closed_segments(log), log][0]
    with _files.failures(first), open(_files.open_regular(first), "rb") as file:
        record = parse(file.readline(MAX_LINE + 1).removesuffix(b"\n"), f"{first}: line 1")
    return str(record.fields.get("origin")) if isinstance(record, Record) else ""
