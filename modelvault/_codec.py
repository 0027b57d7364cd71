"""Strict text and number codecs: every foreign parse error becomes a FormatError that names the field."""

import base64
import binascii
import hashlib
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from modelvault.errors import FormatError

MAX_JSON_DEPTH = 32
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")  # what int() takes: "²" is a digit to str, long runs are refused
CLOCK_AHEAD = timedelta(minutes=5)  # how far another machine's clock may be ahead of ours
MAX_INTEGER = 2**64  # beyond it, Python has integers that are no floats, and that it will not write
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(?P<zone>Z|[+-]\d\d:\d\d)?", re.ASCII)


def b64encode(data: bytes) -> str:
    """Standard base64 (RFC 4648 section 4), padded, one line."""
    return base64.b64encode(data).decode("ascii")


def b64decode(text: Any, field: str) -> bytes:
    """Inverse of :func:`b64encode`; anything but the one canonical encoding is a FormatError."""
    if not isinstance(text, str):
        raise FormatError(f"{field}: expected base64 text, got {type(text).__name__}")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise FormatError(f"{field}: not base64") from None
    last = len(data) - len(data) % 3  # alphabet and padding are checked: what is left are the last group's spare bits
    if text[last // 3 * 4 :] != b64encode(data[last:]):
        raise FormatError(f"{field}: base64 is not canonical")
    return data


def json_encode(value: Any) -> bytes:
    """Canonical JSON: UTF-8, keys sorted, no white space, no NaN; the same value always gives the same bytes.

    FormatError for a text with half a character, as Python has for bytes of a path or an argument that are not UTF-8.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"not UTF-8: ...{text[max(error.start - 30, 0) : error.end + 10]!a}...") from None


def json_digest(value: Any) -> bytes:
    """SHA-256 of a value's canonical JSON: what a statement about that value has as its subject."""
    return hashlib.sha256(json_encode(value)).digest()


def json_decode(data: bytes, field: str, *, limit: int) -> Any:
    """Parse at most ``limit`` bytes of UTF-8 JSON.

    Repeated keys, NaN, integers from 2**64, deep nesting and lone surrogates are errors.
    """
    if len(data) > limit:
        raise FormatError(f"{field}: {len(data)} bytes, above the limit of {limit}")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        check_tree(value)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{field}: not valid JSON: {_reason(error)}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def check_tree(value: Any, depth: int = MAX_JSON_DEPTH) -> None:
    """ValueError where a parsed value is nested deeper, or holds numbers or text that cannot be written again."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate cannot be encoded
    elif isinstance(value, int | float) and not _in_range(value):
        raise ValueError("a number is out of range")
    elif isinstance(value, list):
        for item in value:
            check_tree(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_tree(key)
            check_tree(item, depth - 1)


def _in_range(value: int | float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else abs(value) < MAX_INTEGER


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(":")[0].lower()


class Fields:
    """Typed access to one JSON object: every key must be known, and is taken once.

    >>> f = Fields({"a": 1}, "policy"); f.integer("a"); f.done()
    """

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{path}: expected an object, got {type(value).__name__}")
        self._left = dict(value)
        self.path = path

    def _take(self, key: str, kind: type | tuple[type, ...], default: Any, words: str) -> Any:
        if key not in self._left:
            if default is not ...:
                return default
            raise FormatError(f"{self.path}.{key}: missing")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise FormatError(f"{self.path}.{key}: expected {words}, got {type(value).__name__}")
        return value

    def text(self, key: str, default: Any = ..., *, limit: int = 4096) -> str:
        value: str = self._take(key, str, default, "text")
        if value is not None and len(value) > limit:
            raise FormatError(f"{self.path}.{key}: longer than {limit} characters")
        return value

    def integer(self, key: str, default: Any = ..., *, low: int = 0, high: int = 2**63 - 1) -> int:
        value: int = self._take(key, int, default, "an integer")
        if value is not None and not low <= value <= high:
            raise FormatError(f"{self.path}.{key}: expected {low} to {high}, got {value}")
        return value

    def number(self, key: str, default: Any = ..., *, low: float, high: float) -> float:
        value: float = self._take(key, (int, float), default, "a number")
        if value is not None and not low <= value <= high:
            raise FormatError(f"{self.path}.{key}: expected {low} to {high}, got {value}")
        return value

    def boolean(self, key: str, default: Any = ...) -> bool:
        value: bool = self._take(key, bool, default, "true or false")
        return value

    def items(self, key: str, default: Any = ..., *, limit: int = 65535) -> list[Any]:
        value: list[Any] = self._take(key, list, default, "a list")
        if value is not None and len(value) > limit:
            raise FormatError(f"{self.path}.{key}: more than {limit} items")
        return value

    def texts(self, key: str, default: Any = ..., *, limit: int = 65535) -> tuple[str, ...]:
        values = self.items(key, default, limit=limit)
        if values is not None and not all(isinstance(v, str) for v in values):
            raise FormatError(f"{self.path}.{key}: expected a list of texts")
        return values if values is None else tuple(values)

    def mapping(self, key: str, default: Any = ...) -> dict[str, Any]:
        value: dict[str, Any] = self._take(key, dict, default, "an object")
        return value

    def binary(self, key: str, default: Any = ..., *, size: int | None = None) -> bytes:
        text = self._take(key, str, default, "base64 text")
        value: bytes = default if text is None else b64decode(text, f"{self.path}.{key}")
        if size is not None and len(value) != size:
            raise FormatError(f"{self.path}.{key}: expected {size} bytes, got {len(value)}")
        return value

    def digest(self, key: str) -> bytes:
        """A SHA-256 digest as 64 lower-case hex digits."""
        text = self.text(key)
        if len(text) != 64 or text.strip("0123456789abcdef"):
            raise FormatError(f"{self.path}.{key}: expected 64 hex digits")
        return bytes.fromhex(text)

    def fingerprint(self, key: str) -> str:
        """A key's fingerprint: SHA256: and 43 characters of base64."""
        text = self.text(key, limit=64)
        if not _FINGERPRINT.fullmatch(text):
            raise FormatError(f"{self.path}.{key}: expected a SHA256: fingerprint, got {text!r}")
        return text

    def exactly(self, key: str, expected: str) -> None:
        value = self.text(key)
        if value != expected:
            raise FormatError(f"{self.path}.{key}: expected {expected}, got {value[:80]}")

    def done(self) -> None:
        """No key may be left over: a misspelt limit must not mean "no limit"."""
        if self._left:
            raise FormatError(f"{self.path}: unknown key {sorted(self._left)[0][:80]!r}")


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds when there are any, ending in Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: str, field: str) -> datetime:
    """RFC 3339 text with a zone -> an aware datetime in UTC.

    Python reads much else that ISO 8601 has: week dates, no separators, no seconds. Other readers would not.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise FormatError(f"{field}: not an RFC 3339 time")
    if not found["zone"]:
        raise FormatError(f"{field}: the time has no zone")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the 30th of February; before the year 1 in UTC
        raise FormatError(f"{field}: not an RFC 3339 time") from None
