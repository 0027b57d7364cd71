"""Every parser with its kept corpus and with mutations of it: only modelvault's own errors may leave them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.seeds import CORPUS, seeds
from fuzz.targets import TARGETS

TOKENS = [
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\ud800",
    b"-1",
    b"9" * 5000,
    b"1e999",
    b"null",
    b"\n\n",
    b"=",
]
EDIT = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]),
    st.floats(0, 1),
    st.integers(1, 255),
    st.sampled_from(TOKENS) | st.binary(max_size=8),
)


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, where, number, token in edits:
        at = int(where * len(data))
        if kind == "flip" and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ number]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + token + data[at:]
        elif kind == "repeat":
            data = data[:at] + data[at : at + number] + data[at:]
        elif kind == "drop":
            data = data[:at] + data[at + number :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutations(name: str, data: st.DataObject) -> None:
    known = seeds(name)
    seed = known[data.draw(st.integers(0, len(known) - 1))] if known else b""
    TARGETS[name](edited(seed, data.draw(st.lists(EDIT, min_size=1, max_size=4))))


def test_the_corpus_names_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 256 * 1024
