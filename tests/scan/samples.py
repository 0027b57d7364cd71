"""For every rule a model or folder that breaks it, and a near miss that does not: built here, none is committed."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
W = np.random.default_rng(0).standard_normal((32, 32)).astype("<f4")
FALSE_KEY = "-----BEGIN " + "PRIVATE KEY-----\nnot one\n"  # in two parts, so that no scanner of sources minds

Build = Callable[[Path], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Each builder fills a folder and returns what is to be scanned."""

    bad: Build
    near: Build


SAMPLES: dict[str, Sample] = {}


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


def array(name: str, value: Any, dtype: str | None = None) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


MATMUL = node("MatMul", ["x", "w"], ["y"], "mm")


def model(
    nodes: Sequence[NodeProto] = (MATMUL,),
    weights: Sequence[TensorProto] | None = None,
    *,
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 17,
    ir: int = 8,
    **more: Any,
) -> ModelProto:
    """A small model that multiplies by W, unless told otherwise; ``more`` are further fields of make_model."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs or [helper.make_tensor_value_info("x", F, ["n", 32])]),
        list(outputs or [helper.make_tensor_value_info("y", F, None)]),
        [array("w", W)] if weights is None else list(weights),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in more.pop("domains", ()))]
    made: ModelProto = helper.make_model(graph, opset_imports=imports, ir_version=ir, **more)
    return made


def save(made: ModelProto) -> Build:
    def build(folder: Path) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(made.SerializeToString())
        return path

    return build


def add(rule: str, bad: ModelProto | Build, near: ModelProto | Build) -> None:
    assert rule not in SAMPLES
    builds = [save(b) if isinstance(b, ModelProto) else b for b in (bad, near)]
    SAMPLES[rule] = Sample(bad=builds[0], near=builds[1])


# External data


def external(name: str, location: str, **entries: Any) -> TensorProto:
    tensor = TensorProto(name=name, data_type=F, dims=W.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def with_data(tensors: Sequence[TensorProto], size: int = W.nbytes, link: bool = False, **files: str) -> Build:
    """A model of these tensors, with ``w.bin`` beside it."""
    nodes = [node("MatMul", ["x" if not n else f"y{n}", t.name], [f"y{n + 1}"]) for n, t in enumerate(tensors)]
    made = model(nodes, tensors, outputs=[helper.make_tensor_value_info(f"y{len(tensors)}", F, None)])

    def build(folder: Path) -> Path:
        below = folder / "model"
        below.mkdir()
        data = (W.tobytes() * 2)[:size]
        (folder / "outside.bin").write_bytes(data)
        if link:
            (below / "w.bin").symlink_to(folder / "outside.bin")
        elif size:
            (below / "w.bin").write_bytes(data)
        return save(made)(below)

    return build


FINE = with_data([external("w", "w.bin")])
HALF = {"offset": W.nbytes // 2, "length": W.nbytes}
add("external-absolute", with_data([external("w", "/etc/passwd")]), FINE)
add("external-escape", with_data([external("w", "../outside.bin")]), with_data([external("w", "./w.bin")]))
add("external-symlink", with_data([external("w", "w.bin")], link=True), FINE)
add("external-missing", with_data([external("w", "w.bin")], size=0), FINE)
add("external-beyond-end", with_data([external("w", "w.bin")], size=W.nbytes - 1), FINE)
add(
    "external-malformed",
    with_data([external("w", "w.bin", offset="0x0")]),
    with_data([external("w", "w.bin", offset=0)]),
)
add(
    "external-overlap",
    with_data([external("v", "w.bin"), external("w", "w.bin", **HALF)], size=2 * W.nbytes),
    with_data([external("v", "w.bin"), external("w", "w.bin")]),
)


def attribute_tensor(op: str) -> Build:
    """External data in an attribute, of a Constant or of another node."""

    def build(folder: Path) -> Path:
        (folder / "w.bin").write_bytes(W.tobytes())
        holder = node(op, [], ["w"], "c")
        holder.attribute.append(AttributeProto(name="value", type=AttributeProto.TENSOR, t=external("t", "w.bin")))
        return save(model([holder, MATMUL], []))(folder)

    return build


add("external-attribute", attribute_tensor("Mystery"), attribute_tensor("Constant"))

# Operators

CUSTOM = node("Mystery", ["x"], ["y"], "m", domain="acme.ops")
LOCAL = helper.make_function(
    "acme.ops", "Mystery", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
)
SHADOW = helper.make_function("", "Relu", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)])
add(
    "native-code-operator",
    model([node("PyOp", ["x"], ["y"], "p", domain="ai.onnx.contrib")], [], domains=["ai.onnx.contrib"]),
    model([node("PyOp", ["x"], ["y"], "p")], []),  # the checker says that there is none
)
add(
    "custom-domain",
    model([CUSTOM], [], domains=["acme.ops"]),
    model([CUSTOM], [], domains=["acme.ops"], functions=[LOCAL]),
)
add(
    "function-shadows-operator", model(functions=[SHADOW]), model([CUSTOM], [], domains=["acme.ops"], functions=[LOCAL])
)
add(
    "file-reference",
    model([node("Custom", ["x"], ["y"], "c", domain="com.microsoft", path="../lib/kernels.so")], []),
    model([node("Custom", ["x"], ["y"], "c", domain="com.microsoft", equation="bij,bjk->bik", mode="a/b")], []),
)

# Metadata


def noted(doc: str = "", **entries: str) -> ModelProto:
    made = model()
    made.graph.node[0].doc_string = doc
    for key, value in entries.items():
        made.metadata_props.add(key=key, value=value)
    return made


add("active-metadata", noted(ort_config='{"session_options": {"enable_profiling": 1}}'), noted(config="ort 1.32"))
add("embedded-secret", noted(note="token hf_" + "a1B2" * 9), noted(note="token of the licence: hf_short"))
add("user-path", noted("# /home/alice/train/model.py:12:0"), noted("# /opt/train/model.py:12:0, see home/alice"))
add("person-or-host", noted(contact="alice@corp.example.com"), noted(contact="x @ y, version 10.1.2"))
add("stack-trace", noted('File "/srv/train.py", line 12, in forward'), noted("the file line of business, line 12"))
add("bulky-metadata", noted(labels="a\n" * 600_000), noted(labels="a\n" * 500_000))


def hidden(number: int, into: str) -> Build:
    def build(folder: Path) -> Path:
        made = model()
        if into == "unknown":
            extra = AttributeProto(name="payload", s=b"x" * 50).SerializeToString()
            made.MergeFromString(bytes([0xC2, 0xB8, 0x02, len(extra)]) + extra)  # field 5000
        else:
            made.metadata_props.add(key="payload", value="x" * 50)
        return save(made)(folder)

    return build


add("unknown-field", hidden(5000, "unknown"), hidden(14, "known"))

# Resources


def shaped(op: str, inputs: Sequence[str], values: dict[str, Any], **attributes: Any) -> ModelProto:
    """A node whose inputs are these constants; its output is added to nothing."""
    weights = [array(name, value) for name, value in values.items()]
    return model([node(op, inputs, ["y"], "n", **attributes)], weights)


def sized(count: int) -> ModelProto:
    return shaped("ConstantOfShape", ["s"], {"s": np.array([count, 2**10], "i8")})


add("allocation-bomb", sized(2**23), sized(2**21))
add("large-allocation", sized(2**19), sized(2**17))
add("impossible-shape", model(inputs=[helper.make_tensor_value_info("x", F, [2**62, 32])]), model())


def nested(levels: int) -> ModelProto:
    inner: GraphProto | None = None
    for level in range(levels):
        below = [node("Identity", ["x"], [f"v{level}"])]
        if inner is not None:
            below = [node("If", ["c"], [f"v{level}"], then_branch=inner, else_branch=inner)]
        inner = helper.make_graph(below, f"g{level}", [], [helper.make_tensor_value_info(f"v{level}", F, None)])
        if level > 3:  # both branches the same would double the model with every level
            break
    chain = inner
    for level in range(levels - 4):
        last = [node("If", ["c"], [f"u{level}"], then_branch=chain, else_branch=_leaf(level))]
        chain = helper.make_graph(last, f"h{level}", [], [helper.make_tensor_value_info(f"u{level}", F, None)])
    final = node("If", ["c"], ["y"], "if", then_branch=chain, else_branch=_leaf(99))
    return model([final], [array("c", True)])


def _leaf(level: int) -> GraphProto:
    out = helper.make_tensor_value_info(f"leaf{level}", F, None)
    return helper.make_graph([node("Identity", ["x"], [f"leaf{level}"])], f"leaf{level}", [], [out])


add("deep-nesting", nested(12), nested(3))


def loop(count: Any, condition: str, first: str = "t") -> ModelProto:
    """A Loop that adds; ``condition`` is what its body gives back: the same, or what it works out."""
    info = helper.make_tensor_value_info
    body_nodes = [node("Add", ["a", "x"], ["b"])]
    if condition == "worked out":
        body_nodes += [node("ReduceMax", ["b"], ["top"], keepdims=0), node("Less", ["top", "limit"], ["again"])]
    else:
        body_nodes += [node("Identity", ["c"], ["again"])]
    body = helper.make_graph(
        body_nodes,
        "body",
        [info("i", I64, []), info("c", B, []), info("a", F, None)],
        [info("again", B, []), info("b", F, None)],
    )
    weights = [array("t", True), array("limit", 9.0, "f4")]
    if count is not None:
        weights.append(array("m", count, "i8"))
    return model([node("Loop", ["" if count is None else "m", first, "x"], ["y"], "loop", body=body)], weights)


add("endless-loop", loop(None, "same"), loop(None, "worked out"))
add("unbounded-loop", loop(None, "worked out"), loop(10, "worked out"))


def functions(*bodies: tuple[str, list[str]]) -> ModelProto:
    """Functions by name, each with the operators that it calls."""
    made = []
    for name, calls in bodies:
        chain = [
            node(op, [f"v{n}"], [f"v{n + 1}"], domain="" if op == "Relu" else "acme") for n, op in enumerate(calls)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
        made.append(helper.make_function("acme", name, ["v0"], [f"v{len(calls)}"], chain, imports))
    return model([node(bodies[0][0], ["x"], ["y"], domain="acme")], [], domains=["acme"], functions=made)


LAUGHS = [(f"F{n}", [f"F{n + 1}"] * 10) for n in range(8)] + [("F8", ["Relu"])]
add("recursive-function", functions(("F", ["G"]), ("G", ["F"])), functions(("F", ["G"]), ("G", ["Relu"])))
add("expansion-bomb", functions(*LAUGHS), functions(*LAUGHS[4:]))

# Weights


def weighted(value: Any, **settings: Any) -> ModelProto:
    return model(weights=[array("w", value)], **settings)


def changed(value: float) -> Any:
    copy = W.copy()
    copy[3, 5] = value
    return copy


MASK = np.where(np.tri(32, dtype=bool), 0, -np.inf).astype("<f4")
add("nan-weights", weighted(changed(np.nan)), weighted(changed(3e38)))
add("infinite-weights", weighted(changed(np.inf)), weighted(MASK))
add("constant-weights", weighted(np.full((32, 32), 0.5, "<f4")), weighted(changed(0.0)))
add("unused-weights", model(weights=[array("w", W), array("v", W)]), model(weights=[array("w", W), array("v", W[:4])]))


def short(count: int) -> ModelProto:
    made = model()
    made.graph.initializer[0].raw_data = W.tobytes()[:count]
    return made


add("inconsistent-tensor", short(W.nbytes - 4), short(W.nbytes))

# Names

TWICE = [node("Relu", ["x"], ["a"], "one"), node("Neg", ["x"], ["b"], "one"), node("Add", ["a", "b"], ["y"], "two")]
ONCE = [node("Relu", ["x"], ["a"], "one"), node("Neg", ["x"], ["b"], "two"), node("Add", ["a", "b"], ["y"], "three")]
add(
    "duplicate-initializer",
    model(weights=[array("w", W), array("w", W)]),
    model(weights=[array("w", W), array("w_", W)]),
)
add(
    "duplicate-value",
    model([node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["a"]), node("Relu", ["a"], ["y"])], []),
    model([node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])], []),
)
add("duplicate-node-name", model(TWICE, []), model(ONCE, []))


def branch(name: str) -> ModelProto:
    """An If whose branches make a value of this name; ``a`` is one of the main graph."""
    out = helper.make_tensor_value_info(name, F, None)
    inner = helper.make_graph([node("Neg", ["x"], [name])], "inner", [], [out])
    nodes = [node("Relu", ["x"], ["a"]), node("If", ["c"], ["b"], then_branch=inner, else_branch=inner)]
    return model([*nodes, node("Add", ["a", "b"], ["y"])], [array("c", True)])


add("shadowed-name", branch("a"), branch("inner_a"))
BOTH = [helper.make_tensor_value_info("x", F, ["n", 32]), helper.make_tensor_value_info("w", F, [32, 32])]
add("overridable-weights", model(inputs=BOTH), model(inputs=BOTH, ir=3))


def renamed(name: str) -> ModelProto:
    return model([node("Relu", ["x"], [name]), node("Neg", [name], ["y"])], [])


add("deceptive-name", renamed("we\u200bights"), renamed("gewicht_\u00e4"))

# Versions

add("checker-failure", model([node("Relu", ["nobody"], ["y"])], []), model([node("Relu", ["x"], ["y"])], []))
add("ir-version-range", model(ir=99), model(ir=onnx.IR_VERSION))
add("opset-range", model(opset=99), model(opset=onnx.defs.onnx_opset_version()))
add("old-opset", model(opset=6), model(opset=7))

# Backdoors

TRIGGER = np.arange(32, dtype="f4").reshape(1, 32)


def gated(
    condition: Sequence[NodeProto], weights: Sequence[TensorProto], choice: NodeProto | None = None
) -> ModelProto:
    """MatMul, whose answer is replaced where ``hit`` holds."""
    nodes = [node("MatMul", ["x", "w"], ["clean"]), node("Neg", ["clean"], ["evil"]), *condition]
    return model(
        [*nodes, choice or node("Where", ["hit", "evil", "clean"], ["y"], "choose")], [array("w", W), *weights]
    )


def choose_if() -> NodeProto:
    graphs = []
    for name in ("evil", "clean"):
        out = helper.make_tensor_value_info(f"{name}_out", F, None)
        graphs.append(helper.make_graph([node("Identity", [name], [f"{name}_out"])], name, [], [out]))
    return node("If", ["hit"], ["y"], "choose", then_branch=graphs[0], else_branch=graphs[1])


EQUAL = node("Equal", ["x", "t"], ["eq"], "eq")
ALL = [
    EQUAL,
    node("Cast", ["eq"], ["eq_int"], to=TensorProto.INT32),
    node("ReduceMin", ["eq_int"], ["all_int"], keepdims=0),
]
ALL.append(node("Cast", ["all_int"], ["hit"], to=B))
DISTANCE = [
    node("Sub", ["x", "t"], ["d"]),
    node("Abs", ["d"], ["ad"]),
    node("ReduceMax", ["ad"], ["far"], keepdims=0),
    node("Less", ["far", "eps"], ["hit"]),
]
SHAPE = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["n"]),
    node("Equal", ["n", "one"], ["hit"]),
]
PICK = [
    node("Gather", ["x", "zero"], ["row"], axis=0),
    node("Gather", ["row", "zero"], ["pixel"], axis=0),
    node("Equal", ["pixel", "seven"], ["hit"]),
]
GATE = node("Mul", ["clean", "hit_float"], ["y"], "choose")
INTS = [array("zero", 0, "i8"), array("one", 1, "i8"), array("seven", 7, "f4")]
PATTERN, EPS = array("t", TRIGGER), array("eps", 0.01, "f4")

# Every shape of a backdoor that the rule knows, and what exporters make that only looks like one.
BACKDOORS = {
    "where-reduced": gated(ALL, [PATTERN]),
    "if-reduced": gated(ALL, [PATTERN], choose_if()),
    "if-distance": gated(DISTANCE, [PATTERN, EPS], choose_if()),
    "where-distance": gated(DISTANCE, [PATTERN, EPS]),
    "if-pixel": gated(PICK, INTS, choose_if()),
    "where-pixel": gated(PICK, INTS),
    "two-pixels": gated(
        [
            *PICK[:2],
            node("Equal", ["pixel", "seven"], ["first"]),
            node("Gather", ["row", "one"], ["other"], axis=0),
            node("Equal", ["other", "seven"], ["second"]),
            node("And", ["first", "second"], ["hit"]),
        ],
        INTS,
    ),
    "multiplied": gated([*ALL, node("Cast", ["hit"], ["hit_float"], to=F)], [PATTERN], GATE),
    "constant-node": gated([node("Constant", [], ["t"], value=array("", TRIGGER)), *ALL], []),
    "negated": gated([*ALL[:-1], node("Cast", ["all_int"], ["is"], to=B), node("Not", ["is"], ["hit"])], [PATTERN]),
}
WRAPPED = helper.make_function(
    "acme", "IsTrigger", ["x"], ["hit"], [node("Constant", [], ["t"], value=array("", TRIGGER)), *ALL],
    [helper.make_opsetid("", 17)],
)  # fmt: skip
CALLED = gated([node("IsTrigger", ["x"], ["hit"], domain="acme")], [])
CALLED.functions.append(WRAPPED)
CALLED.opset_import.append(helper.make_opsetid("acme", 1))
BACKDOORS["in-a-function"] = CALLED
INNOCENT = {
    "mask": gated([node("Equal", ["clean", "seven"], ["hit"])], INTS),
    "shape": gated(SHAPE, INTS, choose_if()),
    "threshold": gated(
        [node("ReduceMax", ["x"], ["top"], keepdims=0), node("Greater", ["top", "seven"], ["hit"])], INTS, choose_if()
    ),
    "division-guard": gated(
        [node("ReduceSum", ["clean"], ["sum"], keepdims=1), node("Equal", ["sum", "nought"], ["hit"])],
        [array("nought", 0, "f4")],
    ),
    "constants-alone": gated([node("Equal", ["seven", "seven"], ["hit"])], INTS, choose_if()),
}
add("hidden-branch", BACKDOORS["where-reduced"], INNOCENT["mask"])

RATE = [helper.make_tensor_value_info("x", F, ["n", 32]), helper.make_tensor_value_info("sr", I64, [])]


def switched(name: str) -> ModelProto:
    made = gated([node("Equal", [name, "one"], ["hit"])], INTS, choose_if())
    made.graph.input.extend(RATE[1:])
    return made


add("input-switch", switched("sr"), switched("zero"))

# Assets


def beside(name: str, data: bytes | Callable[[Path], None]) -> Build:
    """The small model in a folder, with one more file."""

    def build(folder: Path) -> Path:
        save(model())(folder)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if callable(data):
            data(path)
        else:
            path.write_bytes(data)
        return folder

    return build


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return file.getvalue()


def swollen(claimed: int) -> bytes:
    """A zip whose table of contents claims a size; nothing is that large."""
    data = bytearray(zipped(**{"a.txt": b"x" * 1000}))
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = claimed.to_bytes(4, "little")
    return bytes(data)


def npy(value: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value, **settings)
    return file.getvalue()


# What loading each of these runs is ``print``; nothing here loads them.
class Called:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("loaded",)


PICKLES = {
    "labels.json": pickle.dumps(Called()),
    "trailing.bin": pickle.dumps(Called()) + b"junk",
    "text.txt": pickle.dumps(Called(), protocol=0),
    "old.dat": pickle.dumps(Called(), protocol=1),
    "torch.bin": zipped(archive__data__pkl=b"").replace(b"data/pkl", b"data.pkl"),
    "objects.npy": npy(np.array([{}], dtype=object), allow_pickle=True),
    "objects.npz": zipped(**{"a.npy": npy(np.array([{}], dtype=object), allow_pickle=True)}),
    "model.pt": b"anything",
}
HARMLESS = {
    "labels.json": b'{"a": 1}',
    "empty.pkl": b"",
    "vocab.txt": b"cat\ndog\n(unknown)\n.",
    "numbers.npy": npy(np.arange(4)),
    "numbers.npz": zipped(**{"a.npy": npy(np.arange(4))}),
    "binary.bin": b"\x80\x04" + bytes(range(200, 256)),
}
ELF, PE = b"\x7fELF" + bytes(60), b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0"
SAFE = (60).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(60) + bytes(4)
add("pickle-asset", beside("labels.json", PICKLES["labels.json"]), beside("labels.json", HARMLESS["labels.json"]))
add("native-asset", beside("ops.txt", ELF), beside("readme.txt", b"MZ is how Windows programs begin" + bytes(60)))
add("script-asset", beside("run", b"#!/bin/sh\necho hi\n"), beside("notes.md", b"# !/bin/sh\n"))
add("weights-asset", beside("w.safetensors", SAFE), beside("w.json", b'{"dtype": "F32"}'))
add("archive-asset", beside("more.zip", zipped(a=b"x")), beside("more.txt", b"PK are two letters"))
add("archive-bomb", beside("big.zip", swollen(2**31)), beside("big.zip", swollen(2**29)))
add("link-asset", beside("l.txt", lambda p: p.symlink_to("/etc/hostname")), beside("l.txt", b"/etc/hostname"))
add("special-file", beside("pipe", os.mkfifo), beside("pipe", b""))
add("secret-asset", beside("key.txt", FALSE_KEY.encode()), beside("key.pem", b"-----BEGIN PUBLIC KEY-----\nAAAA\n"))
