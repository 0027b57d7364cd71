"""The end of a native session: nothing of ours keeps it alive, and what it leaves in memory is overwritten."""

import os
import weakref
from types import SimpleNamespace
from typing import Any

from modelvault._memory import overwrite_caches, overwrite_stacks, overwritten_frees
from modelvault.decryption import Decrypted


def release(native: Any, model: Decrypted) -> None:
    """Wipe once the native session is gone; an io_binding that a caller still holds keeps it, and its weights, alive.

    Then the weights become zeros at once, and their memory stays mapped for as long as the native session does.
    """
    alive = weakref.ref(native)
    running = _threads()
    with overwritten_frees():
        del native
    overwrite_caches()
    overwrite_stacks(max(running - _threads(), 0))
    if (held := alive()) is None:
        model.wipe()
        return
    keep = [model.weights]
    model.weights.clear()
    weakref.finalize(held, keep.clear)


def _threads() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        return sum(1 for _ in os.scandir("/proc/self/task"))
    except OSError:
        return 0


def detached(described: Any) -> SimpleNamespace:
    """The same attributes in an object of its own: onnxruntime's keeps the native session alive, beyond closing."""
    return SimpleNamespace(**{name: getattr(described, name) for name in dir(described) if not name.startswith("_")})
