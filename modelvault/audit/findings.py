"""What a verified log tells about a host: counts that add up over hosts. ``examine`` is what a fleet's engine maps."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from modelvault import _files
from modelvault._codec import parse_time
from modelvault.audit.lines import Record
from modelvault.audit.verification import verify_log
from modelvault.errors import AuditTampered, ModelVaultError
from modelvault.keys import store

HOUR = 13  # characters of an RFC 3339 time that name the hour


@dataclass(slots=True, kw_only=True)
class Model:
    """How one version of a model was used."""

    loads: int = 0
    denials: int = 0
    runs: int = 0
    rejected: int = 0
    seconds: float = 0.0
    last: str = ""

    def add(self, other: "Model") -> None:
        self.loads += other.loads
        self.denials += other.denials
        self.runs += other.runs
        self.rejected += other.rejected
        self.seconds += other.seconds
        self.last = max(self.last, other.last)


@dataclass(slots=True, kw_only=True)
class Findings:
    """One log's verdict and, where that is ``ok``, what its records say. Plain values: it travels between machines.

    ``loads`` and ``denied`` count by UTC hour (``2026-01-31T13``), ``reasons`` by error name, ``callers`` loads by
    recipient key, ``models`` by name and version. ``steps_back`` counts records older than the one before.
    """

    log: str
    verdict: str = "ok"
    reason: str = ""
    key: str = ""
    records: int = 0
    pruned: int = 0
    epochs: int = 0
    first: str = ""
    last: str = ""
    steps_back: int = 0
    recovered: int = 0
    loads: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    callers: Counter[str] = field(default_factory=Counter)
    models: dict[tuple[str, str], Model] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "log": self.log,
            "verdict": self.verdict,
            "reason": self.reason,
            "key": self.key,
            "records": self.records,
            "pruned": self.pruned,
            "epochs": self.epochs,
            "first": self.first,
            "last": self.last,
            "loads": self.loads.total(),
            "denied": self.denied.total(),
            "denied_by_reason": dict(self.reasons.most_common()),
            "clock_steps_back": self.steps_back,
            "recovered": self.recovered,
            "rejected_inputs": sum(m.rejected for m in self.models.values()),
        }


def examine(log: str | os.PathLike[str], key: str) -> Findings:
    """Verify one log with a host's public key (name or path) and count what is in it.

    What is wrong with the log, or keeps it from being read, is the verdict: never an exception of this package.
    """
    found = Findings(log=_files.readable(log))
    counted = Findings(log=found.log)
    try:
        report = verify_log(log, store.load_host_public(key), visit=lambda record: _count(counted, record))
    except AuditTampered as error:
        found.verdict, found.reason = error.verdict, str(error)
    except ModelVaultError as error:
        found.verdict, found.reason = "unreadable", str(error)
    else:
        found = counted  # nothing is counted of a log that does not verify
        found.key, found.records, found.pruned = report.key, report.size, report.pruned
        found.epochs = report.epoch + 1
    return found


def _count(found: Findings, record: Record) -> None:
    fields, hour = record.fields, _hour(record.time)
    found.first = found.first or record.time
    found.steps_back += bool(found.last) and record.time < found.last
    found.last = record.time
    found.recovered += record.event == "recovered"
    if record.event not in ("load.done", "load.denied", "session.closed"):
        return
    named = fields.get("model")
    name = (str(named.get("name")), str(named.get("version"))) if isinstance(named, dict) else ("(unknown)", "")
    model = found.models.setdefault(name, Model())
    model.last = max(model.last, record.time)
    if record.event == "load.done":
        found.loads[hour] += 1
        model.loads += 1
        found.callers[str(fields.get("recipient", "(unknown)"))] += 1
    elif record.event == "load.denied":
        found.denied[hour] += 1
        model.denials += 1
        found.reasons[str(fields.get("reason", "(unknown)"))] += 1
    else:
        model.runs += _number(fields.get("runs"))
        model.rejected += _number(fields.get("rejected"))
        model.seconds += float(fields["seconds"]) if isinstance(fields.get("seconds"), int | float) else 0.0


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _hour(time: str) -> str:
    return parse_time(time, "time").isoformat()[:HOUR]
