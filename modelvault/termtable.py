"""The table of terms: each one's value, how it is read and written, its JSON schema, and what it means."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelvault._codec import MAX_TEXT, Fields, format_time, parse_time
from modelvault.cosignature import COSIGNATURE, VerifierKey
from modelvault.errors import FormatError

QUERY_COUNTS = ("per_minute", "total")
QUERY_SHARES = ("rejected", "near_duplicates", "equal_steps")
QUERY_LIMITS = QUERY_COUNTS + QUERY_SHARES
MAX_WITNESSES = 16
MAX_COSIGNED_HOURS = 8760
PERIODS = ("hour", "day", "month", "ever")
MEMORY_MODES = ("lean", "fast")
HARDENING = ("standard", "strict")
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """At most ``count`` in each UTC calendar ``per``: hour, day, month, or ever."""

    count: int
    per: str

    def to_dict(self) -> dict[str, Any]:
        return {"count": self.count, "per": self.per}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosigned:
    """``threshold`` of these witnesses cosigned a head of the host's audit log in the last ``hours``."""

    by: tuple[VerifierKey, ...]
    hours: int = 24
    threshold: int = 1

    def to_dict(self) -> dict[str, Any]:
        return {"by": [key.to_text() for key in self.by], "hours": self.hours, "threshold": self.threshold}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Limits of the query guard, by caller: calls a minute and in all, and shares from 0 to 1."""

    per_minute: int | None = None
    total: int | None = None
    rejected: float | None = None
    near_duplicates: float | None = None
    equal_steps: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name in QUERY_LIMITS if (value := getattr(self, name)) is not None}


def listing(values: tuple[str, ...]) -> str:
    """Values in a message."""
    return ", ".join(values) or "(nothing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a term's value is read, written and described: the parser and the JSON schema come from one table."""

    read: Callable[[Fields, str], Any]
    write: Callable[[Any], Any]
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One row of the table of terms."""

    kind: Kind
    meaning: str


def _choice_of(allowed: tuple[str, ...]) -> Kind:
    def read(fields: Fields, key: str) -> str | None:
        text = fields.text(key, None)
        if text is not None and text not in allowed:
            raise FormatError(f"{fields.path}.{key}: expected one of {listing(allowed)}, got {text[:40]!r}")
        return text

    return Kind(read=read, write=str, schema={"enum": list(allowed)})


def _time(fields: Fields, key: str) -> datetime | None:
    text = fields.text(key, None)
    return None if text is None else parse_time(text, f"{fields.path}.{key}")


def _quota(fields: Fields, key: str) -> Quota | None:
    value = fields.mapping(key, None)
    if value is None:
        return None
    inner = Fields(value, f"{fields.path}.{key}")
    quota = Quota(count=inner.integer("count"), per=inner.text("per", "ever"))
    inner.done()
    if quota.per not in PERIODS:
        raise FormatError(f"{inner.path}.per: expected one of {listing(PERIODS)}, got {quota.per[:40]!r}")
    return quota


def _cosigned(fields: Fields, key: str) -> Cosigned | None:
    value = fields.mapping(key, None)
    if value is None:
        return None
    inner = Fields(value, f"{fields.path}.{key}")
    texts = inner.texts("by", limit=MAX_WITNESSES)
    cosigned = Cosigned(
        by=tuple(VerifierKey.from_text(text, f"{inner.path}.by[{n}]", COSIGNATURE) for n, text in enumerate(texts)),
        hours=inner.integer("hours", 24, low=1, high=MAX_COSIGNED_HOURS),
        threshold=inner.integer("threshold", 1, low=1, high=MAX_WITNESSES),
    )
    inner.done()
    if len(set(texts)) != len(texts) or cosigned.threshold > len(texts):
        raise FormatError(f"{inner.path}.threshold: {cosigned.threshold} of {len(set(texts))} witnesses")
    return cosigned


def _queries(fields: Fields, key: str) -> Queries | None:
    value = fields.mapping(key, None)
    if value is None:
        return None
    inner = Fields(value, f"{fields.path}.{key}")
    counts: dict[str, Any] = {name: inner.integer(name, None) for name in QUERY_COUNTS}
    shares: dict[str, Any] = {name: inner.number(name, None, low=0, high=1) for name in QUERY_SHARES}
    queries = Queries(**counts, **shares)
    inner.done()
    return queries


def _version(fields: Fields, key: str) -> str | None:
    text = fields.text(key, None, limit=32)
    if text is not None:
        loader_version(text, f"{fields.path}.{key}")
    return text


TEXTS_LIMIT = 1024
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_TIME = Kind(read=_time, write=format_time, schema={"type": "string", "format": "date-time"})
_TEXTS = Kind(
    read=lambda fields, key: fields.texts(key, None, limit=TEXTS_LIMIT),
    write=list,
    schema={"type": "array", "items": {"type": "string", "maxLength": MAX_TEXT}, "maxItems": TEXTS_LIMIT},
)
_COUNT = Kind(read=lambda fields, key: fields.integer(key, None), write=int, schema=COUNT)
_QUOTA = Kind(
    read=_quota,
    write=Quota.to_dict,
    schema={
        "type": "object",
        "properties": {"count": COUNT, "per": {"enum": list(PERIODS)}},
        "required": ["count"],
        "additionalProperties": False,
    },
)
_COSIGNED = Kind(
    read=_cosigned,
    write=Cosigned.to_dict,
    schema={
        "type": "object",
        "properties": {
            "by": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_WITNESSES},
            "hours": {"type": "integer", "minimum": 1, "maximum": MAX_COSIGNED_HOURS},
            "threshold": {"type": "integer", "minimum": 1, "maximum": MAX_WITNESSES},
        },
        "required": ["by"],
        "additionalProperties": False,
    },
)
_QUERIES = Kind(
    read=_queries,
    write=Queries.to_dict,
    schema={
        "type": "object",
        "properties": {
            **dict.fromkeys(QUERY_COUNTS, COUNT),
            **{name: {"type": "number", "minimum": 0, "maximum": 1} for name in QUERY_SHARES},
        },
        "additionalProperties": False,
    },
)
_VERSION = Kind(read=_version, write=str, schema={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)*$", "maxLength": 32})

TERMS: dict[str, Term] = {
    "not_before": Term(kind=_TIME, meaning="no load before this time"),
    "not_after": Term(kind=_TIME, meaning="no load after this time"),
    "versions": Term(kind=_TEXTS, meaning="model versions, patterns such as 2.* allowed"),
    "providers": Term(kind=_TEXTS, meaning="onnxruntime execution providers"),
    "hosts": Term(kind=_TEXTS, meaning="fingerprints of the host keys that audit logs begin with"),
    "machines": Term(kind=_TEXTS, meaning="values of `modelvault license machine`"),
    "logs": Term(kind=_TEXTS, meaning="origins of audit logs: a new log is another one"),
    "max_sessions": Term(kind=_COUNT, meaning="sessions open at once on a host"),
    "max_loads": Term(kind=_QUOTA, meaning="loads in a UTC calendar period, counted by the audit log"),
    "max_runs": Term(kind=_QUOTA, meaning="runs in a UTC calendar period, counted by the audit log"),
    "min_loader": Term(kind=_VERSION, meaning="oldest version of modelvault that may load"),
    "memory": Term(kind=_choice_of(MEMORY_MODES), meaning="memory mode; auto becomes this one"),
    "hardening": Term(kind=_choice_of(HARDENING), meaning="hardening level of the loading process"),
    "purposes": Term(kind=_TEXTS, meaning="purposes of which the caller must declare one"),
    "queries": Term(kind=_QUERIES, meaning="limits of the query guard, by caller"),
    "cosigned": Term(kind=_COSIGNED, meaning="witnesses that lately cosigned the host's audit log"),
}


def loader_version(text: str, field: str) -> tuple[int, ...]:
    """A version of modelvault as numbers that compare. Raises FormatError."""
    if not _NUMBERS.fullmatch(text):
        raise FormatError(f"{field}: expected numbers joined by dots, got {text[:40]!r}")
    return tuple(int(part) for part in text.split("."))
