"""External data that a model refers to: where each reference leads, or what is wrong with it."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelvault.errors import FileError, ModelError
from modelvault.onnxfile.tensors import TensorReader
from modelvault.scan.places import Held

ABSOLUTE, ESCAPE, SYMLINK = "absolute", "escape", "symlink"
MISSING, BEYOND, MALFORMED = "missing", "beyond", "malformed"
_DRIVE = re.compile(r"[A-Za-z]:|\\\\|file:", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A tensor's external data: the file below the model's folder and the bytes in it, or a ``fault`` in words."""

    held: Held
    location: str
    start: int = 0
    size: int = 0
    fault: str | None = None
    message: str = ""


def resolve(reader: TensorReader, held: Held) -> Reference:
    """Follow a reference, as a loader would, without reading what it leads to."""
    tensor, name = held.tensor, held.name or held.place
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    try:
        size = reader.size(tensor, name)
        if size is None:
            raise ModelError(f"{reader.where(name)}: text cannot stand in external data")
        place, start = reader.reference(tensor, size, name)
    except (ModelError, FileError) as error:
        words = str(error).removeprefix(f"{reader.where(name)}: ")
        fault = _fault(reader.path.parent, location, words)
        return Reference(held=held, location=location, fault=fault, message=words)
    return Reference(held=held, location=place, start=start, size=size)


def _fault(folder: Path, location: str, words: str) -> str:
    if "external_data: ends at byte" in words:
        return BEYOND
    if "external_data.location" not in words:
        return MALFORMED
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if location.startswith(("/", "~")) or _DRIVE.match(location):
        return ABSOLUTE
    if ".." in parts:
        return ESCAPE
    if "\\" in location:
        return MALFORMED
    return _on_disk(folder, parts)


def _on_disk(folder: Path, parts: tuple[str, ...]) -> str:
    """What stands there instead of a plain file below the folder."""
    with contextlib.suppress(OSError, ValueError):
        path = folder
        for part in parts:
            path /= part
            if path.is_symlink():
                return SYMLINK
        return MALFORMED if path.exists() else MISSING
    return MALFORMED
