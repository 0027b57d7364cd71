"""A log of several epochs, and the words to damage it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault.audit import AuditLog, LogKey, verify_log
from modelvault.errors import AuditTampered
from modelvault.keys import HostKey, HostPublic, store

Verdict = Callable[..., str]


@pytest.fixture
def host(tmp_path: Path) -> LogKey:
    """A host key in its file."""
    key = HostKey.generate()
    path = store.write_pair(tmp_path / "keys", "host", key.to_pem(None), key.public.to_pem())
    return LogKey.read(str(path))


@pytest.fixture
def pinned(host: LogKey) -> HostPublic:
    """What the auditor holds."""
    return host.first


@pytest.fixture
def writer(tmp_path: Path, host: LogKey) -> AuditLog:
    (tmp_path / "log").mkdir()
    return AuditLog(tmp_path / "log" / "audit.log", host)


def fill(writer: AuditLog, count: int) -> None:
    for number in range(count):
        writer.append("load.intent", number=number)


@pytest.fixture
def verdict(pinned: HostPublic) -> Verdict:
    """The verdict on a log; ``ok`` where there is nothing to say against it."""

    def judge(path: Path, against: str | None = None) -> str:
        try:
            verify_log(path, pinned, against=against)
        except AuditTampered as error:
            return error.verdict
        return "ok"

    return judge
