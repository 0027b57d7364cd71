"""Signed checkpoints of an append-only log (C2SP tlog-checkpoint inside a C2SP signed-note). Bytes to values."""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from modelvault._codec import NUMBER, b64decode, b64encode
from modelvault.errors import FormatError

MAX_NOTE = 16 * 2**10
MAX_NOTE_SIGNATURES = 16
ED25519 = b"\x01"
_DASH = "\N{EM DASH} "
_NAME = re.compile(r"[^\s+\x00-\x1f]{1,200}")  # C2SP signed-note: no control characters


class NoteKey(Protocol):
    """An Ed25519 public key."""

    @property
    def public_bytes(self) -> bytes: ...

    def verify(self, message: bytes, signature: bytes) -> None: ...


class NoteSigner(Protocol):
    """The private half of a :class:`NoteKey`."""

    @property
    def public(self) -> NoteKey: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log's size in records and its Merkle root; ``origin`` names the log."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        return f"{self.origin}\n{self.size}\n{b64encode(self.root)}\n"

    @classmethod
    def from_text(cls, text: str, field: str) -> "Checkpoint":
        """Parse a checkpoint without extension lines; FormatError names ``field``."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatError(f"{field}: expected three lines")
        origin, size, root = lines[:3]
        if not _NAME.fullmatch(origin) or not NUMBER.fullmatch(size):
            raise FormatError(f"{field}: not a checkpoint")
        value = b64decode(root, f"{field}: root")
        if len(value) != 32:
            raise FormatError(f"{field}: root: expected 32 bytes, got {len(value)}")
        return cls(origin=origin, size=int(size), root=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: key name, 4-byte key id (a hint), signature."""

    name: str
    key_id: bytes
    signature: bytes

    def to_text(self) -> str:
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A signed note; nobody has checked its signatures yet."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_text(self) -> str:
        return f"{self.text}\n{''.join(s.to_text() for s in self.signatures)}"

    @classmethod
    def from_text(cls, note: str, field: str) -> "Note":
        """Parse; FormatError names ``field``."""
        text, blank, tail = note.rpartition("\n\n")
        if len(note) > MAX_NOTE or not blank:
            raise FormatError(f"{field}: not a signed note")
        signatures = parse_signatures(tail, field)
        if len({(s.name, s.key_id) for s in signatures}) != len(signatures):
            raise FormatError(f"{field}: two signatures of one key")
        return cls(text=text + "\n", signatures=signatures)

    def signed_by(self, name: str, key: NoteKey) -> bool:
        """Whether the note carries a line of this key; SignatureInvalid where that line does not verify."""
        wanted = key_id(name, key)
        for line in self.signatures:
            if line.name == name and line.key_id == wanted:
                key.verify(self.text.encode(), line.signature)
                return True
        return False


def parse_signatures(lines: str, field: str) -> tuple[NoteSignature, ...]:
    """Signature lines, each ending in a newline; FormatError names ``field``."""
    *found, rest = lines.split("\n")
    if rest or not 0 < len(found) <= MAX_NOTE_SIGNATURES:
        raise FormatError(f"{field}: not a signed note")
    return tuple(_signature(line, field) for line in found)


def _signature(line: str, field: str) -> NoteSignature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not _NAME.fullmatch(name):
        raise FormatError(f"{field}: not a signature line")
    data = b64decode(encoded, f"{field}: signature")
    if len(data) < 5:
        raise FormatError(f"{field}: signature: too short")
    return NoteSignature(name=name, key_id=data[:4], signature=data[4:])


def key_id(name: str, key: NoteKey, algorithm: bytes = ED25519) -> bytes:
    """C2SP signed-note's key id of an Ed25519 key: 4 bytes."""
    return hashlib.sha256(name.encode() + b"\n" + algorithm + key.public_bytes).digest()[:4]


def sign(checkpoint: Checkpoint, signer: NoteSigner) -> Note:
    """A note of the checkpoint, signed under the log's own name."""
    text = checkpoint.to_text()
    line = NoteSignature(
        name=checkpoint.origin, key_id=key_id(checkpoint.origin, signer.public), signature=signer.sign(text.encode())
    )
    return Note(text=text, signatures=(line,))


def verifier_key(origin: str, key: NoteKey) -> str:
    """The key in the text form that Go's ``sumdb/note`` and witnesses take: ``NAME+hex id+base64``."""
    return f"{origin}+{key_id(origin, key).hex()}+{b64encode(ED25519 + key.public_bytes)}"
