"""The trust policy: which publishers may vouch for which models. No policy, no load.

A policy is a TOML file. Public keys stand in files beside it, and the policy pins each by its fingerprint.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelvault import _files, remote
from modelvault._codec import Fields
from modelvault.auditterms import AuditTerms
from modelvault.envelope import Envelope, Verifier
from modelvault.errors import FileError, FormatError, PolicyDenied, Revoked, UntrustedPublisher
from modelvault.keys import PublisherPublic
from modelvault.keys.store import MAX_KEY_FILE
from modelvault.manifest import ModelStatement, check_name, check_version, version_key
from modelvault.policy import MAX_POLICY, read_toml, toml_table

Place = Path | str  # a path, or a URL
FRESH = "# Who may vouch for which models on this host.\nversion = 1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """One publisher: at least ``threshold`` of its distinct keys must have signed a model it vouches for.

    ``allow_older`` lets a host go back to a version older than one it has loaded. ``handover`` is the number of the
    last hand-over followed, ``retired`` the keys given up on the way, by the hand-over that did it; ``revoked`` holds
    reasons by key. A signature by a retired or revoked key counts for nothing.
    """

    name: str
    models: tuple[str, ...]
    threshold: int
    keys: tuple[Verifier, ...]
    minimum_version: str = "0"
    allow_older: bool = False
    handover: int = 0
    retired: Mapping[str, int] = field(default_factory=dict)
    revoked: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "models": list(self.models),
            "threshold": self.threshold,
            "minimum_version": self.minimum_version,
            "allow_older": self.allow_older,
            "handover": self.handover,
            "keys": [key.fingerprint for key in self.keys],
        }

    def covers(self, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def signers(self, envelope: Envelope) -> frozenset[str]:
        """Fingerprints of this publisher's keys that signed and still count; SignatureInvalid where one is wrong."""
        return envelope.verified_by(key for key in self.keys if key.fingerprint not in self.revoked)

    def refusal(self, envelope: Envelope, short: str) -> UntrustedPublisher | Revoked:
        """Why the signatures are too few: ``short``, or that a key which would count was revoked or given up."""
        for keyid in (s.keyid for s in envelope.signatures):
            if keyid in self.revoked:
                return Revoked(f"{short}: publisher key {keyid} was revoked: {self.revoked[keyid]}")
            if keyid in self.retired:
                return UntrustedPublisher(f"{short}: {keyid} was rotated out by hand-over {self.retired[keyid]}")
        return UntrustedPublisher(short)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedModel:
    """A model statement whose signatures satisfy a trust policy. Its payload has not been read yet."""

    statement: ModelStatement
    publisher: Publisher
    signers: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationTerms:
    """Where the revocation list lies, how old it may be (None: as old as it is), and who may have signed it."""

    place: Path | str
    max_age: timedelta | None
    threshold: int
    keys: tuple[Verifier, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "list": remote.display(self.place),
            "max_age_hours": None if self.max_age is None else int(self.max_age.total_seconds()) // 3600,
            "threshold": self.threshold,
            "keys": [key.fingerprint for key in self.keys],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustPolicy:
    """All publishers that this host trusts, what it asks of the host's audit log, and where revocations come from.

    ``folder`` is the policy's own, where hand-overs are looked for; None for a policy at a URL.
    """

    publishers: tuple[Publisher, ...]
    audit: AuditTerms = field(default_factory=AuditTerms)
    revocation: RevocationTerms | None = None
    folder: Path | None = None

    @property
    def audit_key(self) -> str | None:
        """The key that the host's audit log must have begun with, if pinned."""
        return self.audit.key

    @classmethod
    def read(cls, path: str | Path) -> "TrustPolicy":
        """Read a policy file, or one at ``URL#sha256=HEX``, whose key files stand beside it there.

        UntrustedPublisher where there is none, or not the one of that digest; FormatError where it is not understood.
        """
        table, folder = _written(path)
        source = remote.display(path).partition("#")[0]
        fields = Fields(table, source)
        fields.integer("version", low=1, high=1)
        publishers = tuple(
            _publisher(item, f"{source}: publisher[{number}]", folder)
            for number, item in enumerate(fields.items("publisher", [], limit=1024))
        )
        audit = AuditTerms.from_dict(fields.mapping("audit", {}), f"{source}: audit")
        revocation = _revocation(fields.mapping("revocation", None), f"{source}: revocation", folder)
        fields.done()
        if len({p.name for p in publishers}) != len(publishers):
            raise FormatError(f"{source}: two publishers of one name")
        local = folder if isinstance(folder, Path) else None
        return cls(publishers=publishers, audit=audit, revocation=revocation, folder=local)

    def verify_model(self, envelope: Envelope, statement: ModelStatement, source: str) -> VerifiedModel:
        """The statement as verified, or SignatureInvalid, UntrustedPublisher, Revoked, PolicyDenied.

        The policy as it stands: :func:`modelvault.trustupdates.updated` applies hand-overs and revocations first.
        """
        short, covering = [], [p for p in self.publishers if p.covers(statement.name)]
        for publisher in covering:
            signers = publisher.signers(envelope)
            if len(signers) >= publisher.threshold:
                _check_version(statement, publisher, source)
                return VerifiedModel(statement=statement, publisher=publisher, signers=signers)
            short.append(f"{publisher.name}: {len(signers)} of {publisher.threshold} signatures")
        found = f"{source}: not signed by a trusted publisher ("
        if not covering:
            raise UntrustedPublisher(f"{found}no publisher may seal {statement.name!r})")
        refusals = [p.refusal(envelope, f"{found}{'; '.join(short)})") for p in covering]
        raise max(refusals, key=lambda r: isinstance(r, Revoked))


def _written(path: str | Path) -> tuple[dict[str, Any], Place]:
    """A policy's table, and where its key files stand."""
    if isinstance(path, str) and remote.is_url(path):
        data = remote.read_pinned(path, limit=MAX_POLICY)
        return toml_table(data, remote.display(path)), path.partition("#")[0].rpartition("/")[0]
    path = Path(path)
    if not _files.exists(path):
        raise UntrustedPublisher(f"no trust policy at {path}")
    return read_toml(path), path.parent


def _beside(folder: Place, name: str) -> Place:
    if remote.is_url(name):
        return name
    return folder / name if isinstance(folder, Path) else f"{folder}/{name}"


def _check_version(statement: ModelStatement, publisher: Publisher, source: str) -> None:
    if version_key(statement.version) < version_key(publisher.minimum_version):
        raise PolicyDenied(
            f"{source}: version {statement.version} is older than the trust policy's minimum "
            f"{publisher.minimum_version} for publisher {publisher.name}"
        )


def _revocation(item: Any, field: str, folder: Place) -> RevocationTerms | None:
    if item is None:
        return None
    fields = Fields(item, field)
    hours = fields.integer("max_age_hours", None, low=1, high=876_000)
    terms = RevocationTerms(
        place=_beside(folder, fields.text("list")),
        max_age=None if hours is None else timedelta(hours=hours),
        threshold=fields.integer("threshold", 1, low=1, high=64),
        keys=_keys(fields, folder),
    )
    fields.done()
    _check_threshold(terms.threshold, terms.keys, field)
    return terms


def _check_threshold(threshold: int, keys: tuple[Verifier, ...], field: str) -> None:
    if len({key.fingerprint for key in keys}) != len(keys):
        raise FormatError(f"{field}.key: one key is listed twice")
    if threshold > len(keys):
        raise FormatError(f"{field}.threshold: {threshold} signatures of {len(keys)} keys")


def _keys(fields: Fields, folder: Place) -> tuple[PublisherPublic, ...]:
    items = fields.items("key", limit=64)
    return tuple(_key(item, f"{fields.path}.key[{number}]", folder) for number, item in enumerate(items))


def _publisher(item: Any, field: str, folder: Place) -> Publisher:
    fields = Fields(item, field)
    publisher = Publisher(
        name=check_name(fields.text("name"), f"{field}.name"),
        models=fields.texts("models", limit=1024),
        threshold=fields.integer("threshold", 1, low=1, high=64),
        keys=_keys(fields, folder),
        minimum_version=check_version(fields.text("minimum_version", "0"), f"{field}.minimum_version"),
        allow_older=fields.boolean("allow_older", False),
    )
    fields.done()
    _check_threshold(publisher.threshold, publisher.keys, field)
    return publisher


def _read_key(path: Place) -> PublisherPublic:
    return PublisherPublic.from_pem(remote.read_bytes(path, limit=MAX_KEY_FILE), remote.display(path))


def _key(item: Any, field: str, folder: Place) -> PublisherPublic:
    fields = Fields(item, field)
    path = _beside(folder, fields.text("file"))
    pinned = fields.text("fingerprint", limit=128)
    fields.done()
    key = _read_key(path)
    if key.fingerprint != pinned:
        raise FormatError(f"{field}: {remote.display(path)} has fingerprint {key.fingerprint}, expected {pinned}")
    return key


def add_publisher(
    policy: Path, name: str, key_files: list[Path], *, models: list[str], threshold: int = 1, minimum: str = "0"
) -> Publisher:
    """Append a publisher to a policy file, made if missing; what stands in the file, comments too, stays as it is.

    The key files are copied to the folder ``trusted`` beside the policy. Raises FormatError, FileError.
    """
    existing = TrustPolicy.read(policy) if _files.exists(policy) else None
    if existing and name in {p.name for p in existing.publishers}:
        raise FormatError(f"{policy}: publisher {name!r} is there already; edit its entry by hand")
    check_name(name, "name")
    check_version(minimum, "minimum_version")
    lines = ["", "[[publisher]]", f"name = {_quote(name)}", f"models = [{', '.join(map(_quote, models))}]"]
    lines += [f"minimum_version = {_quote(minimum)}"] if minimum != "0" else []
    _extend(policy, lines, "publisher", key_files, threshold)
    return next(p for p in TrustPolicy.read(policy).publishers if p.name == name)


def require_revocations(
    policy: Path, location: str, key_files: list[Path], *, threshold: int = 1, max_age_hours: int | None = None
) -> RevocationTerms:
    """Let a policy file ask for a revocation list signed by these keys.

    ``location`` is a URL, or a path relative to the policy's folder.

    Raises FormatError, FileError.
    """
    if _files.exists(policy) and TrustPolicy.read(policy).revocation is not None:
        raise FormatError(f"{policy}: asks for a revocation list already; edit its entry by hand")
    lines = ["", "[revocation]", f"list = {_quote(location)}"]
    lines += [f"max_age_hours = {max_age_hours}"] if max_age_hours is not None else []
    _extend(policy, lines, "revocation", key_files, threshold)
    found = TrustPolicy.read(policy).revocation
    assert found is not None
    return found


def _extend(policy: Path, lines: list[str], table: str, key_files: list[Path], threshold: int) -> None:
    """Append a table with keys; everything is checked before anything is written."""
    if not 0 < threshold <= len(key_files):
        raise FormatError(f"threshold: {threshold} signatures of {len(key_files)} keys")
    keys = [_read_key(p) for p in key_files]
    lines += [f"threshold = {threshold}"] if threshold != 1 else []
    for key in keys:
        lines += [f"[[{table}.key]]", f"file = {_quote(f'trusted/{_file_name(key)}')}"]
        lines += [f"fingerprint = {_quote(key.fingerprint)}"]
    text = policy.read_text("utf-8") if policy.exists() else FRESH
    text += "\n".join(lines) + "\n"
    _check_toml(text, policy)
    with _files.failures(policy.parent):
        (policy.parent / "trusted").mkdir(parents=True, exist_ok=True)
    for key in keys:
        _files.write_bytes(policy.parent / "trusted" / _file_name(key), key.to_pem())
    _files.write_bytes(policy, text.encode())


def _file_name(key: PublisherPublic) -> str:
    plain = key.fingerprint.removeprefix("SHA256:")
    return plain.replace("/", "_").replace("+", "-") + ".pub"


def _quote(text: str) -> str:
    if not text.isprintable() or '"' in text or "\\" in text:
        raise FormatError(f"{text!r}: not allowed in a trust policy")
    return f'"{text}"'


def _check_toml(text: str, path: Path) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{path}: cannot be extended: {str(error).lower()}") from None
