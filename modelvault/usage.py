"""What a host's audit log says about loads so far: counts by period, open sessions, versions and numbers seen.

A fold over the log's records, and nothing but that: deleting or restoring a copy of it changes nothing, and changing a
count means breaking the log.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from modelvault._codec import Fields
from modelvault.audit.lines import Record
from modelvault.manifest import version_key

_BUCKETS = {"hour": 13, "day": 10, "month": 7, "ever": 0}  # characters of an RFC 3339 time in UTC that name the period


def bucket(time: str, per: str) -> str:
    """The calendar period that a time belongs to; one text a period."""
    return time[: _BUCKETS[per]]


def _moment(time: str) -> str:
    """The log writes one format, in UTC: without its Z, text order is time order."""
    return time.removesuffix("Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """A load that took a seat and has not ended in the log: which subjects it counts for, and where."""

    load: str
    subjects: tuple[str, ...]
    boot: str


@dataclass(slots=True, kw_only=True)
class Usage:
    """``latest`` is the newest time in the log. Subjects are ``grant:ID`` and ``model:DIGEST``.

    ``counts`` holds, by subject and period, the period's name, loads and runs. ``versions`` are the highest loaded, by
    publisher and model; ``lists`` the highest number and its digest, by revocation list; ``handovers`` the highest
    number, by publisher. ``whole`` is False where pruned records could not be counted.
    """

    latest: str = ""
    counts: dict[str, dict[str, tuple[str, int, int]]] = field(default_factory=dict)
    sessions: dict[str, OpenSession] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[int, str]] = field(default_factory=dict)
    handovers: dict[str, int] = field(default_factory=dict)
    whole: bool = True

    def loads(self, subject: str, per: str, now: str) -> int:
        return self._count(subject, per, now)[0]

    def runs(self, subject: str, per: str, now: str) -> int:
        return self._count(subject, per, now)[1]

    def _count(self, subject: str, per: str, now: str) -> tuple[int, int]:
        name, loads, runs = self.counts.get(subject, {}).get(per, ("", 0, 0))
        return (loads, runs) if name == bucket(now, per) else (0, 0)

    def open_for(self, subject: str) -> list[OpenSession]:
        return [s for s in self.sessions.values() if subject in s.subjects]

    def apply(self, record: Record) -> None:
        """Take one record into account; FormatError where a record of the loader's is not as the loader writes it."""
        self.latest = max(self.latest, record.time, key=_moment)
        if take := _TAKERS.get(record.event):
            take(self, record, Fields(record.fields, f"audit record {record.seq}"))

    def _intent(self, record: Record, fields: Fields) -> None:
        self._seen(record, fields)
        self._add(fields.texts("counts", ()), record.time, loads=1)
        if subjects := fields.texts("seats", ()):
            load = fields.text("load", limit=64)
            self.sessions[load] = OpenSession(load=load, subjects=subjects, boot=record.boot)

    def _seen(self, record: Record, fields: Fields) -> None:
        """Numbers that a load met on its way, whether it was allowed or not."""
        if (seen := fields.mapping("revocations", None)) is not None:
            inner = Fields(seen, f"{fields.path}.revocations")
            number = inner.integer("number"), inner.text("digest", limit=64)
            name = inner.text("list", limit=128)
            self.lists[name] = max(self.lists.get(name, (0, "")), number, key=lambda pair: pair[0])
        if (chains := fields.mapping("handovers", None)) is not None:
            inner = Fields(chains, f"{fields.path}.handovers")
            for name in chains:
                self.handovers[name] = max(self.handovers.get(name, 0), inner.integer(name))

    def _done(self, record: Record, fields: Fields) -> None:
        model = Fields(fields.mapping("model"), f"{fields.path}.model")
        name = f"{fields.text('publisher', limit=128)}/{model.text('name', limit=128)}"
        version = model.text("version", limit=64)
        self.versions[name] = max(self.versions.get(name, "0"), version, key=version_key)

    def _denied(self, record: Record, fields: Fields) -> None:
        self._seen(record, fields)
        self._ended(record, fields)

    def _ended(self, record: Record, fields: Fields) -> None:
        self.sessions.pop(fields.text("load", "", limit=64), None)

    def _leased(self, record: Record, fields: Fields) -> None:
        self._add(fields.texts("counts"), record.time, runs=fields.integer("runs"))

    def _closed(self, record: Record, fields: Fields) -> None:
        self._ended(record, fields)
        if (lease := fields.mapping("lease", None)) is not None:
            inner = Fields(lease, f"{fields.path}.lease")
            self._give_back(inner.texts("counts"), inner.text("time", limit=40), inner.integer("unspent"))

    def _add(self, subjects: tuple[str, ...], time: str, *, loads: int = 0, runs: int = 0) -> None:
        for subject in subjects:
            periods = self.counts.setdefault(subject, {})
            for per in _BUCKETS:
                name, had_loads, had_runs = periods.get(per, ("", 0, 0))
                fresh = name != bucket(time, per) or per not in periods
                before = (0, 0) if fresh else (had_loads, had_runs)
                periods[per] = (bucket(time, per), before[0] + loads, before[1] + runs)

    def _give_back(self, subjects: tuple[str, ...], time: str, unspent: int) -> None:
        for subject in subjects:
            for per, (name, loads, runs) in self.counts.get(subject, {}).items():
                if name == bucket(time, per):
                    self.counts[subject][per] = (name, loads, max(0, runs - unspent))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Usage":
        """The inverse of :meth:`to_dict`, for a value whose digest the log holds."""
        sessions = {
            load: OpenSession(load=load, subjects=tuple(s["subjects"]), boot=s["boot"])
            for load, s in value["sessions"].items()
        }
        counts = {
            subject: {per: (name, loads, runs) for per, (name, loads, runs) in periods.items()}
            for subject, periods in value["counts"].items()
        }
        lists = {name: (number, digest) for name, (number, digest) in value["lists"].items()}
        return cls(**{**value, "sessions": sessions, "counts": counts, "lists": lists})


_TAKERS = {
    "load.intent": Usage._intent,
    "load.done": Usage._done,
    "load.denied": Usage._denied,
    "session.closed": Usage._closed,
    "session.lost": Usage._ended,
    "runs.leased": Usage._leased,
}
