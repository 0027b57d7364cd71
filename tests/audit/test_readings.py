"""The fast reading and the precise one agree, whatever is done to a log."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.conftest import fill
from modelvault.audit import AuditLog, LogKey
from modelvault.audit.quick import QuickScan
from modelvault.audit.scan import Scan
from modelvault.audit.segments import closed_segments, snapshot
from modelvault.audit.standing import Standing
from modelvault.audit.writing import Event
from modelvault.errors import AuditTampered
from modelvault.keys import HostKey, HostPublic, store

Log = tuple[Path, HostPublic, list[bytes]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Two epochs, with batches of one and of several records."""
    folder, key = tmp_path_factory.mktemp("log"), HostKey.generate()
    path = store.write_pair(folder / "keys", "host", key.to_pem(None), key.public.to_pem())
    writer = AuditLog(folder / "audit.log", LogKey.read(str(path)))
    fill(writer, 2)
    writer.append_decided(lambda at: [("load.intent", {"many": n}) for n in range(3)])
    writer.rotate()
    fill(writer, 2)
    writer.append_decided(lambda at: [("load.intent", {"many": n}) for n in range(2)])
    lines = [line for file in [*closed_segments(writer.path), writer.path] for line in file.read_bytes().splitlines()]
    return writer.path, key.public, lines


def readings(path: Path, key: HostPublic) -> tuple[Standing | None, Standing | None]:
    """What each reading makes of the log; None where it does not accept it."""
    with snapshot(path) as segments:
        quick = QuickScan(Standing.first(key))
        fast = quick.standing if quick.accepts(segments) else None
        for segment in segments:
            segment.file.seek(0)
        scan = Scan(Standing.first(key))
        try:
            scan.run_all(segments)
        except AuditTampered:
            return fast, None
        whole = scan.torn_line is None and scan.committed.batch > 0
        return fast, scan.committed if whole else None


EDIT = st.tuples(
    st.sampled_from(["drop", "double", "swap", "move", "cut", "byte"]), st.integers(0, 99), st.integers(0, 999)
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, max_size=3), where=st.integers(0, 99))
def test_they_agree(log: Log, edits: list[tuple[str, int, int]], where: int) -> None:
    path, key, original = log
    lines = list(original)
    for kind, first, second in edits:
        at = first % len(lines)
        other = second % len(lines if kind != "byte" else lines[at] or b".")
        if kind == "drop" and len(lines) > 1:
            del lines[at]
        elif kind == "double":
            lines.insert(at, lines[at])
        elif kind == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "move":
            lines.insert(other, lines.pop(at))
        elif kind == "cut":
            lines = lines[: at + 1]
        else:
            lines[at] = lines[at][:other] + bytes([lines[at][other] ^ 1]) + lines[at][other + 1 :]
    split = next((n + 2 for n, line in enumerate(lines) if b'"key.rotated"' in line), where % (len(lines) + 1))
    closed = closed_segments(path)[0]
    closed.write_bytes(b"".join(line + b"\n" for line in lines[:split]))
    path.write_bytes(b"".join(line + b"\n" for line in lines[split:]))
    fast, precise = readings(path, key)
    if fast is not None:
        assert precise is not None
        assert (fast.tree.root(), fast.batch, fast.epoch, fast.prev) == (
            precise.tree.root(),
            precise.batch,
            precise.epoch,
            precise.prev,
        )
        assert (fast.offset, fast.head, fast.since, fast.origin) == (
            precise.offset,
            precise.head,
            precise.since,
            precise.origin,
        )
    if precise is not None:
        assert lines == original[: len(lines)]  # whole, or cut at a head: which nothing in the file can show
    if lines == original:
        assert fast is not None


def test_fields_that_look_like_the_logs_own(tmp_path: Path) -> None:
    """Nested names that the fast reading looks for make it leave the log to the precise one, which accepts it."""
    key = HostKey.generate()
    writer = AuditLog(tmp_path / "audit.log", key)
    for nested in ({"prev": "x"}, {"event": "key.rotated"}, {"event": "pruned"}, {"checkpoint": "x"}, {"leaf": "x"}):
        events: list[Event] = [("load.intent", {"a": nested}), ("load.done", {"a": nested})]
        writer.append_decided(partial(lambda events, at: events, events))
        fast, precise = readings(writer.path, key.public)
        assert precise is not None
        assert fast is None or fast.tree.root() == precise.tree.root()
    assert precise is not None
    assert precise.tree.size == 11
