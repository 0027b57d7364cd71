"""The owner's registry: which models were sealed with fingerprints, and to whom copies were issued.

An append-only file. Each record is AES-256-GCM under a key of its own, derived from the owner's secret and the record's
random salt, and bound to the tag of the record before it: none can be changed, moved or left out. A record that a
power cut tore off is no record yet; cutting off whole records at the end cannot be seen, so keep a copy elsewhere.
"""

import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, format_time, json_decode, json_encode, parse_time
from modelvault._primitives import LABEL_FINGERPRINT, TAG, InvalidTag, aead_open, aead_seal, hkdf
from modelvault.audit.segments import locked_file
from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.fingerprint.layout import Layout
from modelvault.keys import OwnerSecret, store

MAGIC = b"modelvault registry 1\n"
SALT = 32
MAX_RECORD = 2**22
MAX_REGISTRY = 2**31
KINDS = ("slots", "file")
_LENGTH = struct.Struct(">I")
_LEAST = SALT + TAG


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A model that was sealed with fingerprints: its statement's SHA-256, its name and version, its slots."""

    statement: bytes
    name: str
    version: str
    created: datetime
    layout: Layout

    def to_dict(self) -> dict[str, Any]:
        return {
            "created": format_time(self.created),
            "layout": self.layout.to_dict(),
            "name": self.name,
            "statement": self.statement.hex(),
            "type": "sealed",
            "version": self.version,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A copy for one recipient. ``label``: the publisher's name for it; ``kind``: slots of one file, or its own file.

    ``original``: digest over the original's carriers.
    """

    statement: bytes
    original: bytes
    recipient: str
    label: str
    kind: str
    created: datetime

    def to_dict(self) -> dict[str, Any]:
        return {
            "created": format_time(self.created),
            "kind": self.kind,
            "label": self.label,
            "original": self.original.hex(),
            "recipient": self.recipient,
            "statement": self.statement.hex(),
            "type": "issued",
        }


Record = Sealed | Issued


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def default_path(owner: str) -> Path:
    """Where an owner's registry is, unless another place is named; ``owner``: the secret's fingerprint."""
    return store.home() / "registries" / f"{owner.removeprefix('SHA256:').replace('/', '_').replace('+', '-')[:16]}.mvr"


class Registry:
    """One owner's registry file; it need not exist yet."""

    def __init__(self, path: str | os.PathLike[str], secret: OwnerSecret) -> None:
        self.path = Path(path)
        self._key = hkdf(secret.secret, salt=b"", info=LABEL_FINGERPRINT + b"registry")

    def append(self, *records: Record) -> None:
        """Add records, synced to the disk together. Raises FileError, FormatError, KeyUnavailable."""
        with _files.failures(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _files.failures(self.path), locked_file(self.path) as descriptor:
            chain, end = b"", 0
            for _, tag, whole in self._walk(self._content(descriptor)):
                chain, end = tag, whole
            data = b"" if end else MAGIC
            for record in records:
                body = self._seal(json_encode(record.to_dict()), chain)
                chain = body[-TAG:]
                data += _LENGTH.pack(len(body)) + body
            os.ftruncate(descriptor, end)
            if os.pwrite(descriptor, data, end) != len(data):
                os.ftruncate(descriptor, end)
                raise FileError(f"{self.path}: not all of a record could be written")
            os.fsync(descriptor)

    def __iter__(self) -> Iterator[Record]:
        """Every record, in order. Raises FileError, FormatError, KeyUnavailable."""
        data = _files.read_bytes(self.path, limit=MAX_REGISTRY)
        for number, (body, _, _) in enumerate(self._walk(data)):
            yield _record(body, f"{self.path}: record {number + 1}")

    def _content(self, descriptor: int) -> bytes:
        size = os.fstat(descriptor).st_size
        if size > MAX_REGISTRY:
            raise FormatError(f"{self.path}: larger than the limit of {MAX_REGISTRY} bytes")
        return _files.read_rest(descriptor, size, 0)

    def _walk(self, data: bytes) -> Iterator[tuple[bytes, bytes, int]]:
        """(plain record, its tag, where it ends) for every whole record."""
        if not data.startswith(MAGIC):
            if MAGIC.startswith(data):
                return
            raise FormatError(f"{self.path}: not a registry")
        at, chain = len(MAGIC), b""
        while at + _LENGTH.size <= len(data):
            length = _LENGTH.unpack_from(data, at)[0]
            if not _LEAST <= length <= MAX_RECORD:
                raise FormatError(f"{self.path}: byte {at}: a record of {length} bytes")
            at += _LENGTH.size
            if at + length > len(data):
                return
            body = data[at : at + length]
            plain = self._open(body, chain, at)
            at, chain = at + length, body[-TAG:]
            yield plain, chain, at

    def _seal(self, plain: bytes, chain: bytes) -> bytes:
        salt = secrets.token_bytes(SALT)
        return salt + aead_seal(self._record_key(salt), plain, chain)

    def _open(self, body: bytes, chain: bytes, at: int) -> bytes:
        try:
            return aead_open(self._record_key(body[:SALT]), body[SALT:], chain)
        except InvalidTag:
            if not chain:
                raise KeyUnavailable(f"{self.path}: of another owner, or its first record was changed") from None
            raise FormatError(f"{self.path}: byte {at}: the record was changed, or one before it is missing") from None

    def _record_key(self, salt: bytes) -> bytes:
        return hkdf(self._key, salt=salt, info=LABEL_FINGERPRINT + b"registry record")


def _record(body: bytes, field: str) -> Record:
    fields = Fields(json_decode(body, field, limit=MAX_RECORD), field)
    kind = fields.text("type", limit=16)
    statement, created = fields.digest("statement"), parse_time(fields.text("created"), f"{field}.created")
    if kind == "sealed":
        record: Record = Sealed(
            statement=statement,
            created=created,
            name=fields.text("name", limit=128),
            version=fields.text("version", limit=64),
            layout=Layout.from_dict(fields.mapping("layout"), f"{field}.layout"),
        )
    elif kind == "issued":
        record = Issued(
            statement=statement,
            created=created,
            original=fields.digest("original"),
            recipient=fields.text("recipient", limit=128),
            label=fields.text("label", limit=256),
            kind=fields.text("kind", limit=16),
        )
        if record.kind not in KINDS:
            raise FormatError(f"{field}.kind: expected one of {', '.join(KINDS)}, got {record.kind!r}")
    else:
        raise FormatError(f"{field}.type: expected sealed or issued, got {kind!r}")
    fields.done()
    return record
