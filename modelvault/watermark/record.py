"""The owner's private note of a mark: enough to look for it when the original is not at hand."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, format_time, json_decode, json_encode, parse_time
from modelvault._primitives import LABEL_WATERMARK
from modelvault.commitment import SCHEME, Commitment
from modelvault.errors import FormatError
from modelvault.keys import OwnerSecret, store
from modelvault.watermark.carriers import SIGNS, Carrier, Shape
from modelvault.watermark.code import PAYLOAD
from modelvault.watermark.pattern import ModelKey

RECORD_TYPE = "modelvault/watermark-record/v1"
MAX_RECORD = 64 * 2**20
MAX_RECORDS = 1000
MAX_CARRIERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A tensor that was marked: its digest before, and 256 signs that find it again."""

    name: str
    dtype: str
    shape: Shape
    digest: bytes
    signs: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was embedded: private to the owner, since it names the original's tensors and the payload."""

    commitment: Commitment
    payload: bytes
    model: str
    created: datetime
    carriers: tuple[Marked, ...]

    def to_bytes(self) -> bytes:
        return json_encode(
            {
                "carriers": [
                    {
                        "digest": c.digest.hex(),
                        "dtype": c.dtype,
                        "name": c.name,
                        "shape": list(c.shape),
                        "signs": c.signs.hex(),
                    }
                    for c in self.carriers
                ],
                "commitment": self.commitment.to_dict(),
                "created": format_time(self.created),
                "model": self.model,
                "payload": self.payload.hex(),
                "type": RECORD_TYPE,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "Record":
        """Parse; FormatError names the field."""
        fields = Fields(json_decode(data, field, limit=MAX_RECORD), field)
        fields.exactly("type", RECORD_TYPE)
        items = fields.items("carriers", limit=MAX_CARRIERS)
        record = cls(
            commitment=Commitment.from_dict(fields.mapping("commitment"), f"{field}.commitment"),
            payload=_hex(fields.text("payload"), PAYLOAD, f"{field}.payload"),
            model=fields.text("model"),
            created=parse_time(fields.text("created"), f"{field}.created"),
            carriers=tuple(_marked(item, f"{field}.carriers[{n}]") for n, item in enumerate(items)),
        )
        fields.done()
        return record

    def save(self) -> Path:
        """Keep it in the home folder, readable by its owner alone."""
        where = folder()
        with _files.failures(where):
            where.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = where / f"{self.commitment.original.hex()[:16]}-{self.commitment.value.hex()[:16]}.json"
        _files.write_bytes(path, self.to_bytes(), mode=0o600)
        return path


def folder() -> Path:
    return store.home() / "watermarks"


def read(path: Path) -> Record:
    """Raises FileError, FormatError."""
    return Record.from_bytes(_files.read_bytes(path, limit=MAX_RECORD), str(path))


def records_of(owner: str) -> list[Record]:
    """Every record of an owner (by fingerprint) in the home folder."""
    paths = sorted(folder().glob("*.json"))[:MAX_RECORDS]
    return [r for r in map(read, paths) if r.commitment.owner == owner]


def commit(secret: OwnerSecret, original: bytes, strength: int, payload: bytes) -> Commitment:
    """``original``: carriers.model_digest; ``strength`` in millionths."""
    params = {"original": original.hex(), "payload": payload.hex(), "scheme": SCHEME, "strength": strength}
    opening = ModelKey(secret.secret, original).derive(b"", b"commitment")
    value = hashlib.sha256(LABEL_WATERMARK + b"commitment\n" + opening + json_encode(params)).digest()
    return Commitment(owner=secret.fingerprint, original=original, strength=strength, value=value)


def opens(secret: OwnerSecret, commitment: Commitment, payload: bytes) -> bool:
    """Whether this secret and payload are the ones committed to."""
    return commit(secret, commitment.original, commitment.strength, payload) == commitment


def marked(carriers: Sequence[Carrier]) -> tuple[Marked, ...]:
    return tuple(
        Marked(name=c.weight.name, dtype=c.weight.dtype, shape=c.weight.shape, digest=c.digest, signs=c.signs)
        for c in carriers
    )


def _marked(item: Any, field: str) -> Marked:
    fields = Fields(item, field)
    shape = fields.items("shape", limit=64)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise FormatError(f"{field}.shape: expected counts")
    entry = Marked(
        name=fields.text("name", limit=2**16),
        dtype=fields.text("dtype", limit=32),
        shape=tuple(shape),
        digest=fields.digest("digest"),
        signs=_hex(fields.text("signs"), SIGNS // 8, f"{field}.signs"),
    )
    fields.done()
    return entry


def _hex(text: str, size: int, field: str) -> bytes:
    if len(text) != 2 * size or text.strip("0123456789abcdef"):
        raise FormatError(f"{field}: expected {2 * size} hex digits")
    return bytes.fromhex(text)
