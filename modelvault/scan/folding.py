"""Shapes and small constants, worked out from the graph alone: nothing is executed, numbers are bounded.

Knows the operators that make shapes and those that blow them up; what depends on the inputs' content stays unknown.
Estimates are lower bounds: a dimension that is not known counts as 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modelvault.scan.known import MAX_RANK, NOTHING, Known, of_tensor, whole
from modelvault.scan.places import Place, Scope
from modelvault.scan.shaping import HANDLERS

LARGE = 2**20  # elements: smaller outputs are not listed


@dataclass(slots=True)
class Folded:
    """Per scope what is known by name; ``outputs``: nodes with a large output, its elements and its name."""

    scopes: dict[int, dict[str, Known]] = field(default_factory=dict)
    outputs: list[tuple[Place, int, str]] = field(default_factory=list)

    def find(self, scope: Scope | None, name: str) -> Known:
        """What is known of a value seen from a scope."""
        while scope is not None:
            known = self.scopes.get(id(scope), {}).get(name)
            if known is not None:
                return known
            scope = scope.parent
        return NOTHING


def fold(scopes: Sequence[Scope]) -> Folded:
    """Work through all scopes, outer ones first."""
    folded = Folded()
    for scope in scopes:
        known = folded.scopes[id(scope)] = _given(scope)
        for number, node in enumerate(scope.body.node):
            for name, fact in zip(node.output, _node(folded, scope, node), strict=False):
                if name and (name not in known or fact.dims is not None):
                    known[name] = fact
                if fact.elements > LARGE:
                    folded.outputs.append((Place(scope=scope, node=node, number=number), fact.elements, name))
    return folded


def _given(scope: Scope) -> dict[str, Known]:
    """Initializers, and inputs whose dimensions are numbers."""
    known: dict[str, Known] = {}
    for value in scope.body.input:
        if not isinstance(value, str) and value.type.HasField("tensor_type"):
            dims = [d.dim_value if d.HasField("dim_value") else 0 for d in value.type.tensor_type.shape.dim]
            if value.type.tensor_type.HasField("shape") and len(dims) <= MAX_RANK:
                known[value.name] = Known(tuple(whole(d) or 1 for d in dims), None, all(d > 0 for d in dims))
    for tensor in scope.initializers:
        known[tensor.name] = of_tensor(tensor)
    return known


def _node(folded: Folded, scope: Scope, node: Any) -> list[Known]:
    handler = HANDLERS.get(node.op_type)
    if handler is None or node.domain not in ("", "ai.onnx"):
        return []
    inputs = [folded.find(scope, name) if name else NOTHING for name in node.input[:8]]
    try:
        return [handler(node, inputs)]
    except (IndexError, ValueError, OverflowError, ZeroDivisionError, TypeError):
        return []  # not enough inputs, or ones that do not go together: nothing is known
