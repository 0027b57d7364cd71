"""What stands before a seal: the scan's errors stop it, unless the publisher allows the rule by name."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from modelvault.errors import ModelError
from modelvault.onnxfile.lean import lean_graph
from modelvault.onnxfile.split import parse_any
from modelvault.scan.assetfiles import of_file
from modelvault.scan.finding import ASSETS, ERROR, RULES, STRUCTURE, Finding, plain
from modelvault.scan.scanning import ask, chosen
from modelvault.scan.subject import Subject
from modelvault.sources import Asset


class Gate:
    """Looks at a model file's very bytes and its assets; ``allow`` names the rules whose errors may pass.

    The weights' values are not read: what they can show are warnings, and only errors stop a seal. ModelError for a
    name that is no rule's.
    """

    def __init__(self, path: Path, beside: Sequence[Asset], allow: Iterable[str]) -> None:
        self.path = path
        self.beside = beside
        self.allow = frozenset(allow)
        self.findings: tuple[Finding, ...] | None = None
        if unknown := sorted(self.allow - RULES.keys()):
            raise ModelError(f"{plain(unknown[0], 60)}: not a rule of the scan")

    def look(self, data: bytes) -> None:
        """Ask every rule that can find an error. Raises ModelError, FileError."""
        graph = lean_graph(io.BytesIO(data), len(data))
        subject = Subject(path=self.path, model=parse_any(graph or data, str(self.path)), inline=graph is not None)
        own = {r.location for r in subject.references if r.fault is None}
        subject.assets = [of_file(a.folder, a.path) for a in self.beside if a.path not in own]
        self.findings = ask(subject, [r for r in chosen([STRUCTURE, ASSETS]) if r.severity == ERROR])

    def passed(self) -> tuple[str, ...]:
        """The rules that found an error and were allowed, sorted; ModelError names the first that was not."""
        if self.findings is None:
            raise ModelError(f"{self.path}: was not scanned")
        stopping = [f for f in self.findings if f.rule not in self.allow]
        if stopping:
            first, more = stopping[0], len(stopping) - 1
            others = f", and {more} more finding{'s' if more > 1 else ''}" if more else ""
            raise ModelError(f"{self.path.parent / first.place}: {first.message} (scan rule {first.rule}{others})")
        return tuple(sorted({f.rule for f in self.findings}))
