"""OpenSSF Model Signing (predicate v1.0): sign a model folder, or check one against its signature (docs/KEYS.md).

The signature is a Sigstore bundle (v0.3 JSON) around a DSSE envelope; its in-toto statement lists the SHA-256 of every
file. Signed with a key of one's own it needs no Sigstore service. The reference verifier, model_signing 1.1.1, accepts
repeated names, names with ``..`` and an empty list; this one does not.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from modelvault import _files
from modelvault._codec import Fields, b64encode, json_decode, json_encode
from modelvault.envelope import MAX_SIGNATURES, PAYLOAD_TYPE, Signature, Signer, Verifier, pre_authentication
from modelvault.errors import FileError, FormatError, PayloadTampered, SignatureInvalid
from modelvault.manifest import STATEMENT_TYPE, PlainSignature
from modelvault.sealedfile import workers

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "https://model_signing/signature/v1.0"
ALGORITHMS = ("ecdsa-p256", "ecdsa-p384")  # of those that model_signing verifies, the ones a publisher key can have
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # as model_signing does by default
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
    fields.items("tlogEntries", [], limit=0)
    fields.mapping("timestampVerificationData", None)
    fields.done()


def _signature(fields: Fields) -> Signature:
    signature = Signature(keyid=fields.text("keyid", "", limit=128), sig=fields.binary("sig"))
    fields.done()
    return signature


def sign_model(
    folder: str | os.PathLike[str], signature: str | os.PathLike[str], signers: Sequence[PemSigner]
) -> ModelManifest:
    """Hash every file below ``folder`` and write the signed list to ``signature``, atomically.

    The first key must be ECDSA, since model_signing knows no other and checks the first signature alone; a hybrid or
    Ed25519 key may follow. Git's files are left out, as is the signature itself. Raises FileError, FormatError.
    """
    first = signers[0].public
    if first.algorithm not in ALGORITHMS:
        raise FormatError(f"first key: expected {' or '.join(ALGORITHMS)} for model_signing, got {first.algorithm}")
    ignored = (*IGNORED, *_inside(Path(signature), Path(folder)))
    empty = ModelManifest(name=Path(folder).resolve().name, resources={}, ignored=ignored)
    paths = [path for path in _walk(Path(folder)) if not empty.ignores(path)]
    manifest = ModelManifest(name=empty.name, resources=_hash(Path(folder), paths), ignored=ignored)
    payload = manifest.to_bytes()
    ModelManifest.from_bytes(payload, str(folder))  # what no verifier would accept is not signed
    message = pre_authentication(payload)
    signatures = [{"keyid": s.public.fingerprint, "sig": b64encode(s.sign(message))} for s in signers]
    bundle = {
        "dsseEnvelope": {"payload": b64encode(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures},
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(first.to_pem()).hexdigest()},
            "tlogEntries": [],
        },
    }
    _files.write_bytes(signature, json_encode(bundle))
    return manifest


def verify_model(
    folder: str | os.PathLike[str], signature: str | os.PathLike[str], keys: Sequence[Verifier]
) -> tuple[ModelManifest, list[str]]:
    """The manifest that every one of ``keys`` signed, once the folder holds just its files; and what it ignores there.

    Raises SignatureInvalid, FormatError, FileError; PayloadTampered where a file was changed, added or removed.
    """
    data = _files.read_bytes(signature, limit=MAX_BUNDLE)
    manifest = UnverifiedSignature.from_bytes(data, str(signature)).verified_by(keys, str(signature))
    # The signature may stand in the folder that it signs; it cannot list itself.
    own = set(_inside(Path(signature), Path(folder))) - manifest.resources.keys()
    found = [path for path in _walk(Path(folder)) if path not in own]
    signed = [path for path in found if not manifest.ignores(path)]
    for path in signed:
        if path not in manifest.resources:
            raise PayloadTampered(f"{folder}: {path!r} is not among the signed files")
    for path in manifest.resources.keys() - set(signed):
        raise PayloadTampered(f"{folder}: signed file {path!r} is missing")
    for path, digest in _hash(Path(folder), signed).items():
        if digest != manifest.resources[path]:
            raise PayloadTampered(f"{folder}: {path!r} is not the file that was signed")
    return manifest, sorted(set(found) - set(signed))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """A folder's verified manifest and the fingerprints of the keys that vouch for it."""

    folder: Path
    manifest: ModelManifest
    signers: tuple[str, ...]

    @classmethod
    def verified(
        cls, folder: str | os.PathLike[str], signature: str | os.PathLike[str], keys: Sequence[Verifier]
    ) -> "SignedModel":
        """As :func:`verify_model`."""
        manifest, _ = verify_model(folder, signature, keys)
        return cls(folder=Path(folder), manifest=manifest, signers=tuple(key.fingerprint for key in keys))

    @property
    def record(self) -> PlainSignature:
        return PlainSignature(digest=self.manifest.digest, signers=self.signers)

    def check(self, files: dict[str, bytes]) -> None:
        """PayloadTampered unless ``files`` (path -> SHA-256) are just those that were signed."""
        signed = self.manifest.resources
        for path in sorted(files.keys() | signed.keys()):
            if files.get(path) != signed.get(path):
                raise PayloadTampered(f"{self.folder}: {path!r}: what is sealed is not what was signed")


def _inside(path: Path, folder: Path) -> list[str]:
    """``path`` relative to ``folder``, if it stands in it."""
    place, root = path.resolve(), folder.resolve()
    return [place.relative_to(root).as_posix()] if place.is_relative_to(root) else []


def _walk(folder: Path) -> Iterator[str]:
    """Every file below ``folder``, sorted by path components; links and special files are errors."""
    with _files.failures(folder):
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    for entry in entries:
        with _files.failures(entry.path):
            mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from (f"{entry.name}/{path}" for path in _walk(folder / entry.name))
        elif stat.S_ISREG(mode):
            yield entry.name
        else:
            raise FileError(f"{entry.path}: {'is a symbolic link' if stat.S_ISLNK(mode) else 'not a regular file'}")


def _hash(folder: Path, paths: list[str]) -> dict[str, bytes]:
    with ThreadPoolExecutor(workers(), thread_name_prefix="modelvault-hash") as pool:
        return dict(zip(paths, pool.map(lambda path: _digest(folder, path), paths), strict=True))


def _digest(folder: Path, path: str) -> bytes:
    with open(_files.open_inside(folder, path), "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
