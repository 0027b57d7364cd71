"""The sealed file's layout: prelude, envelope, grants, zeros, payload (docs/FORMAT.md section 2). Bytes to values."""

import struct
from dataclasses import dataclass

from modelvault.errors import FormatError

MAGIC = bytes.fromhex("894d564c540d0a1a")
VERSION = 1
PRELUDE = struct.Struct(">8sHHIIQ")
ALIGNMENT = 4096
MAX_ENVELOPE = 16 * 2**20
MAX_GRANTS = 64 * 2**20
MAX_GRANT_COUNT = 65_535
MAX_PADDING = 2 * ALIGNMENT
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prelude:
    """The fixed first bytes: how much follows before the payload."""

    envelope: int
    grants: int
    payload_offset: int

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> "Prelude":
        if len(data) < PRELUDE.size:
            raise FormatError(f"{source}: prelude: {len(data)} bytes, expected {PRELUDE.size}")
        magic, version, reserved, envelope, grants, offset = PRELUDE.unpack_from(data)
        if magic != MAGIC:
            raise FormatError(f"{source}: not a sealed model (wrong magic)")
        if version != VERSION:
            raise FormatError(f"{source}: version: expected {VERSION}, got {version}")
        if reserved:
            raise FormatError(f"{source}: reserved: expected 0, got {reserved}")
        if not 0 < envelope <= MAX_ENVELOPE:
            raise FormatError(f"{source}: envelope_len: expected 1 to {MAX_ENVELOPE}, got {envelope}")
        if grants > MAX_GRANTS:
            raise FormatError(f"{source}: grants_len: above the limit of {MAX_GRANTS}: {grants}")
        padding = offset - PRELUDE.size - envelope - grants
        if offset % ALIGNMENT or not 0 <= padding < MAX_PADDING:
            raise FormatError(f"{source}: payload_offset: {offset} does not follow the header")
        return cls(envelope=envelope, grants=grants, payload_offset=offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything before the payload: the signed envelope and the embedded grants, both as bytes."""

    envelope: bytes
    grants: tuple[bytes, ...]

    @property
    def length(self) -> int:
        return PRELUDE.size + len(self.envelope) + sum(_LENGTH.size + len(g) for g in self.grants)

    def to_bytes(self, payload_offset: int) -> bytes:
        """The header with its zero padding; exactly ``payload_offset`` bytes."""
        grants = b"".join(_LENGTH.pack(len(g)) + g for g in self.grants)
        prelude = PRELUDE.pack(MAGIC, VERSION, 0, len(self.envelope), len(grants), payload_offset)
        header = prelude + self.envelope + grants
        Prelude.from_bytes(header, "header")
        return header.ljust(payload_offset, b"\0")

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> "Header":
        """Parse the first ``payload_offset`` bytes of a sealed file."""
        prelude = Prelude.from_bytes(data, source)
        if len(data) != prelude.payload_offset:
            raise FormatError(f"{source}: header: expected {prelude.payload_offset} bytes, got {len(data)}")
        grants_at = PRELUDE.size + prelude.envelope
        padding_at = grants_at + prelude.grants
        if data.count(0, padding_at) != len(data) - padding_at:
            raise FormatError(f"{source}: padding: expected zeros")
        return cls(envelope=data[PRELUDE.size : grants_at], grants=_split_grants(data[grants_at:padding_at], source))


def payload_offset(header_length: int) -> int:
    """The aligned place of the payload after a header of so many bytes."""
    return -(-header_length // ALIGNMENT) * ALIGNMENT


def _split_grants(data: bytes, source: str) -> tuple[bytes, ...]:
    grants: list[bytes] = []
    at = 0
    while at < len(data):
        if len(grants) == MAX_GRANT_COUNT:
            raise FormatError(f"{source}: grants: more than {MAX_GRANT_COUNT}")
        start = at + _LENGTH.size
        end = start + int.from_bytes(data[at:start], "big")
        if end > len(data) or end == start:
            raise FormatError(f"{source}: grants[{len(grants)}]: length does not fit")
        grants.append(data[start:end])
        at = end
    return tuple(grants)
