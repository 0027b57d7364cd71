"""Match the nodes of two graphs by what they compute, whatever they are called, and say what is left."""

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from modelvault.diff.sides import Side
from modelvault.onnxfile.layout import IOEntry
from modelvault.onnxfile.structure import Node, Ref, Structure

PRECISION = frozenset({"Cast", "CastLike", "DequantizeLinear", "DynamicQuantizeLinear", "Identity", "QuantizeLinear"})
WIRING = ("INT64", "BOOL", "STRING")  # shapes, axes and tables: a part of the graph rather than weights
IN_ORDER = 2**18  # pairs of nodes beyond which order alone matches what hashes did not

Fact = tuple[str, str, str]
"""What it is, in A, in B; "" where it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphDiff:
    """Nodes by their numbers in A's and B's lists.

    ``pairs``: the same operator at the same place; of these ``changed`` have other attributes, ``rewired`` other
    inputs. ``same_function``: every output is computed by the same operators from the same inputs and weights;
    ``same_structure``: the same but for the weights' values and types; ``same_skeleton``: the same but for operators
    of PRECISION.
    """

    facts: tuple[Fact, ...]
    values: tuple[Fact, ...]
    pairs: tuple[tuple[int, int], ...]
    changed: tuple[tuple[int, int], ...]
    rewired: tuple[tuple[int, int], ...]
    removed: tuple[int, ...]
    added: tuple[int, ...]
    renamed: int
    same_function: bool
    same_structure: bool
    same_skeleton: bool


def compare_graphs(a: Side, b: Side) -> GraphDiff | None:
    """None where one of the two has no graph."""
    if a.graph is None or b.graph is None:
        return None
    values = (*_values("input", a.graph.inputs, b.graph.inputs), *_values("output", a.graph.outputs, b.graph.outputs))
    pairs, removed, added = _match(a, b, a.graph, b.graph)
    x, y = a.graph.nodes, b.graph.nodes
    mates = dict(pairs)
    return GraphDiff(
        facts=tuple(_facts(a.graph.facts, b.graph.facts)),
        values=values,
        pairs=pairs,
        changed=tuple((i, j) for i, j in pairs if x[i].attributes != y[j].attributes),
        rewired=tuple((i, j) for i, j in pairs if not _same_inputs(x[i], y[j], mates)),
        removed=removed,
        added=added,
        renamed=sum((x[i].name, x[i].outputs) != (y[j].name, y[j].outputs) for i, j in pairs),
        same_function=_results(a.graph, _digests(a), exact=True) == _results(b.graph, _digests(b), exact=True),
        same_structure=_results(a.graph, _shapes(a)) == _results(b.graph, _shapes(b)),
        same_skeleton=_results(a.graph, _shapes(a), PRECISION) == _results(b.graph, _shapes(b), PRECISION),
    )


def weight_mates(a: Structure, b: Structure, pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Weights of A that stand where a weight of B does: at the same input of paired nodes, but for a change of type."""
    mates: dict[int, int] = {}
    slots = (zip(a.nodes[i].inputs, b.nodes[j].inputs, strict=False) for i, j in pairs)
    for used, stands in itertools.chain(*slots, zip(a.results, b.results, strict=False)):
        mine, theirs = _origin(a, used), _origin(b, stands)
        if mine[0] == theirs[0] == "weight":
            mates.setdefault(int(mine[1]), int(theirs[1]))
    return mates


def _origin(graph: Structure, ref: Ref) -> Ref:
    """Where a value comes from before operators of PRECISION."""
    while ref[0] == "node" and (node := graph.nodes[int(ref[1])]).op in PRECISION and node.inputs:
        ref = node.inputs[0]
    return ref


def _digests(side: Side) -> list[str]:
    return [c.digest.hex() for c in side.contents]


def _shapes(side: Side) -> list[str]:
    """Where a weight is compared by shape alone; what wires the graph is compared by content."""
    both = zip(side.tensors, side.contents, strict=True)
    return [c.digest.hex() if t.dtype in WIRING else str(t.shape) for t, c in both]


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _results(
    graph: Structure, weights: Sequence[str], through: frozenset[str] = frozenset(), exact: bool = False
) -> str:
    """One hash of all that the outputs depend on."""
    hashes = _forward(graph, weights, through, exact)
    kinds = [(v.dtype, len(v.shape)) for v in graph.inputs] if exact else len(graph.inputs)
    return _hash(kinds, [_value(r, hashes, weights) for r in graph.results])


def _forward(
    graph: Structure, weights: Sequence[str], through: frozenset[str] = frozenset(), exact: bool = False
) -> list[str]:
    """For each node a hash of its operator, its attributes and all that its inputs are computed from."""
    hashes: list[str] = []
    for node in graph.nodes:
        inputs = [_value(r, hashes, weights) for r in node.inputs]
        if node.op in through and inputs:
            hashes.append(inputs[0])
            continue
        domain = node.op.rpartition("::")[0] or "ai.onnx"
        version = graph.opsets.get(domain, 0) if exact else 0
        hashes.append(_hash(node.op, version, node.attributes, inputs))
    return hashes


def _value(ref: Ref, hashes: Sequence[str], weights: Sequence[str]) -> str:
    if ref[0] == "node":  # the first output goes by the node's own hash, so that one can be looked through
        return hashes[int(ref[1])] if ref[2] == 0 else f"{hashes[int(ref[1])]}:{ref[2]}"
    if ref[0] == "weight":
        return f"weight {weights[int(ref[1])]}"
    return str(ref)


def _backward(graph: Structure) -> list[str]:
    """For each node a hash of its operator and of all that is computed from it."""
    uses: list[list[str]] = [[] for _ in graph.nodes]
    for place, ref in enumerate(graph.results):
        if ref[0] == "node":
            uses[int(ref[1])].append(f"output {place} {ref[2]}")
    hashes = [""] * len(graph.nodes)
    for number in reversed(range(len(graph.nodes))):
        node = graph.nodes[number]
        hashes[number] = _hash(node.op, node.attributes, sorted(uses[number]))
        for place, ref in enumerate(node.inputs):
            if ref[0] == "node":
                uses[int(ref[1])].append(f"{place} {ref[2]} {hashes[number]}")
    return hashes


def _match(
    a_side: Side, b_side: Side, a: Structure, b: Structure
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]]:
    """(pairs, numbers left in A, numbers left in B)."""
    ahead = _forward(a, _shapes(a_side)), _forward(b, _shapes(b_side))
    back, held = (_backward(a), _backward(b)), (_held(a_side, a), _held(b_side, b))
    left_a, left_b = list(range(len(a.nodes))), list(range(len(b.nodes)))
    pairs: list[tuple[int, int]] = []

    def take(found: list[tuple[int, int]]) -> None:
        pairs.extend(found)
        used_a, used_b = {i for i, _ in found}, {j for _, j in found}
        left_a[:] = [i for i in left_a if i not in used_a]
        left_b[:] = [j for j in left_b if j not in used_b]

    for key_a, key_b in (
        (lambda i: (ahead[0][i], back[0][i]), lambda j: (ahead[1][j], back[1][j])),
        (lambda i: held[0][i] or ("A", i), lambda j: held[1][j] or ("B", j)),
        (lambda i: ahead[0][i], lambda j: ahead[1][j]),
        (lambda i: back[0][i], lambda j: back[1][j]),
    ):
        take(_by_key(left_a, left_b, key_a, key_b))
    for words in (lambda n: (n.op, n.attributes), lambda n: n.op):
        keys = [words(a.nodes[i]) for i in left_a], [words(b.nodes[j]) for j in left_b]
        take(_in_order(left_a, left_b, *keys))
    return tuple(sorted(pairs)), tuple(left_a), tuple(left_b)


def _held(side: Side, graph: Structure) -> list[tuple[Hashable, ...]]:
    """For each node its operator and the content of the weights that it takes; empty where that tells nothing."""
    found: list[tuple[Hashable, ...]] = []
    for node in graph.nodes:
        contents = [side.contents[int(r[1])] for r in node.inputs if r[0] == "weight"]
        digests = [c.digest for c in contents if c.distinct]
        found.append((node.op, *digests) if digests else ())
    return found


def _by_key(
    left_a: Sequence[int], left_b: Sequence[int], key_a: Callable[[int], Hashable], key_b: Callable[[int], Hashable]
) -> list[tuple[int, int]]:
    waiting: dict[Hashable, list[int]] = {}
    for j in reversed(left_b):
        waiting.setdefault(key_b(j), []).append(j)
    return [(i, waiting[key].pop()) for i in left_a if waiting.get(key := key_a(i))]


def _in_order(
    left_a: Sequence[int], left_b: Sequence[int], keys_a: Sequence[Hashable], keys_b: Sequence[Hashable]
) -> list[tuple[int, int]]:
    """Equal keys in the same order; far too many are matched key by key."""
    if len(left_a) * len(left_b) > IN_ORDER:
        named_a, named_b = dict(zip(left_a, keys_a, strict=True)), dict(zip(left_b, keys_b, strict=True))
        return _by_key(left_a, left_b, named_a.__getitem__, named_b.__getitem__)
    blocks = SequenceMatcher(None, keys_a, keys_b, autojunk=False).get_matching_blocks()
    return [(left_a[m.a + k], left_b[m.b + k]) for m in blocks for k in range(m.size)]


def _same_inputs(x: Node, y: Node, mates: dict[int, int]) -> bool:
    """Whether both take the same values; which weights stand for each other is judged elsewhere."""
    if len(x.inputs) != len(y.inputs):
        return False
    for mine, theirs in zip(x.inputs, y.inputs, strict=True):
        if mine[0] == theirs[0] == "node":
            if mates.get(int(mine[1])) != theirs[1] or mine[2] != theirs[2]:
                return False
        elif mine != theirs and not mine[0] == theirs[0] == "weight":
            return False
    return True


def _facts(a: dict[str, str], b: dict[str, str]) -> list[Fact]:
    return [(k, a.get(k, ""), b.get(k, "")) for k in sorted(a | b) if a.get(k) != b.get(k)]


def _values(side: str, a: Sequence[IOEntry], b: Sequence[IOEntry]) -> list[Fact]:
    """Inputs or outputs by place; what differs in name, type or shape."""
    both = itertools.zip_longest(a, b)
    return [(f"{side} {place}", _entry(x), _entry(y)) for place, (x, y) in enumerate(both) if x != y]


def _entry(entry: IOEntry | None) -> str:
    return f"{entry.name} {entry.dtype} [{', '.join(map(str, entry.shape))}]" if entry else ""
