"""The verb: open what is to be scanned, ask every rule that applies, gather the findings."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import _files
from modelvault.onnxfile.lean import lean_file
from modelvault.onnxfile.split import MAX_MODEL, parse_any
from modelvault.scan import (  # noqa: F401  rules enter the register when they are imported
    assets,
    backdoors,
    external,
    metadata,
    naming,
    operators,
    ownership,
    pickles,
    published,
    resources,
    versions,
    weights,
)
from modelvault.scan.assetfiles import of_folder, of_memory
from modelvault.scan.finding import (
    ASSETS,
    CONTENT,
    OWNERSHIP,
    PUBLIC,
    RULES,
    SEVERITIES,
    STRUCTURE,
    Finding,
    Rule,
    plain,
)
from modelvault.scan.ownership import Claims
from modelvault.scan.subject import Subject
from modelvault.sources import find_model

if TYPE_CHECKING:
    from modelvault.decryption import Decrypted

MAX_HITS = 50  # of one rule; what is above is counted

FORMAT = "modelvault-scan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """``source`` as it was named; ``kind``: model, folder, sealed or public; findings, the worst first."""

    source: str
    kind: str
    findings: tuple[Finding, ...]
    rules: tuple[str, ...]

    @property
    def worst(self) -> str | None:
        """The greatest severity found; None where nothing was."""
        return self.findings[0].severity if self.findings else None

    def counts(self) -> dict[str, int]:
        return {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """docs/schemas/scan.schema.json describes it."""
        return {
            "format": FORMAT,
            "source": self.source,
            "kind": self.kind,
            "counts": self.counts(),
            "findings": [f.to_dict() for f in self.findings],
            "rules": list(self.rules),
        }


def scan(source: str | os.PathLike[str], *, claims: Claims | None = None) -> ScanReport:
    """Assess an ONNX file, or a folder that holds one and its assets. Nothing of it is run.

    Raises ModelError where there is no model that parses, FileError where a file cannot be read.
    """
    source = Path(source)
    path = find_model(source)
    graph = lean_file(path)
    model = parse_any(graph or _files.read_bytes(path, limit=MAX_MODEL), str(path))
    beside = of_folder(source) if source.is_dir() else []
    subject = Subject(path=path, model=model, inline=graph is not None, claims=claims)
    own = {path.name, *(r.location for r in subject.references if r.fault is None)}
    subject.assets = [a for a in beside if a.path not in own]
    return _report(subject, source, "folder" if source.is_dir() else "model", [STRUCTURE, CONTENT, ASSETS, OWNERSHIP])


def scan_decrypted(path: str | os.PathLike[str], parts: "Decrypted", *, claims: Claims | None = None) -> ScanReport:
    """Assess a sealed model that the caller has opened, and will wipe. Raises ModelError, FormatError."""
    from modelvault.verification import inspect

    subject = Subject(
        path=Path(path),
        model=parse_any(bytes(parts.graph.view), str(path)),
        region=parts.weights.view[: parts.index.region],
        assets=[of_memory(name, buffer.view) for name, buffer in parts.assets.items()],
        claims=claims,
        public=inspect(path),
    )
    return _report(subject, path, "sealed", [STRUCTURE, CONTENT, ASSETS, OWNERSHIP, PUBLIC])


def scan_public(path: str | os.PathLike[str]) -> ScanReport:
    """Assess what anybody can read in a sealed file; a warning says that the rest was not looked at."""
    from modelvault.verification import inspect

    subject = Subject(path=Path(path), model=None, public=inspect(path))
    return _report(subject, path, "public", [PUBLIC])


def chosen(stages: Sequence[str]) -> list[Rule]:
    return [r for _, r in sorted(RULES.items()) if r.stage in stages]


def _report(subject: Subject, source: str | os.PathLike[str], kind: str, stages: Sequence[str]) -> ScanReport:
    rules = chosen(stages)
    return ScanReport(
        source=plain(os.fspath(source), 4096),
        kind=kind,
        findings=ask(subject, rules),
        rules=tuple(r.id for r in rules),
    )


def ask(subject: Subject, rules: Sequence[Rule]) -> tuple[Finding, ...]:
    """Every rule's findings, the worst first."""
    found: list[Finding] = []
    for one in rules:
        found += _findings(subject, one)
    return tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity)))


def _findings(subject: Subject, one: Rule) -> list[Finding]:
    found: list[Finding] = []
    for number, hit in enumerate(one.look(subject)):
        file = hit.file or plain(subject.path.name)
        message = hit.message if number < MAX_HITS else f"more than {MAX_HITS} findings: the rest is left out"
        found.append(
            Finding(rule=one.id, severity=one.severity, message=plain(message), file=file, where=plain(hit.where))
        )
        if number == MAX_HITS:
            break
    return found
