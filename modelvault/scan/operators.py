"""Rules about operators: foreign domains, code that is loaded, functions that stand in for something else."""

import re
from collections.abc import Iterator
from typing import Any

from modelvault.scan.finding import ERROR, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.subject import Subject

_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"})
_RUNTIME = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})

# Operators that run what is no graph: Python functions, engines compiled for one device, another framework's kernels.
_CODE = {
    "PyOp": "runs a Python function",
    "PyCustomOp": "runs a Python function",
    "PythonOp": "runs a Python function",
    "PythonOpGrad": "runs a Python function",
    "ATen": "runs any operator of PyTorch by its name",
    "EPContext": "holds or names an engine compiled for one device",
    "TRTEngineOp": "holds a compiled TensorRT engine",
    "TvmRuntime": "loads a compiled library",
    "ExternalOp": "loads a library",
    "TorchScript": "runs a script of PyTorch",
}
_PATH = re.compile(
    rb"(?i)[\w.~+:/\\-]{1,4000}\.(so(\.\d{1,4}){0,4}|dll|dylib|pyd?|sh|bin|pb|json|engine|onnx|pt|pkl|exe)"
)
_ROOTED = re.compile(
    rb"(?i)(file://|https?://|[a-z]:\\|\\\\|\.{1,2}/|/(etc|home|root|usr|tmp|var|opt|mnt|proc|dev)/)\S*"
)
MAX_TEXT = 4096


@rule(
    "native-code-operator",
    ERROR,
    STRUCTURE,
    why="the operator runs code that is not in the graph: a library, a Python function, a compiled engine",
    fix="export the model without it; where it is meant, seal with --allow and deliver the code under a signature",
)
def native_code(subject: Subject) -> Iterator[Hit]:
    for place in subject.nodes:
        what = _CODE.get(place.node.op_type)
        if what and place.node.domain not in ("", "ai.onnx"):
            yield Hit(str(place), f"{plain(place.node.domain, 40)}.{place.node.op_type} {what}")


@rule(
    "custom-domain",
    WARNING,
    STRUCTURE,
    why="operators of a custom domain exist only where somebody's library is registered: its code runs in the process",
    fix="express the operator in standard ones, or as a function inside the model",
)
def custom_domain(subject: Subject) -> Iterator[Hit]:
    own = {f.domain for f in subject.model.functions}
    known = _STANDARD | _RUNTIME | own
    seen: set[tuple[str, str]] = set()
    for place in subject.nodes:
        key = (place.node.domain, place.node.op_type)
        if key[0] not in known and key not in seen:
            seen.add(key)
            name = f"{plain(key[0], 60)}.{plain(key[1], 60)}"
            yield Hit(str(place), f"operator {name} is neither ONNX's nor onnxruntime's")


@rule(
    "function-shadows-operator",
    WARNING,
    STRUCTURE,
    why="a function of the model with a standard operator's name changes what the graph seems to say",
    fix="give the function a domain of its own",
)
def shadowing_function(subject: Subject) -> Iterator[Hit]:
    for function in subject.model.functions:
        if function.domain in _STANDARD | _RUNTIME:
            name = f"{plain(function.domain or 'ai.onnx', 40)}.{plain(function.name, 60)}"
            yield Hit(f"function {name}", f"function {name} stands in a domain that is not the model's own")


@rule(
    "file-reference",
    WARNING,
    STRUCTURE,
    why="text in a node's attributes that names a file or an address may be opened by the operator's code",
    fix="take the file's content into the graph, or remove the attribute",
)
def file_reference(subject: Subject) -> Iterator[Hit]:
    for place in subject.nodes:
        for attribute in place.node.attribute:
            for text in _texts(attribute):
                if len(text) <= MAX_TEXT and (_PATH.fullmatch(text) or _ROOTED.fullmatch(text)):
                    shown = plain(text.decode("utf-8", "replace"), 120)
                    yield Hit(f"{place}.{plain(attribute.name, 40)}", f"attribute names {shown}")


def _texts(attribute: Any) -> list[bytes]:
    return ([attribute.s] if attribute.HasField("s") else []) + list(attribute.strings[:1000])
