"""Every change of a log that somebody without its key can make, and the verdict that it gets."""

import io
import os
from pathlib import Path

import pytest

from audit.conftest import Verdict, fill
from modelvault.audit import AuditLog, read_records, verify_log
from modelvault.audit.quick import QuickScan
from modelvault.audit.segments import Segment
from modelvault.audit.standing import Standing
from modelvault.audit.tip import state_path
from modelvault.errors import AuditTampered
from modelvault.keys import HostKey, HostPublic


@pytest.fixture
def log(writer: AuditLog) -> Path:
    """200 lines: 100 records, each with its head."""
    fill(writer, 99)
    assert writer.path.read_bytes().count(b"\n") == 200
    return writer.path


@pytest.mark.slow
def test_every_flipped_byte(log: Path, verdict: Verdict, pinned: HostPublic) -> None:
    data = log.read_bytes()
    last, size = data.rindex(b'{"checkpoint"'), len(data)
    with open(log, "r+b", buffering=0) as file, io.BytesIO(data) as memory, memory.getbuffer() as view:
        for at, byte in enumerate(data):
            view[at] = byte ^ 1 << at % 8
            assert not QuickScan(Standing.first(pinned)).accepts([Segment(path=log, file=memory, size=size)]), at
            # the precise reading costs a signature a head: every byte of the first and last lines, and one in 97
            if at < 1200 or at > last - 1200 or at % 97 == 0:
                os.pwrite(file.fileno(), view[at : at + 1], at)
                allowed = {"modified", "unknown-key", "torn" if at >= last - 1 else "forked"}
                assert verdict(log) in allowed, at
                os.pwrite(file.fileno(), bytes([byte]), at)
            view[at] = byte
    assert verdict(log) == "ok"


def test_every_line_removed_doubled_or_swapped(log: Path, verdict: Verdict) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    for at in range(200):
        is_head, is_last = at % 2 == 1, at == 199
        log.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
        assert verdict(log) == ("torn" if is_last else "modified"), at
        log.write_bytes(b"".join(lines[: at + 1] + lines[at:]))
        assert verdict(log) == ("modified" if is_head else "forked"), at
        if not is_last:
            log.write_bytes(b"".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]))
            assert verdict(log) in ("modified", "forked"), at


def test_two_neighbours_removed(log: Path, verdict: Verdict) -> None:
    """Report: two consecutive deletions missed."""
    lines = log.read_bytes().splitlines(keepends=True)
    for at in range(197):
        log.write_bytes(b"".join(lines[:at] + lines[at + 2 :]))
        assert verdict(log) != "ok", at
        log.write_bytes(b"".join(lines[:at] + lines[at + 4 :]))
        assert (verdict(log) != "ok") or at == 196, at


def test_a_cut_tail_needs_a_checkpoint_kept_elsewhere(log: Path, pinned: HostPublic, verdict: Verdict) -> None:
    """With one at hand every cut is found; with none, a cut at a head leaves a log that is whole in itself."""
    kept = verify_log(log, pinned).head
    lines = log.read_bytes().splitlines(keepends=True)
    for count in range(1, 200):
        log.write_bytes(b"".join(lines[:count]))
        closed = count % 2 == 0
        assert verdict(log) == ("ok" if closed else "unsealed" if count == 1 else "torn"), count
        assert verdict(log, kept) == ("truncated" if closed else "unsealed" if count == 1 else "torn"), count


def test_a_log_begun_anew_is_a_rollback(
    writer: AuditLog, log: Path, pinned: HostPublic, host: object, verdict: Verdict
) -> None:
    kept = verify_log(log, pinned).head
    log.unlink()
    state_path(log).unlink()
    fill(writer, 150)
    assert verdict(log) == "ok"
    assert verdict(log, kept) == "rollback"


def test_a_checkpoint_of_somebody_else_proves_nothing(log: Path, pinned: HostPublic, verdict: Verdict) -> None:
    report = verify_log(log, pinned)
    forged = report.head.split("\n\n")[0] + "\n\n"
    from modelvault.checkpoint import Checkpoint, sign

    note = sign(Checkpoint(origin=report.origin, size=report.size, root=report.root), HostKey.generate())
    assert note.text + "\n" == forged
    assert verdict(log, note.to_text()) == "unknown-key"


def test_heads_removed_together_do_not_look_like_retention(log: Path, verdict: Verdict) -> None:
    """Report: head deletion looking like retention."""
    lines = log.read_bytes().splitlines(keepends=True)
    for first in (0, 2, 50):
        log.write_bytes(b"".join(lines[first * 2 + 2 :]))
        assert verdict(log) == "modified"
    heads = [line for line in lines if line.startswith(b'{"checkpoint"')]
    log.write_bytes(b"".join(line for line in lines if line not in heads[:-1]))
    assert verdict(log) == "modified"


def test_an_unsealed_file_does_not_pass(log: Path, verdict: Verdict) -> None:
    """Report: an unsealed file passing."""
    records = [line for line in log.read_bytes().splitlines(keepends=True) if not line.startswith(b'{"checkpoint"')]
    log.write_bytes(b"".join(records))
    assert verdict(log) in ("unsealed", "modified")
    log.write_bytes(b"")
    assert verdict(log) == "unsealed"
    log.write_bytes(records[0])
    assert verdict(log) == "unsealed"


def test_a_partial_last_line_does_not_chain_to_the_start(log: Path, pinned: HostPublic, verdict: Verdict) -> None:
    """Report: a partial last line chaining to the start; and one that a crash filled with zeros."""
    whole = log.read_bytes()
    for tail in (whole[:50], whole[:-1].split(b"\n")[-2][:80], b"\0" * 4096, b"\0" * 100 + b"\n" + whole[-100:], b"\n"):
        log.write_bytes(whole + tail)
        assert verdict(log) == "torn"
    with pytest.raises(AuditTampered) as caught:
        verify_log(log, pinned)
    assert caught.value.line == 201


def test_a_doubled_write_is_named_for_what_it_is(log: Path, verdict: Verdict) -> None:
    """Report: a double write reported as deletion."""
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines + lines[-2:]))
    assert verdict(log) == "forked"


def test_a_copied_branch_is_a_fork(log: Path, writer: AuditLog, verdict: Verdict) -> None:
    before = log.read_bytes()
    writer.append("load.done", branch=1)
    after = log.read_bytes()[len(before) :]
    log.write_bytes(before)
    state_path(log).unlink()
    writer.append("load.done", branch=2)
    log.write_bytes(log.read_bytes() + after)
    assert verdict(log) == "forked"


def test_the_clock_may_step_back(
    writer: AuditLog, verdict: Verdict, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report: clock stepping back after a reboot reported as failure."""
    from datetime import UTC, datetime, timedelta, tzinfo

    class Clock(datetime):
        shift = timedelta(0)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromtimestamp((datetime.now(UTC) + cls.shift).timestamp(), UTC)

    monkeypatch.setattr("modelvault.audit.writing.datetime", Clock)
    monkeypatch.setattr("modelvault.audit.log.datetime", Clock)
    writer.rotate_after = timedelta(days=1)
    for days in (0, -400, 0, -1):
        Clock.shift = timedelta(days=days)
        writer.append("load.intent", days=days)
    assert verdict(writer.path) == "ok"
    times = [r.time for r in read_records(writer.path, pinned)]
    assert times != sorted(times)
