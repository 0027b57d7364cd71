"""Witness cosignatures of checkpoints (C2SP tlog-cosignature, Ed25519). Bytes to values."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from modelvault._codec import b64decode, b64encode
from modelvault.checkpoint import ED25519, Note, NoteSignature, NoteSigner, key_id
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.keys import HostPublic

COSIGNATURE = b"\x04"
_KINDS = {ED25519[0]: "log", COSIGNATURE[0]: "witness"}
_VERIFIER_KEY = re.compile(r"([^\s+\x00-\x1f]{1,200})\+([0-9a-f]{8})\+([A-Za-z0-9+/=]{1,200})")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """A named Ed25519 key in signed-note's text form: a log's (``algorithm`` 1) or a witness's (4)."""

    name: str
    algorithm: bytes
    key: HostPublic

    def to_text(self) -> str:
        number = key_id(self.name, self.key, self.algorithm).hex()
        return f"{self.name}+{number}+{b64encode(self.algorithm + self.key.public_bytes)}"

    @classmethod
    def from_text(cls, text: str, field: str, kinds: bytes = ED25519 + COSIGNATURE) -> "VerifierKey":
        """Parse ``NAME+HEX+BASE64`` of one of these kinds of keys; FormatError names ``field``."""
        found = _VERIFIER_KEY.fullmatch(text)
        data = b64decode(found[3], field) if found else b""
        if not found or len(data) != 33 or data[:1] not in kinds:
            whose = " or ".join(_KINDS[kind] for kind in kinds)
            raise FormatError(f"{field}: expected the verifier key of an Ed25519 {whose}")
        key = cls(name=found[1], algorithm=data[:1], key=HostPublic.from_bytes(data[1:], field))
        if key.to_text() != text:
            raise FormatError(f"{field}: the key's number does not fit the key")
        return key


def cosign(text: str, name: str, signer: NoteSigner, moment: datetime) -> NoteSignature:
    """A witness's line under a checkpoint's text, saying that it has seen nothing else up to ``moment``."""
    seconds = int(moment.timestamp())
    signature = signer.sign(_message(text, seconds))
    stamped = seconds.to_bytes(8, "big") + signature
    return NoteSignature(name=name, key_id=key_id(name, signer.public, COSIGNATURE), signature=stamped)


def cosigned_at(note: Note, witness: VerifierKey) -> datetime | None:
    """When this witness cosigned the note, or None; SignatureInvalid where its line does not verify."""
    wanted = key_id(witness.name, witness.key, COSIGNATURE)
    for line in note.signatures:
        if (line.name, line.key_id) == (witness.name, wanted):
            seconds = int.from_bytes(line.signature[:8], "big")
            if len(line.signature) != 72 or seconds > 253_402_300_799:
                raise SignatureInvalid(f"cosignature by {witness.name}: not a timestamped signature")
            witness.key.verify(_message(note.text, seconds), line.signature[8:])
            return datetime.fromtimestamp(seconds, UTC)
    return None


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
