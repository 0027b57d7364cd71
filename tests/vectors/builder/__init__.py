"""The test vectors' builder. It imports nothing of modelvault: what it writes follows the documents alone.

Each module yields vectors of its kinds; a new kind is a new module in :data:`MODULES`.
"""

from collections.abc import Iterator

from vectors.builder import cosigned, grants, keys, lists, logs, notes, oms, sealed, trust
from vectors.builder.base import Vector

MODULES = (sealed, grants, keys, lists, logs, notes, cosigned, trust, oms)


def all_vectors() -> Iterator[Vector]:
    """Every vector, the same bytes each time."""
    for module in MODULES:
        yield from module.vectors()
