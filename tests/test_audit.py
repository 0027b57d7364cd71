"""The audit log: what it promises of its lines, its lock and its recovery."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.audit import AuditLog, read_records, verify_log
from modelvault.errors import AuditTampered, AuditUnavailable
from modelvault.keys import HostKey


@pytest.fixture
def host() -> HostKey:
    return HostKey.generate()


@pytest.fixture
def log(tmp_path: Path, host: HostKey) -> Path:
    path = tmp_path / "audit.log"
    writer = AuditLog(path, host)
    for number in range(12):
        writer.append("load.intent", number=number)
    return path


def verdict(path: Path, data: bytes, host: HostKey) -> str:
    changed = path.with_name("changed.log")
    changed.write_bytes(data)
    try:
        verify_log(changed, host.public)
    except AuditTampered as error:
        return error.verdict
    return "ok"


def test_every_flipped_byte_is_found(log: Path, host: HostKey) -> None:
    data = log.read_bytes()
    assert verdict(log, data, host) == "ok"
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 7
        assert verdict(log, bytes(changed), host) != "ok", at


def test_every_removed_doubled_or_swapped_line_is_found(log: Path, host: HostKey) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    for at in range(len(lines)):
        removed = lines[:at] + lines[at + 1 :]
        doubled = lines[: at + 1] + lines[at:]
        swapped = [*lines[:at], *lines[at + 1 : at + 2], lines[at], *lines[at + 2 :]]
        for changed in (removed, doubled, swapped):
            if changed != lines:
                assert verdict(log, b"".join(changed), host) != "ok", at


def test_a_log_cut_at_any_byte_recovers(log: Path, host: HostKey) -> None:
    data = log.read_bytes()
    head = data.rfind(b"\n", 0, len(data) - 1)
    start = data.rfind(b"\n", 0, head - 1)
    start = data.rfind(b"\n", 0, start) + 1
    for cut in range(start, len(data)):
        folder = log.parent / str(cut)
        folder.mkdir()
        torn = folder / "audit.log"
        torn.write_bytes(data[:cut])
        AuditLog(torn, host).append("load.intent", after=True)
        records = read_records(torn, host.public)
        assert records[-1].fields == {"after": True}
        kept = [r.fields.get("number") for r in records if "number" in r.fields]
        assert kept[:10] == list(range(10))
        quarantined = list(folder.glob("audit.log.torn-*"))
        assert len(quarantined) == [r.event for r in records].count("recovered")


def test_another_hosts_key_does_not_verify(log: Path) -> None:
    with pytest.raises(AuditTampered) as caught:
        verify_log(log, HostKey.generate().public)
    assert caught.value.verdict == "unknown-key"


def test_a_writer_with_another_key_is_refused(log: Path) -> None:
    with pytest.raises(AuditTampered):
        AuditLog(log, HostKey.generate()).append("load.intent")


def test_a_log_shorter_than_remembered_is_not_continued(log: Path, host: HostKey) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-2]))
    assert verify_log(log, host.public).size == 12  # nothing in the file itself can show it
    with pytest.raises(AuditTampered) as caught:
        AuditLog(log, host).append("load.intent")
    assert caught.value.verdict == "truncated"


def test_a_lost_or_wrong_state_file_costs_only_a_reading(log: Path, host: HostKey) -> None:
    state = log.with_name("audit.log.state")
    for content in (None, b"", b"{", b'{"size":3}', b"\xff" * 100):
        state.unlink()
        if content is not None:
            state.write_bytes(content)
        AuditLog(log, host).append("load.intent")
        verify_log(log, host.public)
    assert verify_log(log, host.public).size == 18


def test_places_that_cannot_be_written(tmp_path: Path, host: HostKey) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"")
    for place in ("folder", "link", "file/below"):
        with pytest.raises(AuditUnavailable):
            AuditLog(tmp_path / place, host).append("load.intent")
    assert not (tmp_path / "elsewhere").exists()


WRITER = """
import sys
from modelvault.audit import AuditLog
from modelvault.keys import HostKey
log = AuditLog(sys.argv[1], HostKey.from_pem(open(sys.argv[2], "rb").read(), None, "host"))
for number in range(40):
    log.append("load.intent", writer=sys.argv[3], number=number)
"""


def test_many_processes_write_one_chain(tmp_path: Path, host: HostKey) -> None:
    (tmp_path / "host.key").write_bytes(host.to_pem(None))
    path = tmp_path / "audit.log"
    command = [sys.executable, "-c", WRITER, str(path), str(tmp_path / "host.key")]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    while any(p.poll() is None for p in processes):
        if path.exists() and path.stat().st_size:
            verify_log(path, host.public)  # a running writer is never damage
    assert [p.returncode for p in processes] == [0] * 4
    records = read_records(path, host.public)
    assert len(records) == 161
    for writer in range(4):
        assert [r.fields["number"] for r in records if r.fields.get("writer") == str(writer)] == list(range(40))
