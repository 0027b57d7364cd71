"""Revocation lists: what may no longer be loaded, signed and numbered. Bytes to values."""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from modelvault._codec import CLOCK_AHEAD, Fields, format_time, json_digest, parse_time
from modelvault.errors import FormatError, PolicyDenied, Revoked
from modelvault.manifest import build_statement, check_name, open_statement

PREDICATE = "urn:modelvault:revocations:v1"
MAX_LIST = 12 * 2**20
MAX_LIST_ENVELOPE = 16 * 2**20
MAX_ENTRIES = 65_535
MAX_REASON = 512
KINDS = ("model", "grant", "publisher", "recipient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One revocation. ``id`` is a model's statement digest or NAME@VERSION, a grant's id, a key's fingerprint."""

    kind: str
    id: str
    reason: str
    revoked: datetime

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "reason": self.reason, "revoked": format_time(self.revoked)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A whole list. ``number`` grows with every issue; ``name`` tells the lists of several issuers apart."""

    name: str
    number: int
    issued: datetime
    entries: tuple[Entry, ...] = ()

    def to_bytes(self) -> bytes:
        entries = [entry.to_dict() for entry in self.entries]
        predicate = {"number": self.number, "issued": format_time(self.issued), "entries": entries}
        return build_statement(self.name, {"sha256": json_digest(entries).hex()}, PREDICATE, predicate)

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "RevocationList":
        """Parse and validate; FormatError names the field below ``field``."""
        name, digest, fields = open_statement(data, field, "sha256", PREDICATE, MAX_LIST)
        items = fields.items("entries", limit=MAX_ENTRIES)
        found = cls(
            name=check_name(name, f"{field}.subject"),
            number=fields.integer("number", low=1),
            issued=parse_time(fields.text("issued"), f"{fields.path}.issued"),
            entries=tuple(_entry(item, f"{fields.path}.entries[{n}]") for n, item in enumerate(items)),
        )
        fields.done()
        if digest != json_digest(items):
            raise FormatError(f"{field}.subject.digest: does not fit the entries")
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the statement's bytes: tells two lists of one number apart."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def issue(self, added: tuple[Entry, ...], now: datetime) -> "RevocationList":
        """The next list: these entries too, one number higher. An entry that stands already is not repeated."""
        known = {(e.kind, e.id) for e in self.entries}
        fresh = tuple(e for e in added if (e.kind, e.id) not in known)
        if len(self.entries) + len(fresh) > MAX_ENTRIES:
            raise FormatError(f"revocation list {self.name}: more than {MAX_ENTRIES} entries")
        return replace(self, number=self.number + 1, issued=now, entries=self.entries + fresh)

    def reasons(self, kind: str) -> dict[str, str]:
        """Reason by id, of one kind."""
        return {e.id: e.reason for e in self.entries if e.kind == kind}

    def check(self, kind: str, ids: tuple[str, ...], source: str) -> None:
        """Revoked where one of ``ids`` stands in the list."""
        for entry in self.entries:
            if entry.kind == kind and entry.id in ids:
                raise Revoked(
                    f"{source}: {kind} {entry.id} was revoked at {format_time(entry.revoked)}: {entry.reason}"
                )

    def check_age(self, max_age: timedelta | None, now: datetime) -> None:
        """PolicyDenied for a stale list, or one from the future."""
        if max_age is None:
            return
        if self.issued > now + CLOCK_AHEAD:
            raise PolicyDenied(
                f"revocation list {self.name} number {self.number} was issued at {format_time(self.issued)}, "
                "which is yet to come: its age cannot be told"
            )
        if now - max_age > self.issued:
            raise PolicyDenied(
                f"revocation list {self.name} number {self.number} is stale: issued {format_time(self.issued)}, "
                f"the trust policy allows {max_age.total_seconds():.0f} seconds"
            )


def _entry(item: Any, field: str) -> Entry:
    fields = Fields(item, field)
    entry = Entry(
        kind=fields.text("kind", limit=32),
        id=fields.text("id", limit=256),
        reason=fields.text("reason", limit=MAX_REASON),
        revoked=parse_time(fields.text("revoked"), f"{field}.revoked"),
    )
    fields.done()
    if entry.kind not in KINDS:
        raise FormatError(f"{field}.kind: expected one of {', '.join(KINDS)}, got {entry.kind!r}")
    return entry
