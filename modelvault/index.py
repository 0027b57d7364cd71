"""The encrypted table of contents (the index extent): source files, tensors, assets. Bytes to values."""

from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields, json_decode, json_encode
from modelvault._files import split_inside
from modelvault.envelopes import InputEnvelope
from modelvault.errors import FileError, FormatError

MAX_INDEX = 64 * 2**20
MAX_TENSORS = 1_000_000
MAX_ASSETS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A source file or an asset: POSIX path relative to the model's folder, bytes, SHA-256."""

    path: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """A weight in the weights region: offset and length in bytes, dtype in ONNX's words."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the payload holds. ``assets`` stand in the order of the asset extents; ``guard`` bounds the inputs."""

    region: int
    sources: tuple[FileEntry, ...]
    tensors: tuple[TensorPlace, ...]
    assets: tuple[FileEntry, ...]
    guard: InputEnvelope | None = None

    def to_bytes(self) -> bytes:
        guard = {} if self.guard is None else {"guard": self.guard.to_list()}
        return json_encode(
            {
                **guard,
                "assets": [_file_dict(f) for f in self.assets],
                "region": self.region,
                "sources": [_file_dict(f) for f in self.sources],
                "tensors": [
                    {"dtype": t.dtype, "length": t.length, "name": t.name, "offset": t.offset, "shape": list(t.shape)}
                    for t in self.tensors
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "Index":
        """Parse; FormatError names the field below ``field``."""
        fields = Fields(json_decode(data, field, limit=MAX_INDEX), field)
        region = fields.integer("region")
        guard = fields.items("guard", None)
        index = cls(
            region=region,
            sources=_files(fields.items("sources", limit=MAX_ASSETS), f"{field}.sources"),
            tensors=tuple(
                _tensor(item, f"{field}.tensors[{n}]", region)
                for n, item in enumerate(fields.items("tensors", limit=MAX_TENSORS))
            ),
            assets=_files(fields.items("assets", limit=MAX_ASSETS), f"{field}.assets"),
            guard=None if guard is None else InputEnvelope.from_list(guard, f"{field}.guard"),
        )
        fields.done()
        if len({a.path for a in index.assets}) != len(index.assets):
            raise FormatError(f"{field}.assets: two assets of one path")
        return index


def _file_dict(entry: FileEntry) -> dict[str, Any]:
    return {"path": entry.path, "sha256": entry.sha256.hex(), "size": entry.size}


def _files(items: list[Any], field: str) -> tuple[FileEntry, ...]:
    return tuple(_file(item, f"{field}[{number}]") for number, item in enumerate(items))


def _file(item: Any, field: str) -> FileEntry:
    fields = Fields(item, field)
    entry = FileEntry(path=fields.text("path"), size=fields.integer("size"), sha256=fields.digest("sha256"))
    fields.done()
    try:
        split_inside(entry.path)
    except FileError as error:
        raise FormatError(f"{field}.path: {error}") from None
    return entry


def _tensor(item: Any, field: str, region: int) -> TensorPlace:
    fields = Fields(item, field)
    shape = fields.items("shape", limit=64)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise FormatError(f"{field}.shape: expected counts")
    place = TensorPlace(
        name=fields.text("name", limit=2**16),
        dtype=fields.text("dtype", limit=32),
        shape=tuple(shape),
        offset=fields.integer("offset", high=region),
        length=fields.integer("length", high=region),
    )
    fields.done()
    if place.offset + place.length > region:
        raise FormatError(f"{field}: ends beyond the weights region")
    return place
