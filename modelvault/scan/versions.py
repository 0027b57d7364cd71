"""Rules about what ONNX and its runtime make of the model as a whole."""

from collections.abc import Iterator

from modelvault.onnxfile.checking import IR_VERSION, OPSET, complaint
from modelvault.scan.finding import ERROR, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.resources import expanded_nodes
from modelvault.scan.subject import Subject

OLDEST_OPSET = 7  # that onnxruntime promises to run as it was defined


@rule(
    "checker-failure",
    ERROR,
    STRUCTURE,
    why="a model that ONNX's own checker refuses means different things to different readers",
    fix="export it again with a current exporter; onnx.checker.check_model says the same",
)
def checker(subject: Subject) -> Iterator[Hit]:
    if expanded_nodes(subject.model.functions)[1] or _too_new(subject):
        return  # the checker follows calls of functions, and knows no newer operators; both have rules of their own
    if words := complaint(subject.model):
        yield Hit("", plain(words))


def _too_new(subject: Subject) -> bool:
    return bool(subject.model.ir_version > IR_VERSION or any(v > OPSET for v in _opsets(subject)))


def _opsets(subject: Subject) -> list[int]:
    return [o.version for o in subject.model.opset_import if o.domain in ("", "ai.onnx")]


@rule(
    "ir-version-range",
    ERROR,
    STRUCTURE,
    why="the runtime does not know this version of the format: it refuses the model, or misreads it",
    fix="export with an IR version that docs/SCAN.md lists",
)
def ir_version(subject: Subject) -> Iterator[Hit]:
    if not 1 <= subject.model.ir_version <= IR_VERSION:
        yield Hit("ir_version", f"ir_version {subject.model.ir_version}, known are 1 to {IR_VERSION}")


@rule(
    "opset-range",
    ERROR,
    STRUCTURE,
    why="operators of an opset that the runtime does not know fail, or behave as an older version of themselves",
    fix="export with an opset that docs/SCAN.md lists",
)
def opset(subject: Subject) -> Iterator[Hit]:
    for version in _opsets(subject):
        if not 1 <= version <= OPSET:
            yield Hit("opset_import", f"opset {version}, known are 1 to {OPSET}")
    if len(subject.model.opset_import) != len({o.domain or "ai.onnx" for o in subject.model.opset_import}):
        yield Hit("opset_import", "a domain is imported twice")


@rule(
    "old-opset",
    WARNING,
    STRUCTURE,
    why="onnxruntime does not promise that operators older than opset 7 behave as they were defined",
    fix="convert it: onnx.version_converter",
)
def old_opset(subject: Subject) -> Iterator[Hit]:
    for version in _opsets(subject):
        if 1 <= version < OLDEST_OPSET:
            yield Hit("opset_import", f"opset {version} is older than {OLDEST_OPSET}")
