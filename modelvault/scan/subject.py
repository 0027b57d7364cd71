"""What is scanned: one walk over the model lists its scopes, nodes and tensors, with a name for every place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault.errors import ModelError
from modelvault.onnxfile.checking import is_external, undecodable
from modelvault.onnxfile.tensors import TensorReader
from modelvault.scan.assetfiles import FILE, AssetFile
from modelvault.scan.finding import plain
from modelvault.scan.folding import Folded, fold
from modelvault.scan.places import Held, Place, Scope, attribute_tensors, held
from modelvault.scan.references import Reference, resolve
from modelvault.scan.statistics import Contents, Statistics, measure

if TYPE_CHECKING:
    from modelvault.scan.ownership import Claims
    from modelvault.verification import PublicFacts

MAX_NODES = 5_000_000


@dataclass(kw_only=True)
class Subject:
    """A model and what is known of it. ``inline``: external references are places in the file itself (lean)."""

    path: Path
    model: Any
    inline: bool = False
    region: memoryview | None = None
    assets: Sequence[AssetFile] = ()
    claims: "Claims | None" = None
    public: "PublicFacts | None" = None
    scopes: list[Scope] = field(default_factory=list)
    nodes: list[Place] = field(default_factory=list)
    tensors: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.model is not None:
            self._walk()

    def _walk(self) -> None:
        if field_ := undecodable(self.model):
            raise ModelError(f"{self.path}: text that is not UTF-8 in a field {field_}")
        waiting = [Scope(place="graph", body=self.model.graph, parent=None, depth=0)]
        for number, training in enumerate(self.model.training_info):
            for kind in ("initialization", "algorithm"):
                body = getattr(training, kind)
                waiting.append(Scope(place=f"training_info[{number}].{kind}", body=body, parent=waiting[0], depth=0))
        for function in self.model.functions:
            place = f"function {plain(function.domain, 40)}.{plain(function.name, 40)}"
            waiting.append(Scope(place=place, body=function, parent=None, depth=0))
        waiting.reverse()
        while waiting:
            scope = waiting.pop()
            self.scopes.append(scope)
            self.tensors += held(scope)
            waiting += reversed(self._enter(scope))

    def _enter(self, scope: Scope) -> list[Scope]:
        """List a scope's nodes; the scopes that they hold."""
        below = []
        for number, node in enumerate(scope.body.node):
            place = Place(scope=scope, node=node, number=number)
            self.nodes.append(place)
            if len(self.nodes) > MAX_NODES:
                raise ModelError(f"{self.path}: more than {MAX_NODES} nodes")
            for attribute in node.attribute:
                self.tensors += attribute_tensors(place, attribute)
                inner = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
                for body in inner:
                    where = f"{place}.{plain(attribute.name, 40)}"
                    holder = (number, attribute.name)
                    below.append(Scope(place=where, body=body, parent=scope, depth=scope.depth + 1, holder=holder))
        return below

    def inner(self, place: Place, attribute: str) -> Scope | None:
        """The graph that a node holds in an attribute."""
        return self._inner.get((id(place.scope), place.number, attribute))

    @cached_property
    def _inner(self) -> dict[tuple[int, int, str], Scope]:
        return {(id(s.parent), *s.holder): s for s in self.scopes if s.parent is not None}

    def files(self) -> Iterator[AssetFile]:
        """The assets that are regular files."""
        return (a for a in self.assets if a.kind == FILE)

    @property
    def main(self) -> Scope:
        return self.scopes[0]

    @cached_property
    def reader(self) -> TensorReader:
        return TensorReader(self.path)

    @property
    def references_are_real(self) -> bool:
        """Whether external data is the model's own: in a lean or a sealed graph it stands for data of the file."""
        return not self.inline and self.region is None

    @cached_property
    def initial(self) -> dict[int, set[str]]:
        """By scope: names of its initializers, sparse ones too."""
        return {id(s): {t.name for t in s.initializers} | {t.values.name for t in s.sparse} for s in self.scopes}

    @cached_property
    def references(self) -> list[Reference]:
        """External data that the model really refers to, followed."""
        if not self.references_are_real:
            return []
        return [resolve(self.reader, h) for h in self.tensors if is_external(h.tensor)]

    @cached_property
    def folded(self) -> Folded:
        return fold(self.scopes)

    @cached_property
    def users(self) -> dict[str, set[str]]:
        """By value name: op types that read it, with the input's number: ``MatMul:1``."""
        found: dict[str, set[str]] = {}
        for place in self.nodes:
            for number, name in enumerate(place.node.input):
                found.setdefault(name, set()).add(f"{place.node.op_type}:{number}")
        return found

    @cached_property
    def statistics(self) -> list[tuple[Held, Statistics]]:
        """What the values of the tensors are like, each read once; tensors that cannot be read are left out."""
        contents = Contents(self.reader, inline=self.inline, region=self.region)
        return measure(contents, self.tensors)
