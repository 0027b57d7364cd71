"""A rule about pickles among a model's files: known by what is in them, not by their names. None is loaded."""

import contextlib
import itertools
import pickletools
import re
import zipfile
from collections.abc import Iterator

from modelvault.scan.assetfiles import HEAD, ZIP, AssetFile, hit_of, members
from modelvault.scan.finding import ASSETS, ERROR, Hit, plain, rule
from modelvault.scan.subject import Subject

MAX_OPCODES = 10_000
MAX_ARRAYS = 1000
_CALLS = frozenset({"GLOBAL", "INST", "REDUCE", "OBJ", "STACK_GLOBAL", "NEWOBJ"})
_NPY = b"\x93NUMPY"
_ENDINGS = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill")


@rule(
    "pickle-asset",
    ERROR,
    ASSETS,
    why="loading a pickle runs whatever its author wrote: .pkl, .pt, joblib, NumPy arrays of objects",
    fix="keep arrays as .npy without objects or as safetensors, settings as JSON",
)
def pickle_asset(subject: Subject) -> Iterator[Hit]:
    for asset in subject.files():
        if words := _pickled(asset):
            yield hit_of(asset, words)


def _pickled(asset: AssetFile) -> str | None:
    head = asset.head
    names = _opcodes(head) if head[:1] in (b"\x80", b"c", b"(") else []
    if head[:1] == b"\x80" and ("STOP" in names or len(names) > 3):
        return f"is a pickle of protocol {head[1]}"
    if not _CALLS.isdisjoint(names) and (asset.size > HEAD or "STOP" in names):
        return "is a pickle of protocol 0"
    if head.startswith(_NPY) and _has_objects(head):
        return "is a NumPy array of objects, which is a pickle"
    if head.startswith(ZIP) and (words := _pickled_inside(asset)):
        return words
    named = asset.suffix in _ENDINGS and asset.size
    return f"has the ending {asset.suffix}, which is loaded as a pickle" if named else None


def _pickled_inside(asset: AssetFile) -> str | None:
    inside = members(asset)
    if any(m.filename.endswith((".pkl", ".pickle")) for m in inside):
        return "is an archive that holds a pickle, as PyTorch's files do"
    return _npz_objects(asset, inside)


def _opcodes(head: bytes) -> list[str]:
    """The names of a pickle's first opcodes, none of which is run; as far as they can be read."""
    names = []
    with contextlib.suppress(Exception):  # pickletools raises what it likes on bytes that are no pickle
        for opcode, _, _ in itertools.islice(pickletools.genops(head), MAX_OPCODES):
            names.append(opcode.name)
    return names


def _has_objects(head: bytes) -> bool:
    """https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html: a type with O is pickled."""
    size = int.from_bytes(head[8:10] if head[6:7] == b"\x01" else head[8:12], "little")
    return bool(re.search(rb"'\|?O\d*'", head[10 : 12 + min(size, HEAD)]))


def _npz_objects(asset: AssetFile, inside: list[zipfile.ZipInfo]) -> str | None:
    if asset.open is None:
        return None
    with asset.open() as file:
        try:
            archive = zipfile.ZipFile(file)
            for member in inside[:MAX_ARRAYS]:
                if member.filename.endswith(".npy"):
                    with archive.open(member) as entry:
                        if _has_objects(entry.read(1024)):
                            return f"holds {plain(member.filename, 60)}, a NumPy array of objects, which is a pickle"
        except Exception:  # a broken or encrypted archive: zipfile raises many kinds; it holds no array that loads
            return None
    return None
