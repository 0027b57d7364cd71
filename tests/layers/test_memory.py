"""Private memory: what it promises on this system, and what is left of that where a system offers less."""

import ctypes
import mmap
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from modelvault import _memory
from modelvault._memory import SecureBuffer, overwrite_caches, overwrite_stacks, overwritten_frees, pages, wipe_bytes


def flags(memory: "mmap.mmap | memoryview") -> set[str]:
    """The kernel's flags of the mapping that holds ``memory``."""
    address, inside = ctypes.addressof(ctypes.c_char.from_buffer(memory)), False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and ":" not in head:
            low, high = (int(x, 16) for x in head.split("-"))
            inside = low <= address < high
        elif inside and line.startswith("VmFlags"):
            return set(line.split()[1:])
    return set()


@pytest.mark.parametrize("size", [0, 1, 4096, 2**21 - 1, 2**21, 2**22])
def test_what_a_buffer_is(size: int) -> None:
    buffer = SecureBuffer(size)
    assert buffer.size == size == len(buffer.view)
    assert len(buffer.mapped) == max(size, 1)
    assert repr(buffer) == f"<SecureBuffer of {size} bytes>"
    found = flags(buffer.mapped)
    assert "dd" in found  # left out of dumps
    assert ("hg" in found) == (size >= 2**21)  # huge pages advised where one fits
    assert buffer.locked == ("lo" in found)
    assert "sh" not in found  # private: a forked child does not write here
    buffer.wipe()


@pytest.mark.parametrize("size", [2, 2**22 - 1, 2**22])
def test_pages_for_what_is_no_secret(size: int) -> None:
    area = pages(size)
    assert len(area) == size
    assert not area.readonly
    assert ("hg" in flags(area)) == (size >= 2**22)
    assert not flags(area) & {"dd", "lo", "sh"}
    area[-1] = 1
    assert bytes(area[-2:]) == b"\0\1"


def test_the_buffer_is_private_to_its_process() -> None:
    script = (
        "import os; from modelvault._memory import SecureBuffer; buffer = SecureBuffer(4096)\n"
        "buffer.view[:4] = b'mine'\n"
        "if (child := os.fork()) == 0:\n    buffer.view[:4] = b'your'; os._exit(0)\n"
        "os.waitpid(child, 0); print(bytes(buffer.view[:4]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "b'mine'\n", done.stderr


def test_clearing_keeps_the_memory_and_wiping_does_not() -> None:
    buffer = SecureBuffer(5000)
    buffer.view[:] = b"s" * 5000
    buffer.clear()
    assert bytes(buffer.view) == bytes(5000)
    buffer.view[0] = 1
    buffer.wipe()
    assert buffer.mapped.closed
    with pytest.raises(ValueError, match="released"):
        len(buffer.view)
    buffer.wipe()
    buffer.clear()  # nothing is left to clear
    with pytest.raises(TypeError, match=r"^a buffer of decrypted weights cannot be copied or pickled$"):
        pickle.dumps(buffer)


def test_a_forgotten_buffer_is_wiped() -> None:
    buffer = SecureBuffer(4096)
    buffer.view[:6] = b"secret"
    kept = buffer.view[:6]
    del buffer
    assert bytes(kept) == bytes(6)


def test_a_buffer_that_was_never_made_is_dropped_quietly() -> None:
    with pytest.raises((ValueError, OverflowError, OSError)):
        SecureBuffer(2**62)


def test_a_system_that_refuses_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999)  # no kernel knows it: EINVAL
    buffer = SecureBuffer(2**21)
    assert {"dd"} == flags(buffer.mapped) & {"dd", "hg"}


def test_a_system_without_advice_or_locking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTDUMP")
    monkeypatch.setattr(_memory, "_mlock2", None)
    buffer = SecureBuffer(2**21)
    assert not buffer.locked
    assert {"hg"} == flags(buffer.mapped) & {"dd", "hg", "lo"}


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_a_libc_that_locks_nothing(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(*_names: Any, **_more: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert _memory._find_mlock() is None


@pytest.mark.parametrize("answer", [0, -1])
def test_all_of_a_buffer_is_to_be_locked(answer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    def mlock2(*given: int) -> int:
        asked.append((given[0], given[1], given[2]))
        return answer

    monkeypatch.setattr(_memory, "_mlock2", mlock2)
    buffer = SecureBuffer(5000)
    assert asked == [(ctypes.addressof(ctypes.c_char.from_buffer(buffer.mapped)), 5000, 1)]  # 1: MLOCK_ONFAULT
    assert buffer.locked == (answer == 0)


def test_what_the_system_s_call_takes() -> None:
    """An address is no 32-bit number, which is what ctypes would pass."""
    found: Any = _memory._find_mlock()
    assert found is None or found.argtypes == (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def test_locking_that_is_not_allowed() -> None:
    """An ordinary process has a limit on locked memory; the buffer then works unlocked, and says so."""
    script = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "from modelvault._memory import SecureBuffer\n"
        "print(SecureBuffer(4096).locked, SecureBuffer(2**20).locked)"
    )
    command = [sys.executable, "-c", "import modelvault._memory\n" + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout in ("True False\n", "False False\n"), done.stderr


def test_locking_that_is_allowed() -> None:
    """Where the system locks a page for this process when asked directly, a buffer's page is locked too."""
    script = (
        "import ctypes, mmap; from modelvault._memory import SecureBuffer\n"
        "page = mmap.mmap(-1, 4096); place = (ctypes.c_char * 4096).from_buffer(page)\n"
        "libc = ctypes.CDLL(None); libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)\n"
        "print(libc.mlock(ctypes.addressof(place), 4096) == 0, SecureBuffer(4096).locked)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout in ("True True\n", "False False\n"), done.stderr


def test_wiping_bytes() -> None:
    for size in (2, 3, 100):
        data = bytes([7]) * size
        wipe_bytes(data)
        assert data == bytes(size)
    wipe_bytes(b"")
    wipe_bytes(b"\x07")
    assert bytes([7])[0] == 7


def printed(script: str) -> str:
    """What a process of its own prints, with the package that is tested here."""
    environment = {**os.environ, "PYTHONPATH": str(Path(_memory.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    return done.stdout + done.stderr


def test_frees_are_overwritten_while_inside() -> None:
    """In a process of its own, since the allocator's settings hold for all of it."""
    script = """
import ctypes
from modelvault._memory import overwrite_caches, overwritten_frees
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
def freed(size):
    chunk = libc.malloc(size)
    ctypes.memset(chunk, ord("s"), size)
    libc.free(chunk)
    return ctypes.string_at(chunk, size).count(b"s")
overwrite_caches()  # what its first call loads would take chunks
before = freed(4000)
with overwritten_frees():
    with overwritten_frees():
        pass
    inside = freed(4000)  # until the last of them is left
cached = [libc.malloc(size) for size in range(24, 1033, 16)]
for chunk, size in zip(cached, range(24, 1033, 16)):
    ctypes.memset(chunk, ord("s"), size)
    libc.free(chunk)
overwrite_caches()
left = sum(ctypes.string_at(chunk, size).count(b"s" * 8) for chunk, size in zip(cached, range(24, 1033, 16)))
again = any([libc.malloc(1032) in cached for _ in range(7)])  # what was taken is given back
print(before > 3900, inside, left, again, freed(4000) > 3900)
"""
    overwrite_caches()  # here it changes nothing that can be seen
    assert printed(script) == "True 0 0 True True\n"


def test_whole_free_pages_go_back_to_the_system() -> None:
    script = """
import ctypes, pathlib
from modelvault._memory import overwrite_caches
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
chunks = [libc.malloc(65536) for _ in range(1000)]
for chunk in chunks:
    ctypes.memset(chunk, 1, 65536)
for chunk in chunks[:-1]:
    libc.free(chunk)
before = resident()
overwrite_caches()
print(before - resident() > 50_000_000)
"""
    overwrite_caches()
    assert printed(script) == "True\n"


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_stacks_are_overwritten_by_as_many_threads_as_can_be_had(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the others, so that none takes a stack that another has just left."""
    start = threading.Thread.start
    began: list[threading.Thread] = []

    def limited(thread: threading.Thread) -> None:
        if len(began) == allowed:
            raise RuntimeError("can't start new thread")
        began.append(thread)
        start(thread)

    done: list[int] = []
    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(_memory, "_overwrite_below", lambda: done.append(threading.get_ident()))
    overwrite_stacks(3)
    assert len(began) == allowed
    assert len(done) == allowed + 1
    assert done[0] == threading.get_ident()
    assert not any(thread.is_alive() for thread in began)
    if allowed == 3:
        assert len(set(done)) == 4
        overwrite_stacks(0)
        assert done[4:] == [threading.get_ident()]
        began.clear()
        overwrite_stacks(1)
        assert len(done) == 7


def test_this_thread_s_stack_is_overwritten() -> None:
    script = """
import ctypes, pathlib
from modelvault._memory import overwrite_stacks
class Marked(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char * 80_000),)
value = Marked()
ctypes.memset(ctypes.addressof(value), ord("s"), 80_000)
(low, high), = (line.split()[0].split("-") for line in pathlib.Path("/proc/self/maps").read_text().splitlines()
                if line.endswith("[stack]"))
def left():
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(int(low, 16))
        return memory.read(int(high, 16) - int(low, 16)).count(b"s" * 1000)
ctypes.CFUNCTYPE(ctypes.c_int, Marked)(("getpid", ctypes.CDLL(None)))(value)
before = left()
overwrite_stacks(0)
print(before > 50, left())
"""
    overwrite_stacks(0)
    assert printed(script) == "True 0\n"


def test_an_error_inside_leaves_the_allocator_as_it_was() -> None:
    with pytest.raises(RuntimeError), overwritten_frees():
        raise RuntimeError


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_without_glibc_nothing_is_done(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(_name: str) -> Any:
        raise error

    _memory._glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    try:
        inside = False
        with overwritten_frees():
            inside = True
        overwrite_caches()
        overwrite_stacks(2)
        assert inside
    finally:
        _memory._glibc.cache_clear()
