"""What the host does to keep a process' memory to itself: apply it, check it, report it. It works on Linux alone.

``standard`` takes every protection that the process can take by itself, and goes on without the others. ``strict``
refuses to decrypt where one of them is missing.
"""

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from modelvault.errors import HostUnsafe

LEVELS = ("standard", "strict")
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """One protection of the host: whether it holds now, what was seen, and what to do where it does not."""

    name: str
    holds: bool
    seen: str
    advice: str


def check_level(level: str) -> str:
    """ValueError for an unknown level."""
    if level not in LEVELS:
        raise ValueError(f"hardening: expected one of {', '.join(LEVELS)}, got {level!r}")
    return level


def apply(level: str) -> None:
    """Before anything is decrypted: no dumps of this process, memory locks up to the hard limit.

    In strict level HostUnsafe names the first protection that does not hold.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    _raise_lock_limit()
    if level != "strict":
        return
    _forbid_core_files()
    for protection in (_dumpable(), _core_files(), _tracer()):
        if not protection.holds:
            raise HostUnsafe(f"{protection.name}: {protection.seen}; {protection.advice}")


def check_buffers(level: str, locked: bool) -> None:
    """After the buffers are made, before they are filled: strict refuses unlocked ones where there is swap."""
    swap = _swap()
    if level == "strict" and not locked and not swap.holds:
        raise HostUnsafe(f"memory lock: the weights could not be locked, and {swap.seen}; {_lock_limit().advice}")


def report() -> list[Protection]:
    """Every protection, as the process finds it."""
    return [_dumpable(), _core_files(), _tracer(), _ptrace_scope(), _lock_limit(), _swap(), _huge_pages()]


def _dumpable() -> Protection:
    value = _prctl(_PR_GET_DUMPABLE, 0)
    seen = {0: "off", 1: "on", 2: "readable by root only"}.get(value, "unknown")
    return Protection(
        name="process dumps",
        holds=value == 0,
        seen=seen,
        advice="off once a sealed model is loaded; needs Linux",
    )


def _core_files() -> Protection:
    soft = _limit("RLIMIT_CORE")
    return Protection(
        name="core files",
        holds=soft == 0,
        seen="none" if soft == 0 else "allowed",
        advice="ulimit -c 0, or LimitCORE=0 in the service's unit",
    )


def _tracer() -> Protection:
    pid = _status("TracerPid")
    return Protection(
        name="debugger",
        holds=pid == "0",
        seen={"0": "none attached", "": "not known"}.get(pid, f"attached: process {pid}"),
        advice="stop the debugger or tracer; it is seen on Linux alone",
    )


def _ptrace_scope() -> Protection:
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    return Protection(
        name="ptrace scope",
        holds=scope in ("1", "2", "3"),
        seen=scope or "not available",
        advice="sysctl kernel.yama.ptrace_scope=2",
    )


def _lock_limit() -> Protection:
    limit = _limit("RLIMIT_MEMLOCK")
    free = limit is None or limit < 0
    return Protection(
        name="memory lock",
        holds=free,
        seen="unlimited" if free else f"up to {limit} bytes",
        advice="ulimit -l unlimited, or LimitMEMLOCK=infinity in the service's unit",
    )


def _swap() -> Protection:
    lines = _read("/proc/swaps").splitlines()[1:]
    return Protection(
        name="swap",
        holds=not lines and sys.platform == "linux",
        seen=f"on: {len(lines)} device(s)" if lines else "off",
        advice="swapoff -a, or encrypted swap",
    )


def _huge_pages() -> Protection:
    mode = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    holds = "[always]" in mode or "[madvise]" in mode
    return Protection(
        name="huge pages",
        holds=holds,
        seen=mode or "not available",
        advice="for speed alone: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )


def _prctl(option: int, value: int) -> int:
    """-1 where there is no such call."""
    try:
        return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))
    except (OSError, AttributeError, TypeError):
        return -1


def _limit(name: str) -> int | None:
    """The soft limit; None where the platform has none of that name."""
    with contextlib.suppress(ImportError, AttributeError):
        import resource

        return resource.getrlimit(getattr(resource, name))[0]
    return None


def _raise_lock_limit() -> None:
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def _forbid_core_files() -> None:
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _status(name: str) -> str:
    for line in _read(f"/proc/{os.getpid()}/status").splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1]
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, UnicodeError):
        return ""
