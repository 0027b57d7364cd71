"""What a model computes, whatever its values are called: its nodes, and where each of their inputs comes from."""

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from modelvault.errors import ModelError
from modelvault.onnxfile.layout import IOEntry
from modelvault.onnxfile.tensors import show
from modelvault.onnxfile.walk import describe
from modelvault.onnxfile.weights import OpenModel

Ref = tuple[str | int, ...]
"""Where a value comes from: ("node", number, output), ("input", place), ("formal", depth, place) of a subgraph,
("weight", number), ("data", digest), ("none",), ("unknown", name)."""

MAX_NODES = 1_000_000
SHOWN = 80
NONE: Ref = ("none",)
_LISTS = {
    AttributeProto.INTS: "ints", AttributeProto.FLOATS: "floats", AttributeProto.STRINGS: "strings",
    AttributeProto.INT: "i", AttributeProto.FLOAT: "f", AttributeProto.STRING: "s",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator. ``inputs``: its own, then its subgraphs' results. ``within``: "" is the main graph."""

    op: str
    name: str
    attributes: tuple[tuple[str, str], ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[str, ...]
    within: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A model without its weights' values. ``facts``: header and metadata as text; ``results``: of the outputs.

    Nodes stand after those whose results they take; nodes of subgraphs and functions before the node that runs them.
    """

    facts: dict[str, str]
    opsets: dict[str, int]
    inputs: tuple[IOEntry, ...]
    outputs: tuple[IOEntry, ...]
    nodes: tuple[Node, ...]
    results: tuple[Ref, ...]


def structure(model: OpenModel) -> Structure:
    """Take a model's graph, subgraphs and functions into one list of nodes. Raises ModelError."""
    proto = model.model
    walker = _Walker(model)
    scope: ChainMap[str, Ref] = ChainMap({v.name: ("input", place) for place, v in enumerate(proto.graph.input)})
    results = walker.graph(proto.graph, scope, 0, "")
    return Structure(
        facts=_facts(proto),
        opsets={utf8(o.domain) or "ai.onnx": o.version for o in proto.opset_import},
        inputs=tuple(describe(v, str(model.path)) for v in proto.graph.input),
        outputs=tuple(describe(v, str(model.path)) for v in proto.graph.output),
        nodes=tuple(walker.nodes),
        results=tuple(results),
    )


def _facts(proto: ModelProto) -> dict[str, str]:
    facts: dict[str, str] = {
        "ir_version": str(proto.ir_version),
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "domain": utf8(proto.domain),
        "model_version": str(proto.model_version) if proto.model_version else "",
        "doc_string": _short(utf8(proto.doc_string).encode()),
        "graph": utf8(proto.graph.name),
        "training graphs": str(len(proto.training_info) or ""),
    }
    facts |= {f"opset {utf8(o.domain) or 'ai.onnx'}": str(o.version) for o in proto.opset_import}
    facts |= {f"metadata {utf8(e.key)[:SHOWN]}": _short(utf8(e.value).encode()) for e in proto.metadata_props}
    facts |= {f"function {_op(f.domain, f.name)}": f"{len(f.node)} nodes" for f in proto.functions}
    return {k: v for k, v in facts.items() if v}


def _op(domain: str, kind: str) -> str:
    return utf8(kind) if domain in ("", "ai.onnx") else f"{utf8(domain)}::{utf8(kind)}"


def utf8(text: str | bytes) -> str:
    """Protobuf gives text that is not UTF-8 as bytes; ModelError then."""
    if isinstance(text, bytes):
        raise ModelError(f"a name in the graph is not UTF-8: {text[:60]!a}")
    return text


@dataclass(slots=True)
class _Walker:
    """Lists the nodes of one model."""

    model: OpenModel
    nodes: list[Node] = field(default_factory=list)
    _bodies: dict[str, list[Ref] | None] = field(default_factory=dict)

    def graph(self, graph: GraphProto, scope: ChainMap[str, Ref], depth: int, within: str) -> list[Ref]:
        """List a graph's nodes; where its outputs come from."""
        for tensor in graph.initializer:
            scope[tensor.name] = self._tensor(tensor)
        for sparse in graph.sparse_initializer:
            name, copy = sparse.values.name, type(sparse)()
            copy.CopyFrom(sparse)
            copy.values.ClearField("name")
            scope[name] = _data(copy)
        self._list(graph.node, scope, depth, within)
        return [_find(scope, v.name) for v in graph.output]

    def _list(self, nodes: Iterable[NodeProto], scope: ChainMap[str, Ref], depth: int, within: str) -> None:
        for node in nodes:
            if (constant := self._constant(node)) is not None:
                scope[node.output[0]] = constant
                continue
            made = self._node(node, scope, depth, within)
            if len(self.nodes) >= MAX_NODES:
                raise ModelError(f"{self.model.path}: more than {MAX_NODES} nodes")
            self.nodes.append(made)
            for place, name in enumerate(node.output):
                scope[name] = ("node", len(self.nodes) - 1, place)

    def _constant(self, node: NodeProto) -> Ref | None:
        if _op(node.domain, node.op_type) != "Constant" or len(node.attribute) != 1 or not node.output:
            return None
        attribute = node.attribute[0]
        if attribute.HasField("t"):
            return self._tensor(attribute.t)
        return None if attribute.ref_attr_name else ("data", f"{utf8(attribute.name)} {_text(attribute)}")

    def _tensor(self, tensor: TensorProto) -> Ref:
        number = self.model.number(tensor)
        if number is not None:
            return ("weight", number)
        copy = TensorProto()
        copy.CopyFrom(tensor)
        copy.ClearField("name")
        copy.ClearField("doc_string")
        return _data(copy)

    def _node(self, node: NodeProto, scope: ChainMap[str, Ref], depth: int, within: str) -> Node:
        op = _op(node.domain, node.op_type)
        inputs = [_find(scope, name) for name in node.input]
        while inputs and inputs[-1] == NONE:
            inputs.pop()
        attributes = []
        for attribute in sorted(node.attribute, key=lambda a: utf8(a.name)):
            refs = list(self._inner(attribute, scope, depth, f"{within}/{op}.{attribute.name}".removeprefix("/")))
            inputs += refs
            attributes.append((attribute.name, f"({len(refs)})" if refs else _text(attribute)))
        inputs += self._function(op)
        return Node(
            op=op,
            name=utf8(node.name),
            attributes=tuple(attributes),
            inputs=tuple(inputs),
            outputs=tuple(map(utf8, node.output)),
            within=within,
        )

    def _inner(self, attribute: AttributeProto, scope: ChainMap[str, Ref], depth: int, within: str) -> Iterator[Ref]:
        """Tensors and results of graphs that stand in an attribute."""
        if (number := self.model.number(attribute)) is not None:
            yield ("weight", number)
        for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
            yield self._tensor(tensor)
        for graph in [attribute.g, *attribute.graphs]:  # one that is not there has no nodes
            formal: dict[str, Ref] = {v.name: ("formal", depth + 1, place) for place, v in enumerate(graph.input)}
            yield from self.graph(graph, scope.new_child(formal), depth + 1, within)

    def _function(self, op: str) -> list[Ref]:
        """The results of the model's own function of that name, listed once."""
        if op not in self._bodies:
            self._bodies[op] = None
            found = next((f for f in self.model.model.functions if _op(f.domain, f.name) == op), None)
            if found is None:
                self._bodies[op] = []
            else:
                scope: ChainMap[str, Ref] = ChainMap({n: ("formal", 0, place) for place, n in enumerate(found.input)})
                self._list(found.node, scope, 0, f"function {op}")
                settings = [_data(m) for m in (*found.opset_import, *found.attribute_proto)]
                self._bodies[op] = [*(_find(scope, name) for name in found.output), *settings]
        body = self._bodies[op]
        if body is None:
            raise ModelError(f"{self.model.path}: function {show(op)} calls itself")
        return body


def _find(scope: ChainMap[str, Ref], name: str) -> Ref:
    return scope.get(name, ("unknown", utf8(name))) if name else NONE


def _data(message: Any) -> Ref:
    return ("data", hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest())


def _text(attribute: AttributeProto) -> str:
    """An attribute's value, so that no two differ in value or type alone; long ones are cut and end in a digest."""
    if attribute.ref_attr_name:
        return f"of the function: {utf8(attribute.ref_attr_name)}"
    kind = _LISTS.get(attribute.type)
    if kind is None:
        copy = AttributeProto()
        copy.CopyFrom(attribute)
        copy.ClearField("name")
        copy.ClearField("doc_string")
        return str(_data(copy)[1])
    value = getattr(attribute, kind)
    if isinstance(value, bytes):
        return f'"{_short(value)}"'
    if isinstance(value, int | float):
        return str(value)
    return _short(str(list(value)).encode())


def _short(value: bytes) -> str:
    text = value.decode(errors="backslashreplace")
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({hashlib.sha256(value).hexdigest()[:32]})"
