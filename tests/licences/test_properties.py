"""What holds for every history and every byte: folds may be cut anywhere, parsers refuse with their own error."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault._codec import format_time, json_decode, json_encode
from modelvault.audit.lines import Record
from modelvault.errors import FormatError
from modelvault.handover import Handover
from modelvault.keys import PublisherKey
from modelvault.policy import Terms
from modelvault.revocation import KINDS, Entry, RevocationList
from modelvault.termtable import TERMS
from modelvault.usage import Usage

START = datetime(2031, 1, 31, 23, 30, tzinfo=UTC)
SUBJECTS = ("a", "b", "c")
subjects = st.lists(st.sampled_from(SUBJECTS), max_size=2, unique=True)
loads = st.sampled_from(("l1", "l2", "l3"))
versions = st.sampled_from(("1", "1.9", "1.10", "2"))
events = st.one_of(
    st.tuples(st.just("load.intent"), st.fixed_dictionaries({"load": loads, "counts": subjects, "seats": subjects})),
    st.tuples(
        st.just("load.done"),
        st.fixed_dictionaries({"loaded": st.fixed_dictionaries({"of": st.sampled_from("xy"), "version": versions})}),
    ),
    st.tuples(
        st.just("load.denied"),
        st.fixed_dictionaries(
            {
                "load": loads,
                "handovers": st.dictionaries(st.sampled_from("pq"), st.integers(0, 5), max_size=2),
                "revocations": st.fixed_dictionaries(
                    {"list": st.just("r"), "number": st.integers(0, 9), "digest": st.sampled_from(("d", "e"))}
                ),
            }
        ),
    ),
    st.tuples(st.just("runs.leased"), st.fixed_dictionaries({"counts": subjects, "runs": st.integers(0, 9)})),
    st.tuples(st.just("session.closed"), st.fixed_dictionaries({"load": loads})),
    st.tuples(st.just("session.lost"), st.fixed_dictionaries({"load": loads})),
    st.tuples(st.just("other"), st.just({"load": 3})),
)
histories = st.lists(st.tuples(st.integers(0, 4000), events), max_size=30)


def records(history: list[tuple[int, tuple[str, dict[str, Any]]]]) -> list[Record]:
    now, found = START, []
    for seq, (later, (event, fields)) in enumerate(history):
        now += timedelta(seconds=later, microseconds=seq % 2)
        own: dict[str, Any] = {"boot": "boot", "pid": 1, "epoch": 0, "batch": seq}
        found.append(Record(seq=seq, time=format_time(now), event=event, fields=fields, **own))
    return found


def fold(found: list[Record], start: Usage | None = None) -> Usage:
    usage = start or Usage()
    for record in found:
        usage.apply(record)
    return usage


@given(histories, st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_a_fold_may_be_cut_anywhere(history: Any, cut: int) -> None:
    found = records(history)
    whole = fold(found)
    stored = json_decode(json_encode(fold(found[:cut]).to_dict()), "usage", limit=2**24)
    assert fold(found[cut:], Usage.from_dict(stored)) == whole
    assert whole.latest == (found[-1].time if found else "")


@given(histories, st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_what_is_kept_stands_for_what_was_pruned(history: Any, cut: int) -> None:
    found = records(history)
    before = fold(found[:cut])
    usage = Usage()
    usage.miss()
    for part in before.parts():
        written = json_decode(json_encode({"kept": part}), "record", limit=2**24)
        time = before.latest or format_time(START)
        usage.apply(Record(seq=0, batch=0, epoch=0, time=time, boot="b", pid=1, event="usage.kept", fields=written))
    after = fold(found[cut:], usage)
    whole = fold(found)
    assert after.whole
    if found:
        assert after == whole


@given(histories)
@settings(max_examples=100, deadline=None)
def test_counts_are_those_of_the_period(history: Any) -> None:
    found = records(history)
    usage = fold(found)
    now = found[-1].time if found else ""
    for subject in SUBJECTS:
        for per, length in (("hour", 13), ("day", 10), ("month", 7), ("ever", 0)):
            mine = [r for r in found if r.time[:length] == now[:length] and subject in r.fields.get("counts", ())]
            assert usage.loads(subject, per, now) == sum(r.event == "load.intent" for r in mine)
            assert usage.runs(subject, per, now) == sum(r.fields["runs"] for r in mine if r.event == "runs.leased")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*TERMS, "x"]), values, max_size=3))
@settings(max_examples=300, deadline=None)
def test_terms_parse_or_say_why(value: dict[str, Any]) -> None:
    try:
        terms = Terms.from_dict(value, "t")
    except FormatError as error:
        assert str(error).startswith("t")
    else:
        assert Terms.from_dict(json.loads(json_encode(terms.to_dict())), "t") == terms


def a_list() -> RevocationList:
    entries = tuple(Entry(kind=kind, id=f"{kind}-1", reason="why", revoked=START) for kind in KINDS)
    return RevocationList(name="acme", number=3, issued=START, entries=entries)


def a_handover() -> Handover:
    keys = tuple(PublisherKey.generate(name).public for name in ("ed25519", "ecdsa-p256"))
    return Handover(publisher="acme", number=1, created=START, threshold=2, keys=keys)


@pytest.mark.parametrize("value", [a_list(), a_handover()], ids=["list", "hand-over"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_statements_parse_or_say_why(value: RevocationList | Handover, data: st.DataObject) -> None:
    raw = value.to_bytes()
    assert type(value).from_bytes(raw, "f") == value
    where = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255))
    for bad in (raw[:where], raw[:where] + bytes([byte]) + raw[where + 1 :], raw[:where] + raw[where + 1 :]):
        if bad == raw:
            continue
        try:
            type(value).from_bytes(bad, "f")
        except FormatError as error:
            assert str(error).startswith("f")


@pytest.mark.parametrize("value", [a_list(), a_handover()], ids=["list", "hand-over"])
def test_every_key_of_a_statement_is_needed_and_no_other_taken(value: RevocationList | Handover) -> None:
    whole = json.loads(value.to_bytes())
    for key in whole["predicate"]:
        bad = json.loads(json.dumps(whole))
        del bad["predicate"][key]
        with pytest.raises(FormatError, match=key):
            type(value).from_bytes(json_encode(bad), "f")
    for place in (whole, whole["predicate"], whole["subject"][0]):
        place["more"] = 1
        with pytest.raises(FormatError, match="unknown key 'more'"):
            type(value).from_bytes(json_encode(whole), "f")
        del place["more"]
    whole["subject"][0]["digest"]["sha256"] = "0" * 64
    with pytest.raises(FormatError, match="does not fit"):
        type(value).from_bytes(json_encode(whole), "f")
