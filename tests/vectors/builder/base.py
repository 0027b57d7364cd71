"""What every kind of vector needs: fixed keys, canonical JSON, DSSE envelopes, the vector file itself."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
STATUS = {
    "accepted": 0, "FileError": 3, "FormatError": 4, "KeyUnavailable": 6, "SignatureInvalid": 8,
    "UntrustedPublisher": 9, "PayloadTampered": 10, "PolicyDenied": 11, "Revoked": 12, "modified": 20,
    "truncated": 21, "forked": 22, "unknown-key": 23, "unsealed": 24, "rollback": 25, "torn": 26,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vector:
    """One file. ``kind`` says which API it is for, ``name`` is its place below the kind's folder."""

    kind: str
    name: str
    about: str
    expect: str
    data: bytes
    header: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> str:
        return f"{self.kind}/{self.name}.vec"

    def to_bytes(self) -> bytes:
        """The header's lines, an empty line, the file. ``error`` is modelvault's error or verdict."""
        lines = [("modelvault-vector", "1"), ("kind", self.kind), ("about", self.about), ("expect", self.expect)]
        lines += [("status", str(STATUS[self.expect])), *self.header, ("bytes", str(len(self.data)))]
        return "".join(f"{key}: {value}\n" for key, value in lines).encode() + b"\n" + self.data


def parse(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The inverse: header values by key, and the file."""
    top, _, rest = data.partition(b"\n\n")
    header: dict[str, list[str]] = {}
    for line in top.decode().split("\n"):
        key, _, value = line.partition(": ")
        header.setdefault(key, []).append(value)
    return header, rest


def noise(label: str, size: int) -> bytes:
    """Bytes that stand for ciphertext: SHA-256 in counter mode over a label."""
    count = -(-size // 32)
    return b"".join(hashlib.sha256(f"{label}/{n}".encode()).digest() for n in range(count))[:size]


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Key:
    """An Ed25519 key drawn from its name. It protects nothing: anybody can draw it again."""

    def __init__(self, name: str) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(sha(b"modelvault test vectors: ", name.encode()))
        public, form = self._private.public_key(), serialization.PublicFormat.SubjectPublicKeyInfo
        self.der = public.public_bytes(serialization.Encoding.DER, form)
        self.pem = public.public_bytes(serialization.Encoding.PEM, form)
        self.raw = self.der[-32:]
        self.fingerprint = "SHA256:" + b64(sha(self.der)).rstrip("=")

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


PUBLISHER, SECOND, STRANGER, HOST, NEXT, WITNESS, RECIPIENT = (
    Key(name) for name in ("publisher", "second", "stranger", "host", "next", "witness", "recipient")
)


def message(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def signature(payload: bytes, key: Key) -> dict[str, str]:
    return {"keyid": key.fingerprint, "sig": b64(key.sign(message(payload)))}


def envelope(payload: bytes, keys: Sequence[Key] = (PUBLISHER,), /, **changes: Any) -> bytes:
    """A DSSE envelope in canonical JSON; a change replaces a key, one to None takes it away."""
    value = {"payload": b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature(payload, k) for k in keys]}
    return canonical(changed(value, changes))


def changed(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in {**value, **changes}.items() if item is not None}


def statement(kind: str, name: Any, digest: dict[str, Any], predicate: Any, /, **changes: Any) -> bytes:
    """An in-toto Statement v1 in canonical JSON."""
    value = {
        "_type": STATEMENT,
        "predicate": predicate,
        "predicateType": f"urn:modelvault:{kind}:v1",
        "subject": [{"digest": digest, "name": name}],
    }
    return canonical(changed(value, changes))
