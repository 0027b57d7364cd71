"""The audit log: whose key, which state file, which places. Damage, crashes and epochs are in tests/audit."""

from pathlib import Path

import pytest

from modelvault.audit import AuditLog, verify_log
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
