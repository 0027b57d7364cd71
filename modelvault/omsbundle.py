"""OpenSSF Model Signing's signature file (predicate v1.0), as bytes and as values.

It is a Sigstore bundle (v0.3 JSON) around a DSSE envelope; its in-toto statement lists the SHA-256 of every file.
Signed with a key of one's own it needs no Sigstore service. The reference verifier, model_signing 1.1.1, accepts
repeated names, names with ``..`` and an empty list; this one does not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelvault import _files
from modelvault._codec import Fields, b64encode, json_decode, json_encode
from modelvault.envelope import MAX_SIGNATURES, PAYLOAD_TYPE, Signature, Signer, Verifier, pre_authentication
from modelvault.errors import FileError, FormatError, SignatureInvalid
from modelvault.manifest import STATEMENT_TYPE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
MAX_BUNDLE = 64 * 2**20
MAX_RESOURCES = 500_000


class PemVerifier(Verifier, Protocol):
    """A public signing key that can be written as PEM and names its algorithm."""

    @property
    def algorithm(self) -> str: ...

    def to_pem(self) -> bytes: ...


class PemSigner(Signer, Protocol):
    """A signing key whose public half is a :class:`PemVerifier`."""

    @property
    def public(self) -> PemVerifier: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """What a signature says about a folder: relative POSIX path -> SHA-256, and the paths that it leaves out."""

    name: str
    resources: dict[str, bytes]
    ignored: tuple[str, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 over the files' digests in the order of the list: the statement's subject."""
        return hashlib.sha256(b"".join(self.resources.values())).digest()

    def ignores(self, path: str) -> bool:
        return any(path == left_out or path.startswith(f"{left_out}/") for left_out in self.ignored)

    def to_bytes(self) -> bytes:
        resources = [{"algorithm": "sha256", "digest": d.hex(), "name": n} for n, d in self.resources.items()]
        serialization = {
            "allow_symlinks": False,
            "hash_type": "sha256",
            "ignore_paths": list(self.ignored),
            "method": "files",
        }
        return json_encode(
            {
                "_type": STATEMENT_TYPE,
                "predicate": {"resources": resources, "serialization": serialization},
                "predicateType": PREDICATE,
                "subject": [{"digest": {"sha256": self.digest.hex()}, "name": self.name}],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "ModelManifest":
        """Parse and validate a statement; FormatError names the field below ``field``."""
        outer = Fields(json_decode(data, field, limit=MAX_BUNDLE), field)
        outer.exactly("_type", STATEMENT_TYPE)
        outer.exactly("predicateType", PREDICATE)
        name, digest = _subject(outer.items("subject"), f"{field}.subject")
        # The specification has verifiers ignore what else stands in the predicate.
        predicate = Fields(outer.mapping("predicate"), f"{field}.predicate")
        outer.done()
        manifest = cls(
            name=name,
            resources=_resources(predicate.items("resources", limit=MAX_RESOURCES), f"{predicate.path}.resources"),
            ignored=_serialization(Fields(predicate.mapping("serialization"), f"{predicate.path}.serialization")),
        )
        if manifest.digest != digest:
            raise FormatError(f"{field}.subject: its digest is not that of the listed resources")
        for path in manifest.resources:
            if manifest.ignores(path):
                raise FormatError(f"{predicate.path}: {path!r} is both signed and ignored")
        return manifest


def _subject(subjects: list[Any], field: str) -> tuple[str, bytes]:
    if len(subjects) != 1:
        raise FormatError(f"{field}: expected exactly one, got {len(subjects)}")
    subject = Fields(subjects[0], f"{field}[0]")
    digests = Fields(subject.mapping("digest"), f"{subject.path}.digest")
    name, digest = subject.text("name"), digests.digest("sha256")
    subject.done()
    digests.done()
    return name, digest


def _resources(items: list[Any], field: str) -> dict[str, bytes]:
    resources: dict[str, bytes] = {}
    for number, item in enumerate(items):
        fields = Fields(item, f"{field}[{number}]")
        fields.exactly("algorithm", "sha256")
        name, digest = fields.text("name"), fields.digest("digest")
        fields.done()
        _check_path(name, f"{fields.path}.name")
        if name in resources:
            raise FormatError(f"{fields.path}.name: {name[:80]!r} is listed twice")
        resources[name] = digest
    if not resources:
        raise FormatError(f"{field}: expected at least one")
    return resources


def _check_path(path: str, field: str) -> None:
    """One spelling for each place inside the folder."""
    try:
        parts = _files.split_inside(path)
    except FileError as error:
        raise FormatError(f"{field}: {error}") from None
    if "/".join(parts) != path:
        raise FormatError(f"{field}: {path[:80]!r} is not in its shortest form")


def _serialization(fields: Fields) -> tuple[str, ...]:
    fields.exactly("method", "files")
    fields.exactly("hash_type", "sha256")
    if fields.boolean("allow_symlinks"):
        raise FormatError(f"{fields.path}.allow_symlinks: expected false: links could leave the folder")
    ignored = fields.texts("ignore_paths", (), limit=1024)
    fields.done()
    for number, path in enumerate(ignored):
        _check_path(path, f"{fields.path}.ignore_paths[{number}]")
    return ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedSignature:
    """A signature file as read: nobody has checked who signed it."""

    payload: bytes
    signatures: tuple[Signature, ...]

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "UnverifiedSignature":
        """Parse a bundle signed with a key; one signed through a Sigstore service is a FormatError."""
        outer = Fields(json_decode(data, field, limit=MAX_BUNDLE), field)
        outer.exactly("mediaType", MEDIA_TYPE)
        _material(Fields(outer.mapping("verificationMaterial"), f"{field}.verificationMaterial"))
        envelope = Fields(outer.mapping("dsseEnvelope"), f"{field}.dsseEnvelope")
        outer.done()
        envelope.exactly("payloadType", PAYLOAD_TYPE)
        payload, items = envelope.binary("payload"), envelope.items("signatures", limit=MAX_SIGNATURES)
        envelope.done()
        signatures = [_signature(Fields(s, f"{envelope.path}.signatures[{n}]")) for n, s in enumerate(items)]
        return cls(payload=payload, signatures=tuple(signatures))

    def verified_by(self, keys: Sequence[Verifier], source: str) -> ModelManifest:
        """The manifest, once every one of ``keys`` has signed it. Raises SignatureInvalid, FormatError."""
        if not keys:
            raise ValueError("at least one key is needed")
        for key in keys:
            if not any(self._signed(key, signature) for signature in self.signatures):
                raise SignatureInvalid(f"{source}: not signed by {key.fingerprint}")
        return ModelManifest.from_bytes(self.payload, f"{source}: statement")

    def _signed(self, key: Verifier, signature: Signature) -> bool:
        if signature.keyid not in ("", key.fingerprint):  # model_signing leaves keyid empty
            return False
        try:
            key.verify(pre_authentication(self.payload), signature.sig)
        except SignatureInvalid:
            return False
        return True


def _material(fields: Fields) -> None:
    """Unsigned hints about the key, of which nothing is believed; only their form is checked."""
    key = Fields(fields.mapping("publicKey"), f"{fields.path}.publicKey")
    for name in ("hint", "rawBytes", "keyDetails"):
        key.text(name, None)
    key.done()
    fields.items("tlogEntries", None, limit=0)
    fields.mapping("timestampVerificationData", None)
    fields.done()


def _signature(fields: Fields) -> Signature:
    signature = Signature(keyid=fields.text("keyid", "", limit=128), sig=fields.binary("sig"))
    fields.done()
    return signature


def to_bundle(manifest: ModelManifest, signers: Sequence[PemSigner]) -> bytes:
    """The signature file. What no verifier would accept is not signed: FormatError."""
    payload = manifest.to_bytes()
    ModelManifest.from_bytes(payload, manifest.name)
    message = pre_authentication(payload)
    signatures = [{"keyid": s.public.fingerprint, "sig": b64encode(s.sign(message))} for s in signers]
    return json_encode(
        {
            "dsseEnvelope": {"payload": b64encode(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures},
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(signers[0].public.to_pem()).hexdigest()},
                "tlogEntries": [],
            },
        }
    )
