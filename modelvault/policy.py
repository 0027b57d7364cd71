"""Terms of use: a publisher's policy for everybody and a grant's licence for one recipient have the same shape."""

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelvault import _files
from modelvault._codec import Fields, format_time, parse_time
from modelvault._version import __version__
from modelvault.errors import FormatError, PolicyDenied

MAX_POLICY = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Limits on a load; None means that this document does not limit it."""

    not_before: datetime | None = None
    not_after: datetime | None = None
    providers: tuple[str, ...] | None = None
    min_loader: str | None = None

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.not_before is not None:
            result["not_before"] = format_time(self.not_before)
        if self.not_after is not None:
            result["not_after"] = format_time(self.not_after)
        if self.providers is not None:
            result["providers"] = list(self.providers)
        if self.min_loader is not None:
            result["min_loader"] = self.min_loader
        return result

    @classmethod
    def from_dict(cls, value: dict[str, Any], field: str) -> "Terms":
        """Parse; an unknown key is a FormatError, since a misspelt limit must not mean "no limit"."""
        fields = Fields(value, field)
        terms = cls(
            not_before=_time(fields, "not_before"),
            not_after=_time(fields, "not_after"),
            providers=fields.texts("providers", None, limit=64),
            min_loader=fields.text("min_loader", None, limit=32),
        )
        fields.done()
        if terms.min_loader is not None:
            _loader_version(terms.min_loader, f"{field}.min_loader")
        return terms

    def check(self, *, now: datetime, providers: tuple[str, ...], source: str) -> None:
        """PolicyDenied naming the term, where a load at ``now`` with these providers is not allowed."""
        if self.not_before is not None and now < self.not_before:
            raise PolicyDenied(f"{source}: not valid before {format_time(self.not_before)}")
        if self.not_after is not None and now > self.not_after:
            raise PolicyDenied(f"{source}: expired at {format_time(self.not_after)}")
        for provider in providers:
            # The CPU provider is onnxruntime's fallback, but a publisher may leave it out of its list on purpose.
            if self.providers is not None and provider not in self.providers:
                raise PolicyDenied(f"{source}: provider {provider} is not among {', '.join(self.providers)}")
        if self.min_loader is not None:
            needed = _loader_version(self.min_loader, source)
            if _loader_version(__version__, "version") < needed:
                raise PolicyDenied(f"{source}: needs modelvault {self.min_loader} or later, this is {__version__}")


def _time(fields: Fields, key: str) -> datetime | None:
    text = fields.text(key, None)
    return None if text is None else parse_time(text, f"{fields.path}.{key}")


def _loader_version(text: str, field: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        raise FormatError(f"{field}: expected numbers joined by dots, got {text[:40]!r}") from None


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
