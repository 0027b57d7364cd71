"""Rules about the files that travel with a model: what runs code, what hides, what should not be there."""

import contextlib
import itertools
import os
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from modelvault import _files
from modelvault.errors import FileError
from modelvault.scan.finding import ASSETS, ERROR, NOTE, WARNING, Hit, plain, rule
from modelvault.scan.subject import Subject

HEAD = 64 * 2**10
TAIL = 64
MAX_FILES = 100_000
MAX_MEMBERS = 100_000
MAX_OPCODES = 10_000
MAX_RATIO = 100
BOMB = 2**30
FILE, LINK, SPECIAL = "file", "link", "special"

_SCRIPTS = frozenset(
    {".py", ".pyc", ".pyw", ".ipynb", ".sh", ".bash", ".zsh", ".ps1", ".psm1", ".bat", ".cmd", ".vbs", ".js", ".mjs"}
    | {".rb", ".pl", ".php", ".lua", ".r", ".jl", ".jar", ".class", ".wasm", ".service", ".desktop"}
)
_NATIVE = {
    b"\x7fELF": "an ELF program or library",
    b"MZ": "a Windows program or library",
    b"\xfe\xed\xfa\xce": "a macOS program or library",
    b"\xfe\xed\xfa\xcf": "a macOS program or library",
    b"\xce\xfa\xed\xfe": "a macOS program or library",
    b"\xcf\xfa\xed\xfe": "a macOS program or library",
    b"\x00asm": "a WebAssembly module",
}
_ARCHIVES = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"7z\xbc\xaf'\x1c": "7z", b"Rar!": "rar",
    b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
}  # fmt: skip
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----|\"kty\"\s*:.{0,400}\"d\"\s*:", re.S)
_KEY_NAMES = re.compile(
    r"(?i)(\.env|\.netrc|\.pypirc|\.npmrc|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.json)?|.*\.(p12|pfx|jks|keytab))"
)
_CALLS = frozenset({"GLOBAL", "INST", "REDUCE", "OBJ", "STACK_GLOBAL", "NEWOBJ"})
_ZIP = b"PK\x03\x04"
_NPY = b"\x93NUMPY"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetFile:
    """A file beside the model: its first and last bytes, and a way to open it. ``kind``: file, link or special."""

    path: str
    kind: str
    size: int
    head: bytes
    tail: bytes
    open: Callable[[], BinaryIO] | None

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()


def of_folder(folder: Path) -> list[AssetFile]:
    """Every entry below a folder that is no folder, links not followed. Raises FileError."""
    found: list[AssetFile] = []

    def refuse(error: OSError) -> None:
        raise FileError(f"{error.filename}: {_files.reason(error)}")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            found.append(of_file(folder, path.relative_to(folder).as_posix()))
            if len(found) > MAX_FILES:
                raise FileError(f"{folder}: more than {MAX_FILES} files")
    return found


def of_file(folder: Path, path: str) -> AssetFile:
    """One entry of a folder. Raises FileError."""
    whole = folder / path
    with _files.failures(whole):
        info = whole.lstat()
        if not stat.S_ISREG(info.st_mode):
            kind = LINK if stat.S_ISLNK(info.st_mode) else SPECIAL
            return AssetFile(path=path, kind=kind, size=0, head=b"", tail=b"", open=None)

        def opened() -> BinaryIO:
            with _files.failures(whole):
                return open(_files.open_regular(whole, flags=os.O_NOFOLLOW), "rb")

        with opened() as file:
            head = file.read(HEAD)
            file.seek(max(0, info.st_size - TAIL))
            tail = file.read(TAIL)
    return AssetFile(path=path, kind=FILE, size=info.st_size, head=head, tail=tail, open=opened)


def of_memory(path: str, data: memoryview) -> AssetFile:
    """A decrypted asset; an archive's table of contents is read from a copy."""
    return AssetFile(
        path=path,
        kind=FILE,
        size=len(data),
        head=bytes(data[:HEAD]),
        tail=bytes(data[-TAIL:]),
        open=lambda: BytesIO(bytes(data)),
    )


def _hit(asset: AssetFile, message: str) -> Hit:
    return Hit("", message, plain(asset.path))


def _files_of(subject: Subject) -> Iterator[AssetFile]:
    return (a for a in subject.assets if a.kind == FILE)


@rule(
    "pickle-asset",
    ERROR,
    ASSETS,
    why="loading a pickle runs whatever its author wrote: .pkl, .pt, joblib, NumPy arrays of objects",
    fix="keep arrays as .npy without objects or as safetensors, settings as JSON",
)
def pickle_asset(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        if words := _pickled(asset):
            yield _hit(asset, words)


def _pickled(asset: AssetFile) -> str | None:
    head = asset.head
    names = _opcodes(head) if head[:1] in (b"\x80", b"c", b"(") else []
    if head[:1] == b"\x80" and ("STOP" in names or len(names) > 3):
        return f"is a pickle of protocol {head[1]}"
    if not _CALLS.isdisjoint(names) and (asset.size > HEAD or "STOP" in names):
        return "is a pickle of protocol 0"
    if head.startswith(_NPY) and _has_objects(head):
        return "is a NumPy array of objects, which is a pickle"
    if head.startswith(_ZIP) and (words := _pickled_inside(asset)):
        return words
    named = asset.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill") and asset.size
    return f"has the ending {asset.suffix}, which is loaded as a pickle" if named else None


def _pickled_inside(asset: AssetFile) -> str | None:
    members = _members(asset)
    if any(m.filename.endswith((".pkl", ".pickle")) for m in members):
        return "is an archive that holds a pickle, as PyTorch's files do"
    return _npz_objects(asset, members)


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


def _npz_objects(asset: AssetFile, members: list[zipfile.ZipInfo]) -> str | None:
    if asset.open is None:
        return None
    with asset.open() as file:
        try:
            archive = zipfile.ZipFile(file)
            for member in members[:1000]:
                if member.filename.endswith(".npy"):
                    with archive.open(member) as entry:
                        if _has_objects(entry.read(1024)):
                            return f"holds {plain(member.filename, 60)}, a NumPy array of objects, which is a pickle"
        except Exception:  # a broken or encrypted archive: zipfile raises many kinds; it holds no array that loads
            return None
    return None


def _members(asset: AssetFile) -> list[zipfile.ZipInfo]:
    """The table of contents of a zip archive; empty for a broken one."""
    if asset.open is None:
        return []
    with asset.open() as file:
        try:
            return zipfile.ZipFile(file).infolist()[:MAX_MEMBERS]
        except Exception:  # zipfile raises many kinds on broken archives
            return []


@rule(
    "native-asset",
    ERROR,
    ASSETS,
    why="a program or library beside a model runs as soon as somebody registers or starts it",
    fix="deliver programs and operator libraries apart from models, signed as software",
)
def native(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        for magic, words in _NATIVE.items():
            if asset.head.startswith(magic) and (magic != b"MZ" or _is_windows(asset.head)):
                yield _hit(asset, f"is {words}")


def _is_windows(head: bytes) -> bool:
    place = struct.unpack("<I", head[60:64])[0] if len(head) >= 64 else 0
    return head[place : place + 4] == b"PE\0\0"


@rule(
    "script-asset",
    WARNING,
    ASSETS,
    why="scripts beside a model run with the rights of whoever trusts the folder",
    fix="deliver code as a package, and only data with the model",
)
def script(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        if asset.head.startswith(b"#!"):
            yield _hit(asset, f"is a script: {plain(asset.head.splitlines()[0].decode('utf-8', 'replace'), 60)}")
        elif asset.suffix in _SCRIPTS:
            yield _hit(asset, f"has the ending {asset.suffix} of a script")


@rule(
    "weights-asset",
    WARNING,
    ASSETS,
    why="other weights beside the model travel with it, or stay behind in plain text when only the model is sealed",
    fix="move them out of the folder, or seal them on purpose",
)
def weights(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        if words := _weights(asset):
            yield _hit(asset, f"is {words}")


def _weights(asset: AssetFile) -> str | None:
    head = asset.head
    if len(head) > 9 and head[8:9] == b"{" and b'"dtype"' in head and struct.unpack("<Q", head[:8])[0] <= asset.size:
        return "a safetensors file"
    if head.startswith(b"GGUF"):
        return "a GGUF file"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file, as Keras saves models in"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    return "another ONNX model" if asset.suffix in (".onnx", ".ort") else None


@rule(
    "archive-asset",
    NOTE,
    ASSETS,
    why="what is inside an archive is not scanned",
    fix="unpack it, and scan the folder",
)
def archive(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        kinds = [kind for magic, kind in _ARCHIVES.items() if asset.head.startswith(magic)]
        if asset.head.startswith(_ZIP) and asset.suffix != ".npz":
            kinds.append("zip")
        if asset.head[257:262] == b"ustar":
            kinds.append("tar")
        for kind in kinds:
            yield _hit(asset, f"is an archive ({kind})")


@rule(
    "archive-bomb",
    ERROR,
    ASSETS,
    why="an archive that grows a hundredfold fills the disk or memory of whoever unpacks it",
    fix="remove it",
)
def archive_bomb(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        if asset.head.startswith(_ZIP):
            size = sum(m.file_size for m in _members(asset))
            if size > BOMB and size > MAX_RATIO * asset.size:
                yield _hit(asset, f"unpacks from {asset.size} to {size} bytes")


@rule(
    "link-asset",
    ERROR,
    ASSETS,
    why="a symbolic link leads out of the folder, or to another file tomorrow than today",
    fix="replace the link by the file itself",
)
def link(subject: Subject) -> Iterator[Hit]:
    for asset in subject.assets:
        if asset.kind == LINK:
            yield _hit(asset, "is a symbolic link")


@rule(
    "special-file",
    ERROR,
    ASSETS,
    why="a pipe, socket or device among a model's files blocks or misleads whoever reads it",
    fix="remove it",
)
def special(subject: Subject) -> Iterator[Hit]:
    for asset in subject.assets:
        if asset.kind == SPECIAL:
            yield _hit(asset, "is a pipe, socket or device")


@rule(
    "secret-asset",
    ERROR,
    ASSETS,
    why="a private key or password file beside a model reaches everybody who gets the folder",
    fix="remove it, and replace the key: it has been in a folder that travels",
)
def secret(subject: Subject) -> Iterator[Hit]:
    for asset in _files_of(subject):
        if _KEY.search(asset.head) or asset.head.startswith(b"openssh-key-v1"):
            yield _hit(asset, "holds a private key")
        elif _KEY_NAMES.fullmatch(PurePosixPath(asset.path).name) and asset.size:
            yield _hit(asset, "has the name of a file of keys or passwords")
