"""What other systems lack, taken away on this one. No test has run on macOS itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelvault.errors import KeyUnavailable
from modelvault.keys import store

WITHOUT_LINUX = """
import ctypes, mmap, os, pathlib, subprocess, sys
import click, numpy, onnx, onnxruntime  # their own needs are not looked at

for module, names in (
    (os, ("sched_getaffinity", "memfd_create", "copy_file_range", "posix_fadvise")),
    (mmap, ("MADV_DONTDUMP", "MADV_HUGEPAGE", "MADV_POPULATE_WRITE")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

class OtherLibrary(ctypes.CDLL):
    def __init__(self, name=None, *rest, **settings):
        if name:
            raise OSError(f"no {name}")
        super().__init__(name, *rest, **settings)

    def __getattr__(self, name):
        if name in ("mlock2", "prctl", "mallopt", "malloc_trim"):
            raise AttributeError(name)
        return super().__getattr__(name)

ctypes.CDLL = OtherLibrary
read_text = pathlib.Path.read_text

def without_proc(path, *rest, **settings):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "no such file")
    return read_text(path, *rest, **settings)

pathlib.Path.read_text = without_proc
sys.platform = "darwin"
"""


def run(script: str, home: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELVAULT_")}
    environment |= {"MODELVAULT_HOME": str(home)} if home else {}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


def test_the_whole_story_without_what_only_linux_has(tmp_path: Path) -> None:
    done = run(f"{WITHOUT_LINUX}\nfrom modelvault.cli.main import main\nmain(['demo'])", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "equal to the plain model's" in done.stdout
    done = run(f"{WITHOUT_LINUX}\nfrom modelvault.cli.main import main\nmain(['doctor'])", tmp_path)
    assert "needs Linux" in done.stdout


def test_where_keys_live_on_macos() -> None:
    done = run(f"{WITHOUT_LINUX}\nfrom modelvault.keys import store\nprint(store.home())", None)
    assert done.stdout.strip().endswith("Library/Application Support/modelvault"), done.stderr


def test_windows_is_refused_in_words() -> None:
    done = run("import os, pathlib\nos.name = 'nt'\nimport modelvault", None)
    assert "ImportError: modelvault needs Linux or macOS" in done.stderr


def test_a_tpm_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(KeyUnavailable, match="tpm2:0x81010001: keys in a TPM need Linux"):
        store.load_recipient("tpm2:0x81010001")
