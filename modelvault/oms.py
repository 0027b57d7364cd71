"""OpenSSF Model Signing: sign a model folder, or check one against its signature (docs/KEYS.md)."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from modelvault import _files
from modelvault.envelope import Verifier
from modelvault.errors import FileError, FormatError, PayloadTampered
from modelvault.manifest import PlainSignature
from modelvault.omsbundle import MAX_BUNDLE, ModelManifest, PemSigner, UnverifiedSignature, to_bundle
from modelvault.sealedfile import workers

ALGORITHMS = (
    "ecdsa-p256",
    "ecdsa-p384",
    "ecdsa-p521",
)  # of those that model_signing verifies, the ones a publisher key can have
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # as model_signing does by default


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
    empty = ModelManifest(name=_files.real(folder).name, resources={}, ignored=ignored)
    paths = [path for path in _walk(Path(folder)) if not empty.ignores(path)]
    manifest = ModelManifest(name=empty.name, resources=_hash(Path(folder), paths), ignored=ignored)
    _files.write_bytes(signature, to_bundle(manifest, signers))
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
    place, root = _files.real(path), _files.real(folder)
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
