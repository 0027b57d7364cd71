"""Files of tensors alone, safetensors and .npz: listed within bounds, and read tensor by tensor."""

import contextlib
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelvault import _files
from modelvault._codec import Fields, json_decode
from modelvault.errors import FileError, FormatError, ModelVaultError

Shape = tuple[int, ...]

MAX_HEADER = 64 * 2**20
MAX_TENSORS = 200_000
MAX_TENSOR = 2**34  # bytes
MAX_RATIO = 100  # no weights are compressed better; a larger one is a bomb
_ZIP = b"PK\x03\x04"

# Names of element types in these formats, and their sizes in bytes by ONNX's word.
_SAFE = {
    "BOOL": "BOOL", "U8": "UINT8", "I8": "INT8", "U16": "UINT16", "I16": "INT16", "U32": "UINT32", "I32": "INT32",
    "U64": "UINT64", "I64": "INT64", "F16": "FLOAT16", "BF16": "BFLOAT16", "F32": "FLOAT", "F64": "DOUBLE",
    "F8_E4M3": "FLOAT8E4M3FN", "F8_E5M2": "FLOAT8E5M2",
}  # fmt: skip
_NUMPY = {
    "b1": "BOOL", "u1": "UINT8", "i1": "INT8", "u2": "UINT16", "i2": "INT16", "u4": "UINT32", "i4": "INT32",
    "u8": "UINT64", "i8": "INT64", "f2": "FLOAT16", "f4": "FLOAT", "f8": "DOUBLE",
}  # fmt: skip
_ITEM = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "FLOAT8E4M3FN": 1, "FLOAT8E5M2": 1, "UINT16": 2, "INT16": 2, "FLOAT16": 2,
    "BFLOAT16": 2, "UINT32": 4, "INT32": 4, "FLOAT": 4, "UINT64": 8, "INT64": 8, "DOUBLE": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor as it is stored; ``read`` gives its ``size`` bytes, little-endian and row-major.

    ``dtype`` in ONNX's words, or the file's own where ONNX has none: then the bytes are all that is known.
    """

    name: str
    dtype: str
    shape: Shape
    size: int
    read: Callable[[], bytes | bytearray]


def read_tensors(path: str | os.PathLike[str]) -> list[StoredTensor] | None:
    """The tensors of a safetensors or .npz file; None for a file of another kind. Raises FileError, FormatError."""
    path = Path(path)
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        head = file.read(16)
    if head.startswith(_ZIP):
        return _npz(path)
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= MAX_HEADER:
        return _safetensors(path)
    return None


def _safetensors(path: Path) -> list[StoredTensor]:
    """https://huggingface.co/docs/safetensors: 8 bytes of length, JSON of that length, then the data."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = file.read(length)
        total = os.fstat(file.fileno()).st_size - 8 - length
    entries = json_decode(header.rstrip(b" "), f"{path}: header", limit=MAX_HEADER)
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise FormatError(f"{path}: header: expected an object of at most {MAX_TENSORS} tensors")
    named = ((name, entry) for name, entry in entries.items() if name != "__metadata__")
    return [_safe_entry(path, name, entry, 8 + length, total) for name, entry in named]


def _safe_entry(path: Path, name: str, entry: object, base: int, total: int) -> StoredTensor:
    where = f"{path}: header.{name[:80]}"
    fields = Fields(entry, where)
    kind, shape = fields.text("dtype", limit=16), _shape(fields.items("shape", limit=64), where)
    offsets = _shape(fields.items("data_offsets", limit=2), where)
    fields.done()
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= total:
        raise FormatError(f"{where}.data_offsets: expected a range within {total} bytes")
    dtype = _SAFE.get(kind, f"safetensors {kind}")
    begin, size = base + offsets[0], offsets[1] - offsets[0]
    if dtype in _ITEM and size != math.prod(shape) * _ITEM[dtype]:
        raise FormatError(f"{where}: data has {size} bytes, its shape needs {math.prod(shape) * _ITEM[dtype]}")

    def read() -> bytearray:
        data = bytearray(size)
        with _files.failures(path):
            descriptor = _files.open_regular(path)
        try:
            _files.read_into(descriptor, memoryview(data), begin)
        finally:
            os.close(descriptor)
        return data

    return StoredTensor(name=name, dtype=dtype, shape=shape, size=size, read=read)


def _shape(values: list[object], where: str) -> Shape:
    numbers = tuple(v for v in values if type(v) is int and 0 <= v <= MAX_TENSOR)
    if len(numbers) != len(values):
        raise FormatError(f"{where}: expected counts")
    return numbers


def _npz(path: Path) -> list[StoredTensor]:
    """An archive of .npy arrays; nothing is unpickled, and what claims more than MAX_TENSOR bytes is refused."""
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_TENSORS:
            raise FormatError(f"{path}: more than {MAX_TENSORS} arrays")
        return [_npz_entry(path, archive, m) for m in members if m.filename.endswith(".npy")]


def _npz_entry(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredTensor:
    where = f"{path}: {member.filename[:80]}"
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(file, max_header_size=10_000)
    dtype = _NUMPY.get(kind.str[1:])
    shape = _shape(list(shape), where)
    needed = math.prod(shape) * kind.itemsize if dtype else member.file_size
    if needed > min(member.file_size, MAX_TENSOR, MAX_RATIO * max(member.compress_size, 1)):
        raise FormatError(f"{where}: its shape needs {needed} bytes, more than it can have")

    def read() -> bytes:
        with _zip_errors(path), zipfile.ZipFile(path) as again, again.open(member) as file:
            if dtype is None:
                return file.read(needed)
            array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=10_000)
            return array.astype(kind.newbyteorder("<"), copy=False).tobytes()

    name = member.filename.removesuffix(".npy")
    return StoredTensor(name=name, dtype=dtype or f"numpy {kind.str}", shape=shape, size=needed, read=read)


@contextlib.contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    """Foreign errors of the archive become ours: numpy's header goes through Python's own tokenizer and parser."""
    try:
        yield
    except ModelVaultError:
        raise
    except OSError as error:
        raise FileError(f"{path}: {_files.reason(error)}") from None
    except Exception as error:
        raise FormatError(f"{path}: not a readable .npz archive ({type(error).__name__})") from None
