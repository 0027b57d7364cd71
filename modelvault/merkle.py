"""Merkle trees of RFC 6962 section 2.1: hashing for the sealed payload and the audit log, and the log's proofs."""

import hashlib
from collections.abc import Iterable, Sequence

from modelvault.errors import FormatError

HASH = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    """SHA-256(0x00 || data), 32 bytes."""
    digest = hashlib.sha256(b"\x00")
    digest.update(data)  # large buffers are hashed with the interpreter lock released
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes, in order; EMPTY_ROOT where there are none."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def _above(level: list[bytes]) -> list[bytes]:
    """The next level: pairing from the left and promoting a lone last node gives RFC 6962's split."""
    paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return paired + level[len(paired) * 2 :]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from leaf ``index`` to the root, nearest first (RFC 6962 section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"no leaf {index} in a tree of {len(leaves)}")
    level, proof = list(leaves), []
    while len(level) > 1:
        if (sibling := index ^ 1) < len(level):
            proof.append(level[sibling])
        level, index = _above(level), index // 2
    return proof


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The hashes that show that the first ``old`` leaves' tree grew into this one (RFC 6962 section 2.1.2)."""
    if not 0 <= old <= len(leaves):
        raise ValueError(f"no tree of {old} in a tree of {len(leaves)}")
    return _subproof(leaves, old, whole=True) if old else []


def _subproof(leaves: Sequence[bytes], old: int, *, whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [root(leaves)]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= split:
        return [*_subproof(leaves[:split], old, whole=whole), root(leaves[split:])]
    return [*_subproof(leaves[split:], old - split, whole=False), root(leaves[:split])]


def root_of_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2); FormatError for a proof of wrong length."""
    if not 0 <= index < size:
        raise FormatError(f"inclusion proof: no leaf {index} in a tree of {size}")
    here, last, result = index, size - 1, leaf
    for part in proof:
        if last == 0:
            raise FormatError("inclusion proof: too long")
        if here & 1 or here == last:
            result = node_hash(part, result)
            here, last = _climb(here, last)
        else:
            result = node_hash(result, part)
        here, last = here >> 1, last >> 1
    if last:
        raise FormatError("inclusion proof: too short")
    return result


def roots_of_consistency(old: int, size: int, old_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The old and new root that a consistency proof leads to (RFC 9162 section 2.1.4.2), for 0 < old < size.

    Raises FormatError for a proof of wrong length.
    """
    if not 0 < old < size:
        raise FormatError(f"consistency proof: from {old} to {size} records")
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise FormatError("consistency proof: too short")
    here, last = old - 1, size - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    before = after = path[0]
    for part in path[1:]:
        if last == 0:
            raise FormatError("consistency proof: too long")
        if here & 1 or here == last:
            before, after = node_hash(part, before), node_hash(part, after)
            here, last = _climb(here, last)
        else:
            after = node_hash(after, part)
        here, last = here >> 1, last >> 1
    if last:
        raise FormatError("consistency proof: too short")
    return before, after


def _climb(here: int, last: int) -> tuple[int, int]:
    """Skip the levels where a node on the right edge has no sibling."""
    while here and not here & 1:
        here, last = here >> 1, last >> 1
    return here, last


class Tree:
    """A growing tree that keeps only its right edge: the roots of its perfect subtrees, largest first.

    Appending costs O(log size) at worst and O(1) on average; 64 hashes hold any tree.
    """

    def __init__(self, size: int = 0, edge: Iterable[bytes] = ()) -> None:
        self.size = size
        self.edge = list(edge)
        if len(self.edge) != size.bit_count() or any(len(h) != HASH for h in self.edge):
            raise ValueError("the edge does not belong to a tree of that size")

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        merges = (self.size ^ (self.size + 1)).bit_length() - 1  # trailing ones of the old size
        for _ in range(merges):
            leaf = node_hash(self.edge.pop(), leaf)
        self.edge.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The tree hash of all leaves so far."""
        if not self.edge:
            return EMPTY_ROOT
        result = self.edge[-1]
        for left in reversed(self.edge[:-1]):
            result = node_hash(left, result)
        return result
