"""Admit a load: check it under the audit log's lock, record the intent, and hold what it takes until it ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import ledger, seats
from modelvault.admission import Authorised
from modelvault.audit import AuditLog
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event, boot_id
from modelvault.errors import PolicyDenied
from modelvault.metering import RunMeter
from modelvault.seats import Seat
from modelvault.usage import OpenSession, Usage


@dataclass(slots=True, kw_only=True)
class Permit:
    """What an admitted load holds until its session is closed: a seat and a meter of runs, where terms ask for them."""

    log: AuditLog
    record: dict[str, Any]
    memory: str
    meter: RunMeter | None = None
    seat: Seat | None = None
    _ended: bool = field(default=False)

    @property
    def before_run(self) -> Callable[[], None] | None:
        """Takes a run from the meter, where there is one; raises PolicyDenied when none is left."""
        return None if self.meter is None else self.meter.spend

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
        authorised.check(usage, at, log, datetime.now(UTC))
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
