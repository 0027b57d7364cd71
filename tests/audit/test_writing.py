"""Writers that crash, compete, run out of space or find the log replaced: no load without a record, none lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Parties, file_size_limit

from audit.conftest import fill
from modelvault.audit import AuditLog, LogKey, read_records, verify_log
from modelvault.audit.tip import find_tip, state_path
from modelvault.errors import AuditTampered, AuditUnavailable, ModelVaultError
from modelvault.keys import HostKey, HostPublic

WRITER = """
import sys
from modelvault.audit import AuditLog, LogKey
log = AuditLog(sys.argv[1], LogKey.read(sys.argv[2]))
name, number = sys.argv[3], 0
print("ready", flush=True)
while number < int(sys.argv[4]):
    log.append("load.intent", writer=name, number=number)
    print(number, flush=True)
    number += 1
"""


ROUNDS = int(os.environ.get("MODELVAULT_TEST_KILLS", "40"))


def start(writer: AuditLog, key: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(writer.path), str(key), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def numbers(records: list[Any], name: str) -> list[int]:
    return [r.fields["number"] for r in records if r.fields.get("writer") == name]


@pytest.mark.slow
def test_eight_writers_and_one_that_is_killed(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    """Reports: eight writers forking the chain; live log reported as corrupt while a writer runs."""
    assert host.path is not None
    steady = [start(writer, host.path, f"s{n}", 20 * ROUNDS) for n in range(8)]
    promised = {}
    moments = random.Random(5)
    for turn in range(ROUNDS):
        victim = start(writer, host.path, f"v{turn}", 10**6)
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.05))
        victim.send_signal(signal.SIGKILL)
        promised[f"v{turn}"] = [int(line) for line in victim.stdout.read().split()]
        victim.wait()
        victim.stdout.close()
        verify_log(writer.path, pinned)
    for process in steady:
        process.communicate()
        assert process.returncode == 0
    fill(writer, 1)
    records = read_records(writer.path, pinned)
    for n in range(8):
        assert numbers(records, f"s{n}") == list(range(20 * ROUNDS))
    for name, told in promised.items():
        written = numbers(records, name)
        assert written[: len(told)] == told  # whatever append returned for is there
        assert len(written) <= len(told) + 1
    torn = list(writer.path.parent.glob("audit.log.torn-*"))
    assert len(torn) == sum(r.event == "recovered" for r in records)


def test_a_write_cut_at_every_byte(writer: AuditLog, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after any number of bytes of a batch: committed records stay, recovery is recorded."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
    fill(writer, 2)
    before = writer.path.read_bytes()
    fill(writer, 1)
    whole = writer.path.read_bytes()
    state = state_path(writer.path)
    for remembered in (True, False):
        for cut in range(len(before), len(whole)):
            writer.path.write_bytes(before)
            state.unlink()
            fill(writer, 0) if remembered else None
            writer.path.write_bytes(whole[:cut])
            writer.append("load.done", cut=cut)
            records = read_records(writer.path, pinned)
            assert [r.fields["number"] for r in records[1:3]] == [0, 1]
            assert [r.event for r in records[3:]] == [*["recovered"][: cut - len(before)], "load.done"]
            if cut > len(before):
                assert records[3].fields["bytes"] == cut - len(before)
                side = writer.path.with_name(records[3].fields["quarantined"])
                assert side.read_bytes() == whole[len(before) : cut]
                side.unlink()


def test_threads_share_a_sync(writer: AuditLog, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(writer, 1)
    syncs = []
    entered, release = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow_sync(descriptor: int) -> None:
        syncs.append(descriptor)
        entered.set()
        release.wait(60)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    threads = [threading.Thread(target=writer.append, args=("load.intent",), kwargs={"n": n}) for n in range(20)]
    threads[0].start()
    entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(writer._waiting) < 19:
        time.sleep(0.001)
    release.set()
    for thread in threads:
        thread.join()
    assert len(syncs) == 2
    report = verify_log(writer.path, pinned)
    assert (report.size, report.heads) == (22, 4)


def test_threads_that_share_a_failure(writer: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(writer, 1)
    failures = []

    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    def attempt() -> None:
        try:
            writer.append("load.intent")
        except AuditUnavailable as error:
            failures.append(str(error))

    monkeypatch.setattr(os, "fdatasync", fails)
    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 8
    monkeypatch.undo()
    with pytest.raises(AuditUnavailable, match="could not be synced"):
        writer.append("load.intent")  # what the kernel dropped, a later sync would not bring back


def test_closing_another_descriptor_keeps_the_lock(writer: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports: lock lost by closing a second descriptor; tip read outside the lock."""
    fill(writer, 1)
    seen = []

    def asked(path: Path, descriptor: int, key: HostPublic) -> Any:
        os.close(os.open(path, os.O_RDONLY))
        script = "import fcntl,sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        seen.append(subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=False).returncode)
        return find_tip(path, descriptor, key)

    monkeypatch.setattr("modelvault.audit.writing.find_tip", asked)
    fill(writer, 1)
    assert seen == [1]


def test_a_fork_while_threads_write(writer: AuditLog, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has neither the parent's held locks nor its waiting records."""
    fill(writer, 1)
    entered, release = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow_sync(descriptor: int) -> None:
        entered.set()
        release.wait(60)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    threads = [threading.Thread(target=writer.append, args=("load.intent",), kwargs={"n": n}) for n in range(3)]
    threads[0].start()
    entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    while len(writer._waiting) < 2:
        time.sleep(0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.fdatasync = real
            writer.append("load.intent", n=100)
        except BaseException:
            os._exit(1)
        os._exit(0)
    release.set()
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(r.fields["n"] for r in read_records(writer.path, pinned) if "n" in r.fields) == [0, 1, 2, 100]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root and CAP_SYS_ADMIN")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    host = HostKey.generate()
    log = AuditLog(small_disk / "audit.log", host)
    written = 0
    with pytest.raises(AuditUnavailable, match="no space left"):
        while True:
            log.append("load.intent", number=written, filler="x" * 500)
            written += 1
    report = verify_log(log.path, host.public)
    assert report.size == written + 1 > 20
    with pytest.raises(AuditUnavailable):
        AuditLog(log.path, host).append("load.intent", filler="x" * 5000)
    assert verify_log(log.path, host.public).size == written + 1
    (small_disk / "audit.log.state").unlink()
    subprocess.run(["mount", "-o", "remount,size=256k", str(small_disk)], check=True)
    log.append("load.intent")
    assert verify_log(log.path, host.public).size == written + 2


def test_a_read_only_disk(small_disk: Path) -> None:
    host = HostKey.generate()
    log = AuditLog(small_disk / "audit.log", host)
    fill(log, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(AuditUnavailable, match="read-only"):
        log.append("load.intent")
    with pytest.raises(AuditUnavailable):
        AuditLog(small_disk / "new" / "audit.log", host).append("load.intent")
    assert verify_log(log.path, host.public).size == 3


def test_a_file_size_limit(writer: AuditLog, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a quota does: the write stops short, and nothing of it stays."""
    fill(writer, 3)
    size = writer.path.stat().st_size
    with file_size_limit(size + 100), pytest.raises(AuditUnavailable, match="file too large"):
        writer.append("load.intent")
    assert writer.path.stat().st_size == size
    fill(writer, 1)
    assert verify_log(writer.path, pinned).size == 5


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("make", [make_folder, os.mkfifo, make_link], ids=["folder", "fifo", "link"])
def test_no_load_where_the_log_is_something_else(parties: Parties, sealed: Path, make: Any) -> None:
    parties.load(sealed).close()
    parties.log.path.unlink()
    make(parties.log.path)
    with pytest.raises(AuditUnavailable):
        parties.load(sealed)
    assert not parties.log.path.with_name("elsewhere").exists()
    with pytest.raises(ModelVaultError):
        verify_log(parties.log.path, parties.host.public)


def test_no_load_after_copytruncate(parties: Parties, sealed: Path) -> None:
    """logrotate's copytruncate destroys a log: refused, and the copy can be put back."""
    parties.load(sealed).close()
    copy = shutil.copy(parties.log.path, parties.log.path.with_name("audit.log.1"))
    os.truncate(parties.log.path, 0)
    with pytest.raises(AuditTampered) as caught:
        parties.load(sealed)
    assert caught.value.verdict == "truncated"
    shutil.copy(copy, parties.log.path)
    parties.load(sealed).close()
    assert parties.events().count("load.done") == 2


def test_a_log_replaced_under_a_waiting_writer(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    fill(writer, 2)
    with writer.locked():
        waiting = threading.Thread(target=fill, args=(AuditLog(writer.path, host), 1))
        waiting.start()
        time.sleep(0.05)
        copy = writer.path.with_name("copy")
        shutil.copy(writer.path, copy)
        copy.rename(writer.path)
    waiting.join()
    assert verify_log(writer.path, pinned).size == 4


def test_a_lock_that_is_never_freed(writer: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelvault.audit import segments

    monkeypatch.setattr(segments, "LOCK_SECONDS", 0.05)
    fill(writer, 1)
    with writer.locked(), pytest.raises(AuditUnavailable, match="lock held"):
        AuditLog(writer.path, writer._file.key).append("load.intent")


def test_a_record_that_is_too_long_harms_nobody(writer: AuditLog, pinned: HostPublic) -> None:
    with pytest.raises(ModelVaultError, match="above the limit"):
        writer.append("load.intent", text="x" * 70_000)
    with pytest.raises(ValueError, match="reserved"):
        writer.append("load.intent", seq=5)
    fill(writer, 1)
    assert verify_log(writer.path, pinned).size == 2
