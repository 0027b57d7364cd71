"""Verify a sealed file with public keys alone, and read its public facts."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault._codec import format_time
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.manifest import GrantStatement, ModelStatement
from modelvault.sealedfile import Progress, SealedFile, UnverifiedGrant, open_header
from modelvault.trust import TrustPolicy, VerifiedModel
from modelvault.trustupdates import updated


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFacts:
    """What anybody can read in a sealed file. None of it is verified: see :func:`verify`."""

    path: Path
    statement: ModelStatement
    statement_digest: bytes
    signers: tuple[str, ...]
    grants: tuple[GrantStatement, ...]

    def to_dict(self) -> dict[str, Any]:
        s = self.statement
        return {
            "name": s.name,
            "version": s.version,
            "created": format_time(s.created),
            "statement": self.statement_digest.hex(),
            "root": s.root.hex(),
            "payload_bytes": s.payload_size,
            "extents": {kind: sum(e.kind == kind for e in s.extents) for kind in sorted({e.kind for e in s.extents})},
            "signers": list(self.signers),
            "policy": s.policy.to_dict(),
            "io": s.io,
            "watermark": s.watermark.to_dict() if s.watermark else None,
            "fingerprint": s.variants.to_dict() if s.variants else None,
            "scan_allowed": list(s.allowed),
            "plain_signature": s.plain_signature.to_dict() if s.plain_signature else None,
            "grants": [
                {"id": g.grant_id, "recipient": g.recipient, "purpose": g.purpose, "licence": g.licence.to_dict()}
                for g in self.grants
            ],
        }


def inspect(path: str | os.PathLike[str]) -> PublicFacts:
    """Read the public facts of a sealed file, unverified; of a URL the header only. Raises FormatError, FileError."""
    with open_header(path) as sealed:
        return PublicFacts(
            path=sealed.path,
            statement=sealed.statement,
            statement_digest=sealed.statement_digest,
            signers=tuple(s.keyid for s in sealed.envelope.signatures),
            grants=tuple(g.statement for g in sealed.grants()),
        )


def verify(path: str | os.PathLike[str], trust: TrustPolicy, *, progress: Progress | None = None) -> VerifiedModel:
    """Check signatures, threshold, embedded grants and the whole ciphertext; no decryption key is needed.

    Hand-overs and revocations of models and publishers' keys are obeyed; the list's age is measured by this clock.

    Raises FormatError, SignatureInvalid, UntrustedPublisher, Revoked, PolicyDenied, PayloadTampered, FileError.
    ``progress`` is called from several threads with counts of bytes hashed.
    """
    current = updated(trust)
    current.check_age(datetime.now(UTC))
    with SealedFile(path) as sealed:
        model = current.policy.verify_model(sealed.envelope, sealed.statement, str(sealed.path))
        current.check_model(model, sealed.statement_digest, str(sealed.path))
        for number, grant in enumerate(sealed.grants()):
            verify_grant(grant, model, sealed.statement_digest, f"{path}: grants[{number}]")
        sealed.verify_payload(progress)
    return model


def verify_grant(grant: UnverifiedGrant, model: VerifiedModel, digest: bytes, source: str) -> GrantStatement:
    """The grant's statement, once it is signed by the model's own publisher and is for this very model.

    Raises SignatureInvalid, UntrustedPublisher, Revoked; FormatError where it has variants and the model has none, or
    the other way round.
    """
    if grant.statement.model != digest or grant.statement.model_name != model.statement.name:
        raise SignatureInvalid(f"{source}: the grant is for another model")
    if not model.publisher.signers(grant.envelope):
        short = f"{source}: the grant is not signed by publisher {model.publisher.name}"
        raise model.publisher.refusal(grant.envelope, short)
    if (grant.statement.variants is None) != (model.statement.variants is None):
        raise FormatError(f"{source}: variants are not as in the model's fingerprint")
    return grant.statement
