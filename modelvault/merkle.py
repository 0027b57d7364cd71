"""Merkle tree hashing of RFC 6962 section 2.1: the sealed payload's root and the audit log's tree."""

import hashlib
from collections.abc import Iterable, Sequence

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
    while len(level) > 1:  # pairing from the left and promoting a lone last node gives RFC 6962's split
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]


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
