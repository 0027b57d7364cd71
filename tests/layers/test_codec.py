"""Strict codecs at their edges: what passes, what is refused, and in which words."""

import base64
import binascii
import hashlib
import itertools
import os
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from modelvault import _codec
from modelvault.errors import FormatError


def refused(words: str) -> Any:
    """A FormatError of exactly these words."""
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def test_base64() -> None:
    assert _codec.b64encode(b"\xfb\xff\x00") == "+/8A"
    assert _codec.b64decode("+/8A", "f") == b"\xfb\xff\x00"
    for value, words in (
        (b"+/8A", "f: expected base64 text, got bytes"),
        (None, "f: expected base64 text, got NoneType"),
        ("-_8A", "f: not base64"),
        ("é" * 4, "f: not base64"),
        ("A", "f: not base64"),
        ("AB==", "f: base64 is not canonical"),
    ):
        with refused(words):
            _codec.b64decode(value, "f")


def test_base64_has_one_spelling() -> None:
    for text in ("".join(t) for size in range(7) for t in itertools.product("AB/=\n", repeat=size)):
        try:
            data = _codec.b64decode(text, "f")
        except FormatError:
            try:
                data = base64.b64decode(text, validate=True)
            except binascii.Error:
                continue
            assert _codec.b64encode(data) != text
        else:
            assert _codec.b64encode(data) == text


def test_canonical_json() -> None:
    assert _codec.json_encode({"b": [1, 2.5, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        _codec.json_encode(float("nan"))
    odd = os.fsdecode(b"\xff")
    for text, words in (
        (f"{odd}0123456789abc", r"""not UTF-8: ...'"\udcff0123456789'..."""),
        ("x" * 40 + odd, "not UTF-8: ...'" + "x" * 30 + r"""\udcff"'..."""),
    ):
        with pytest.raises(FormatError, match=f"^{re.escape(words)}$"):
            _codec.json_encode(text)


def test_lists_of_texts_and_fingerprints() -> None:
    assert _codec.Fields({"k": ["x" * 4096]}, "f").texts("k") == ("x" * 4096,)
    with pytest.raises(FormatError, match=r"^f\.k: expected a list of texts of at most 4096 characters$"):
        _codec.Fields({"k": ["x" * 4097]}, "f").texts("k")
    with pytest.raises(FormatError, match=rf"^f\.k: expected a SHA256: fingerprint, got '{'x' * 80}'$"):
        _codec.Fields({"k": ["x" * 100]}, "f").fingerprints("k", limit=2)
    assert _codec.json_digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').digest()


def test_json_is_refused_in_these_words() -> None:
    deep = 33
    assert _codec.json_decode(b"[" * (deep - 1) + b"]" * (deep - 1), "f", limit=100) is not None
    assert _codec.json_decode(b'{"a":' * (deep - 2) + b"1" + b"}" * (deep - 2), "f", limit=300) is not None
    assert _codec.json_decode(b"[1]", "f", limit=3) == [1]
    assert _codec.json_decode(b"[1e300,18446744073709551615]", "f", limit=100) == [1e300, 2**64 - 1]
    for data, words in (
        (b"[" * deep + b"]" * deep, "f: not valid JSON: nested too deeply"),
        (b'{"a":' * (deep - 1) + b"1" + b"}" * (deep - 1), "f: not valid JSON: nested too deeply"),
        (b"[" * 200_000, "f: not valid JSON: nested too deeply"),
        (b'{"a":{"b":1,"b":1}}', "f: not valid JSON: a key is repeated"),
        (b"-Infinity", "f: not valid JSON: -infinity is not a number"),
        (b'{"a":1e999}', "f: not valid JSON: a number is out of range"),
        (b"[18446744073709551616]", "f: not valid JSON: a number is out of range"),
        (b"[-18446744073709551616]", "f: not valid JSON: a number is out of range"),
        (b'{"\\ud800":1}', "f: not valid JSON: not UTF-8"),
        (b'{"a":["\\ud800"]}', "f: not valid JSON: not UTF-8"),
        (b"\xff", "f: not valid JSON: not UTF-8"),
        (b"", "f: not valid JSON: expecting value"),
    ):
        with refused(words):
            _codec.json_decode(data, "f", limit=10**6)
    with refused("f: 4 bytes, above the limit of 3"):
        _codec.json_decode(b"[12]", "f", limit=3)


def test_fields_give_what_is_there_once() -> None:
    fields = _codec.Fields({"t": "x", "i": 1, "n": 2.5, "b": True, "l": ["a"], "m": {}, "x": "AA=="}, "p")
    assert (fields.text("t"), fields.integer("i"), fields.boolean("b")) == ("x", 1, True)
    assert fields.number("n", low=0, high=3) == 2.5
    assert (fields.texts("l"), fields.mapping("m"), fields.binary("x", size=1)) == (("a",), {}, b"\0")
    fields.done()
    with refused("p.t: missing"):
        fields.text("t")


def test_defaults_stand_for_what_is_missing() -> None:
    fields: Any = _codec.Fields({}, "p")
    assert fields.text("k", None) is None
    assert fields.text("k", "d") == "d"
    assert (fields.integer("k", None), fields.integer("k", 5)) == (None, 5)
    assert fields.number("k", None, low=0, high=1) is None
    assert fields.boolean("k", False) is False
    assert (fields.items("k", None), fields.items("k", [1])) == (None, [1])
    assert (fields.texts("k", None), fields.mapping("k", None), fields.binary("k", None)) == (None, None, None)
    for take in (
        fields.text,
        fields.integer,
        fields.boolean,
        fields.items,
        fields.texts,
        fields.mapping,
        fields.binary,
    ):
        with refused("p.k: missing"):
            take("k")
    with refused("p.k: missing"):
        fields.number("k", low=0, high=1)


def test_limits_are_inclusive() -> None:
    fields = _codec.Fields
    assert fields({"k": "xx"}, "p").text("k", limit=2) == "xx"
    assert fields({"k": "x" * 4096}, "p").text("k") == "x" * 4096
    assert [fields({"k": n}, "p").integer("k", low=1, high=3) for n in (1, 3)] == [1, 3]
    assert [fields({"k": n}, "p").integer("k") for n in (0, 2**63 - 1)] == [0, 2**63 - 1]
    assert [fields({"k": n}, "p").number("k", low=0, high=1) for n in (0, 0.5, 1)] == [0, 0.5, 1]
    assert fields({"k": [1, 2]}, "p").items("k", limit=2) == [1, 2]
    assert len(fields({"k": [0] * 65535}, "p").items("k")) == 65535
    assert fields({"k": ["a"]}, "p").texts("k", limit=1) == ("a",)
    assert len(fields({"k": ["a"] * 65535}, "p").texts("k")) == 65535


@pytest.mark.parametrize(
    ("value", "take", "words"),
    [
        ("x" * 4097, lambda f: f.text("k"), "longer than 4096 characters"),
        ("xxx", lambda f: f.text("k", limit=2), "longer than 2 characters"),
        (None, lambda f: f.text("k"), "expected text, got NoneType"),
        (0, lambda f: f.integer("k", low=1, high=3), "expected 1 to 3, got 0"),
        (4, lambda f: f.integer("k", low=1, high=3), "expected 1 to 3, got 4"),
        (2**63, lambda f: f.integer("k"), f"expected 0 to {2**63 - 1}, got {2**63}"),
        (1.0, lambda f: f.integer("k"), "expected an integer, got float"),
        (1.5, lambda f: f.number("k", low=0, high=1), "expected 0 to 1, got 1.5"),
        (-1, lambda f: f.number("k", low=0, high=1), "expected 0 to 1, got -1"),
        (True, lambda f: f.number("k", low=0, high=1), "expected a number, got bool"),
        (1, lambda f: f.boolean("k"), "expected true or false, got int"),
        ({}, lambda f: f.items("k"), "expected a list, got dict"),
        ([1, 2, 3], lambda f: f.items("k", limit=2), "more than 2 items"),
        ([0] * 65536, lambda f: f.items("k"), "more than 65535 items"),
        (["a", "b"], lambda f: f.texts("k", limit=1), "more than 1 items"),
        (["a"] * 65536, lambda f: f.texts("k"), "more than 65535 items"),
        (["a", 1], lambda f: f.texts("k"), "expected a list of texts of at most 4096 characters"),
        (["a" * 4097], lambda f: f.texts("k"), "expected a list of texts of at most 4096 characters"),
        ([], lambda f: f.mapping("k"), "expected an object, got list"),
        (1, lambda f: f.binary("k"), "expected base64 text, got int"),
        ("?", lambda f: f.binary("k"), "not base64"),
        ("AA==", lambda f: f.binary("k", size=2), "expected 2 bytes, got 1"),
        ("a" * 63, lambda f: f.digest("k"), "expected 64 hex digits"),
        ("X" * 64, lambda f: f.digest("k"), "expected 64 hex digits"),
        ("a" * 63 + "G", lambda f: f.digest("k"), "expected 64 hex digits"),
        ("y", lambda f: f.exactly("k", "x"), "expected x, got y"),
        ("y" * 100, lambda f: f.exactly("k", "x"), f"expected x, got {'y' * 80}"),
    ],
)
def test_values_that_are_refused(value: Any, take: Any, words: str) -> None:
    with refused(f"p.k: {words}"):
        take(_codec.Fields({"k": value}, "p"))


def test_digests_and_fixed_words() -> None:
    fields = _codec.Fields({"d": "0123456789abcdef" * 4, "w": "x"}, "p")
    assert fields.digest("d") == bytes.fromhex("0123456789abcdef" * 4)
    fields.exactly("w", "x")
    fields.done()


def test_unknown_keys() -> None:
    with refused("p: expected an object, got str"):
        _codec.Fields("x", "p")
    with refused("p: unknown key 'a'"):
        _codec.Fields({"b": 1, "a": 2}, "p").done()
    with refused(f"p: unknown key {'k' * 80!r}"):
        _codec.Fields({"k" * 100: 1}, "p").done()


def test_the_caller_s_object_is_left_alone() -> None:
    value = {"a": "x"}
    _codec.Fields(value, "p").text("a")
    assert value == {"a": "x"}


@pytest.mark.usefixtures("west")
def test_times() -> None:
    east = timezone(timedelta(hours=2))
    assert _codec.format_time(datetime(2026, 1, 2, 1, 0, 0, 5, east)) == "2026-01-01T23:00:00.000005Z"
    parsed = _codec.parse_time("2026-01-02T01:00:00+02:00", "f")
    assert parsed == datetime(2026, 1, 1, 23, tzinfo=UTC)
    assert parsed.tzinfo is UTC
    with refused("f: not an RFC 3339 time"):
        _codec.parse_time("yesterday", "f")
    for text in ("2026-02-30T00:00:00Z", "0001-01-01T00:00:00+01:00"):
        with refused("f: not an RFC 3339 time"):
            _codec.parse_time(text, "f")
    with refused("f: the time has no zone"):
        _codec.parse_time("2026-01-02T01:00:00", "f")
