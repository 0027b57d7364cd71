"""Private memory for decrypted weights: huge pages advised, left out of core dumps, locked where allowed, wiped.

The advice calls are Linux's; elsewhere the buffer is plain anonymous memory, still wiped on close.
"""

import contextlib
import ctypes
import functools
import mmap
import threading
from collections.abc import Callable, Iterator
from typing import Any

_MLOCK_ONFAULT = 1
_HUGE = 2 * 2**20


class SecureBuffer:
    """``size`` bytes of anonymous private memory; ``locked`` says whether the system agreed never to swap them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(-1, max(size, 1), **_PRIVATE)
        self.view = memoryview(self._map)[:size]
        self._whole = (ctypes.c_char * len(self._map)).from_buffer(self._map)
        _advise(self._map, "MADV_DONTDUMP", *(["MADV_HUGEPAGE"] if size >= _HUGE else []))
        self.locked = _lock(ctypes.addressof(self._whole), len(self._map))

    @property
    def mapped(self) -> mmap.mmap:
        """The memory itself, for searching in it without a copy."""
        return self._map

    def __repr__(self) -> str:
        return f"<SecureBuffer of {self.size} bytes>"

    def __reduce__(self) -> str:
        raise TypeError("a buffer of decrypted weights cannot be copied or pickled")

    def clear(self) -> None:
        """Overwrite with zeros; the memory stays mapped."""
        if self._whole is not None:
            ctypes.memset(ctypes.addressof(self._whole), 0, len(self._map))

    def wipe(self) -> None:
        """Overwrite with zeros and give the memory back. The caller makes sure that nobody reads it any more."""
        if self._whole is None:
            return
        self.clear()
        self.view.release()
        self._whole = None  # type: ignore[assignment]
        try:
            self._map.close()
        except BufferError:  # another view still stands: the zeros stay mapped until it goes
            return

    def __del__(self) -> None:
        if getattr(self, "_whole", None) is not None:
            self.wipe()


def pages(size: int) -> memoryview:
    """``size`` bytes for what is no secret, in huge pages where they would not be left half empty.

    A bytearray of megabytes is often zeroed by hand, and no other thread runs Python meanwhile.
    """
    area = mmap.mmap(-1, size, **_PRIVATE)
    _advise(area, *(["MADV_HUGEPAGE"] if size >= 2 * _HUGE else []))
    return memoryview(area)


def _advise(area: mmap.mmap, *names: str) -> None:
    for name in names:
        with contextlib.suppress(AttributeError, OSError):  # other systems, and kernels without: slower, not less safe
            area.madvise(getattr(mmap, name))


_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


def _find_mlock() -> Callable[[int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).mlock2
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_mlock2 = _find_mlock()


def _lock(address: int, size: int) -> bool:
    """Lock pages as they are touched, so that locking does not fill the buffer on one core beforehand."""
    return _mlock2 is not None and _mlock2(address, size, _MLOCK_ONFAULT) == 0


def wipe_bytes(data: bytes) -> None:
    """Overwrite an immutable bytes object that nobody else refers to: onnxruntime takes the graph only as one."""
    if len(data) > 1:  # shorter ones are shared by the interpreter
        ctypes.memset(id(data) + bytes.__basicsize__ - 1, 0, len(data))


_inside: list[bool] = []
_inside_lock = threading.Lock()
_M_PERTURB = -6
_PERTURBED = 0xA5
_CACHED_SIZES = range(24, 1033, 16)  # what a glibc thread cache holds, seven chunks of each size
_CACHED_COUNT = 7


@contextlib.contextmanager
def overwritten_frees() -> Iterator[None]:
    """While inside, glibc's malloc overwrites what is freed: copies and names that a library makes on the way.

    Small chunks go to the thread's own cache as they are; :func:`overwrite_caches` is for those. Without glibc this
    does nothing. It may be entered in several threads, and ends with the last.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    with _inside_lock:
        _inside.append(True)
        libc.mallopt(_M_PERTURB, _PERTURBED)
    try:
        yield
    finally:
        with _inside_lock:
            _inside.pop()
            if not _inside:
                libc.mallopt(_M_PERTURB, 0)


def overwrite_caches() -> None:
    """Take what glibc's cache of this thread holds, overwrite it, give it back; and whole free pages to the system."""
    if (libc := _glibc()) is None:
        return
    for size in _CACHED_SIZES:
        chunks = [libc.malloc(size) for _ in range(_CACHED_COUNT)]
        for chunk in chunks:
            ctypes.memset(chunk, 0, size)
        for chunk in chunks:
            libc.free(chunk)
    libc.malloc_trim(0)


def overwrite_stacks(threads: int) -> None:
    """Overwrite this thread's stack below the caller, and the stacks of threads that have ended.

    Matrix products pack pieces of weights on the stack of the thread that computes them. glibc keeps the stacks of
    ended threads, and the last pages written in them, for the next ones: as many are started. Without glibc nothing is
    done.
    """
    if _glibc() is None:
        return
    _overwrite_below()
    together = threading.Barrier(max(threads, 1))  # each on a stack of its own

    def overwrite() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        _overwrite_below()

    started: list[threading.Thread] = []
    try:
        for _ in range(threads):
            thread = threading.Thread(target=overwrite)
            thread.start()
            started.append(thread)
    except RuntimeError:  # no more can be had, as at the interpreter's end
        together.abort()
    for thread in started:
        thread.join()


class _Frame(ctypes.Structure):
    """Above the 64 KiB that a matrix product packs; little for a thread that runs a model."""

    _fields_ = (("zeros", ctypes.c_char * (96 * 2**10)),)


def _overwrite_below() -> None:
    """A structure passed by value is copied onto the stack."""
    call = ctypes.CFUNCTYPE(ctypes.c_int, _Frame)(("getpid", ctypes.CDLL(None)))
    call(_Frame())


@functools.cache
def _glibc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc.restype = ctypes.c_void_p
        libc.malloc.argtypes = (ctypes.c_size_t,)
        libc.free.argtypes = (ctypes.c_void_p,)
        libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
        libc.malloc_trim.argtypes = (ctypes.c_size_t,)
    except (OSError, AttributeError):
        return None
    return libc
