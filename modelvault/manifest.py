"""The two signed statements (in-toto Statement v1): what a sealed model is, and who is granted access to it."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelvault._codec import Fields, b64encode, format_time, json_decode, json_encode, parse_time
from modelvault._primitives import plain_length
from modelvault.commitment import Commitment
from modelvault.errors import FormatError
from modelvault.policy import Terms
from modelvault.variants import Variants

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MODEL_PREDICATE = "urn:modelvault:sealed-model:v1"
GRANT_PREDICATE = "urn:modelvault:grant:v1"
ROOT_ALGORITHM = "mvltMerkleSha256"
BLOCK = 4 * 2**20
NONCE = 32
MAX_STATEMENT = 12 * 2**20
MAX_GRANT = 256 * 2**10
MAX_EXTENTS = 65_535
EXTENT_KINDS = ("graph", "weights", "variants", "asset", "index")
PURPOSES = ("run", "audit")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}")
_RULE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
MAX_ALLOWED = 64
_GRANT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """One encrypted stream of the payload; offset and length count ciphertext bytes from the payload's start."""

    kind: str
    offset: int
    length: int

    @property
    def plain(self) -> int:
        """Bytes after decryption."""
        return plain_length(self.length)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSignature:
    """The OpenSSF model signature that the plain files had: the digest of its list, and the keys that verified it."""

    digest: bytes
    signers: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"digest": self.digest.hex(), "signers": list(self.signers)}

    @classmethod
    def from_dict(cls, value: dict[str, Any], field: str) -> "PlainSignature":
        fields = Fields(value, field)
        signature = cls(digest=fields.digest("digest"), signers=fields.fingerprints("signers", limit=64))
        fields.done()
        return signature


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatement:
    """What the publisher signs about a sealed model. Times are UTC; ``root`` covers the whole ciphertext.

    ``allowed``: rules of the scan whose errors the publisher let pass, sorted.
    """

    name: str
    version: str
    created: datetime
    nonce: bytes
    root: bytes
    extents: tuple[Extent, ...]
    key_commitment: bytes
    policy: Terms
    publishers: tuple[str, ...]
    io: dict[str, Any] | None = None
    watermark: Commitment | None = None
    variants: Variants | None = None
    plain_signature: PlainSignature | None = None
    allowed: tuple[str, ...] = ()

    @property
    def payload_size(self) -> int:
        last = self.extents[-1]
        return last.offset + last.length

    def to_bytes(self) -> bytes:
        predicate: dict[str, Any] = {
            "created": format_time(self.created),
            "extents": [{"kind": e.kind, "length": e.length, "offset": e.offset} for e in self.extents],
            "keyCommitment": b64encode(self.key_commitment),
            "nonce": b64encode(self.nonce),
            "policy": self.policy.to_dict(),
            "publishers": list(self.publishers),
            "version": self.version,
        }
        if self.io is not None:
            predicate["io"] = self.io
        if self.watermark is not None:
            predicate["watermark"] = self.watermark.to_dict()
        if self.variants is not None:
            predicate["fingerprint"] = self.variants.to_dict()
        if self.plain_signature is not None:
            predicate["plainSignature"] = self.plain_signature.to_dict()
        if self.allowed:
            predicate["scanAllowed"] = list(self.allowed)
        return build_statement(self.name, {ROOT_ALGORITHM: self.root.hex()}, MODEL_PREDICATE, predicate)

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "ModelStatement":
        """Parse and validate; FormatError names the field below ``field``."""
        name, root, fields = open_statement(data, field, ROOT_ALGORITHM, MODEL_PREDICATE, MAX_STATEMENT)
        mark = fields.mapping("watermark", None)
        variants = fields.mapping("fingerprint", None)
        plain = fields.mapping("plainSignature", None)
        statement = cls(
            name=check_name(name, f"{field}.subject"),
            version=check_version(fields.text("version"), f"{fields.path}.version"),
            created=parse_time(fields.text("created"), f"{fields.path}.created"),
            nonce=fields.binary("nonce", size=NONCE),
            root=root,
            extents=_extents(fields.items("extents", limit=MAX_EXTENTS), f"{fields.path}.extents"),
            key_commitment=fields.binary("keyCommitment", size=32),
            policy=Terms.from_dict(fields.mapping("policy"), f"{fields.path}.policy"),
            publishers=fields.fingerprints("publishers", limit=64),
            io=fields.mapping("io", None),
            watermark=None if mark is None else Commitment.from_dict(mark, f"{fields.path}.watermark"),
            variants=None if variants is None else Variants.from_dict(variants, f"{fields.path}.fingerprint"),
            plain_signature=None if plain is None else PlainSignature.from_dict(plain, f"{fields.path}.plainSignature"),
            allowed=_allowed(fields),
        )
        fields.done()
        stored = [e.plain for e in statement.extents if e.kind == "variants"]
        if stored != ([statement.variants.store] if statement.variants else []):
            raise FormatError(f"{fields.path}.extents: variants are not as in fingerprint")
        return statement


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantStatement:
    """One recipient's access to one sealed model; ``model`` is the SHA-256 of the model statement's bytes.

    ``variants``: keys of the fingerprinted slots, sealed under a key that is in the wrapped bundle.
    """

    grant_id: str
    model_name: str
    model: bytes
    created: datetime
    recipient: str
    algorithm: str
    wrapped: bytes
    purpose: str = "run"
    licence: Terms = Terms()
    variants: bytes | None = None

    def to_bytes(self) -> bytes:
        predicate = {
            "created": format_time(self.created),
            "grantId": self.grant_id,
            "licence": self.licence.to_dict(),
            "purpose": self.purpose,
            "recipient": self.recipient,
            "wrap": {"algorithm": self.algorithm, "ciphertext": b64encode(self.wrapped)},
        }
        if self.variants is not None:
            predicate["variants"] = b64encode(self.variants)
        return build_statement(self.model_name, {"sha256": self.model.hex()}, GRANT_PREDICATE, predicate)

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "GrantStatement":
        """Parse and validate; FormatError names the field below ``field``."""
        name, digest, fields = open_statement(data, field, "sha256", GRANT_PREDICATE, MAX_GRANT)
        wrap = Fields(fields.mapping("wrap"), f"{fields.path}.wrap")
        statement = cls(
            grant_id=_matching(_GRANT_ID, fields.text("grantId"), f"{fields.path}.grantId"),
            model_name=check_name(name, f"{field}.subject"),
            model=digest,
            created=parse_time(fields.text("created"), f"{fields.path}.created"),
            recipient=fields.text("recipient", limit=128),
            algorithm=wrap.text("algorithm", limit=64),
            wrapped=wrap.binary("ciphertext"),
            purpose=_choice(fields.text("purpose"), PURPOSES, f"{fields.path}.purpose"),
            licence=Terms.from_dict(fields.mapping("licence"), f"{fields.path}.licence"),
            variants=fields.binary("variants", None),
        )
        wrap.done()
        fields.done()
        return statement


def _allowed(fields: Fields) -> tuple[str, ...]:
    """Names of rules, sorted and each once; an empty list is left out of a statement."""
    names: tuple[str, ...] | None = fields.texts("scanAllowed", None, limit=MAX_ALLOWED)
    if names is None:
        return ()
    field = f"{fields.path}.scanAllowed"
    for name in names:
        _matching(_RULE, name, field)
    if not names or list(names) != sorted(set(names)):
        raise FormatError(f"{field}: expected names in order, each once")
    return names


def check_name(text: str, field: str) -> str:
    """A model name: letters, digits, dot, underscore, hyphen; 128 at most."""
    return _matching(_NAME, text, field)


def check_version(text: str, field: str) -> str:
    """A model version: one to four numbers joined by dots, no leading zeros."""
    return _matching(_VERSION, text, field)


def version_key(text: str) -> tuple[int, ...]:
    """Versions compare as these: number by number, missing numbers count as 0."""
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _matching(pattern: re.Pattern[str], text: str, field: str) -> str:
    if not pattern.fullmatch(text):
        raise FormatError(f"{field}: {text[:80]!r} is not allowed (expected {pattern.pattern})")
    return text


def _choice(text: str, allowed: tuple[str, ...], field: str) -> str:
    if text not in allowed:
        raise FormatError(f"{field}: expected one of {', '.join(allowed)}, got {text[:80]!r}")
    return text


def build_statement(name: str, digest: dict[str, str], kind: str, predicate: dict[str, Any]) -> bytes:
    """An in-toto Statement v1 with one subject, as canonical JSON."""
    subject = [{"digest": digest, "name": name}]
    return json_encode({"_type": STATEMENT_TYPE, "predicate": predicate, "predicateType": kind, "subject": subject})


def open_statement(data: bytes, field: str, algorithm: str, kind: str, limit: int) -> tuple[str, bytes, Fields]:
    """The inverse: the subject's name, its digest, and the predicate's fields. Raises FormatError."""
    outer = Fields(json_decode(data, field, limit=limit), field)
    outer.exactly("_type", STATEMENT_TYPE)
    outer.exactly("predicateType", kind)
    subjects = outer.items("subject", limit=1)
    if len(subjects) != 1:
        raise FormatError(f"{field}.subject: expected exactly one, got {len(subjects)}")
    predicate = outer.mapping("predicate")
    outer.done()
    subject = Fields(subjects[0], f"{field}.subject[0]")
    name = subject.text("name", limit=128)
    digests = Fields(subject.mapping("digest"), f"{subject.path}.digest")
    subject.done()
    digest = digests.digest(algorithm)
    digests.done()
    return name, digest, Fields(predicate, f"{field}.predicate")


def _extents(items: list[Any], field: str) -> tuple[Extent, ...]:
    """Back to back from 0: one graph, then weights, then variants, then assets, then one index."""
    extents: list[Extent] = []
    offset = 0
    for number, item in enumerate(items):
        fields = Fields(item, f"{field}[{number}]")
        extent = Extent(
            kind=_choice(fields.text("kind"), EXTENT_KINDS, f"{fields.path}.kind"),
            offset=fields.integer("offset"),
            length=fields.integer("length"),
        )
        fields.done()
        if extent.offset != offset:
            raise FormatError(f"{fields.path}.offset: expected {offset}, got {extent.offset}")
        plain_length(extent.length)
        offset += extent.length
        extents.append(extent)
    kinds = [e.kind for e in extents]
    if kinds != sorted(kinds, key=EXTENT_KINDS.index) or kinds.count("graph") != 1 or kinds.count("index") != 1:
        raise FormatError(f"{field}: expected one graph, weights, variants, assets, one index, in this order")
    return tuple(extents)
