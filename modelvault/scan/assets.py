"""Rules about the files that travel with a model: what runs code, what hides, what should not be there."""

import re
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath

from modelvault.scan.assetfiles import LINK, SPECIAL, ZIP, AssetFile, hit_of, members
from modelvault.scan.finding import ASSETS, ERROR, NOTE, WARNING, Hit, plain, rule
from modelvault.scan.subject import Subject

MAX_RATIO = 100
BOMB = 2**30

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


@rule(
    "native-asset",
    ERROR,
    ASSETS,
    why="a program or library beside a model runs as soon as somebody registers or starts it",
    fix="deliver programs and operator libraries apart from models, signed as software",
)
def native(subject: Subject) -> Iterator[Hit]:
    for asset in subject.files():
        for magic, words in _NATIVE.items():
            if asset.head.startswith(magic) and (magic != b"MZ" or _is_windows(asset.head)):
                yield hit_of(asset, f"is {words}")


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
    for asset in subject.files():
        if asset.head.startswith(b"#!"):
            yield hit_of(asset, f"is a script: {plain(asset.head.splitlines()[0].decode('utf-8', 'replace'), 60)}")
        elif asset.suffix in _SCRIPTS:
            yield hit_of(asset, f"has the ending {asset.suffix} of a script")


@rule(
    "weights-asset",
    WARNING,
    ASSETS,
    why="other weights beside the model travel with it, or stay behind in plain text when only the model is sealed",
    fix="move them out of the folder, or seal them on purpose",
)
def weights(subject: Subject) -> Iterator[Hit]:
    for asset in subject.files():
        if words := _weights(asset):
            yield hit_of(asset, f"is {words}")


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
    for asset in subject.files():
        kinds = [kind for magic, kind in _ARCHIVES.items() if asset.head.startswith(magic)]
        if asset.head.startswith(ZIP) and asset.suffix != ".npz":
            kinds.append("zip")
        if asset.head[257:262] == b"ustar":
            kinds.append("tar")
        for kind in kinds:
            yield hit_of(asset, f"is an archive ({kind})")


@rule(
    "archive-bomb",
    ERROR,
    ASSETS,
    why="an archive that grows a hundredfold fills the disk or memory of whoever unpacks it",
    fix="remove it",
)
def archive_bomb(subject: Subject) -> Iterator[Hit]:
    for asset in subject.files():
        if asset.head.startswith(ZIP):
            size = sum(m.file_size for m in members(asset))
            if size > BOMB and size > MAX_RATIO * asset.size:
                yield hit_of(asset, f"unpacks from {asset.size} to {size} bytes")


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
            yield hit_of(asset, "is a symbolic link")


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
            yield hit_of(asset, "is a pipe, socket or device")


@rule(
    "secret-asset",
    ERROR,
    ASSETS,
    why="a private key or password file beside a model reaches everybody who gets the folder",
    fix="remove it, and replace the key: it has been in a folder that travels",
)
def secret(subject: Subject) -> Iterator[Hit]:
    for asset in subject.files():
        if _KEY.search(asset.head) or asset.head.startswith(b"openssh-key-v1"):
            yield hit_of(asset, "holds a private key")
        elif _KEY_NAMES.fullmatch(PurePosixPath(asset.path).name) and asset.size:
            yield hit_of(asset, "has the name of a file of keys or passwords")
