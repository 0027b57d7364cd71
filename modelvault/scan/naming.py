"""Rules about names: two things of one name, names that hide others, names that are not what they look like."""

import unicodedata
from collections.abc import Iterator

from modelvault.scan.finding import ERROR, NOTE, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.places import Scope
from modelvault.scan.subject import Subject

_UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
INPUTS_ARE_CONSTANTS = 4  # from this IR version on, an initializer need not be an input


@rule(
    "duplicate-initializer",
    ERROR,
    STRUCTURE,
    why="of two weights of one name, one reader takes the first and another the last: what is checked is not what runs",
    fix="rename or remove one of them",
)
def duplicate_initializer(subject: Subject) -> Iterator[Hit]:
    for scope in subject.scopes:
        names = [t.name for t in scope.initializers] + [s.values.name for s in scope.sparse]
        for name in _repeated(names):
            yield Hit(f"{scope.place}: {plain(name, 60)}", f"two initializers are named {plain(name, 60)!r}")


@rule(
    "duplicate-value",
    ERROR,
    STRUCTURE,
    why="a value that is made twice in one graph means another thing to each reader",
    fix="give every value a name of its own",
)
def duplicate_value(subject: Subject) -> Iterator[Hit]:
    for scope in subject.scopes:
        made = [name for node in scope.body.node for name in node.output if name]
        given = {t.name for t in scope.initializers} | set(scope.inputs())
        for name in [*_repeated(made), *sorted(given & set(made))]:
            yield Hit(f"{scope.place}: {plain(name, 60)}", f"{plain(name, 60)!r} is given or made twice")


@rule(
    "duplicate-node-name",
    NOTE,
    STRUCTURE,
    why="two nodes of one name make reports, profiles and audits ambiguous",
    fix="give every node a name of its own, or none",
)
def duplicate_node(subject: Subject) -> Iterator[Hit]:
    for scope in subject.scopes:
        for name in _repeated([node.name for node in scope.body.node if node.name]):
            yield Hit(scope.place, f"two nodes are named {plain(name, 60)!r}")


@rule(
    "shadowed-name",
    WARNING,
    STRUCTURE,
    why="a value in a branch that has an outer value's name hides it: the graph reads differently than it runs",
    fix="rename the inner value",
)
def shadowed(subject: Subject) -> Iterator[Hit]:
    defined: dict[int, set[str]] = {}
    for scope in subject.scopes:
        names = {n for node in scope.body.node for n in node.output if n}
        defined[id(scope)] = names | {t.name for t in scope.initializers} | set(scope.inputs())
    for scope in subject.scopes:
        for name in sorted(defined[id(scope)] & _outer(scope, defined)):
            yield Hit(f"{scope.place}: {plain(name, 60)}", f"{plain(name, 60)!r} hides an outer value of that name")


def _outer(scope: Scope, defined: dict[int, set[str]]) -> set[str]:
    found: set[str] = set()
    above = scope.parent
    while above is not None:
        found |= defined[id(above)] & defined[id(scope)]
        above = above.parent
    return found


@rule(
    "overridable-weights",
    WARNING,
    STRUCTURE,
    why="a weight that is also an input can be replaced by whoever calls the model",
    fix="take initializers out of the graph's inputs (IR version 4 and newer)",
)
def overridable(subject: Subject) -> Iterator[Hit]:
    if subject.model.ir_version < INPUTS_ARE_CONSTANTS:
        return
    both = {t.name for t in subject.main.initializers} & set(subject.main.inputs())
    for name in sorted(both):
        yield Hit(f"graph: {plain(name, 60)}", f"initializer {plain(name, 60)!r} is also an input")


@rule(
    "deceptive-name",
    WARNING,
    STRUCTURE,
    why="control, invisible and direction-changing characters make a name look like another one",
    fix="rename it in plain characters",
)
def deceptive(subject: Subject) -> Iterator[Hit]:
    seen: set[str] = set()
    for place, name in _names(subject):
        plainly = name.isascii() and name.isprintable()
        if not plainly and name not in seen and any(unicodedata.category(c) in _UNSEEN for c in name):
            seen.add(name)
            yield Hit(place, f"{plain(name, 80)} holds characters that are not seen")


def _names(subject: Subject) -> Iterator[tuple[str, str]]:
    for scope in subject.scopes:
        for name in [*scope.inputs(), *scope.outputs(), *(t.name for t in scope.initializers)]:
            yield scope.place, name
        for node in scope.body.node:
            yield from ((scope.place, text) for text in (node.name, node.op_type, node.domain, *node.output))


def _repeated(names: list[str]) -> list[str]:
    if len(set(names)) == len(names):
        return []
    seen: set[str] = set()
    twice = {n for n in names if n in seen or seen.add(n)}  # type: ignore[func-returns-value]
    return sorted(twice)
