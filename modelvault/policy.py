"""Terms of use: a publisher's policy for everybody and a grant's licence for one recipient have the same shape."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, format_time, parse_time
from modelvault._version import __version__
from modelvault.errors import FormatError, PolicyDenied

MAX_POLICY = 2**20
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
class Situation:
    """A load as terms see it: when, of which version, where, and how.

    ``host`` is the fingerprint of the key that the audit log began with, ``log`` the log's origin, ``machine`` the
    value of :func:`modelvault.machine.machine_id`; ``purpose`` is what the caller declares.
    """

    now: datetime
    version: str
    providers: tuple[str, ...]
    host: str
    log: str
    machine: str | None = None
    memory: str = "auto"
    hardening: str = "standard"
    purpose: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Limits on a load; None means that this document does not limit it. :data:`TERMS` says what each means."""

    not_before: datetime | None = None
    not_after: datetime | None = None
    versions: tuple[str, ...] | None = None
    providers: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    machines: tuple[str, ...] | None = None
    logs: tuple[str, ...] | None = None
    max_sessions: int | None = None
    max_loads: Quota | None = None
    max_runs: Quota | None = None
    min_loader: str | None = None
    memory: str | None = None
    hardening: str | None = None
    purposes: tuple[str, ...] | None = None

    @property
    def timed(self) -> bool:
        """Whether the clock decides about anything."""
        quotas = [q for q in (self.max_loads, self.max_runs) if q is not None]
        return bool(self.not_before or self.not_after or any(q.per != "ever" for q in quotas))

    def to_dict(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in TERMS}
        return {name: TERMS[name].kind.write(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, value: dict[str, Any], field: str) -> "Terms":
        """Parse; an unknown key is a FormatError, since a misspelt limit must not mean "no limit"."""
        fields = Fields(value, field)
        terms = cls(**{name: term.kind.read(fields, name) for name, term in TERMS.items()})
        fields.done()
        return terms

    def check(self, at: Situation, source: str) -> None:
        """PolicyDenied naming the term, where ``at`` is not allowed. Counted terms are the ledger's to check."""
        if self.not_before is not None and at.now < self.not_before:
            raise PolicyDenied(f"{source}: not valid before {format_time(self.not_before)}")
        if self.not_after is not None and at.now > self.not_after:
            raise PolicyDenied(f"{source}: expired at {format_time(self.not_after)}")
        if self.versions is not None and not any(fnmatchcase(at.version, pattern) for pattern in self.versions):
            raise PolicyDenied(f"{source}: model version {at.version} is not among {_list(self.versions)}")
        for provider in at.providers:
            # The CPU provider is onnxruntime's fallback, but a publisher may leave it out of its list on purpose.
            _among(provider, self.providers, f"{source}: provider")
        _among(at.host, self.hosts, f"{source}: host key")
        _among(at.machine, self.machines, f"{source}: machine")
        _among(at.log, self.logs, f"{source}: audit log")
        _among(at.purpose, self.purposes, f"{source}: purpose")
        self._check_loader(at, source)

    def _check_loader(self, at: Situation, source: str) -> None:
        if self.min_loader is not None:
            needed = _loader_version(self.min_loader, source)
            if _loader_version(__version__, "version") < needed:
                raise PolicyDenied(f"{source}: needs modelvault {self.min_loader} or later, this is {__version__}")
        if self.memory is not None and at.memory not in ("auto", self.memory):
            raise PolicyDenied(f"{source}: needs memory mode {self.memory}, got {at.memory}")
        if self.hardening == "strict" and at.hardening != "strict":
            raise PolicyDenied(f"{source}: needs hardening strict, got {at.hardening}")


def _among(value: str | None, allowed: tuple[str, ...] | None, what: str) -> None:
    if allowed is not None and value not in allowed:
        raise PolicyDenied(f"{what} {value or '(none)'} is not among {_list(allowed)}")


def _list(values: tuple[str, ...]) -> str:
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
            raise FormatError(f"{fields.path}.{key}: expected one of {_list(allowed)}, got {text[:40]!r}")
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
        raise FormatError(f"{inner.path}.per: expected one of {_list(PERIODS)}, got {quota.per[:40]!r}")
    return quota


def _version(fields: Fields, key: str) -> str | None:
    text = fields.text(key, None, limit=32)
    if text is not None:
        _loader_version(text, f"{fields.path}.{key}")
    return text


TEXTS_LIMIT = 1024
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_TIME = Kind(read=_time, write=format_time, schema={"type": "string", "format": "date-time"})
_TEXTS = Kind(
    read=lambda fields, key: fields.texts(key, None, limit=TEXTS_LIMIT),
    write=list,
    schema={"type": "array", "items": {"type": "string"}, "maxItems": TEXTS_LIMIT},
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
}


def _loader_version(text: str, field: str) -> tuple[int, ...]:
    if not _NUMBERS.fullmatch(text):
        raise FormatError(f"{field}: expected numbers joined by dots, got {text[:40]!r}")
    return tuple(int(part) for part in text.split("."))


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file's table; dates become RFC 3339 text as in the JSON form."""
    data = _files.read_bytes(path, limit=MAX_POLICY)
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: not valid TOML: {str(error).lower().splitlines()[0]}") from None
    return {key: _plain(value) for key, value in table.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def read_terms(path: str | Path) -> Terms:
    """Terms from a TOML policy file."""
    return Terms.from_dict(read_toml(path), str(path))
