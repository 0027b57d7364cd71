"""What a comparison found, as plain data for JSON."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from modelvault.diff.comparing import Comparison
from modelvault.diff.graphs import Fact, GraphDiff
from modelvault.diff.sides import Side
from modelvault.diff.verdict import TensorDiff
from modelvault.onnxfile.structure import Node, Structure
from modelvault.tensorfile import StoredTensor


def to_dict(found: Comparison) -> dict[str, Any]:
    """Everything but what is the same: tensors of the same content and place are counted in the verdict."""
    return {
        **found.verdict.to_dict(),
        "a": _side(found.a),
        "b": _side(found.b),
        "graph": _graph(found),
        "tensors": [t.to_dict() for t in by_change(found) if not t.quiet],
        "removed_tensors": [_tensor(t) for t in found.removed],
        "added_tensors": [_tensor(t) for t in found.added],
    }


def by_change(found: Comparison) -> list[TensorDiff]:
    """Tensors, the most changed first; those that could not be compared before all."""

    def place(t: TensorDiff) -> tuple[bool, bool, float]:
        return t.quiet, t.same or t.change is not None, -(t.change.relative if t.change else 0.0)

    return sorted(found.tensors, key=place)


def figures(t: TensorDiff) -> tuple[str, str, str]:
    """Relative change, cosine and share of changed elements, as text."""
    if t.change is None:
        return ("0", "1", "0%") if t.same else ("-", "-", "-")
    return f"{t.change.relative:.2e}", f"{t.change.cosine:.4f}", f"{t.change.share:.0%}"


def changed_nodes(graph: GraphDiff, a: Structure, b: Structure) -> list[tuple[str, str]]:
    """(node of A, what differs) for each pair of nodes that does differ."""
    rewired, rows = set(graph.rewired), []
    for pair in sorted({*graph.changed, *graph.rewired}):
        x, y = a.nodes[pair[0]], b.nodes[pair[1]]
        words = [f"{k}: {v or 'none'} -> {w or 'none'}" for k, v, w in attribute_changes(x, y)]
        rows.append((node_name(x), "; ".join(words + (["other inputs"] if pair in rewired else []))))
    return rows


def attribute_changes(x: Node, y: Node) -> list[Fact]:
    mine, theirs = dict(x.attributes), dict(y.attributes)
    names = sorted(mine.keys() | theirs.keys())
    return [(k, mine.get(k, ""), theirs.get(k, "")) for k in names if mine.get(k) != theirs.get(k)]


def node_name(node: Node) -> str:
    """Operator, and the node's name or its first result's."""
    name = node.name or next(iter(node.outputs), "")
    return f"{node.op} {name}".strip() + (f" in {node.within}" if node.within else "")


def operators(graph: Structure, numbers: Iterable[int]) -> Counter[str]:
    return Counter(graph.nodes[n].op for n in numbers)


def _side(side: Side) -> dict[str, Any]:
    facts: dict[str, Any] = {"file": str(side.path), "kind": side.kind, "sha256": side.file.hex()}
    facts["tensors"] = len(side.tensors)
    if side.graph is not None:
        facts["nodes"] = len(side.graph.nodes)
    return facts


def _tensor(tensor: StoredTensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _graph(found: Comparison) -> dict[str, Any] | None:
    graph, a, b = found.graph, found.a.graph, found.b.graph
    if graph is None or a is None or b is None:
        return None
    return {
        "same_function": graph.same_function,
        "same_structure": graph.same_structure,
        "same_but_for_precision": graph.same_skeleton,
        "header": [_fact(f) for f in graph.facts],
        "inputs_and_outputs": [_fact(f) for f in graph.values],
        "matched_nodes": len(graph.pairs),
        "renamed_nodes": graph.renamed,
        "changed_nodes": [
            {"node": node_name(a.nodes[i]), "in_b": node_name(b.nodes[j]), "attributes": _attributes(a, b, i, j)}
            for i, j in graph.changed
        ],
        "rewired_nodes": [node_name(a.nodes[i]) for i, _ in graph.rewired],
        "removed_nodes": [node_name(a.nodes[i]) for i in graph.removed],
        "added_nodes": [node_name(b.nodes[j]) for j in graph.added],
    }


def _attributes(a: Structure, b: Structure, i: int, j: int) -> list[dict[str, str]]:
    return [_fact(f) for f in attribute_changes(a.nodes[i], b.nodes[j])]


def _fact(fact: Fact) -> dict[str, str]:
    return dict(zip(("what", "a", "b"), fact, strict=True))
