"""Bring a trust policy up to date: follow the publishers' hand-overs, take in the revocation list."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from modelvault import _files, remote
from modelvault.envelope import Envelope
from modelvault.errors import FileError, FormatError, PolicyDenied, UntrustedPublisher
from modelvault.handover import MAX_HANDOVER, Handover
from modelvault.revocation import MAX_LIST_ENVELOPE, RevocationList
from modelvault.trust import Publisher, RevocationTerms, TrustPolicy, VerifiedModel
from modelvault.usage import subject

HANDOVERS = "handovers"
MAX_CHAIN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatedTrust:
    """A policy as it stands now, and the revocation list it obeys, if it asks for one."""

    policy: TrustPolicy
    revocations: RevocationList | None

    def check_age(self, now: datetime) -> None:
        """PolicyDenied for a list older than the policy allows."""
        if self.revocations is not None and self.policy.revocation is not None:
            self.revocations.check_age(self.policy.revocation.max_age, now)

    def check_model(self, model: VerifiedModel, digest: bytes, source: str) -> None:
        """Revoked where the list names this very statement, or its name and version."""
        statement = model.statement
        self.check("model", (digest.hex(), f"{statement.name}@{statement.version}"), source)

    def check(self, kind: str, ids: tuple[str, ...], source: str) -> None:
        """Raises Revoked."""
        if self.revocations is not None:
            self.revocations.check(kind, ids, source)

    def seen(self) -> dict[str, Any]:
        """What an audit record shall remember, so that neither list nor chain can be put back."""
        found: dict[str, Any] = {}
        if (known := self.revocations) is not None:
            found["revocations"] = {"list": known.name, "number": known.number, "digest": known.digest}
        followed = {subject("publisher", p.name): p.handover for p in self.policy.publishers if p.handover}
        return found | ({"handovers": followed} if followed else {})


def updated(trust: TrustPolicy) -> UpdatedTrust:
    """Read hand-overs and revocation list anew. Where the policy names a list, no list means no trust.

    Raises PolicyDenied, UntrustedPublisher, SignatureInvalid, FormatError.
    """
    revocations = None if trust.revocation is None else read_revocations(trust.revocation)
    revoked = {} if revocations is None else revocations.reasons("publisher")
    publishers = [replace(publisher, revoked=revoked) for publisher in trust.publishers]
    if trust.folder is not None:
        publishers = [_follow(publisher, trust.folder / HANDOVERS) for publisher in publishers]
    return UpdatedTrust(policy=replace(trust, publishers=tuple(publishers)), revocations=revocations)


def read_revocations(terms: RevocationTerms) -> RevocationList:
    """The list at its place, once enough of its keys have signed it.

    Raises PolicyDenied where it cannot be read; UntrustedPublisher, SignatureInvalid, FormatError.
    """
    try:
        data = remote.read_bytes(terms.place, limit=MAX_LIST_ENVELOPE)
    except FileError as error:
        raise PolicyDenied(f"the revocation list cannot be read, and the trust policy needs it: {error}") from None
    source = remote.display(terms.place)
    envelope = Envelope.from_bytes(data, source, limit=MAX_LIST_ENVELOPE)
    signers = envelope.verified_by(terms.keys)
    if len(signers) < terms.threshold:
        raise UntrustedPublisher(f"{source}: revocation list with {len(signers)} of {terms.threshold} signatures")
    return RevocationList.from_bytes(envelope.payload, source)


def handover_path(folder: Path, publisher: str, number: int) -> Path:
    """Where the hand-over of that number belongs, beside a trust policy."""
    return folder / f"{publisher}.{number}.handover"


def _follow(publisher: Publisher, folder: Path) -> Publisher:
    """The publisher after every hand-over that lies in the folder, in order and without a gap."""
    for number in range(publisher.handover + 1, MAX_CHAIN):
        path = handover_path(folder, publisher.name, number)
        if not _files.exists(path):
            break
        publisher = follow(publisher, _files.read_bytes(path, limit=MAX_HANDOVER), str(path))
    return publisher


def follow(publisher: Publisher, data: bytes, source: str) -> Publisher:
    """The publisher after one hand-over: signed by enough of the old keys, and by enough of the new ones.

    Raises UntrustedPublisher, Revoked, SignatureInvalid, FormatError.
    """
    envelope = Envelope.from_bytes(data, source, limit=MAX_HANDOVER)
    handover = Handover.from_bytes(envelope.payload, source)
    if handover.number != publisher.handover + 1:
        raise FormatError(f"{source}: number: expected {publisher.handover + 1}, got {handover.number}")
    following = replace(
        publisher,
        keys=handover.keys,
        threshold=handover.threshold,
        handover=handover.number,
        retired={**publisher.retired, **_given_up(publisher, handover)},
    )
    for side, words in ((publisher, "old"), (following, "new")):
        count = len(side.signers(envelope))
        if count < side.threshold:
            short = f"{source}: hand-over with {count} of {side.threshold} signatures by the {words} keys"
            raise publisher.refusal(envelope, short) if side is publisher else UntrustedPublisher(short)
    return following


def install(policy: Path, name: str, data: bytes, source: str) -> Publisher:
    """Put a hand-over where loaders look for it, once it follows the ones before; the publisher after it.

    Raises UntrustedPublisher, Revoked, SignatureInvalid, FormatError, PolicyDenied, FileError.
    """
    current = updated(TrustPolicy.read(policy)).policy
    known = {publisher.name: publisher for publisher in current.publishers}
    if name not in known:
        raise UntrustedPublisher(f"{policy}: no publisher {name!r}")
    publisher = follow(known[name], data, source)
    folder = policy.parent / HANDOVERS
    with _files.failures(folder):
        folder.mkdir(exist_ok=True)
    _files.write_bytes(handover_path(folder, name, publisher.handover), data)
    return publisher


def _given_up(publisher: Publisher, handover: Handover) -> dict[str, int]:
    kept = {key.fingerprint for key in handover.keys}
    return {key.fingerprint: handover.number for key in publisher.keys if key.fingerprint not in kept}
