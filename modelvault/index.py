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
    """What the payload holds. ``assets`` stand in the order of the asset extents; ``guard`` bounds the inputs.

    ``weights`` counts the region's bytes by dtype. ``tensors`` is the table of names and places, which only auditors
    need: a loader leaves it unread, so that no name of it enters the interpreter's memory.
    """

    region: int
    sources: tuple[FileEntry, ...]
    assets: tuple[FileEntry, ...]
    weights: dict[str, int]
    guard: InputEnvelope | None = None
    tensors: tuple[TensorPlace, ...] = ()

    def to_bytes(self) -> bytes:
        """Two lines of canonical JSON: the contents, and the table of tensors."""
        contents: dict[str, Any] = {
            "assets": [_file_dict(f) for f in self.assets],
            "region": self.region,
            "sources": [_file_dict(f) for f in self.sources],
            "weights": self.weights,
        }
        if self.guard is not None:
            contents["guard"] = self.guard.to_list()
        table = [
            {"dtype": t.dtype, "length": t.length, "name": t.name, "offset": t.offset, "shape": list(t.shape)}
            for t in self.tensors
        ]
        return json_encode(contents) + b"\n" + json_encode(table) + b"\n"

    @classmethod
    def from_bytes(cls, contents: bytes, field: str, *, table: bytes | None = None) -> "Index":
        """Parse the first line, and the second where it is given; FormatError names the field below ``field``."""
        fields = Fields(json_decode(contents, field, limit=MAX_INDEX), field)
        region = fields.integer("region")
        guard = fields.items("guard", None)
        index = cls(
            region=region,
            sources=_files(fields.items("sources", limit=MAX_ASSETS), f"{field}.sources"),
            assets=_files(fields.items("assets", limit=MAX_ASSETS), f"{field}.assets"),
            weights=_counts(fields.mapping("weights"), f"{field}.weights"),
            guard=None if guard is None else InputEnvelope.from_list(guard, f"{field}.guard"),
            tensors=() if table is None else _table(table, f"{field}.tensors", region),
        )
        fields.done()
        if len({a.path for a in index.assets}) != len(index.assets):
            raise FormatError(f"{field}.assets: two assets of one path")
        return index


def _counts(value: dict[str, Any], field: str) -> dict[str, int]:
    fields = Fields(value, field)
    counts = {dtype: fields.integer(dtype) for dtype in value}
    fields.done()
    return counts


def _table(data: bytes, field: str, region: int) -> tuple[TensorPlace, ...]:
    items = json_decode(data, field, limit=MAX_INDEX)
    if not isinstance(items, list) or len(items) > MAX_TENSORS:
        raise FormatError(f"{field}: expected a list of at most {MAX_TENSORS} tensors")
    return tuple(_tensor(item, f"{field}[{number}]", region) for number, item in enumerate(items))


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
