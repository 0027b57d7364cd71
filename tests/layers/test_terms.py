"""Terms of use: the table of kinds, and the check of a situation term by term."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelvault._codec import Fields
from modelvault._version import __version__
from modelvault.cosignature import COSIGNATURE, VerifierKey
from modelvault.errors import FileError, FormatError, PolicyDenied
from modelvault.keys import HostKey
from modelvault.policy import Situation, Terms, read_terms, read_toml
from modelvault.termtable import TERMS, Cosigned, Queries, Quota, _choice_of, listing, loader_version

NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)
HERE = Situation(now=NOON, version="2.1", providers=("CPU",), host="SHA256:h", log="modelvault/audit/1")
WITNESSES = [VerifierKey(name=f"w{n}", algorithm=COSIGNATURE, key=HostKey.generate().public) for n in range(17)]


def refused(words: str, error: type[Exception] = FormatError) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(words)}$")


WHOLE: dict[str, Any] = {
    "not_before": "2031-01-01T00:00:00Z",
    "not_after": "2031-06-01T12:00:00Z",
    "versions": ["2.*"],
    "providers": ["CPU"],
    "hosts": ["SHA256:x"],
    "machines": [],
    "logs": ["modelvault/audit/1"],
    "max_sessions": 3,
    "max_loads": {"count": 10, "per": "day"},
    "max_runs": {"count": 0, "per": "ever"},
    "min_loader": "0.1",
    "memory": "lean",
    "hardening": "strict",
    "purposes": ["screening"],
    "queries": {"per_minute": 60, "total": 9, "rejected": 0.1, "near_duplicates": 1, "equal_steps": 0},
    "cosigned": {"by": [w.to_text() for w in WITNESSES[:2]], "hours": 2, "threshold": 2},
}


def test_every_term_is_read_and_written() -> None:
    assert list(WHOLE) == list(TERMS) == list(Terms.__slots__)
    terms = Terms.from_dict(WHOLE, "t")
    assert terms.to_dict() == WHOLE
    assert Terms.from_dict({}, "t") == Terms()
    assert Terms().to_dict() == {}
    for name, value in WHOLE.items():
        one = Terms.from_dict({name: value}, "t")
        assert one.to_dict() == {name: value}
        assert {n for n in TERMS if getattr(one, n) is not None} == {name}
    assert terms.not_before == datetime(2031, 1, 1, tzinfo=UTC)
    assert terms.max_loads == Quota(count=10, per="day")
    assert terms.queries == Queries(per_minute=60, total=9, rejected=0.1, near_duplicates=1, equal_steps=0)
    assert terms.cosigned == Cosigned(by=tuple(WITNESSES[:2]), hours=2, threshold=2)
    assert all(term.meaning for term in TERMS.values())


def test_defaults_inside_terms() -> None:
    terms = Terms.from_dict(
        {"max_runs": {"count": 1}, "cosigned": {"by": [WITNESSES[0].to_text()]}, "queries": {}}, "t"
    )
    assert terms.max_runs == Quota(count=1, per="ever")
    assert terms.cosigned == Cosigned(by=(WITNESSES[0],), hours=24, threshold=1)
    assert terms.queries == Queries()
    assert terms.to_dict()["queries"] == {}


BY = [w.to_text() for w in WITNESSES]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"not_before": 1}, "t.not_before: expected text, got int"),
        ({"not_after": "x"}, "t.not_after: not an RFC 3339 time"),
        ({"versions": "2"}, "t.versions: expected a list, got str"),
        ({"versions": ["x"] * 1025}, "t.versions: more than 1024 items"),
        ({"max_sessions": -1}, f"t.max_sessions: expected 0 to {2**63 - 1}, got -1"),
        ({"max_loads": 1}, "t.max_loads: expected an object, got int"),
        ({"max_loads": {}}, "t.max_loads.count: missing"),
        ({"max_loads": {"count": 1, "per": "week"}},
         "t.max_loads.per: expected one of hour, day, month, ever, got 'week'"),
        ({"max_loads": {"count": 1, "per": "w" * 50}},
         f"t.max_loads.per: expected one of hour, day, month, ever, got {'w' * 40!r}"),
        ({"max_loads": {"count": 1, "x": 1}}, "t.max_loads: unknown key 'x'"),
        ({"min_loader": "1.x"}, "t.min_loader: expected numbers joined by dots, got '1.x'"),
        ({"min_loader": "1" * 33}, "t.min_loader: longer than 32 characters"),
        ({"memory": "big"}, "t.memory: expected one of lean, fast, got 'big'"),
        ({"memory": "b" * 50}, f"t.memory: expected one of lean, fast, got {'b' * 40!r}"),
        ({"hardening": ""}, "t.hardening: expected one of standard, strict, got ''"),
        ({"queries": {"per_minute": -1}}, f"t.queries.per_minute: expected 0 to {2**63 - 1}, got -1"),
        ({"queries": {"rejected": 1.1}}, "t.queries.rejected: expected 0 to 1, got 1.1"),
        ({"queries": {"equal_steps": -0.1}}, "t.queries.equal_steps: expected 0 to 1, got -0.1"),
        ({"queries": {"x": 1}}, "t.queries: unknown key 'x'"),
        ({"cosigned": {}}, "t.cosigned.by: missing"),
        ({"cosigned": {"by": []}}, "t.cosigned.threshold: 1 of 0 witnesses"),
        ({"cosigned": {"by": BY}}, "t.cosigned.by: more than 16 items"),
        ({"cosigned": {"by": BY[:1] * 2}}, "t.cosigned.threshold: 1 of 1 witnesses"),
        ({"cosigned": {"by": BY[:2], "threshold": 3}}, "t.cosigned.threshold: 3 of 2 witnesses"),
        ({"cosigned": {"by": BY[:2], "threshold": 0}}, "t.cosigned.threshold: expected 1 to 16, got 0"),
        ({"cosigned": {"by": BY[:1], "hours": 0}}, "t.cosigned.hours: expected 1 to 8760, got 0"),
        ({"cosigned": {"by": BY[:1], "hours": 8761}}, "t.cosigned.hours: expected 1 to 8760, got 8761"),
        ({"cosigned": {"by": [BY[0], "w"]}},
         "t.cosigned.by[1]: expected the verifier key of an Ed25519 witness"),
        ({"cosigned": {"by": BY[:1], "x": 1}}, "t.cosigned: unknown key 'x'"),
        ({"max_load": 1}, "t: unknown key 'max_load'"),
    ],
)  # fmt: skip
def test_terms_that_are_refused(value: dict[str, Any], words: str) -> None:
    with refused(words):
        Terms.from_dict(value, "t")


def test_the_largest_terms() -> None:
    texts = ["x"] * 1024
    assert Terms.from_dict({"versions": texts}, "t").versions == tuple(texts)
    whole = Terms.from_dict({"cosigned": {"by": BY[:16], "hours": 8760, "threshold": 16}, "min_loader": "1" * 32}, "t")
    assert whole.cosigned is not None
    assert (whole.cosigned.hours, whole.cosigned.threshold) == (8760, 16)


@pytest.mark.parametrize(
    ("terms", "situation", "words"),
    [
        ({}, {}, None),
        ({"not_before": NOON}, {}, None),
        ({"not_before": NOON + timedelta(seconds=1)}, {}, "not valid before 2031-05-04T12:00:01Z"),
        ({"not_after": NOON}, {}, None),
        ({"not_after": NOON - timedelta(seconds=1)}, {}, "expired at 2031-05-04T11:59:59Z"),
        ({"versions": ("1", "2.?")}, {}, None),
        ({"versions": ("2",)}, {}, "model version 2.1 is not among 2"),
        ({"versions": ()}, {}, "model version 2.1 is not among (nothing)"),
        ({"providers": ("CPU",)}, {}, None),
        ({"providers": ("CUDA",)}, {"providers": ("CUDA", "CPU")}, "provider CPU is not among CUDA"),
        ({"hosts": ("SHA256:h",)}, {}, None),
        ({"hosts": ("a", "b")}, {}, "host key SHA256:h is not among a, b"),
        ({"machines": ("m",)}, {"machine": "m"}, None),
        ({"machines": ("m",)}, {}, "machine (none) is not among m"),
        ({"machines": ("m",)}, {"machine": ""}, "machine (none) is not among m"),
        ({"logs": ("modelvault/audit/1",)}, {}, None),
        ({"logs": ()}, {}, "audit log modelvault/audit/1 is not among (nothing)"),
        ({"purposes": ("p",)}, {"purpose": "p"}, None),
        ({"purposes": ("p",)}, {"purpose": "q"}, "purpose q is not among p"),
        ({"min_loader": __version__}, {}, None),
        ({"min_loader": "0"}, {}, None),
        ({"min_loader": "999"}, {}, f"needs modelvault 999 or later, this is {__version__}"),
        ({"memory": "lean"}, {"memory": "lean"}, None),
        ({"memory": "lean"}, {"memory": "auto"}, None),
        ({"memory": "lean"}, {"memory": "fast"}, "needs memory mode lean, got fast"),
        ({"hardening": "strict"}, {"hardening": "strict"}, None),
        ({"hardening": "standard"}, {"hardening": "standard"}, None),
        ({"hardening": "strict"}, {}, "needs hardening strict, got standard"),
    ],
)
def test_a_situation_is_checked(terms: dict[str, Any], situation: dict[str, Any], words: str | None) -> None:
    at = replace(HERE, **situation)
    if words is None:
        Terms(**terms).check(at, "grant")
    else:
        with refused(f"grant: {words}", PolicyDenied):
            Terms(**terms).check(at, "grant")


@pytest.mark.parametrize(
    ("terms", "timed"),
    [
        ({}, False),
        ({"max_sessions": 1, "versions": ("1",)}, False),
        ({"not_before": NOON}, True),
        ({"not_after": NOON}, True),
        ({"max_loads": Quota(count=1, per="ever")}, False),
        ({"max_loads": Quota(count=1, per="day")}, True),
        ({"max_runs": Quota(count=1, per="hour")}, True),
        ({"max_loads": Quota(count=1, per="ever"), "max_runs": Quota(count=1, per="month")}, True),
        ({"cosigned": Cosigned(by=())}, True),
    ],
)
def test_whether_the_clock_decides(terms: dict[str, Any], timed: bool) -> None:
    assert Terms(**terms).timed is timed


def test_a_choice() -> None:
    kind = _choice_of(("a", "b"))
    assert kind.read(Fields({"k": "b"}, "p"), "k") == "b"
    assert kind.read(Fields({}, "p"), "k") is None
    for value, words in ((1, "expected text, got int"), ("c" * 50, f"expected one of a, b, got {'c' * 40!r}")):
        with refused(f"p.k: {words}"):
            kind.read(Fields({"k": value}, "p"), "k")
    assert kind.write is str
    assert kind.schema == {"enum": ["a", "b"]}


def test_a_term_that_no_parser_saw() -> None:
    with refused("grant: expected numbers joined by dots, got 'x'"):
        Terms(min_loader="x").check(HERE, "grant")


def test_versions_of_the_loader() -> None:
    assert loader_version("1.10.0", "f") == (1, 10, 0)
    assert loader_version("1.10", "f") > loader_version("1.9", "f")
    for bad in ("", "1.", ".1", "1..2", "v1", "1.0\n"):
        with refused(f"f: expected numbers joined by dots, got {bad!r}"):
            loader_version(bad, "f")
    with refused(f"f: expected numbers joined by dots, got {'x' * 40!r}"):
        loader_version("x" * 50, "f")
    assert (listing(("a", "b")), listing(())) == ("a, b", "(nothing)")


@pytest.mark.usefixtures("west")
def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(
        "not_before = 2031-01-01T00:00:00\nnot_after = 2031-06-01T12:00:00+02:00\n"
        "max_sessions = 3\n[max_loads]\ncount = 2\nper = 'day'\n"
    )
    assert read_terms(path) == Terms(
        not_before=datetime(2031, 1, 1, tzinfo=UTC),
        not_after=datetime(2031, 6, 1, 10, tzinfo=UTC),
        max_sessions=3,
        max_loads=Quota(count=2, per="day"),
    )
    path.write_text("a = [{b = 2031-01-01T00:00:00Z}]\nd = 2031-01-01\n")
    assert read_toml(path) == {"a": [{"b": "2031-01-01T00:00:00Z"}], "d": date(2031, 1, 1)}
    path.write_text("max_session = 3\n")
    with refused(f"{path}: unknown key 'max_session'"):
        read_terms(path)


def test_toml_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    for data, words in (
        (b"a = \n", "not valid TOML: invalid value"),
        (b"\xff", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"a = " + b"[" * 100_000, "not valid TOML: "),
        (b"a = inf\n", "not valid TOML: a number is out of range$"),
    ):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=rf"^{re.escape(str(path))}: {words}"):
            read_toml(path)
    path.write_bytes(b"#" * 2**20)
    assert read_toml(path) == {}
    path.write_bytes(b"#" * (2**20 + 1))
    with refused(f"{path}: larger than the limit of {2**20} bytes", FileError):
        read_toml(path)
