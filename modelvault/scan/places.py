"""Where things stand in a model: scopes, nodes, tensors, each with a name for people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelvault.scan.finding import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A graph, or a function's body: where names are defined. ``depth`` 0 is the main graph.

    ``holder``: the number of the node in ``parent`` that holds it, and the attribute's name.
    """

    place: str
    body: Any
    parent: "Scope | None"
    depth: int
    holder: tuple[int, str] = (-1, "")

    @property
    def initializers(self) -> Sequence[Any]:
        return getattr(self.body, "initializer", ())

    @property
    def sparse(self) -> Sequence[Any]:
        return getattr(self.body, "sparse_initializer", ())

    def inputs(self) -> list[str]:
        return [i if isinstance(i, str) else i.name for i in self.body.input]

    def outputs(self) -> list[str]:
        return [o if isinstance(o, str) else o.name for o in self.body.output]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node and where it stands."""

    scope: Scope
    node: Any
    number: int

    def __str__(self) -> str:
        name = plain(self.node.name, 60) or f"{plain(self.node.op_type, 40)}#{self.number}"
        return f"{self.scope.place}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tensor of the model. ``role``: initializer, constant, attribute or sparse."""

    tensor: Any
    name: str
    place: str
    role: str
    scope: Scope


def held(scope: Scope) -> Iterator[Held]:
    for tensor in scope.initializers:
        where = f"{scope.place}: {plain(tensor.name, 60)}"
        yield Held(tensor=tensor, name=tensor.name, place=where, role="initializer", scope=scope)
    for sparse in scope.sparse:
        where = f"{scope.place}: {plain(sparse.values.name, 60)}"
        for tensor in (sparse.values, sparse.indices):
            yield Held(tensor=tensor, name=sparse.values.name, place=where, role="sparse", scope=scope)


def attribute_tensors(place: Place, attribute: Any) -> Iterator[Held]:
    if attribute.HasField("t"):
        node, constant = place.node, place.node.op_type == "Constant" and attribute.name == "value"
        name = node.output[0] if constant and node.output else f"{node.name}.{attribute.name}"
        yield _of_attribute(place, attribute, attribute.t, name, "constant" if constant else "attribute")
    for tensor in attribute.tensors:
        yield _of_attribute(place, attribute, tensor, tensor.name, "attribute")
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for item in [*sparse, *attribute.sparse_tensors]:
        for tensor in (item.values, item.indices):
            yield _of_attribute(place, attribute, tensor, tensor.name, "sparse")


def _of_attribute(place: Place, attribute: Any, tensor: Any, name: str, role: str) -> Held:
    where = f"{place}.{plain(attribute.name, 40)}"
    return Held(tensor=tensor, name=name, place=where, role=role, scope=place.scope)
