"""Terms of use: a publisher's policy for everybody and a grant's licence for one recipient have the same shape."""

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, check_tree, format_time
from modelvault._version import __version__
from modelvault.errors import FormatError, PolicyDenied
from modelvault.termtable import TERMS, Cosigned, Queries, Quota, listing, loader_version

MAX_POLICY = 2**20


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
    queries: Queries | None = None
    cosigned: Cosigned | None = None

    @property
    def timed(self) -> bool:
        """Whether the clock decides about anything."""
        quotas = [q for q in (self.max_loads, self.max_runs) if q is not None]
        return bool(self.not_before or self.not_after or self.cosigned or any(q.per != "ever" for q in quotas))

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
            raise PolicyDenied(f"{source}: model version {at.version} is not among {listing(self.versions)}")
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
            needed = loader_version(self.min_loader, source)
            if loader_version(__version__, "version") < needed:
                raise PolicyDenied(f"{source}: needs modelvault {self.min_loader} or later, this is {__version__}")
        if self.memory is not None and at.memory not in ("auto", self.memory):
            raise PolicyDenied(f"{source}: needs memory mode {self.memory}, got {at.memory}")
        if self.hardening == "strict" and at.hardening != "strict":
            raise PolicyDenied(f"{source}: needs hardening strict, got {at.hardening}")


def _among(value: str | None, allowed: tuple[str, ...] | None, what: str) -> None:
    if allowed is not None and value not in allowed:
        raise PolicyDenied(f"{what} {value or '(none)'} is not among {listing(allowed)}")


def read_toml(path: str | Path) -> dict[str, Any]:
    """A TOML file's table; dates become RFC 3339 text as in the JSON form."""
    return toml_table(_files.read_bytes(path, limit=MAX_POLICY), str(path))


def toml_table(data: bytes, source: str) -> dict[str, Any]:
    """:func:`read_toml` of what was read already."""
    try:
        table = tomllib.loads(data.decode("utf-8"))
        check_tree(table)
        return {key: _plain(value) for key, value in table.items()}
    except (ValueError, OverflowError, RecursionError) as error:  # also Python's own limit on the digits of integers
        raise FormatError(f"{source}: not valid TOML: {str(error).lower().splitlines()[0]}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def read_terms(path: str | Path) -> Terms:
    """Terms from a TOML policy file."""
    return Terms.from_dict(read_toml(path), str(path))
