"""Merkle hashing against RFC 6962's recursive definition, and the compact growing tree."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault import merkle
from modelvault.errors import FormatError


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


def leaves_of(count: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([n % 256, n // 256])) for n in range(count)]


@given(st.integers(1, 90), st.data())
def test_inclusion_proofs_lead_to_the_root(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(leaves, index)
    assert merkle.root_of_inclusion(leaves[index], index, size, proof) == merkle.root(leaves)
    for bad in (proof[:-1], [*proof, bytes(32)]):
        if bad != proof:
            with pytest.raises(FormatError):
                merkle.root_of_inclusion(leaves[index], index, size, bad)
    for at in range(len(proof)):
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert merkle.root_of_inclusion(leaves[index], index, size, changed) != merkle.root(leaves)
    for other in range(size):
        if leaves[other] != leaves[index]:
            assert merkle.root_of_inclusion(leaves[other], index, size, proof) != merkle.root(leaves)


@given(st.integers(2, 90), st.data())
def test_consistency_proofs_lead_to_both_roots(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    old = data.draw(st.integers(1, size - 1))
    before, after = merkle.root(leaves[:old]), merkle.root(leaves)
    proof = merkle.consistency_proof(leaves, old)
    assert merkle.roots_of_consistency(old, size, before, proof) == (before, after)
    for bad in (proof[:-1], [*proof, bytes(32)]):
        with pytest.raises(FormatError):
            merkle.roots_of_consistency(old, size, before, bad)
    for at in range(len(proof)):
        changed = [*proof[:at], bytes(32), *proof[at + 1 :]]
        assert merkle.roots_of_consistency(old, size, before, changed) != (before, after)


def test_proofs_outside_the_tree_are_refused() -> None:
    leaves = leaves_of(5)
    with pytest.raises(ValueError, match="no leaf 5"):
        merkle.inclusion_proof(leaves, 5)
    with pytest.raises(ValueError, match="no tree of 6"):
        merkle.consistency_proof(leaves, 6)
    assert merkle.consistency_proof(leaves, 0) == merkle.consistency_proof(leaves, 5) == []
    with pytest.raises(FormatError):
        merkle.root_of_inclusion(leaves[0], 5, 5, [])
    with pytest.raises(FormatError):
        merkle.roots_of_consistency(5, 5, merkle.root(leaves), [])
