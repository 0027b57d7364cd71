"""Look into a sealed file for a watermark: with a grant, and with an audit record before a byte is decrypted."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault.audit import AuditLog
from modelvault.commitment import Commitment
from modelvault.container import MAGIC
from modelvault.decryption import decrypt
from modelvault.errors import AuditUnavailable, ModelVaultError, NoMatchingKey, PolicyDenied
from modelvault.filekey import FileKey, Identity
from modelvault.manifest import GrantStatement
from modelvault.onnxfile import OpenModel
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, Progress, SealedFile, UnverifiedGrant
from modelvault.trust import TrustPolicy
from modelvault.verification import verify_grant

PURPOSES = ("audit", "run")
PROVIDERS = ("CPUExecutionProvider",)  # the weights are read by the processor alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """Who looks, by what policy, and where it is written down; ``grant``: a grant kept beside the file."""

    identity: Identity
    trust: TrustPolicy
    log: AuditLog
    grant: Path | None = None


def is_sealed(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a sealed model does. Raises FileError."""
    with _files.failures(path), open(_files.open_regular(path), "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def commitment_of(path: str | os.PathLike[str], trust: TrustPolicy) -> Commitment | None:
    """The watermark commitment that a trusted publisher signed. Raises as verification does."""
    with SealedFile(path) as sealed:
        return trust.verify_model(sealed.envelope, sealed.statement, str(path)).statement.watermark


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], auditor: Auditor, progress: Progress | None = None) -> Iterator[OpenModel]:
    """The decrypted model while the context lasts; its memory is wiped afterwards.

    The audit log gets ``watermark.checked`` before anything is decrypted, or ``watermark.denied``. Raises a subclass
    of ModelVaultError.
    """
    record: dict[str, Any] = {"file": Path(path).name}
    try:
        with SealedFile(path) as sealed:
            grant = _authorise(sealed, auditor, record)
            auditor.log.append("watermark.checked", **record)
            model = decrypt(sealed, FileKey.open(grant, auditor.identity, sealed.statement), progress)
    except AuditUnavailable:
        raise
    except ModelVaultError as error:
        with contextlib.suppress(ModelVaultError):
            auditor.log.append("watermark.denied", **record, reason=type(error).__name__, detail=str(error)[:500])
        raise
    try:
        yield OpenModel(path, graph=bytes(model.graph.view), region=model.weights.view)
    finally:
        model.wipe()


def _authorise(sealed: SealedFile, auditor: Auditor, record: dict[str, Any]) -> GrantStatement:
    """A grant to audit or to run this model; ``record`` gathers what the audit log shall say."""
    source, statement = str(sealed.path), sealed.statement
    record |= {"model": {"name": statement.name, "version": statement.version}}
    record |= {"statement": sealed.statement_digest.hex(), "recipient": auditor.identity.public.fingerprint}
    verified = auditor.trust.verify_model(sealed.envelope, statement, source)
    if auditor.trust.audit_key not in (None, auditor.log.key_fingerprint):
        raise PolicyDenied(f"audit log is signed by {auditor.log.key_fingerprint}, the trust policy expects another")
    for number, grant in enumerate(_grants(sealed, auditor)):
        if grant.statement.recipient == auditor.identity.public.fingerprint and grant.statement.purpose in PURPOSES:
            found = verify_grant(grant, verified, sealed.statement_digest, f"{source}: grants[{number}]")
            record["grant"] = found.grant_id
            now = datetime.now(UTC)
            statement.policy.check(now=now, providers=PROVIDERS, source=f"{source}: policy")
            found.licence.check(now=now, providers=PROVIDERS, source=f"{source}: grant {found.grant_id}")
            return found
    raise NoMatchingKey(f"{source}: no grant to audit or run this model for {auditor.identity.public.fingerprint}")


def _grants(sealed: SealedFile, auditor: Auditor) -> list[UnverifiedGrant]:
    if auditor.grant is None:
        return sealed.grants()
    data = _files.read_bytes(auditor.grant, limit=MAX_GRANT_ENVELOPE)
    return [UnverifiedGrant.from_bytes(data, str(auditor.grant))]
