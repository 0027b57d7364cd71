"""Rules about files that a model refers to."""

from collections import defaultdict
from collections.abc import Iterator

from modelvault.onnxfile.checking import is_external
from modelvault.scan import references
from modelvault.scan.finding import ERROR, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.references import Reference
from modelvault.scan.subject import Subject


def _faults(subject: Subject, kind: str) -> Iterator[Hit]:
    for r in subject.references:
        if r.fault == kind:
            yield Hit(r.held.place, plain(r.message))


@rule(
    "external-absolute",
    ERROR,
    STRUCTURE,
    why="external data at an absolute path makes whoever loads the model read any file of the host as weights",
    fix="save the model again with its data beside it (onnx.save_model with a plain file name as location)",
)
def absolute(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.ABSOLUTE)


@rule(
    "external-escape",
    ERROR,
    STRUCTURE,
    why="external data that leaves the model's folder through '..' reads files that are not the model's",
    fix="move the data into the model's folder and save the model again",
)
def escape(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.ESCAPE)


@rule(
    "external-symlink",
    ERROR,
    STRUCTURE,
    why="a symbolic link among external data leads to another file tomorrow than today",
    fix="replace the link by the file itself",
)
def symlink(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.SYMLINK)


@rule(
    "external-missing",
    ERROR,
    STRUCTURE,
    why="external data that is not there may be put there by somebody else",
    fix="copy the data file beside the model, or scan the whole folder",
)
def missing(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.MISSING)


@rule(
    "external-beyond-end",
    ERROR,
    STRUCTURE,
    why="a tensor beyond its file's end makes careless readers read memory that is not theirs",
    fix="the data file is cut off or another model's: fetch it again",
)
def beyond(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.BEYOND)


@rule(
    "external-malformed",
    ERROR,
    STRUCTURE,
    why="readers differ in what they make of a reference with unknown, repeated or contradicting parts",
    fix="save the model again with onnx.save_model",
)
def malformed(subject: Subject) -> Iterator[Hit]:
    yield from _faults(subject, references.MALFORMED)


@rule(
    "external-overlap",
    WARNING,
    STRUCTURE,
    why="two tensors that share some of their bytes cannot both be weights; a crafted one can hide in another",
    fix="save the model again; ranges that are the very same may be shared",
)
def overlap(subject: Subject) -> Iterator[Hit]:
    by_file: dict[str, list[Reference]] = defaultdict(list)
    for r in subject.references:
        if r.fault is None and r.size:
            by_file[r.location].append(r)
    for location, found in by_file.items():
        found.sort(key=lambda r: (r.start, -r.size))
        last = found[0]
        for r in found[1:]:
            if r.start < last.start + last.size and (r.start, r.size) != (last.start, last.size):
                words = f"{plain(location, 80)}: bytes {r.start} to {r.start + r.size} overlap {plain(last.held.place)}"
                yield Hit(r.held.place, words)
            if r.start + r.size > last.start + last.size:
                last = r


@rule(
    "external-attribute",
    WARNING,
    STRUCTURE,
    why="external data in a node's attribute is a file reference where loaders and reviewers do not look for one",
    fix="take the tensor into the graph, or make it an initializer",
)
def attribute(subject: Subject) -> Iterator[Hit]:
    if not subject.references_are_real:
        return
    for held in subject.tensors:
        if is_external(held.tensor) and held.role in ("attribute", "sparse"):
            yield Hit(held.place, "external data in an attribute or sparse tensor")
