"""Counted terms: how many loads and runs the audit log says are left, and runs taken from it in small leases."""

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelvault import ledger
from modelvault._codec import format_time
from modelvault.audit import AuditLog
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event
from modelvault.errors import PolicyDenied
from modelvault.policy import Terms
from modelvault.termtable import Quota
from modelvault.usage import Usage, bucket

LEASES = 100  # a lease is this share of a quota: what a killed process loses, and how often the log is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One document's terms, and the subject that the log counts for them."""

    subject: str
    terms: Terms
    source: str

    @property
    def counted(self) -> bool:
        return self.terms.max_loads is not None or self.terms.max_runs is not None

    def check_counts(self, usage: Usage, now: str) -> None:
        """PolicyDenied where no load, or no run, is left in the period."""
        if self.counted and not usage.whole:
            raise PolicyDenied(
                f"{self.source}: counts are limited, and the audit log's pruned records cannot be counted"
            )
        if (loads := self.terms.max_loads) is not None:
            self._check(loads, usage.loads(self.subject, loads.per, now), "loads")
        if self.terms.max_runs is not None:
            self.runs_left(usage, now)

    def runs_left(self, usage: Usage, now: str) -> int:
        """Runs left in the period, at least 1; PolicyDenied where there is none."""
        quota = self.terms.max_runs
        if quota is None:
            return 2**63 - 1
        done = usage.runs(self.subject, quota.per, now)
        self._check(quota, done, "runs")
        return quota.count - done

    def _check(self, quota: Quota, done: int, what: str) -> None:
        if done >= quota.count:
            raise PolicyDenied(f"{self.source}: {quota.count} {what} {_period(quota)} allowed, {done} are used up")


def _period(quota: Quota) -> str:
    return "in all" if quota.per == "ever" else f"a {quota.per}"


class RunMeter:
    """Takes runs from the log a lease at a time, so that processes share a quota and a restart does not renew it."""

    def __init__(self, log: AuditLog, record: dict[str, Any], limits: tuple[Limit, ...]) -> None:
        self._log, self._load = log, record["load"]
        self._limits = tuple(limit for limit in limits if limit.terms.max_runs is not None)
        self._lock = threading.Lock()
        self._left = 0
        self._time = ""
        self._refused: list[str] | None = None

    def spend(self) -> None:
        """Take one run. PolicyDenied where none is left; the first refusal in a period is recorded.

        Raises AuditUnavailable, AuditTampered.
        """
        with self._lock:
            now = format_time(datetime.now(UTC))
            if self._left == 0 or self._periods(now) != self._periods(self._time):
                self._renew(now)
            self._left -= 1

    def close(self) -> dict[str, Any]:
        """What the record of the session's end shall say: runs to give back."""
        with self._lock:
            unspent, self._left = self._left, 0
        if not unspent:
            return {}
        return {"lease": {"counts": [limit.subject for limit in self._limits], "time": self._time, "unspent": unspent}}

    def _periods(self, time: str) -> list[str]:
        return [bucket(time, limit.terms.max_runs.per) for limit in self._limits if limit.terms.max_runs]

    def _renew(self, now: str) -> None:
        self._left = 0  # what is left of a lease is not carried into another period
        try:
            self._lease()
        except PolicyDenied as error:
            if self._refused != (periods := self._periods(now)):
                self._refused = periods
                self._log.append("run.denied", load=self._load, reason="PolicyDenied", detail=str(error)[:500])
            raise

    def _lease(self) -> None:
        def decide(usage: Usage, at: Standing) -> list[Event]:
            now = max(format_time(datetime.now(UTC)), usage.latest)
            shares = [max(1, limit.terms.max_runs.count // LEASES) for limit in self._limits if limit.terms.max_runs]
            runs = min([*shares, *(limit.runs_left(usage, now) for limit in self._limits)])
            self._left = runs
            counts = [limit.subject for limit in self._limits]
            return [("runs.leased", {"load": self._load, "counts": counts, "runs": runs})]

        try:
            self._time = ledger.decided(self._log, decide)[0].time
        except BaseException:
            self._left = 0
            raise
