"""What a host's audit log says about loads so far: counts by period, open sessions, versions and numbers seen.

A fold over the log's records, and nothing but that: deleting or restoring a copy of it changes nothing, and changing a
count means breaking the log.
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Any

from modelvault._codec import Fields, json_encode
from modelvault.audit.lines import Record
from modelvault.manifest import version_key

_BUCKETS = {"hour": 13, "day": 10, "month": 7, "ever": 0}  # characters of an RFC 3339 time in UTC that name the period

PART = 200  # subjects a record holds at most


def bucket(time: str, per: str) -> str:
    """The calendar period that a time belongs to; one text a period."""
    return time[: _BUCKETS[per]]


def subject(kind: str, *names: str) -> str:
    """What counts are kept by: names a grant, model, or publisher without giving it away, 32 hex digits.

    Records may conceal names and be redacted later; this much of them stays, and tells nobody who cannot guess them.
    """
    return hashlib.sha256(json_encode([kind, *names])).hexdigest()[:32]


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
    """``latest`` is the newest time in the log. Everything is kept by :func:`subject`, but revocation lists by name.

    ``counts`` holds, by subject and period, the period's name, loads and runs. ``versions`` are the highest loaded;
    ``lists`` the highest number and its digest; ``handovers`` the highest number. ``whole`` is False where pruned
    records could not be counted.
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
        if (loaded := fields.mapping("loaded", None)) is not None:
            inner = Fields(loaded, f"{fields.path}.loaded")
            of, version = inner.text("of", limit=64), inner.text("version", limit=64)
            self.versions[of] = max(self.versions.get(of, "0"), version, key=version_key)

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

    def miss(self) -> None:
        """A record was pruned: unless a record of what was known before it follows, counts are not whole."""
        self.whole = False

    def parts(self) -> list[dict[str, Any]]:
        """All of it, in pieces that fit a record each: the first replaces what was known, the others add to it."""
        names = list(self.counts)
        pieces = [names[at : at + PART] for at in range(0, len(names), PART)]
        parts = [{"counts": {name: self.counts[name] for name in piece}} for piece in pieces]
        return [{**self.to_dict(), "counts": {}}, *parts]

    def _kept(self, record: Record, fields: Fields) -> None:
        part = fields.mapping("kept")
        if part.keys() == {"counts"}:
            self.counts |= _counts(part["counts"])
            return
        latest, known = self.latest, Usage.from_dict(part)
        for name in (f.name for f in dataclasses.fields(Usage)):
            setattr(self, name, getattr(known, name))
        self.latest = max(latest, known.latest, key=_moment)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Usage":
        """The inverse of :meth:`to_dict`, for a value whose digest the log holds."""
        sessions = {
            load: OpenSession(load=load, subjects=tuple(s["subjects"]), boot=s["boot"])
            for load, s in value["sessions"].items()
        }
        counts = _counts(value["counts"])
        lists = {name: (number, digest) for name, (number, digest) in value["lists"].items()}
        return cls(**{**value, "sessions": sessions, "counts": counts, "lists": lists})


def _counts(value: dict[str, Any]) -> dict[str, dict[str, tuple[str, int, int]]]:
    return {
        name: {per: (period, loads, runs) for per, (period, loads, runs) in periods.items()}
        for name, periods in value.items()
    }


_TAKERS = {
    "load.intent": Usage._intent,
    "load.done": Usage._done,
    "load.denied": Usage._denied,
    "session.closed": Usage._closed,
    "session.lost": Usage._ended,
    "runs.leased": Usage._leased,
    "usage.kept": Usage._kept,
}
