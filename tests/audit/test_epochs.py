"""Forward security: whoever takes the host today cannot rewrite what it signed yesterday."""

import dataclasses
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import Parties

from audit.conftest import Verdict, fill
from modelvault import merkle
from modelvault.audit import AuditLog, LogKey, read_records, verify_log
from modelvault.audit.lines import Head, Record, digest, parse
from modelvault.audit.segments import closed_segments, segment_path
from modelvault.audit.tip import state_path
from modelvault.checkpoint import Checkpoint, sign
from modelvault.errors import AuditTampered, AuditUnavailable, PolicyDenied
from modelvault.keys import HostKey, HostPublic, store
from modelvault.keys.remote import HostSigner


def reseal(data: bytes, key: HostSigner, tree: merkle.Tree, origin: str) -> bytes:
    """Sign a segment's heads anew, as who has a private key would do after changing records."""
    result, previous = b"", None
    for old in data.splitlines():
        line = old
        value = parse(line, "line")
        if isinstance(value, Record):
            if value.prev is not None and previous is not None:
                value = dataclasses.replace(value, prev=previous)
            line = value.to_line()
            tree.append(merkle.leaf_hash(line))
        elif isinstance(value, Head):
            checkpoint = Checkpoint(origin=origin, size=tree.size, root=tree.root())
            line = Head(checkpoint=checkpoint, note=sign(checkpoint, key)).to_line()
            previous = digest(line)
        result += line + b"\n"
    return result


def three_epochs(writer: AuditLog) -> Path:
    for _ in range(2):
        fill(writer, 3)
        writer.rotate()
    fill(writer, 3)
    return writer.path


def test_epochs_follow_from_the_first_key(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    path = three_epochs(writer)
    report = verify_log(path, pinned)
    assert (report.epoch, report.size) == (2, 1 + 3 + 1 + 3 + 1 + 3)
    assert [began for began, _ in report.keys] == [0, 5, 9]
    records = read_records(path, pinned)
    assert [r.seq for r in records] == list(range(12))
    assert [r.epoch for r in records] == [0] * 5 + [1] * 4 + [2] * 3
    assert host.path is not None
    assert store.load_host(str(host.path)).public.fingerprint == report.keys[2][1].fingerprint
    assert AuditLog(path, LogKey.read(str(host.path))).append("load.done").seq == 12


def test_the_old_key_is_nowhere(writer: AuditLog, host: LogKey, tmp_path: Path) -> None:
    assert host.path is not None
    old = host.path.read_bytes().splitlines()[1]
    with open(host.path, "rb") as held:
        fill(writer, 1)
        writer.rotate()
        assert held.read().strip(b"\0") == b""  # the file that was replaced is overwritten, too
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert old not in file.read_bytes(), file


def test_rotation_by_count_and_by_age(writer: AuditLog, pinned: HostPublic) -> None:
    writer.rotate_records = 4
    fill(writer, 12)
    assert verify_log(writer.path, pinned).epoch == 3
    assert {r.fields["reason"] for r in read_records(writer.path, pinned) if r.event == "key.rotated"} == {"count"}
    writer.rotate_records, writer.rotate_after = None, timedelta(0)
    fill(writer, 1)
    assert verify_log(writer.path, pinned).epoch == 4


def test_the_trust_policy_says_when(parties: Parties, sealed: Path) -> None:
    key = HostKey.generate()
    path = store.write_pair(parties.folder / "keys", "host", key.to_pem(None), key.public.to_pem())
    policy = parties.folder / "trust.toml"
    policy.write_text(policy.read_text() + f'[audit]\nkey = "{key.public.fingerprint}"\nrotate_records = 4\n')
    for _ in range(3):
        parties.load(sealed, audit=AuditLog(parties.folder / "epochs.log", LogKey.read(str(path)))).close()
    assert verify_log(parties.folder / "epochs.log", key.public).epoch == 2
    with pytest.raises(PolicyDenied):
        parties.load(sealed)


def test_another_process_follows_the_rotation(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    other = AuditLog(writer.path, LogKey.read(str(host.path)))
    fill(other, 2)
    fill(writer, 2)
    writer.rotate()
    fill(other, 2)
    other.rotate()
    fill(writer, 2)
    assert verify_log(writer.path, pinned).epoch == 2


def test_a_key_without_a_file_cannot_be_rotated(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", HostKey.generate())
    with pytest.raises(AuditUnavailable, match="no file"):
        log.rotate()
    log.append("load.intent")


def test_an_old_copy_of_the_key_is_refused(writer: AuditLog, host: LogKey) -> None:
    assert host.path is not None
    fill(writer, 2)
    old = host.path.read_bytes()
    writer.rotate()
    host.path.write_bytes(old)
    with pytest.raises(AuditUnavailable, match="does not hold"):
        AuditLog(writer.path, LogKey.read(str(host.path))).append("load.intent")


def test_old_records_resealed_with_todays_key(writer: AuditLog, host: LogKey, verdict: Verdict) -> None:
    """Report: old records re-sealed with today's key."""
    path = three_epochs(writer)
    origin, first = read_records(path, host.first)[0].fields["origin"], segment_path(path, 0)
    changed = first.read_bytes().replace(b'"number":1', b'"number":7')
    first.write_bytes(reseal(changed, host.present, merkle.Tree(), origin))
    assert verdict(path) == "unknown-key"


def test_a_cut_log_continued_through_empty_epochs(writer: AuditLog, host: LogKey, verdict: Verdict) -> None:
    """Report: a cut log continued through empty epochs, by who holds the present key alone."""
    path = three_epochs(writer)
    origin = read_records(path, host.first)[0].fields["origin"]
    first, second = segment_path(path, 0), segment_path(path, 1)
    lines = first.read_bytes().splitlines(keepends=True)
    tree = merkle.Tree()
    for line in lines[:4]:
        if not line.startswith(b'{"checkpoint"'):
            tree.append(merkle.leaf_hash(line[:-1]))
    rotated = parse(lines[-2][:-1], "line")
    assert isinstance(rotated, Record)
    forged = dataclasses.replace(rotated, seq=2, batch=2, prev=digest(lines[3][:-1])).to_line() + b"\n" + lines[-1]
    first.write_bytes(b"".join(lines[:4]) + reseal(forged, host.present, tree, origin))
    second.unlink()
    path.rename(second)
    path.write_bytes(b"")
    assert verdict(path) == "unknown-key"


def test_an_epoch_may_be_empty(writer: AuditLog, pinned: HostPublic) -> None:
    fill(writer, 1)
    for _ in range(3):
        writer.rotate()
    fill(writer, 1)
    assert verify_log(writer.path, pinned).epoch == 3


def test_the_present_epoch_rewritten_with_its_key_needs_a_kept_checkpoint(
    writer: AuditLog, host: LogKey, pinned: HostPublic, verdict: Verdict
) -> None:
    path = three_epochs(writer)
    kept = verify_log(path, pinned)
    origin, tree = kept.origin, merkle.Tree()
    for record in read_records(path, pinned)[:9]:
        tree.append(merkle.leaf_hash(record.to_line()))
    path.write_bytes(reseal(path.read_bytes().replace(b'"number":1', b'"number":7'), host.present, tree, origin))
    assert verdict(path) == "ok"  # whoever holds the present key may write its epoch
    assert verdict(path, kept.head) == "rollback"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_missing_segment_is_not_retention(writer: AuditLog, verdict: Verdict, lost: int) -> None:
    """Report: deletion looking like retention."""
    path = three_epochs(writer)
    segment_path(path, lost).unlink()
    assert verdict(path) == "modified"
    state_path(path).unlink()
    with pytest.raises(AuditTampered):
        fill(writer, 1)


def test_every_line_at_the_edges_of_epochs(writer: AuditLog, verdict: Verdict) -> None:
    """Report: key not found at a rotation edge. Whole, it verifies; with any line lost or doubled, it does not."""
    path = three_epochs(writer)
    assert verdict(path) == "ok"
    for segment in [*closed_segments(path), path]:
        data = segment.read_bytes()
        lines = data.splitlines(keepends=True)
        for at in range(len(lines)):
            if segment == path and at == len(lines) - 1:
                continue
            segment.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
            assert verdict(path) != "ok", (segment, at)
            segment.write_bytes(b"".join(lines[: at + 1] + lines[at:]))
            assert verdict(path) != "ok", (segment, at)
        segment.write_bytes(data)


ROTATER = """
import os, sys
from modelvault import _files
from modelvault.audit import AuditLog, LogKey
log = AuditLog(sys.argv[1], LogKey.read(sys.argv[2]))
left = int(sys.argv[3])
def trace(name, function):
    def traced(*args, **kwargs):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return function(*args, **kwargs)
    return traced
for name in ("fsync", "fdatasync", "pwrite", "rename", "replace", "open", "ftruncate", "unlink"):
    setattr(os, name, trace(name, getattr(os, name)))
log.rotate()
"""


@pytest.mark.slow
def test_a_rotation_killed_at_any_step_is_finished_later(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    assert host.path is not None
    fill(writer, 2)
    before, keys = writer.path.parent, host.path.parent
    for step in range(200):
        folder = before.parent / f"step{step}"
        shutil.copytree(before, folder / "log")
        shutil.copytree(keys, folder / "keys")
        log, key = folder / "log" / "audit.log", folder / "keys" / "host.key"
        done = subprocess.run([sys.executable, "-c", ROTATER, str(log), str(key), str(step)], check=False)
        again = AuditLog(log, LogKey.read(str(key)))
        fill(again, 1)
        again.rotate()
        fill(again, 1)
        report = verify_log(log, pinned)
        assert report.epoch in (1, 2)
        assert [r.fields["number"] for r in read_records(log, pinned) if "number" in r.fields] == [0, 1, 0, 0]
        if done.returncode == 0:
            assert step > 8
            return
    pytest.fail("the rotation never came to its end")
