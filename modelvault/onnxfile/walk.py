"""Walk over an ONNX model: every graph, node and tensor, wherever it hides; and what its inputs look like."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from modelvault.errors import ModelError
from modelvault.onnxfile.layout import IOEntry
from modelvault.onnxfile.tensors import dtype_name, show


def constants(graph: GraphProto) -> Iterator[tuple[NodeProto, AttributeProto]]:
    """The main graph's Constant nodes that hold one dense tensor."""
    for node in graph.node:
        for attribute in node.attribute:
            if _is_constant(node, attribute):
                yield node, attribute


def _is_constant(node: NodeProto, attribute: AttributeProto) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return False
    return bool(attribute.name == "value" and attribute.type == AttributeProto.TENSOR)


def other_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is neither an initializer of the main graph nor the value of one of its Constant nodes."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if not _is_constant(node, attribute):
                yield from _attribute_tensors(attribute)
    for number, graph in enumerate(graphs(model)):
        if number:  # the main graph comes first
            yield from graph.initializer
            for node in graph.node:
                for attribute in node.attribute:
                    yield from _attribute_tensors(attribute)
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for tensor in [*sparse, *attribute.sparse_tensors]:
        yield from (tensor.values, tensor.indices)


def has_plain_text(message: Any) -> bool:
    """Whether every text field below is UTF-8. Python's protobuf gives bytes for one that is not, at every use."""
    if isinstance(message, TensorProto):  # whose data, all of it in memory, need not be looked at
        texts = [message.name, message.doc_string]
        texts += [text for entry in message.external_data for text in (entry.key, entry.value)]
        return all(isinstance(text, str) for text in texts) and all(map(has_plain_text, message.metadata_props))
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        items = [value] if isinstance(value, str | bytes | Message) else value
        if not all(map(has_plain_text if field.type == field.TYPE_MESSAGE else _is_text, items)):
            return False
    return True


def _is_text(value: str | bytes) -> bool:
    return isinstance(value, str)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of every graph and function."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph, training graphs, and every subgraph below them and below functions."""
    yield model.graph
    waiting = subgraphs(model.graph.node)
    for training in model.training_info:
        waiting += [training.initialization, training.algorithm]
    for function in model.functions:
        waiting += subgraphs(function.node)
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += subgraphs(graph.node)


def subgraphs(nodes: Iterable[NodeProto]) -> list[GraphProto]:
    """The graphs directly inside these nodes."""
    found = []
    for node in nodes:
        for attribute in node.attribute:
            found += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    return found


_LEAVES = {"TreeEnsembleRegressor": "target_weights", "TreeEnsembleClassifier": "class_weights"}


def leaves(model: ModelProto) -> Iterator[tuple[NodeProto, AttributeProto]]:
    """The leaf weights of every tree ensemble: lists of floats, not tensors."""
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.name == _LEAVES.get(node.op_type):
                yield node, attribute


def strip(model: ModelProto) -> None:
    """Remove doc strings and exporters' notes (source paths, stack traces); the model's own metadata stays."""
    model.ClearField("doc_string")
    for graph in graphs(model):
        _clear_notes(graph)
        values = [*graph.input, *graph.output, *graph.value_info]
        for item in [*values, *graph.initializer]:
            _clear_notes(item)
    for function in model.functions:
        _clear_notes(function)
        for value in function.value_info:
            _clear_notes(value)
    for node in nodes(model):
        _clear_notes(node)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
    for tensor in [*other_tensors(model), *(attribute.t for _, attribute in constants(model.graph))]:
        _clear_notes(tensor)


def _clear_notes(item: Any) -> None:
    item.ClearField("doc_string")
    item.ClearField("metadata_props")


def describe(value: ValueInfoProto, source: str) -> IOEntry:
    """An input or output in plain words; ModelError where its elements are of no known type."""
    try:
        kind, shape = _type(value.type)
    except ValueError:
        raise ModelError(f"{source}: value {show(value.name)}: unknown element type") from None
    return IOEntry(name=value.name, dtype=kind, shape=shape)


def _type(kind: TypeProto) -> tuple[str, tuple[int | str | None, ...]]:
    """A type in words, and the dimensions of a dense tensor."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        dims = tuple(_dim(d) for d in kind.tensor_type.shape.dim)
        return dtype_name(kind.tensor_type.elem_type).lower(), dims
    if which in ("sequence_type", "optional_type"):
        inner, _ = _type(getattr(kind, which).elem_type)
        return f"{which.removesuffix('_type')}({inner})", ()
    return (which or "unknown").removesuffix("_type"), ()


def _dim(dim: Any) -> int | str | None:
    which = dim.WhichOneof("value")
    return None if which is None else getattr(dim, which)
