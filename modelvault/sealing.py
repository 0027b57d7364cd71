"""Seal an ONNX model: one streaming pass over the source, then the signed header in front of it."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import _files, envelope, onnxfile
from modelvault.container import Header, payload_offset
from modelvault.envelope import Signer
from modelvault.envelopes import InputEnvelope
from modelvault.filekey import FileKey, Recipient
from modelvault.manifest import NONCE, ModelStatement, check_name, check_version
from modelvault.oms import SignedModel
from modelvault.payload import PLACEHOLDER, PayloadPlan, write_payload
from modelvault.policy import Terms
from modelvault.scan.gate import Gate
from modelvault.sealedfile import Progress
from modelvault.sources import find_sources

if TYPE_CHECKING:
    from modelvault.fingerprint.ownfile import OwnFilePlan
    from modelvault.fingerprint.planning import FingerprintPlan
    from modelvault.fingerprint.rings import RecipientKeys
    from modelvault.watermark.embedding import Plan

SLACK = 256  # an ECDSA signature may come out a few bytes longer than in the rehearsal


@dataclass(frozen=True, slots=True, kw_only=True)
class SealReport:
    """What was sealed: sizes in bytes, the statement and its SHA-256 (None in a dry run)."""

    output: Path
    statement: ModelStatement
    statement_digest: bytes | None
    source_bytes: int
    tensors: int
    region: int
    assets: tuple[str, ...]
    recipients: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "name": self.statement.name,
            "version": self.statement.version,
            "statement": self.statement_digest.hex() if self.statement_digest else None,
            "source_bytes": self.source_bytes,
            "payload_bytes": self.statement.payload_size,
            "tensors": self.tensors,
            "weights_bytes": self.region,
            "assets": list(self.assets),
            "scan_allowed": list(self.statement.allowed),
        }


def seal(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    recipients: Sequence[Recipient],
    signers: Sequence[Signer],
    own: Recipient,
    name: str | None = None,
    version: str = "1",
    assets: Iterable[str | os.PathLike[str]] = (),
    policy: Terms | None = None,
    guard: InputEnvelope | None = None,
    signed: SignedModel | None = None,
    public_io: bool = False,
    watermark: "Plan | None" = None,
    fingerprint: "FingerprintPlan | None" = None,
    own_copy: "OwnFilePlan | None" = None,
    keep_docs: bool = False,
    allow: Iterable[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> SealReport:
    """Encrypt and sign the model ``source`` (an ONNX file, or a folder that holds one) into ``output``.

    ``own`` is the publisher's own recipient key: with it the publisher can issue more grants later. ``guard`` is the
    input envelope that sessions will check. ``watermark`` (watermark.embedding.make_plan) marks the weights on their
    way: the unmarked ones are never written. ``fingerprint`` (fingerprint.planning.make_plan) gives every recipient a
    copy of its own; ``own_copy`` marks the whole file for one. The owner's registry knows before the file appears.
    ``signed`` is a verified OpenSSF signature of the folder ``source``: what is sealed must be just its files, and the
    statement records it. ``allow`` names rules of the scan (docs/SCAN.md) whose errors do not stop the seal; those that
    would have stand in the statement. ``progress`` is called with counts of plain bytes sealed. After any failure
    ``output`` is as it was. A dry run checks everything, signs a rehearsal, and writes nothing.

    Raises ModelError, FileError, FormatError, KeyUnavailable; PayloadTampered for a file that is not as in ``signed``.
    """
    model_path, asset_list = find_sources(Path(source), [Path(a) for a in assets])
    marker = watermark.marker() if watermark else None
    key, nonce = FileKey.generate(), secrets.token_bytes(NONCE)
    edit = marker.edit if marker else None
    second = own_copy.marker(edit) if own_copy else None
    edit = second.edit if second else edit
    slots = fingerprint.sealer(nonce, edit) if fingerprint else None
    gate = Gate(model_path, asset_list, allow)
    model = onnxfile.split(model_path, keep_docs=keep_docs, edit=slots.edit if slots else edit, look=gate.look)
    allowed = gate.passed()
    asset_list = [a for a in asset_list if a.path not in {s.path for s in model.sources}]
    plan = PayloadPlan(model, asset_list, guard, signed, slots)
    statement = ModelStatement(
        name=check_name(name or model_path.stem, "name"),
        version=check_version(version, "version"),
        created=datetime.now(UTC).replace(microsecond=0),
        nonce=nonce,
        root=PLACEHOLDER,
        extents=plan.extents,
        key_commitment=key.commitment(nonce),
        policy=policy or Terms(),
        publishers=tuple(s.public.fingerprint for s in signers),
        io=plan.public_io() if public_io else None,
        watermark=watermark.commitment if watermark else None,
        variants=fingerprint.variants if fingerprint else None,
        plain_signature=signed.record if signed else None,
        allowed=allowed,
    )
    everyone = list({r.fingerprint: r for r in [*recipients, own]}.values())
    # A rehearsal with a placeholder root: keys that do not work fail now, and the header's length is known.
    keys = fingerprint.keys(nonce) if fingerprint else None
    rehearsal = _header(statement, signers, everyone, key, keys)[0]
    report = SealReport(
        output=Path(output),
        statement=statement,
        statement_digest=None,
        source_bytes=sum(s.size for s in model.sources),
        tensors=len(model.tensors),
        region=model.region,
        assets=tuple(a.path for a in asset_list),
        recipients=tuple(r.fingerprint for r in everyone),
    )
    if dry_run:
        return report
    offset = payload_offset(rehearsal.length + SLACK)
    with _files.atomic_write(output) as file:
        file.seek(offset)
        root = write_payload(file, plan, key, nonce, progress)
        for mark in filter(None, (marker, second)):
            mark.check_complete(model_path)
        statement = replace(statement, root=root)
        header, digest = _header(statement, signers, everyone, key, keys)
        file.seek(0)
        file.write(header.to_bytes(offset))
        if fingerprint:
            fingerprint.record(statement, digest, report.recipients)
        if own_copy:
            own_copy.record(digest)
    return replace(report, statement=statement, statement_digest=digest)


def _header(
    statement: ModelStatement,
    signers: Sequence[Signer],
    recipients: Sequence[Recipient],
    key: FileKey,
    keys: "RecipientKeys | None",
) -> tuple[Header, bytes]:
    payload = statement.to_bytes()
    digest = hashlib.sha256(payload).digest()
    variants = [keys.of(r.fingerprint) if keys else None for r in recipients]
    grants = [
        key.grant(r, statement.name, digest, variants=v).to_bytes() for r, v in zip(recipients, variants, strict=True)
    ]
    signed = tuple(envelope.sign(grant, signers[:1]).to_bytes() for grant in grants)
    return Header(envelope=envelope.sign(payload, signers).to_bytes(), grants=signed), digest
