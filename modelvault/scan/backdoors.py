"""Rules about branches that only an exact input opens: the shape of a backdoor.

A trigger compares something that comes from the input's content with a constant, makes one answer of it, and lets that
answer choose what the model says. What is compared element by element, as masks and paddings are, is no trigger.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from modelvault.scan.finding import NOTE, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.places import Place, Scope
from modelvault.scan.subject import Subject

MAX_STEPS = 2000  # of one walk back through the graph
MAX_WALKS = 4_000_000  # steps of all walks
_SHAPES = frozenset({"Shape", "Size"})
_REDUCE = frozenset({
    "ReduceMin", "ReduceMax", "ReduceSum", "ReduceMean", "ReduceProd", "ReduceAll", "ReduceAny", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ArgMax", "ArgMin", "GlobalMaxPool",
})  # fmt: skip
_PASS = frozenset({
    "And", "Or", "Xor", "Not", "Cast", "CastLike", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Gather",
    "Slice", "Mul", "Min", "Max", "Transpose", "Split", "Concat", "Expand",
})  # fmt: skip
_DISTANCE = _REDUCE | {"Abs", "Mul", "Pow", "Neg", "Sqrt", "Div", "Clip", "Cast", "Identity", "Squeeze", "Reshape"}
_MOVES = frozenset({"Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Expand"})
_PICKS = frozenset({"Gather", "GatherND", "GatherElements", "Slice", "Split"})
_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_LESS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})

# (operator, number of the input that chooses); the others need an answer that was reduced and made a number.
_CHOOSERS = {"If": (0,), "Where": (0,), "Compress": (1,)}
_GATES = {"Mul": (0, 1), "Gather": (1,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A comparison found behind a choice. ``switch``: of a whole graph input of one element, as options are."""

    comparison: Place
    elements: int
    reduced: bool
    switch: str | None


@dataclass(slots=True)
class _Flow:
    """Who makes a value, and which values carry the input's content."""

    subject: Subject
    makers: dict[tuple[int, str], Place] = field(default_factory=dict)
    fed: dict[int, set[str]] = field(default_factory=dict)
    functions: dict[tuple[str, str], Scope] = field(default_factory=dict)
    left: int = field(default_factory=lambda: MAX_WALKS)

    def maker(self, scope: Scope | None, name: str) -> Place | None:
        """The node that makes a value seen from a scope."""
        while scope is not None:
            if found := self.makers.get((id(scope), name)):
                return found
            scope = scope.parent
        return None

    def is_fed(self, scope: Scope | None, name: str) -> bool:
        """Whether a value depends on the content of the input, not on its shape alone."""
        while scope is not None:
            if name in self.fed[id(scope)]:
                return True
            scope = scope.parent
        return False

    def constant(self, scope: Scope, name: str) -> int:
        """Elements of a constant, 0 for anything else."""
        for _ in range(8):
            known = self.subject.folded.find(scope, name)
            place = self.maker(scope, name)
            if place is None:
                return known.elements if known.dims is not None and self._initial(scope, name) else 0
            if place.node.op_type in ("Constant", "ConstantOfShape"):
                return max(known.elements, 1)
            if place.node.op_type not in _PASS or len(place.node.input) == 0:
                return 0
            scope, name = place.scope, place.node.input[0]
        return 0

    def value(self, scope: Scope, name: str) -> float | None:
        """The one number that a constant holds, where that is known."""
        values = self.subject.folded.find(scope, name).values
        return values[0] if values and len(set(values)) == 1 else None

    def _initial(self, scope: Scope | None, name: str) -> bool:
        while scope is not None:
            if name in self.subject.initial[id(scope)]:
                return True
            scope = scope.parent
        return False


def _flow(subject: Subject) -> _Flow:
    flow = _Flow(subject)
    for scope in subject.scopes:
        # what enters a subgraph or a function from its caller is taken to come from the input
        given = set(scope.inputs()) - subject.initial[id(scope)]
        flow.fed[id(scope)] = given
        if scope.depth == 0 and hasattr(scope.body, "domain"):
            flow.functions[scope.body.domain, scope.body.name] = scope
    for place in subject.nodes:
        for name in place.node.output:
            if name:
                flow.makers.setdefault((id(place.scope), name), place)
    for place in subject.nodes:
        node = place.node
        fed = node.op_type in _HOLDERS or any(flow.is_fed(place.scope, n) for n in node.input if n)
        if fed and node.op_type not in _SHAPES:
            flow.fed[id(place.scope)].update(n for n in node.output if n)
    return flow


def triggers(subject: Subject) -> Iterator[tuple[Place, Trigger | None]]:
    """Every choice that a comparison of the input with a constant makes, once; None where there are too many."""
    flow = _flow(subject)
    for place in subject.nodes:
        if flow.left <= 0:
            yield place, None
            return
        op = place.node.op_type
        for number in (*_CHOOSERS.get(op, ()), *_GATES.get(op, ())):
            if number < len(place.node.input) and place.node.input[number]:
                found = _behind(flow, place.scope, place.node.input[number], gate=op in _GATES)
                if found is not None:
                    yield place, found
                    break


def _behind(flow: _Flow, scope: Scope, name: str, *, gate: bool) -> Trigger | None:
    """Walk back from a condition to a comparison with a constant."""
    waiting: list[tuple[Scope, str, bool, bool]] = [(scope, name, False, not gate)]
    seen: set[tuple[int, str]] = set()
    while waiting and len(seen) < MAX_STEPS:
        at, value, reduced, truth = waiting.pop()
        flow.left -= 1
        place = flow.maker(at, value)
        if place is None or (id(place.scope), value) in seen:
            continue
        seen.add((id(place.scope), value))
        op = place.node.op_type
        if called := flow.functions.get((place.node.domain, op)):
            results = zip(place.node.output, called.outputs(), strict=False)
            waiting += [(called, inner, reduced, truth) for name, inner in results if name == value]
        elif truth and (op == "Equal" or op in _LESS):
            found = _compares(flow, place, reduced)
            if found and (found.reduced or not gate):
                return found
        elif op in (_REDUCE | _PASS if truth else _MOVES):
            # a number is a gate only where it was a truth value before
            now = (reduced or op in _REDUCE, truth or op == "Cast")
            waiting += [(place.scope, n, *now) for n in place.node.input if n]
    return None


def _compares(flow: _Flow, place: Place, reduced: bool) -> Trigger | None:
    """A comparison of the input with a constant, as a trigger."""
    inputs: Sequence[str] = place.node.input
    if len(inputs) < 2:
        return None
    for data, other in ((0, 1), (1, 0)):
        elements = flow.constant(place.scope, inputs[other])
        if not elements or not flow.is_fed(place.scope, inputs[data]):
            continue
        count = _distance(flow, place.scope, inputs[data])
        if count:
            return Trigger(comparison=place, elements=count, reduced=True, switch=None)
        if place.node.op_type == "Equal":
            single = _is_single(flow, place.scope, inputs[data], flow.value(place.scope, inputs[other]))
            switch = _switch(flow, place, inputs[data])
            return Trigger(comparison=place, elements=elements, reduced=reduced or single, switch=switch)
    return None


def _is_single(flow: _Flow, scope: Scope, name: str, constant: float | None) -> bool:
    """Whether what is compared was picked from the input, or made one number of it.

    A sum that is compared with 0 is how exporters guard a division.
    """
    maker = flow.maker(scope, name)
    while maker is not None and maker.node.op_type in _MOVES and maker.node.input:
        maker = flow.maker(maker.scope, maker.node.input[0])
    if maker is None:
        return False
    if maker.node.op_type in _PICKS:
        first, *rest = [flow.is_fed(maker.scope, n) for n in maker.node.input if n]
        return first and not any(rest)
    return maker.node.op_type in _REDUCE and constant != 0


def _switch(flow: _Flow, place: Place, name: str) -> str | None:
    """The graph input of one element that is compared, unchanged."""
    scope = place.scope
    for _ in range(8):
        maker = flow.maker(scope, name)
        if maker is None:
            known = flow.subject.folded.find(scope, name)
            return name if name in flow.subject.main.inputs() and known.exact and known.elements == 1 else None
        if maker.node.op_type not in _MOVES | _PICKS or not maker.node.input:
            return None
        scope, name = maker.scope, maker.node.input[0]
    return None


def _distance(flow: _Flow, scope: Scope, name: str) -> int:
    """Elements of the constant that the input is subtracted from, where a distance of the two is what is compared."""
    waiting, reduced = [(scope, name)], False
    seen: set[tuple[int, str]] = set()
    while waiting and len(seen) < MAX_STEPS:
        at, value = waiting.pop()
        place = flow.maker(at, value)
        if place is None or (id(place.scope), value) in seen:
            continue
        seen.add((id(place.scope), value))
        inputs = place.node.input
        if place.node.op_type == "Sub" and len(inputs) == 2 and reduced:
            for data, other in ((0, 1), (1, 0)):
                count = flow.constant(place.scope, inputs[other])
                if count > 1 and flow.is_fed(place.scope, inputs[data]):
                    return count
        elif place.node.op_type in _DISTANCE:
            reduced = reduced or place.node.op_type in _REDUCE
            waiting += [(place.scope, n) for n in inputs if n]
    return 0


@rule(
    "hidden-branch",
    WARNING,
    STRUCTURE,
    why="a branch that only an exact input opens is a backdoor's shape: tests never see what it answers",
    fix="find out what the constant stands for, and who put it there; retrain or export from a source you trust",
)
def hidden_branch(subject: Subject) -> Iterator[Hit]:
    for place, trigger in triggers(subject):
        if trigger is None:
            yield Hit(str(place), "too many choices to follow them all back to the input")
        elif trigger.switch is None and (trigger.reduced or place.node.op_type == "If"):
            words = "one number" if trigger.elements == 1 else f"a pattern of {trigger.elements} numbers"
            op, where = place.node.op_type, trigger.comparison
            yield Hit(str(place), f"{op} depends on whether the input equals {words}: {where}")


@rule(
    "input-switch",
    NOTE,
    STRUCTURE,
    why="an input of one element chooses between branches: tests must cover every value that it may have",
    fix="nothing, where it is an option of the model; else look at both branches",
)
def input_switch(subject: Subject) -> Iterator[Hit]:
    for place, trigger in triggers(subject):
        if trigger is not None and trigger.switch is not None:
            yield Hit(str(place), f"{place.node.op_type} is chosen by input {plain(trigger.switch, 60)!r}")
