"""One tensor of an ONNX file: how many bytes it has, where they are, and whether all that is consistent."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from modelvault import _files
from modelvault.errors import FileError, ModelError
from modelvault.graphcheck import WEIGHTS_NAME
from modelvault.onnxfile.layout import Data, Slot

Elements = npt.NDArray[Any]

MAX_DIMS = 64
_SUB_BYTE = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
_NUMBER = re.compile(r"[0-9]{1,18}")
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


class TensorReader:
    """Checks the tensors of one model file; ``sizes`` gathers the external files that they refer to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: dict[str, int] = {}

    def size(self, tensor: TensorProto, name: str) -> int | None:
        """Bytes of the tensor's data from its type and shape; None for text. Checks what is stored against it."""
        where = self.where(name)
        if tensor.HasField("segment"):
            raise ModelError(f"{where}: segmented tensors are not supported")
        if len(tensor.dims) > MAX_DIMS or any(d < 0 for d in tensor.dims):
            raise ModelError(f"{where}: impossible shape")
        bits = _bits(tensor.data_type)
        if tensor.data_type == TensorProto.STRING:
            return None
        if bits is None:
            raise ModelError(f"{where}: unknown data type {tensor.data_type}")
        count = 1
        for dim in tensor.dims:
            count *= dim
        size = (count * bits + 7) // 8
        external = tensor.data_location == TensorProto.EXTERNAL
        if external and (tensor.HasField("raw_data") or _typed_count(tensor)):
            raise ModelError(f"{where}: has both external and inline data")
        if not external and tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise ModelError(f"{where}: raw_data has {len(tensor.raw_data)} bytes, its shape needs {size}")
        return size

    def data(self, tensor: TensorProto, size: int, name: str) -> bytes | None:
        """Inline bytes in raw_data's layout; None where only typed fields hold packed elements, which stay."""
        if tensor.HasField("raw_data"):
            return tensor.raw_data
        if dtype_name(tensor.data_type) in _SUB_BYTE:
            return None
        try:
            data: bytes = numpy_helper.to_array(tensor).tobytes()
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self.where(name)}: inconsistent data: {str(error).splitlines()[0][:200]}") from None
        if len(data) != size:
            raise ModelError(f"{self.where(name)}: data has {len(data)} bytes, its shape needs {size}")
        return data

    def reference(self, tensor: TensorProto, size: int, name: str) -> tuple[str, int]:
        """(location, start) of external data, once it is certain that the file holds it."""
        where = self.where(name)
        entries = {e.key: e.value for e in tensor.external_data}
        if len(entries) != len(tensor.external_data):
            raise ModelError(f"{where}: external_data: a key is repeated")
        if unknown := sorted(set(entries) - _EXTERNAL_KEYS):
            raise ModelError(f"{where}: external_data: unknown key {show(unknown[0])}")
        location = self._location(entries.get("location", ""), where)
        start = self._number(entries.get("offset", "0"), f"{where}: external_data.offset")
        length = self._number(entries.get("length", str(size)), f"{where}: external_data.length")
        if length != size:
            raise ModelError(f"{where}: external_data.length: {length} bytes, its shape needs {size}")
        if start + size > self.sizes[location]:
            raise ModelError(f"{where}: external_data: ends at byte {start + size} of {self.sizes[location]}")
        return location, start

    def read_external(self, tensor: TensorProto, size: int, name: str) -> bytes:
        """External data, whole."""
        location, start = self.reference(tensor, size, name)
        descriptor = _files.open_inside(self.path.parent, location)
        try:
            data = os.pread(descriptor, size, start)  # one copy, where a buffer to read into would take two
            if len(data) < size:
                data += _files.read_rest(descriptor, size - len(data), start + len(data))
        finally:
            os.close(descriptor)
        return data

    def _location(self, text: str, where: str) -> str:
        try:
            location = "/".join(_files.split_inside(text))
            if location in self.sizes:
                return location
            descriptor = _files.open_inside(self.path.parent, location)
        except FileError as error:
            raise ModelError(f"{where}: external_data.location: {error}") from None
        try:
            info, own = os.fstat(descriptor), self.path.stat()
        finally:
            os.close(descriptor)
        if (info.st_dev, info.st_ino) == (own.st_dev, own.st_ino):
            raise ModelError(f"{where}: external_data.location: is the model file itself")
        self.sizes[location] = info.st_size
        return location

    @staticmethod
    def _number(text: str, where: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ModelError(f"{where}: expected a number, got {show(text)}")
        return int(text)

    def where(self, name: str) -> str:
        return f"{self.path}: tensor {show(name)}"


def dtype_name(data_type: int) -> str:
    """ONNX's word for an element type (FLOAT, INT8 ...); ValueError for an unknown one."""
    return str(TensorProto.DataType.Name(data_type))  # type: ignore[attr-defined]


def elements(dtype: str, data: bytes | bytearray) -> Elements | None:
    """The numbers in a tensor's bytes, flat; None where ``dtype`` (ONNX's word) is none of real numbers.

    Numbers of 4 bits stand two in a byte, the lower half first; an odd count leaves one number too many.
    """
    if dtype in ("INT4", "UINT4"):
        pairs = np.frombuffer(data, np.uint8)
        halves = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1).astype(np.int8)
        return halves if dtype == "UINT4" else (halves ^ 8) - 8
    kind = element_type(dtype)
    return None if kind is None else np.frombuffer(data, kind)


def is_integer(dtype: str) -> bool:
    """Whether ONNX's word means whole numbers or truth values."""
    return dtype.startswith(("INT", "UINT", "BOOL"))


def element_type(dtype: str) -> np.dtype[Any] | None:
    """numpy's type for ONNX's word; None where the elements are no real numbers of whole bytes."""
    try:
        number = TensorProto.DataType.Value(dtype)  # type: ignore[attr-defined]
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number))
    except (KeyError, ValueError):
        return None
    return None if dtype in (*_SUB_BYTE, "STRING") or kind.kind == "c" else kind


def _bits(data_type: int) -> int | None:
    try:
        name = dtype_name(data_type)
        if name in _SUB_BYTE:
            return _SUB_BYTE[name]
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8
    except (KeyError, ValueError, TypeError):
        return None


def _typed_count(tensor: TensorProto) -> int:
    return sum(len(getattr(tensor, f)) for f in _TYPED)


def float_bytes(attribute: AttributeProto) -> bytes:
    """An attribute's list of floats, as a tensor's bytes."""
    return np.asarray(attribute.floats, "<f4").tobytes()


def set_floats(attribute: AttributeProto, data: Data) -> None:
    """Inverse of :func:`float_bytes`."""
    del attribute.floats[:]
    attribute.floats.extend(np.frombuffer(data, "<f4").tolist())


def clear(tensor: TensorProto) -> None:
    for name in (*_TYPED, "raw_data", "external_data", "data_location"):
        tensor.ClearField(name)


def refer(tensor: TensorProto, slot: Slot) -> None:
    clear(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS_NAME), ("offset", str(slot.offset)), ("length", str(slot.length))):
        tensor.external_data.add(key=key, value=value)


def show(text: str) -> str:
    return ascii(text[:60])
