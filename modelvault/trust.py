"""The trust policy: which publishers may vouch for which models. No policy, no load.

A policy is a TOML file. Public keys stand in files beside it, and the policy pins each by its fingerprint.
"""

import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields
from modelvault.auditterms import AuditTerms
from modelvault.envelope import Envelope, Verifier
from modelvault.errors import FileError, FormatError, PolicyDenied, UntrustedPublisher
from modelvault.keys import PublisherPublic
from modelvault.manifest import ModelStatement, check_name, check_version, version_key
from modelvault.policy import read_toml

MAX_KEY_FILE = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """One publisher: at least ``threshold`` of its distinct keys must have signed a model it vouches for."""

    name: str
    models: tuple[str, ...]
    threshold: int
    keys: tuple[Verifier, ...]
    minimum_version: str = "0"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "models": list(self.models),
            "threshold": self.threshold,
            "minimum_version": self.minimum_version,
            "keys": [key.fingerprint for key in self.keys],
        }

    def covers(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model statement whose signatures satisfy a trust policy. Its payload has not been read yet."""

    statement: ModelStatement
    publisher: Publisher
    signers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """All publishers that this host trusts, and what it asks of the host's audit log."""

    publishers: tuple[Publisher, ...]
    audit: AuditTerms = field(default_factory=AuditTerms)

    @property
    def audit_key(self) -> str | None:
        """The key that the host's audit log must have begun with, if pinned."""
        return self.audit.key

    @classmethod
    def read(cls, path: str | Path) -> "TrustPolicy":
        """Read a policy file; UntrustedPublisher where there is none, FormatError where it is not understood."""
        path = Path(path)
        if not path.exists():
            raise UntrustedPublisher(f"no trust policy at {path}")
        fields = Fields(read_toml(path), str(path))
        fields.integer("version", low=1, high=1)
        publishers = tuple(
            _publisher(item, f"{path}: publisher[{number}]", path.parent)
            for number, item in enumerate(fields.items("publisher", [], limit=1024))
        )
        audit = AuditTerms.from_dict(fields.mapping("audit", {}), f"{path}: audit")
        fields.done()
        if len({p.name for p in publishers}) != len(publishers):
            raise FormatError(f"{path}: two publishers of one name")
        return cls(publishers=publishers, audit=audit)

    def verify_model(self, envelope: Envelope, statement: ModelStatement, source: str) -> VerifiedModel:
        """The statement as verified, or SignatureInvalid, UntrustedPublisher, PolicyDenied."""
        short = []
        for publisher in self.publishers:
            if not publisher.covers(statement.name):
                continue
            signers = envelope.verified_by(publisher.keys)
            if len(signers) >= publisher.threshold:
                _check_version(statement, publisher, source)
                return VerifiedModel(statement=statement, publisher=publisher, signers=signers)
            short.append(f"{publisher.name}: {len(signers)} of {publisher.threshold} signatures")
        found = "; ".join(short) or f"no publisher may seal {statement.name!r}"
        raise UntrustedPublisher(f"{source}: not signed by a trusted publisher ({found})")


def _check_version(statement: ModelStatement, publisher: Publisher, source: str) -> None:
    if version_key(statement.version) < version_key(publisher.minimum_version):
        raise PolicyDenied(
            f"{source}: version {statement.version} is older than the trust policy's minimum "
            f"{publisher.minimum_version} for publisher {publisher.name}"
        )


def _publisher(item: Any, field: str, folder: Path) -> Publisher:
    fields = Fields(item, field)
    keys = tuple(
        _key(entry, f"{field}.key[{number}]", folder) for number, entry in enumerate(fields.items("key", limit=64))
    )
    publisher = Publisher(
        name=check_name(fields.text("name"), f"{field}.name"),
        models=fields.texts("models", limit=1024),
        threshold=fields.integer("threshold", 1, low=1, high=64),
        keys=keys,
        minimum_version=check_version(fields.text("minimum_version", "0"), f"{field}.minimum_version"),
    )
    fields.done()
    if len({key.fingerprint for key in keys}) != len(keys):
        raise FormatError(f"{field}.key: one key is listed twice")
    if publisher.threshold > len(keys):
        raise FormatError(f"{field}.threshold: {publisher.threshold} signatures of {len(keys)} keys")
    return publisher


def _key(item: Any, field: str, folder: Path) -> PublisherPublic:
    fields = Fields(item, field)
    path = folder / fields.text("file")
    pinned = fields.text("fingerprint", limit=128)
    fields.done()
    key = PublisherPublic.from_pem(_files.read_bytes(path, limit=MAX_KEY_FILE), str(path))
    if key.fingerprint != pinned:
        raise FormatError(f"{field}: {path} has fingerprint {key.fingerprint}, expected {pinned}")
    return key


def add_publisher(
    policy: Path, name: str, key_files: list[Path], *, models: list[str], threshold: int = 1, minimum: str = "0"
) -> Publisher:
    """Append a publisher to a policy file, made if missing; what stands in the file, comments too, stays as it is.

    The key files are copied to the folder ``trusted`` beside the policy. Raises FormatError, FileError.
    """
    if not 0 < threshold <= len(key_files):
        raise FormatError(f"threshold: {threshold} signatures of {len(key_files)} keys")
    keys = [PublisherPublic.from_pem(_files.read_bytes(p, limit=MAX_KEY_FILE), str(p)) for p in key_files]
    existing = TrustPolicy.read(policy) if policy.exists() else None
    if existing and name in {p.name for p in existing.publishers}:
        raise FormatError(f"{policy}: publisher {name!r} is there already; edit its entry by hand")
    text = policy.read_text("utf-8") if existing else "# Who may vouch for which models on this host.\nversion = 1\n"
    files = [f"trusted/{_file_name(key)}" for key in keys]
    text += _entry(name, models, threshold, minimum, list(zip(files, keys, strict=True)))
    _check_toml(text, policy)
    with _files.failures(policy.parent):
        (policy.parent / "trusted").mkdir(parents=True, exist_ok=True)
    for file, key in zip(files, keys, strict=True):
        _files.write_bytes(policy.parent / file, key.to_pem())
    _files.write_bytes(policy, text.encode())
    return next(p for p in TrustPolicy.read(policy).publishers if p.name == name)


def _file_name(key: PublisherPublic) -> str:
    plain = key.fingerprint.removeprefix("SHA256:")
    return plain.replace("/", "_").replace("+", "-") + ".pub"


def _quote(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise FormatError(f"{text!r}: not allowed in a trust policy")
    return f'"{text}"'


def _entry(name: str, models: list[str], threshold: int, minimum: str, keys: list[tuple[str, PublisherPublic]]) -> str:
    check_name(name, "name")
    check_version(minimum, "minimum_version")
    lines = ["", "[[publisher]]", f"name = {_quote(name)}", f"models = [{', '.join(map(_quote, models))}]"]
    lines += [f"threshold = {threshold}"] if threshold != 1 else []
    lines += [f"minimum_version = {_quote(minimum)}"] if minimum != "0" else []
    for file, key in keys:
        lines += ["[[publisher.key]]", f"file = {_quote(file)}", f"fingerprint = {_quote(key.fingerprint)}"]
    return "\n".join(lines) + "\n"


def _check_toml(text: str, path: Path) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path}: cannot be extended: {str(error).lower()}") from None
