"""Whether a load is allowed: trust, revocations, grant, terms, and what the audit log says about loads so far."""

import os
import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import ledger, remote, seats
from modelvault._codec import format_time, parse_time
from modelvault.audit import AuditLog
from modelvault.audit.cosigned import check_fresh
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event, boot_id
from modelvault.errors import NoMatchingKey, PolicyDenied
from modelvault.machine import machine_id
from modelvault.manifest import GrantStatement, ModelStatement, version_key
from modelvault.metering import Limit, RunMeter
from modelvault.policy import Situation, Terms
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, SealedFile, UnverifiedGrant
from modelvault.seats import Seat
from modelvault.trust import TrustPolicy, VerifiedModel
from modelvault.trustupdates import UpdatedTrust, updated
from modelvault.usage import OpenSession, Usage
from modelvault.verification import verify_grant

if TYPE_CHECKING:
    from modelvault.session import GuardedSession

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
            Limit(subject=f"model:{self.digest.hex()}", terms=policy, source=f"{self.source}: policy"),
            Limit(
                subject=f"grant:{self.grant.grant_id}",
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

    def check(self, usage: Usage, at: Standing | None, key: str, now: datetime) -> None:
        """PolicyDenied or Revoked unless the log's past and every term allow this load; seats are not looked at.

        ``at`` is None for a log that is still to be opened; ``key`` is the log's first key.
        """
        moment = self._clock(usage, now)
        self.trust.check_age(moment)
        self._check_memory(usage)
        situation = Situation(
            now=moment,
            version=self.statement.version,
            providers=self.request.providers,
            host=key,
            log=at.origin if at else "",
            machine=machine_id(),
            memory=self.request.memory,
            hardening=self.request.hardening,
            purpose=self.request.purpose,
        )
        for limit in self.limits:
            limit.terms.check(situation, limit.source)
            limit.check_counts(usage, format_time(moment))
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
        highest = usage.versions.get(f"{publisher.name}/{statement.name}", "0")
        if not publisher.allow_older and version_key(statement.version) < version_key(highest):
            raise PolicyDenied(
                f"{self.source}: version {statement.version} is older than {highest}, which this host has loaded"
            )
        if publisher.handover < (seen := usage.handovers.get(publisher.name, 0)):
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
    """PolicyDenied unless the log is the one that the trust policy pins; the log takes over what it says."""
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
    record |= {"recipient": request.recipient}
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
        found = [(UnverifiedGrant.from_bytes(data, name), name)]
    else:
        found = [(g, f"{sealed.path}: grants[{n}]") for n, g in enumerate(sealed.grants())]
    for grant, source in found:
        if grant.statement.recipient == mine and grant.statement.purpose in purposes:
            statement = verify_grant(grant, verified, sealed.statement_digest, source)
            trust.check("grant", (statement.grant_id,), source)
            return statement
    where = remote.display(request.grant or sealed.path)
    raise NoMatchingKey(f"{where}: no grant to {' or '.join(purposes)} this model for {mine}")


@dataclass(slots=True, kw_only=True)
class Permit:
    """What an admitted load holds until its session is closed: a seat and a meter of runs, where terms ask for them."""

    log: AuditLog
    record: dict[str, Any]
    memory: str
    meter: RunMeter | None = None
    seat: Seat | None = None
    _ended: bool = field(default=False)

    def meter_runs(self, session: "GuardedSession") -> None:
        """From now on every run of the session takes one from the meter, where there is one."""
        if self.meter is None:
            return
        spend, whose, kind = self.meter.spend, weakref.ref(session), type(session)

        def enter(count: int = 1) -> None:
            for _ in range(count):
                spend()
            if (alive := whose()) is not None:
                kind._enter(alive, count)

        session._enter = enter  # type: ignore[method-assign]

    def close(self, counters: dict[str, Any]) -> None:
        """Write the record of the session's end, and give up the seat. Raises AuditUnavailable."""
        try:
            lease = {} if self.meter is None else self.meter.close()
            self.log.append("session.closed", load=self.record["load"], model=self.record["model"], **counters, **lease)
            self._ended = True
        finally:
            self.release(logged=self._ended)

    def release(self, *, logged: bool) -> None:
        """Give up the seat of a load that did not become a session."""
        if self.seat is not None:
            self.seat.release(logged=logged)


def admit(log: AuditLog, authorised: Authorised, record: dict[str, Any]) -> Permit:
    """Check every term against the log and write the record of intent, with nobody else appending in between.

    Raises PolicyDenied, Revoked, AuditUnavailable, AuditTampered.
    """
    permit = Permit(log=log, record=record, memory=authorised.memory)

    def decide(usage: Usage, at: Standing) -> list[Event]:
        authorised.check(usage, at, log.key_fingerprint, datetime.now(UTC))
        lost = check_seats(log.path, authorised, usage)
        seated = [limit.subject for limit in authorised.limits if limit.terms.max_sessions is not None]
        counted = [limit.subject for limit in authorised.limits if limit.counted]
        if seated:
            permit.seat = Seat(log.path, record["load"])
        if any(limit.terms.max_runs is not None for limit in authorised.limits):
            permit.meter = RunMeter(log, record, authorised.limits)
        intent = {**record, **({"counts": counted} if counted else {}), **({"seats": seated} if seated else {})}
        return [("load.intent", intent), *(("session.lost", {"load": s.load}) for s in lost)]

    try:
        records = ledger.decided(log, decide)
    except BaseException:
        permit.release(logged=True)  # the log knows nothing of this load
        raise
    for ended in records[1:]:
        seats.forget(log.path, ended.fields["load"])
    return permit


def check_seats(log: Path, authorised: Authorised, usage: Usage) -> list[OpenSession]:
    """The sessions whose process ended without a word; PolicyDenied where living ones take every seat allowed."""
    lost: dict[str, OpenSession] = {}
    for limit in authorised.limits:
        if limit.terms.max_sessions is None:
            continue
        taken = usage.open_for(limit.subject)
        gone = [s for s in taken if s.boot != boot_id() or not seats.is_held(log, s.load)]
        if len(taken) - len(gone) >= limit.terms.max_sessions:
            raise PolicyDenied(f"{limit.source}: {limit.terms.max_sessions} session(s) allowed at once, all are open")
        lost |= {s.load: s for s in gone}
    return list(lost.values())
