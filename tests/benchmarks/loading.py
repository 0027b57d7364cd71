"""Load time and peak memory: sealed models against every plain way, each in a fresh process, in turn.

One process is one measurement: imports first, then the clock from the call to a usable session, then the peak of its
resident memory (anonymous and mapped) over what it had before. Files are in the page cache.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM = """
import sys
from pathlib import Path
files = [p for p in Path(sys.argv[1]).iterdir() if p.suffix in (".mvlt", ".onnx", ".bin", ".aes")]
memory = b"x" * (3 * max(p.stat().st_size for p in files))
del memory
for path in files:
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass
"""


def _peak() -> int:
    """The high-water mark of this program image; rusage would carry over what the parent process held."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def sealed(memory: str, sess_options: Any = None) -> Callable[[Path], Any]:
    """Prepares a load of the folder's sealed model in this memory mode; calling what comes back loads it."""

    def start(folder: Path) -> Any:
        import numpy  # noqa: F401

        import modelvault.session  # noqa: F401
        from modelvault.audit import AuditLog
        from modelvault.keys import HostKey, RecipientKey
        from modelvault.loader import load
        from modelvault.trust import TrustPolicy

        identity = RecipientKey.from_pem((folder / "customer.key").read_bytes(), None, "customer")
        log = AuditLog(folder / "audit.log", HostKey.from_pem((folder / "host.key").read_bytes(), None, "host"))
        trust = TrustPolicy.read(folder / "trust.toml")
        return lambda: load(
            folder / "model.mvlt", identity=identity, trust=trust, audit=log, memory=memory, sess_options=sess_options
        )

    return start


def _plain(name: str) -> Callable[[Path], Any]:
    def start(folder: Path) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return lambda: onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])

    return start


def _bytes(folder: Path) -> Any:
    import onnxruntime

    path = folder / "inline.onnx"
    return lambda: onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def _decrypt_then_bytes(folder: Path) -> Any:
    """What wrappers around onnxruntime do: the whole file through an AEAD into bytes, and those into a session."""
    import onnxruntime
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    def work() -> Any:
        data = AESGCM(bytes(32)).decrypt(bytes(12), (folder / "inline.aes").read_bytes(), None)
        return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    return work


WAYS: dict[str, Callable[[Path], Any]] = {
    "sealed, lean": sealed("lean"),
    "sealed, fast": sealed("fast"),
    "plain path, weights inside": _plain("inline.onnx"),
    "plain path, external data": _plain("external.onnx"),
    "plain bytes": _bytes,
    "decrypt to bytes (AES-GCM)": _decrypt_then_bytes,
}


def measure(way: str, folder: Path) -> dict[str, float]:
    """One fresh process: seconds, and peak bytes over the process' own.

    Another process has touched as much memory, and read every file, just before: a virtual machine's host takes memory
    back, and cold pages of files, and would charge that to whichever way comes first.
    """
    subprocess.run([sys.executable, "-c", WARM, folder], check=True)
    command = [sys.executable, __file__, way, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main(way: str, folder: Path) -> None:
    work = WAYS[way](folder)
    before = _resident()
    began = time.perf_counter()
    session = work()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": _peak() - before}))
    del session


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
