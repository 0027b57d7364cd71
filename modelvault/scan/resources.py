"""Rules about memory and time: what a model would need, worked out before anything runs."""

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from modelvault.scan.finding import ERROR, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.known import TOP, attribute, product
from modelvault.scan.places import Place, Scope
from modelvault.scan.subject import Subject

BOMB = 16 * 2**30  # bytes of one tensor
LARGE = 2**30
ELEMENT = 4  # bytes: the type of what a node makes is not always known
DEEP = 8
TRIPS = 2**31
EXPANDED = 10_000_000


def _size(count: int) -> str:
    return "more than 2^63 bytes" if count >= TOP else f"about {count / 2**30:.1f} GiB"


def _allocations(subject: Subject, low: int, high: int) -> Iterator[Hit]:
    """Nodes whose output needs from ``low`` to ``high`` bytes, and whose inputs do not: where it grows."""
    for place, elements, name in subject.folded.outputs:
        needed = min(elements * ELEMENT, TOP)
        if low <= needed < high and not _inherited(subject, place, low):
            yield Hit(str(place), f"{plain(place.node.op_type, 40)} makes {plain(name, 60)!r} of {_size(needed)}")


def _inherited(subject: Subject, place: Place, low: int) -> bool:
    known = (subject.folded.find(place.scope, name) for name in place.node.input if name)
    return any(k.elements * ELEMENT >= low for k in known)


@rule(
    "allocation-bomb",
    ERROR,
    STRUCTURE,
    why="a few bytes of graph ask for more memory than a host has: the process that runs it is killed",
    fix="correct the constant that gives the shape, the repeats or the limits",
)
def bomb(subject: Subject) -> Iterator[Hit]:
    yield from _allocations(subject, BOMB, TOP + 1)
    for scope in subject.scopes:
        for sparse in scope.sparse:
            needed = product([*sparse.dims, ELEMENT])
            if needed >= BOMB:
                where = f"{scope.place}: {plain(sparse.values.name, 60)}"
                yield Hit(where, f"a sparse tensor unfolds to {_size(needed)}")


@rule(
    "large-allocation",
    WARNING,
    STRUCTURE,
    why="one tensor of more than a gibibyte is made from a small graph",
    fix="make sure that the hosts have the memory, and that it is meant",
)
def large(subject: Subject) -> Iterator[Hit]:
    yield from _allocations(subject, LARGE, BOMB)


@rule(
    "impossible-shape",
    ERROR,
    STRUCTURE,
    why="dimensions below 0 or beyond any memory overflow in readers that multiply them carelessly",
    fix="save the model again with its true shapes",
)
def impossible(subject: Subject) -> Iterator[Hit]:
    for held in subject.tensors:
        if any(d < 0 for d in held.tensor.dims) or product([*held.tensor.dims, 8]) >= TOP:
            yield Hit(held.place, f"shape {plain(list(held.tensor.dims[:8]), 120)}")
    for scope in subject.scopes:
        for value in [*scope.body.input, *scope.body.output, *scope.body.value_info]:
            if not isinstance(value, str) and _overflows(value):
                where = f"{scope.place}: {plain(value.name, 60)}"
                yield Hit(where, "its declared shape is below 0 or beyond any memory")


def _overflows(value: Any) -> bool:
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
    # -1 stands for an unknown dimension in some exporters' files
    return any(d < -1 for d in dims) or product([*(max(d, 1) for d in dims), 8]) >= TOP


@rule(
    "deep-nesting",
    WARNING,
    STRUCTURE,
    why="graphs nested many levels deep exhaust the stack of readers that recurse",
    fix="flatten the branches; exporters nest two or three levels",
)
def deep(subject: Subject) -> Iterator[Hit]:
    deepest = max(subject.scopes, key=lambda s: s.depth)
    if deepest.depth > DEEP:
        yield Hit(plain(deepest.place, 120), f"graphs are nested {deepest.depth} levels deep")


@rule(
    "endless-loop",
    ERROR,
    STRUCTURE,
    why="a Loop that no input and no count ends never returns",
    fix="give the Loop a trip count, or a condition that the body works out",
)
def endless(subject: Subject) -> Iterator[Hit]:
    for place in _loops(subject):
        if _trips(subject, place) is None and _always(subject, place):
            yield Hit(str(place), "no trip count, and a condition that is always true")


@rule(
    "unbounded-loop",
    WARNING,
    STRUCTURE,
    why="a Loop without a trip count, or with an enormous one, runs as long as the data says: a denial of service",
    fix="give the Loop a trip count that fits its purpose",
)
def unbounded(subject: Subject) -> Iterator[Hit]:
    for place in _loops(subject):
        trips = _trips(subject, place)
        if trips is None and not _always(subject, place):
            yield Hit(str(place), "no trip count: the data alone ends it")
        elif trips is not None and trips >= TRIPS:
            yield Hit(str(place), f"a trip count of {plain(int(min(trips, TOP)))}")


def _loops(subject: Subject) -> list[Place]:
    return [p for p in subject.nodes if p.node.op_type == "Loop" and p.node.domain in ("", "ai.onnx")]


def _trips(subject: Subject, place: Place) -> float | None:
    """The trip count: None for none; 0 for one that is not known beforehand."""
    inputs = place.node.input
    if not inputs or not inputs[0]:
        return None
    values = subject.folded.find(place.scope, inputs[0]).values
    return values[0] if values else 0


def _always(subject: Subject, place: Place) -> bool:
    """Whether the condition starts true and the body never changes it."""
    inputs = place.node.input
    if len(inputs) > 1 and inputs[1] and not _true(subject, place.scope, inputs[1]):
        return False
    body = attribute(place.node, "body")
    if body is None or not body.g.output:
        return False
    inner = subject.inner(place, "body")
    name = body.g.output[0].name
    made = {output: node for node in body.g.node for output in node.output}
    while name in made and made[name].op_type == "Identity" and made[name].input:
        node = made.pop(name)
        name = node.input[0]
    if len(body.g.input) > 1 and name == body.g.input[1].name:
        return True
    return inner is not None and _true(subject, inner, name)


def _true(subject: Subject, scope: Scope, name: str) -> bool:
    values = subject.folded.find(scope, name).values
    return bool(values and values[0])


@rule(
    "recursive-function",
    ERROR,
    STRUCTURE,
    why="a function that calls itself cannot be unfolded: runtimes loop or crash on it",
    fix="write the function without itself",
)
def recursive(subject: Subject) -> Iterator[Hit]:
    _, circle = expanded_nodes(subject.model.functions)
    if circle:
        yield Hit(f"function {circle}", f"function {circle} calls itself")


@rule(
    "expansion-bomb",
    ERROR,
    STRUCTURE,
    why="functions that call functions unfold to exponentially many nodes when a runtime inlines them",
    fix="unfold the functions before export",
)
def expansion(subject: Subject) -> Iterator[Hit]:
    sizes, circle = expanded_nodes(subject.model.functions)
    total = 0
    for place in subject.nodes:
        if place.scope.parent is not None or place.scope is subject.main:
            total = min(total + sizes.get((place.node.domain, place.node.op_type), 1), TOP)
    if not circle and total > EXPANDED:
        yield Hit("", f"unfolds to {'more than 2^63' if total >= TOP else total} nodes")


def expanded_nodes(functions: Sequence[Any]) -> tuple[dict[tuple[str, str], int], str | None]:
    """Nodes that each function unfolds to, and the name of one that calls itself."""
    bodies = {(f.domain, f.name): [(n.domain, n.op_type) for n in _inside(f.node)] for f in functions}
    sizes: dict[tuple[str, str], int] = {}
    try:
        order = tuple(TopologicalSorter({k: bodies.keys() & set(body) for k, body in bodies.items()}).static_order())
    except CycleError as error:
        return sizes, plain(".".join(error.args[1][0]), 80)
    for key in order:
        sizes[key] = min(sum(sizes.get(k, 1) for k in bodies[key]), TOP)
    return sizes, None


def _inside(nodes: Sequence[Any]) -> Iterator[Any]:
    """All nodes, those of subgraphs too."""
    waiting = [list(nodes)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute_ in node.attribute:
                graphs = ([attribute_.g] if attribute_.HasField("g") else []) + list(attribute_.graphs)
                waiting += [list(g.node) for g in graphs]
