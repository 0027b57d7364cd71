"""Look into a sealed file for a watermark: with a grant, and with an audit record before a byte is decrypted."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files, ledger
from modelvault.admission import Authorised, Request, authorise, check_log
from modelvault.audit import AuditLog
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event
from modelvault.commitment import Commitment
from modelvault.container import MAGIC
from modelvault.decryption import Decrypted, decrypt
from modelvault.errors import AuditUnavailable, ModelVaultError
from modelvault.filekey import FileKey, Identity
from modelvault.onnxfile import OpenModel
from modelvault.sealedfile import Progress, SealedFile
from modelvault.trust import TrustPolicy
from modelvault.usage import Usage

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
def opened(
    path: str | os.PathLike[str], auditor: Auditor, progress: Progress | None = None, *, purpose: str = "watermark"
) -> Iterator[OpenModel]:
    """:func:`decrypted`, as a model whose tensors can be read."""
    with decrypted(path, auditor, progress, purpose=purpose) as model:
        yield OpenModel(path, graph=bytes(model.graph.view), region=model.weights.view)


@contextlib.contextmanager
def decrypted(
    path: str | os.PathLike[str], auditor: Auditor, progress: Progress | None = None, *, purpose: str = "watermark"
) -> Iterator[Decrypted]:
    """The decrypted model while the context lasts; its memory is wiped afterwards.

    The audit log gets ``watermark.checked`` before anything is decrypted, or ``watermark.denied``; where another
    ``purpose`` is given, its name stands in the event. Raises a subclass of ModelVaultError.
    """
    record: dict[str, Any] = {"file": Path(path).name}
    request = Request(
        trust=auditor.trust,
        recipient=auditor.identity.public.fingerprint,
        grant=auditor.grant,
        providers=PROVIDERS,
    )
    try:
        check_log(auditor.log, auditor.trust)
        with SealedFile(path) as sealed:
            authorised = authorise(sealed, request, record, purposes=PURPOSES)
            _record_check(auditor.log, authorised, record, f"{purpose}.checked")
            key = FileKey.open(authorised.grant, auditor.identity, sealed.statement)
            model = decrypt(sealed, key, progress)
    except AuditUnavailable:
        raise
    except ModelVaultError as error:
        with contextlib.suppress(ModelVaultError):
            auditor.log.append(f"{purpose}.denied", **record, reason=type(error).__name__, detail=str(error)[:500])
        raise
    try:
        yield model
    finally:
        model.wipe()


def _record_check(log: AuditLog, authorised: Authorised, record: dict[str, Any], event: str) -> None:
    """Check every term against the log, and write there that the model will be looked into."""

    def decide(usage: Usage, at: Standing) -> list[Event]:
        authorised.check(usage, at, log, datetime.now(UTC))
        return [(event, record)]

    ledger.decided(log, decide)
