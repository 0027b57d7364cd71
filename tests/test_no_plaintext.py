"""No file with plain weights or graph is ever created during a load: watched from Python and from the kernel's side."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Parties

from modelvault import samples
from modelvault.onnxfile import split

CHILD = """
import sys
from pathlib import Path
opened = []
def watch(event, args):
    if event == "open" or event.startswith(("os.memfd", "mmap.", "tempfile.", "shutil.", "os.rename", "os.link")):
        opened.append((event, str(args)))
sys.addaudithook(watch)
from modelvault.audit import AuditLog
from modelvault.keys import HostKey, RecipientKey
from modelvault.loader import load
import numpy as np
folder = Path(sys.argv[1])
customer = RecipientKey.from_pem((folder / "customer.key").read_bytes(), None, "customer")
host = HostKey.from_pem((folder / "host.key").read_bytes(), None, "host")
for memory in ("lean", "fast"):
    with load(folder / "model.mvlt", identity=customer, trust=folder / "trust.toml",
              audit=AuditLog(folder / "log" / "audit.log", host), memory=memory) as session:
        session.run(None, {"x": np.zeros((1, 3, 48, 192), np.float32)})
        print("MAPS", [line.split()[-1] for line in open("/proc/self/maps") if "memfd" in line or str(folder) in line])
written = [a for e, a in opened if e == "open" and ("'w" in a or "+" in a or "'a" in a)]
print("EVENTS", sorted({e for e, _ in opened}))
print("WRITTEN", written)
"""


@pytest.fixture
def story(parties: Parties, sealed: Path) -> Path:
    (parties.folder / "customer.key").write_bytes(parties.customer.to_pem(None))
    (parties.folder / "host.key").write_bytes(parties.host.to_pem(None))
    (parties.folder / "log").mkdir()
    (parties.folder / "work").mkdir()
    return parties.folder


def run_child(story: Path, *prefix: str) -> str:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(story / "work"), "HOME": str(story / "work")}
    child = [*prefix, sys.executable, "-c", CHILD, str(story)]
    result = subprocess.run(child, cwd=story / "work", env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def plain_windows() -> list[bytes]:
    """Bytes that only the plain model has: samples of its weights, and names of its graph."""
    model = split(samples.MODEL, keep_docs=True)
    weights = b"".join(bytes(v) for v in model.stream(2**20))
    names = re.findall(rb"batch_norm_[0-9]+\.[a-z_.0-9]+|conv2d_[0-9]+\.[a-z_.0-9]+", model.graph)
    assert len(names) > 20
    return [weights[at : at + 32] for at in range(64, len(weights) - 32, 4096)] + sorted(set(names))[:50]


def assert_no_plaintext(folder: Path) -> None:
    windows = plain_windows()
    for path in (p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        assert not [w for w in windows if w in data], path


def test_python_opens_nothing_for_writing_but_the_log(story: Path) -> None:
    output = run_child(story)
    assert output.count("MAPS []") == 2
    written = output.partition("WRITTEN ")[2]
    assert "os.memfd" not in output
    for name in re.findall(r"'(/[^']+)'", written):
        assert "/log/" in name, name
    assert list((story / "work").iterdir()) == []
    assert_no_plaintext(story)


def test_the_search_would_find_plaintext(story: Path) -> None:
    shutil.copy(samples.MODEL, story / "leak")
    with pytest.raises(AssertionError, match="leak"):
        assert_no_plaintext(story)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_sees_no_other_file_written(story: Path) -> None:
    """Every system call that makes or opens a file, by any thread and any library."""
    calls = "trace=open,openat,openat2,creat,memfd_create,mknod,mknodat,rename,renameat,renameat2,link,linkat,symlink"
    run_child(story, "strace", "-f", "-qq", "-e", calls, "-o", str(story / "trace"))
    trace = (story / "trace").read_text()
    assert "memfd_create" not in trace
    opened = [line for line in trace.splitlines() if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|creat\(", line)]
    succeeded = [line for line in opened if not re.search(r"= -1 E", line)]
    assert len(succeeded) > 5  # the log and its state, at least
    for line in succeeded:
        assert str(story / "log") in line or "/dev/null" in line, line
    for line in (x for x in trace.splitlines() if re.search(r"\b(rename|link)", x)):
        assert str(story / "log") in line, line
