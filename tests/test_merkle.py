"""Merkle hashing against RFC 6962's recursive definition, and the compact growing tree."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import merkle


def reference(data: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + reference(data[:k]) + reference(data[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_root_and_tree_follow_the_definition(data: list[bytes]) -> None:
    leaves = [merkle.leaf_hash(d) for d in data]
    tree = merkle.Tree()
    for number, leaf in enumerate(leaves):
        tree.append(leaf)
        assert tree.size == number + 1
    assert merkle.root(leaves) == tree.root() == reference(data)
    again = merkle.Tree(tree.size, tree.edge)
    assert again.root() == tree.root()


def test_an_edge_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="edge"):
        merkle.Tree(3, [bytes(32)])
    with pytest.raises(ValueError, match="edge"):
        merkle.Tree(1, [bytes(31)])
