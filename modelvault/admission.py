"""Whether a load is allowed: trust, revocations, grant, terms, and what the audit log says about loads so far."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import remote
from modelvault._codec import format_time, parse_time
from modelvault.audit import AuditLog
from modelvault.audit.cosigned import check_fresh, cosigned_path, read_cosigned
from modelvault.audit.replay import holds_checkpoint
from modelvault.audit.standing import Standing
from modelvault.checkpoint import Checkpoint
from modelvault.errors import NoMatchingKey, PolicyDenied
from modelvault.machine import machine_id
from modelvault.manifest import GrantStatement, ModelStatement, version_key
from modelvault.metering import Limit
from modelvault.policy import Situation, Terms
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, SealedFile, UnverifiedGrant
from modelvault.termtable import QUERY_LIMITS, Cosigned
from modelvault.trust import TrustPolicy, VerifiedModel
from modelvault.trustupdates import UpdatedTrust, updated
from modelvault.usage import Usage, subject
from modelvault.verification import verify_grant

if TYPE_CHECKING:
    from modelvault.guards import QueryLimits

CLOCK_TOLERANCE = timedelta(seconds=60)  # what time servers may correct without a load being refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything a load is decided on; ``recipient`` is the fingerprint of the key that would open the model."""

    trust: TrustPolicy
    recipient: str
    grant: str | os.PathLike[str] | None = None
    providers: tuple[str, ...] = ()
    memory: str = "auto"
    hardening: str = "standard"
    purpose: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorised:
    """A request whose grant was found and verified; its terms are still to be checked."""

    request: Request
    source: str
    model: VerifiedModel
    digest: bytes
    grant: GrantStatement
    trust: UpdatedTrust

    @property
    def statement(self) -> ModelStatement:
        return self.model.statement

    @property
    def limits(self) -> tuple[Limit, Limit]:
        """The publisher's policy for everybody, and this recipient's licence."""
        policy, licence = self.statement.policy, self.grant.licence
        return (
            Limit(subject=subject("model", self.digest.hex()), terms=policy, source=f"{self.source}: policy"),
            Limit(
                subject=subject("grant", self.grant.grant_id),
                terms=licence,
                source=f"{self.source}: grant {self.grant.grant_id}",
            ),
        )

    @property
    def memory(self) -> str:
        """The memory mode asked for; ``auto`` becomes the one that the terms ask for."""
        return next((t.memory for t in self._terms if t.memory is not None), self.request.memory)

    @property
    def _terms(self) -> list[Terms]:
        return [limit.terms for limit in self.limits]

    def queries(self, given: "QueryLimits | None") -> "QueryLimits | None":
        """The caller's own limits of the query guard, as strict as the terms ask for at least."""
        wanted = [t.queries for t in self._terms if t.queries is not None]
        if not wanted:
            return given
        from modelvault.guards import QueryLimits

        sides = [side for side in (given, *wanted) if side is not None]
        values = {name: [v for side in sides if (v := getattr(side, name)) is not None] for name in QUERY_LIMITS}
        return QueryLimits(**{name: min(found) for name, found in values.items() if found})

    def check(self, usage: Usage, at: Standing | None, log: AuditLog, now: datetime) -> None:
        """PolicyDenied or Revoked unless the log's past and every term allow this load; seats are not looked at.

        The caller holds the log's lock; ``at`` is None for a log that is still to be opened.
        """
        moment = self._clock(usage, now)
        self.trust.check_age(moment)
        self._check_memory(usage)
        situation = Situation(
            now=moment,
            version=self.statement.version,
            providers=self.request.providers,
            host=log.key_fingerprint,
            log=at.origin if at else "",
            machine=machine_id(),
            memory=self.request.memory,
            hardening=self.request.hardening,
            purpose=self.request.purpose,
        )
        for limit in self.limits:
            limit.terms.check(situation, limit.source)
            limit.check_counts(usage, format_time(moment))
            if limit.terms.cosigned is not None:
                _check_cosigned(log.path, limit.terms.cosigned, at, moment, limit.source)
        modes = {t.memory for t in self._terms if t.memory is not None}
        if len(modes) > 1:
            raise PolicyDenied(f"{self.source}: policy and grant ask for different memory modes")

    def _clock(self, usage: Usage, now: datetime) -> datetime:
        """The newest time known. A clock behind the log's own last record is not believed where time matters."""
        revocation = self.trust.policy.revocation
        timed = any(t.timed for t in self._terms) or (revocation is not None and revocation.max_age is not None)
        latest = parse_time(usage.latest, "audit log") if usage.latest else now
        if timed and now < latest - CLOCK_TOLERANCE:
            raise PolicyDenied(
                f"{self.source}: the clock was set back: it says {format_time(now)}, and the audit log has a record of "
                f"{format_time(latest)}"
            )
        return max(now, latest)

    def _check_memory(self, usage: Usage) -> None:
        """Nothing older than what the log has seen: model version, revocation list, hand-over."""
        publisher, statement = self.model.publisher, self.statement
        highest = usage.versions.get(subject("version", publisher.name, statement.name), "0")
        if not publisher.allow_older and version_key(statement.version) < version_key(highest):
            raise PolicyDenied(
                f"{self.source}: version {statement.version} is older than {highest}, which this host has loaded"
            )
        if publisher.handover < (seen := usage.handovers.get(subject("publisher", publisher.name), 0)):
            raise PolicyDenied(
                f"publisher {publisher.name}: hand-overs end at {publisher.handover}, this host has followed {seen}"
            )
        if (revocations := self.trust.revocations) is not None:
            number, digest = usage.lists.get(revocations.name, (0, ""))
            if revocations.number < number:
                raise PolicyDenied(
                    f"revocation list {revocations.name} number {revocations.number} is older than {number}, "
                    "which this host has seen"
                )
            if revocations.number == number and revocations.digest != digest:
                raise PolicyDenied(f"revocation list {revocations.name}: another list of number {number} was seen")


def check_log(log: AuditLog, trust: TrustPolicy) -> None:
    """The log takes over what the trust policy says of it.

    PolicyDenied unless it is the log that the policy pins, and lately cosigned by the witnesses that it names.
    """
    if trust.audit_key is not None and log.key_fingerprint != trust.audit_key:
        raise PolicyDenied(f"audit log is signed by {log.key_fingerprint}, the trust policy expects {trust.audit_key}")
    log.obey(trust.audit)
    if trust.audit.witnesses:
        within = timedelta(hours=trust.audit.cosigned_hours)
        check_fresh(log.path, trust.audit.witnesses, trust.audit.witness_threshold, within, datetime.now(UTC))


def authorise(
    sealed: SealedFile, request: Request, record: dict[str, Any], *, purposes: tuple[str, ...] = ("run",)
) -> Authorised:
    """The grant that gives this identity this model for one of ``purposes``; ``record`` gathers what shall be logged.

    Raises UntrustedPublisher, SignatureInvalid, Revoked, NoMatchingKey, PolicyDenied, FormatError, FileError.
    """
    source, statement, digest = str(sealed.path), sealed.statement, sealed.statement_digest
    record |= {"model": {"name": statement.name, "version": statement.version}, "statement": digest.hex()}
    trust = updated(request.trust)
    record |= trust.seen()
    verified = trust.policy.verify_model(sealed.envelope, statement, source)
    record |= {"publisher": verified.publisher.name, "signers": sorted(verified.signers)}
    of = subject("version", verified.publisher.name, statement.name)
    record |= {"recipient": request.recipient, "loaded": {"of": of, "version": statement.version}}
    trust.check_model(verified, digest, source)
    trust.check("recipient", (request.recipient,), source)
    grant = _find_grant(sealed, request, verified, trust, purposes)
    record["grant"] = grant.grant_id
    if request.purpose is not None:
        record["purpose"] = request.purpose
    return Authorised(request=request, source=source, model=verified, digest=digest, grant=grant, trust=trust)


def _find_grant(
    sealed: SealedFile, request: Request, verified: VerifiedModel, trust: UpdatedTrust, purposes: tuple[str, ...]
) -> GrantStatement:
    """The given grant, else the first embedded one for this identity; signed by the model's own publisher."""
    mine = request.recipient
    if request.grant is not None:
        data = remote.read_bytes(request.grant, limit=MAX_GRANT_ENVELOPE)
        name = remote.display(request.grant)
        found: Iterable[tuple[UnverifiedGrant, str]] = [(UnverifiedGrant.from_bytes(data, name), name)]
    else:
        found = ((g, f"{sealed.path}: grants[{n}]") for n, g in enumerate(sealed.grants()))
    for grant, source in found:
        if grant.statement.recipient == mine and grant.statement.purpose in purposes:
            statement = verify_grant(grant, verified, sealed.statement_digest, source)
            trust.check("grant", (statement.grant_id,), source)
            return statement
    where = remote.display(request.grant or sealed.path)
    raise NoMatchingKey(f"{where}: no grant to {' or '.join(purposes)} this model for {mine}")


def _check_cosigned(log: Path, terms: Cosigned, at: Standing | None, now: datetime, source: str) -> None:
    """PolicyDenied unless witnesses lately saw this log, and it still holds what they saw.

    A log put back to an older copy, with all that lies beside it, does not: that is what the term is for.
    """
    try:
        if at is None:
            raise PolicyDenied("audit log: there is none yet")
        check_fresh(log, terms.by, terms.threshold, timedelta(hours=terms.hours), now)
        checkpoint = Checkpoint.from_text(read_cosigned(cosigned_path(log)).text, str(cosigned_path(log)))
        if not holds_checkpoint(log, checkpoint, at):
            raise PolicyDenied(f"audit log: the head of {checkpoint.size} records that was cosigned is not in it")
    except PolicyDenied as error:
        raise PolicyDenied(f"{source}: {error}") from None
