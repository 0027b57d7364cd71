"""What publishers issue besides models and grants: revocation lists, hand-overs, further signatures on sealed files."""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from modelvault import _files, envelope
from modelvault.envelope import Envelope, Signer
from modelvault.errors import FormatError, UntrustedPublisher
from modelvault.granting import rewrite
from modelvault.handover import MAX_HANDOVER, Handover
from modelvault.keys import PublisherPublic
from modelvault.revocation import MAX_LIST_ENVELOPE, Entry, RevocationList
from modelvault.sealedfile import Progress, SealedFile
from modelvault.trust import TrustPolicy
from modelvault.trustupdates import updated
from modelvault.verification import verify_grant

PathLike = str | os.PathLike[str]


def read_list(path: PathLike, signers: Sequence[Signer]) -> RevocationList:
    """A list that at least one of ``signers`` signed before. Raises UntrustedPublisher, SignatureInvalid, FormatError.

    Who issues the next one must not carry on from a list that somebody else put there.
    """
    data = _files.read_bytes(path, limit=MAX_LIST_ENVELOPE)
    found = Envelope.from_bytes(data, str(path), limit=MAX_LIST_ENVELOPE)
    if not found.verified_by(signer.public for signer in signers):
        raise UntrustedPublisher(f"{path}: revocation list not signed by {signers[0].public.fingerprint}")
    return RevocationList.from_bytes(found.payload, str(path))


def revoke(path: PathLike, entries: Iterable[Entry], *, signers: Sequence[Signer], name: str) -> RevocationList:
    """Issue the next list at ``path``, or the first one, under ``name``; without entries it only renews the date.

    Raises UntrustedPublisher, SignatureInvalid, FormatError, FileError.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    known = read_list(path, signers) if _files.exists(path) else RevocationList(name=name, number=0, issued=now)
    issued = known.issue(tuple(entries), now)
    _files.write_bytes(path, envelope.sign(issued.to_bytes(), signers).to_bytes())
    return issued


def hand_over(
    publisher: str, number: int, keys: Sequence[PublisherPublic], *, threshold: int, signers: Sequence[Signer]
) -> bytes:
    """A hand-over to ``keys``, signed by ``signers``: as many old keys as the threshold so far, and new ones, too."""
    handover = Handover(
        publisher=publisher,
        number=number,
        created=datetime.now(UTC).replace(microsecond=0),
        threshold=threshold,
        keys=tuple(keys),
    )
    payload = handover.to_bytes()
    Handover.from_bytes(payload, "hand-over")
    return envelope.sign(payload, signers).to_bytes()


def countersign(path: PathLike, signer: Signer) -> tuple[bytes, int]:
    """A hand-over file with one more signature, and how many it has now. Raises FormatError, FileError."""
    data = _files.read_bytes(path, limit=MAX_HANDOVER)
    found = Envelope.from_bytes(data, str(path), limit=MAX_HANDOVER)
    Handover.from_bytes(found.payload, str(path))
    signed = _with_signature(found, signer, str(path))
    return signed.to_bytes(), len(signed.signatures)


def add_signature(
    path: PathLike, signer: Signer, *, regrant: TrustPolicy | None = None, progress: Progress | None = None
) -> int:
    """Add a signature to a sealed file, once its payload is what its statement says; returns how many it has now.

    The statement, its digest and so every grant stay as they are. With ``regrant`` the embedded grants get the
    signature, too, once file and grants hold under that policy: so that they outlive the keys that signed them first.

    Raises FormatError, PayloadTampered, FileError; with ``regrant`` what :func:`modelvault.verify` raises.
    """
    with SealedFile(path) as sealed:
        sealed.verify_payload(progress)
        signed = _with_signature(sealed.envelope, signer, str(sealed.path))
        changes: dict[str, Any] = {"envelope": signed.to_bytes()}
        if regrant is not None:
            changes["grants"] = _signed_grants(sealed, signer, regrant)
        rewrite(sealed, **changes)
    return len(signed.signatures)


def _signed_grants(sealed: SealedFile, signer: Signer, trust: TrustPolicy) -> tuple[bytes, ...]:
    model = updated(trust).policy.verify_model(sealed.envelope, sealed.statement, str(sealed.path))
    grants = []
    for number, item in enumerate(sealed.grants()):
        source = f"{sealed.path}: grants[{number}]"
        verify_grant(item, model, sealed.statement_digest, source)
        grants.append(_with_signature(item.envelope, signer, source).to_bytes())
    return tuple(grants)


def _with_signature(found: Envelope, signer: Signer, source: str) -> Envelope:
    if signer.public.fingerprint in {s.keyid for s in found.signatures}:
        raise FormatError(f"{source}: signed by {signer.public.fingerprint} already")
    added = envelope.sign(found.payload, [signer]).signatures
    return Envelope(payload=found.payload, signatures=found.signatures + added)
