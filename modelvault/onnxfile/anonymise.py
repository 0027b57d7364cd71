"""Take the inner names out of a model: what a tensor or node is called is knowledge, and a runtime logs it.

Inputs and outputs keep their names, everything between them gets a number. onnxruntime computes the same.
"""

import itertools
from collections import ChainMap
from collections.abc import Iterable, Iterator
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto

from modelvault.onnxfile.walk import subgraphs

Scope = ChainMap[str, str]


def anonymise(model: ModelProto) -> None:
    """Rename every inner value of every graph and function, and clear the nodes' names; training models stay."""
    if model.training_info:
        return
    kept = {v.name for v in [*model.graph.input, *model.graph.output]}
    numbers = (name for n in itertools.count() if (name := f"v{n}") not in kept)
    model.graph.name = "g"
    _rename(model.graph, ChainMap({name: name for name in kept}), numbers)
    for function in model.functions:
        scope: Scope = ChainMap()
        _define(scope, [*function.input, *_outputs(function.node)], numbers)
        function.input[:] = [scope.get(name, name) for name in function.input]
        function.output[:] = [scope.get(name, name) for name in function.output]
        for value in function.value_info:
            value.name = scope.get(value.name, value.name)
        _rename_nodes(function.node, scope, numbers)


def _rename(graph: GraphProto, outer: Scope, numbers: Iterator[str]) -> None:
    scope = outer.new_child()
    sparse = [t.values for t in graph.sparse_initializer]
    named: list[Any] = [*graph.input, *graph.initializer, *sparse]
    own = [*(item.name for item in named), *_outputs(graph.node)]
    top = not outer.maps[1:]
    _define(scope, [name for name in own if not (top and name in outer)], numbers)
    for item in [*named, *graph.output, *graph.value_info]:
        item.name = scope.get(item.name, item.name)
    for note in graph.quantization_annotation:
        note.tensor_name = scope.get(note.tensor_name, note.tensor_name)
        for parameter in note.quant_parameter_tensor_names:
            parameter.value = scope.get(parameter.value, parameter.value)
    _rename_nodes(graph.node, scope, numbers)


def _define(scope: Scope, names: Iterable[str], numbers: Iterator[str]) -> None:
    for name in names:
        if name and name not in scope.maps[0]:
            scope[name] = next(numbers)


def _rename_nodes(nodes: Iterable[NodeProto], scope: Scope, numbers: Iterator[str]) -> None:
    for node in nodes:
        node.ClearField("name")
        node.input[:] = [scope.get(name, name) for name in node.input]
        node.output[:] = [scope.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
                tensor.ClearField("name")
        for graph in subgraphs([node]):
            graph.name = "g"
            _rename(graph, scope, numbers)


def _outputs(nodes: Iterable[NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.output
