"""Files that may hold a marked model: ONNX, safetensors and .npz, read tensor by tensor and within bounds."""

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
from modelvault.onnxfile import OpenModel, Weight
from modelvault.onnxfile.quantised import dequantised
from modelvault.watermark.carriers import FLOATS, STEPS, Float, Shape, to_float

MIN_ELEMENTS = 128
MAX_HEADER = 64 * 2**20
MAX_TENSORS = 200_000
MAX_TENSOR = 2**34  # bytes
MAX_RATIO = 100  # no weights are compressed better; a larger one is a bomb
_SAFE = {"F16": "FLOAT16", "BF16": "BFLOAT16", "F32": "FLOAT", "F64": "DOUBLE", "I8": "INT8", "U8": "UINT8"}
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectTensor:
    """A tensor of a file under suspicion; ``read`` gives float32 of ``shape``. ``dtype`` in ONNX's words."""

    name: str
    dtype: str
    shape: Shape
    read: Callable[[], Float]
    dequantised: bool = False


def open_suspect(suspect: str | os.PathLike[str] | OpenModel) -> list[SuspectTensor]:
    """The tensors of a file, or of an open model, that may be weights. Raises FileError, FormatError, ModelError."""
    if isinstance(suspect, OpenModel):
        return onnx_tensors(suspect)
    path = Path(suspect)
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        head = file.read(16)
    if head.startswith(_ZIP):
        return _npz(path)
    if len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= MAX_HEADER:
        return _safetensors(path)
    return onnx_tensors(OpenModel(path))


def onnx_tensors(model: OpenModel) -> list[SuspectTensor]:
    """The float tensors of a model, and its quantised ones both as they are stored and as they are used."""
    found = []
    for weight in model.weights:
        if _is_candidate(weight.dtype, weight.shape):
            found.append(_stored(model, weight))
    for name, shape, read in dequantised(model):
        found.append(SuspectTensor(name=name, dtype="FLOAT", shape=shape, read=read, dequantised=True))
    return found


def _stored(model: OpenModel, weight: Weight) -> SuspectTensor:
    def read() -> Float:
        return _finite(to_float(weight.dtype, model.read(weight)).reshape(weight.shape))

    return SuspectTensor(name=weight.name, dtype=weight.dtype, shape=weight.shape, read=read)


def _is_candidate(dtype: str, shape: Shape) -> bool:
    known = dtype in FLOATS or dtype in STEPS or dtype == "BFLOAT16"
    return known and math.prod(shape) >= MIN_ELEMENTS and len(shape) <= 8


def _finite(values: Float) -> Float:
    """What is no number counts as absent."""
    return values if np.isfinite(np.vdot(values, values)) else np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _safetensors(path: Path) -> list[SuspectTensor]:
    """https://huggingface.co/docs/safetensors: 8 bytes of length, JSON of that length, then the data."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = file.read(length)
        total = os.fstat(file.fileno()).st_size - 8 - length
    entries = json_decode(header.rstrip(b" "), f"{path}: header", limit=MAX_HEADER)
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise FormatError(f"{path}: header: expected an object of at most {MAX_TENSORS} tensors")
    found = []
    for name, entry in entries.items():
        if name != "__metadata__":
            tensor = _safe_entry(path, name, entry, 8 + length, total)
            found += [tensor] if tensor else []
    return found


def _safe_entry(path: Path, name: str, entry: object, base: int, total: int) -> SuspectTensor | None:
    where = f"{path}: header.{name[:80]}"
    fields = Fields(entry, where)
    kind, shape = _SAFE.get(fields.text("dtype", limit=16)), _shape(fields.items("shape", limit=64), where)
    offsets = _shape(fields.items("data_offsets", limit=2), where)
    fields.done()
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= total:
        raise FormatError(f"{where}.data_offsets: expected a range within {total} bytes")
    if kind is None or not _is_candidate(kind, shape):
        return None
    begin, size = base + offsets[0], offsets[1] - offsets[0]
    item = 2 if kind == "BFLOAT16" else np.dtype(FLOATS.get(kind) or STEPS[kind]).itemsize
    if size != math.prod(shape) * item:
        raise FormatError(f"{where}: data has {size} bytes, its shape needs {math.prod(shape) * item}")

    def read() -> Float:
        data = bytearray(size)
        descriptor = _files.open_regular(path)
        try:
            _files.read_into(descriptor, memoryview(data), begin)
        finally:
            os.close(descriptor)
        return _finite(to_float(kind, data).reshape(shape))

    return SuspectTensor(name=name, dtype=kind, shape=shape, read=read)


def _shape(values: list[object], where: str) -> Shape:
    numbers = tuple(v for v in values if type(v) is int and 0 <= v <= MAX_TENSOR)
    if len(numbers) != len(values):
        raise FormatError(f"{where}: expected counts")
    return numbers


def _npz(path: Path) -> list[SuspectTensor]:
    """An archive of .npy arrays; nothing is unpickled, and what claims more than MAX_TENSOR bytes is refused."""
    found = []
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_TENSORS:
            raise FormatError(f"{path}: more than {MAX_TENSORS} arrays")
        for member in members:
            if member.filename.endswith(".npy"):
                tensor = _npz_entry(path, archive, member)
                found += [tensor] if tensor else []
    return found


def _npz_entry(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> SuspectTensor | None:
    where = f"{path}: {member.filename[:80]}"
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(file, max_header_size=10_000)
    dtype = {"f2": "FLOAT16", "f4": "FLOAT", "f8": "DOUBLE", "i1": "INT8", "u1": "UINT8"}.get(kind.str[1:])
    if dtype is None or not _is_candidate(dtype, shape):
        return None
    needed = math.prod(shape) * kind.itemsize
    if needed > min(member.file_size, MAX_TENSOR, MAX_RATIO * max(member.compress_size, 1)):
        raise FormatError(f"{where}: its shape needs {needed} bytes, more than it can have")

    def read() -> Float:
        with _zip_errors(path), zipfile.ZipFile(path) as again, again.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False, max_header_size=10_000)
        return _finite(np.ascontiguousarray(array, np.float32))

    return SuspectTensor(name=member.filename.removesuffix(".npy"), dtype=dtype, shape=shape, read=read)


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
