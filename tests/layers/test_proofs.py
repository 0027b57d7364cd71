"""Merkle proofs: the published vectors of RFC 6962's reference implementation, and every way a proof can be wrong."""

import re
from typing import Any

import pytest

from modelvault import merkle
from modelvault.errors import FormatError

# Certificate Transparency's reference tests: eight leaves, the roots of all their trees, and proofs between them.
DATA = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (index, size)
    (0, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (5, 8): ["bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}  # fmt: skip
CONSISTENCY = {  # (old, size)
    (1, 8): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
             "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
             "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
             "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"],
    (2, 5): ["5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
             "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"],
}  # fmt: skip
LEAVES = [merkle.leaf_hash(d) for d in DATA]


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def test_roots_of_the_reference_tests() -> None:
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.Tree().root() == merkle.EMPTY_ROOT == merkle.root([])
    tree = merkle.Tree()
    for size, expected in enumerate(ROOTS, 1):
        tree.append(LEAVES[size - 1])
        assert merkle.root(LEAVES[:size]).hex() == tree.root().hex() == expected
        assert len(tree.edge) == size.bit_count()
    assert merkle.leaf_hash(memoryview(b"\x10")) == LEAVES[2]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_of_the_reference_tests(index: int, size: int) -> None:
    proof = merkle.inclusion_proof(LEAVES[:size], index)
    assert [h.hex() for h in proof] == INCLUSION[index, size]
    assert merkle.root_of_inclusion(LEAVES[index], index, size, proof).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_consistency_proofs_of_the_reference_tests(old: int, size: int) -> None:
    proof = merkle.consistency_proof(LEAVES[:size], old)
    assert [h.hex() for h in proof] == CONSISTENCY[old, size]
    before, after = merkle.roots_of_consistency(old, size, merkle.root(LEAVES[:old]), proof)
    assert (before.hex(), after.hex()) == (ROOTS[old - 1], ROOTS[size - 1])


@pytest.mark.parametrize("size", range(1, 18))
def test_every_proof_of_every_small_tree(size: int) -> None:
    """Each proof leads to the root from its own place alone, and no length but its own is read."""
    leaves = [merkle.leaf_hash(bytes([n])) for n in range(size)]
    for index in range(size):
        proof = merkle.inclusion_proof(leaves, index)
        assert merkle.root_of_inclusion(leaves[index], index, size, proof) == merkle.root(leaves)
        for other in set(range(size)) - {index}:
            try:
                assert merkle.root_of_inclusion(leaves[index], other, size, proof) != merkle.root(leaves)
            except FormatError as error:
                assert "too" in str(error)
        with refused("inclusion proof: too long"):
            merkle.root_of_inclusion(leaves[index], index, size, [*proof, bytes(32)])
        if proof:
            with refused("inclusion proof: too short"):
                merkle.root_of_inclusion(leaves[index], index, size, proof[:-1])
    for old in range(1, size):
        proof = merkle.consistency_proof(leaves, old)
        roots = merkle.root(leaves[:old]), merkle.root(leaves)
        assert merkle.roots_of_consistency(old, size, roots[0], proof) == roots
        with refused("consistency proof: too long"):
            merkle.roots_of_consistency(old, size, roots[0], [*proof, bytes(32)])
        with refused("consistency proof: too short"):
            merkle.roots_of_consistency(old, size, roots[0], proof[:-1])


def test_places_outside_the_tree() -> None:
    for index in (-1, 8):
        with pytest.raises(ValueError, match=f"^no leaf {index} in a tree of 8$"):
            merkle.inclusion_proof(LEAVES, index)
        with refused(f"inclusion proof: no leaf {index} in a tree of 8"):
            merkle.root_of_inclusion(LEAVES[0], index, 8, [])
    for old in (-1, 9):
        with pytest.raises(ValueError, match=f"^no tree of {old} in a tree of 8$"):
            merkle.consistency_proof(LEAVES, old)
    for old in (-1, 0, 8, 9):
        with refused(f"consistency proof: from {old} to 8 records"):
            merkle.roots_of_consistency(old, 8, bytes(32), [bytes(32)])
    assert merkle.consistency_proof(LEAVES, 0) == merkle.consistency_proof(LEAVES, 8) == []
    with refused("consistency proof: too short"):
        merkle.roots_of_consistency(3, 8, bytes(32), [])
    with refused("inclusion proof: no leaf 0 in a tree of 0"):
        merkle.root_of_inclusion(bytes(32), 0, 0, [])


def test_an_edge_fits_its_size() -> None:
    edge = [merkle.root(LEAVES[:4]), LEAVES[4]]
    tree = merkle.Tree(5, edge)
    assert tree.root().hex() == ROOTS[4]
    tree.append(LEAVES[5])
    assert tree.root().hex() == ROOTS[5]
    assert edge == [merkle.root(LEAVES[:4]), LEAVES[4]]  # the caller's list is its own
    for size, bad in ((4, edge), (5, edge[:1]), (5, [*edge[:1], bytes(33)])):
        with pytest.raises(ValueError, match=r"^the edge does not belong to a tree of that size$"):
            merkle.Tree(size, bad)
