"""Edge-case ONNX models, each in a folder of its own: what exporters, attackers and accidents produce. All are tiny."""

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as H
from onnx import numpy_helper as N

CASES = {}
rng = np.random.default_rng(0)
W = rng.standard_normal((8, 8)).astype("float32")


def case(desc):
    def deco(f):
        CASES[f.__name__] = (desc, f)
        return f

    return deco


def mk(nodes, inits, ins=None, outs=None, opset=17, ir=8, extra=(), functions=(), sparse=(), name="g"):
    ins = ins or [H.make_tensor_value_info("x", T.FLOAT, ["n", 8])]
    outs = outs or [H.make_tensor_value_info("y", T.FLOAT, ["a", "b"])]
    g = H.make_graph(nodes, name, ins, outs, inits, sparse_initializer=list(sparse))
    m = H.make_model(g, opset_imports=[H.make_opsetid("", opset), *extra], functions=list(functions))
    m.ir_version = ir
    return m


def put(d, m, **files):
    Path(d, "m.onnx").write_bytes(m.SerializeToString())


def ext(name, loc, arr=W, **kv):
    t = T()
    t.name = name
    t.data_type = T.FLOAT
    t.dims.extend(arr.shape)
    t.data_location = T.EXTERNAL
    for k, v in dict(location=loc, **kv).items():
        if v is not None:
            e = t.external_data.add()
            e.key = k
            e.value = str(v)
    return t


MM = H.make_node("MatMul", ["x", "w"], ["y"])


def blob(d, name, data=None, pad=0):
    p = os.path.join(d, name)
    os.makedirs(os.path.dirname(p), exist_ok=True)
    Path(p).write_bytes(b"\0" * pad + (W.tobytes() if data is None else data))
    return p


def extm(d, loc, **kv):
    put(d, mk([MM], [ext("w", loc, **kv)]))


@case("no initializer at all")
def zero_init(d):
    put(d, mk([H.make_node("Relu", ["x"], ["y"])], []))


@case("weights only in a Constant node")
def constant_only(d):
    put(d, mk([H.make_node("Constant", [], ["w"], value=N.from_array(W)), MM], []))


@case("float_data instead of raw_data")
def float_data(d):
    put(d, mk([MM], [H.make_tensor("w", T.FLOAT, W.shape, W.ravel().tolist())]))


@case("raw_data one byte short")
def raw_short(d):
    t = N.from_array(W, "w")
    t.raw_data = t.raw_data[:-1]
    put(d, mk([MM], [t]))


@case("sparse_initializer (COO)")
def sparse_init(d):
    v = H.make_tensor("w", T.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    i = H.make_tensor("w_i", T.INT64, [4], [0, 9, 18, 27])
    put(d, mk([MM], [], sparse=[H.make_sparse_tensor(v, i, [8, 8])], ir=8))


@case("initializer that is also a graph input: caller can override the weight in run()")
def init_is_input(d):
    put(
        d,
        mk(
            [MM],
            [N.from_array(W, "w")],
            ins=[H.make_tensor_value_info("x", T.FLOAT, ["n", 8]), H.make_tensor_value_info("w", T.FLOAT, [8, 8])],
        ),
    )


@case("two initializers with the same name")
def dup_init(d):
    put(d, mk([MM], [N.from_array(W, "w"), N.from_array(W * 2, "w")]))


@case("initializer nobody uses")
def unused_init(d):
    put(d, mk([MM], [N.from_array(W, "w"), N.from_array(W, "unused")]))


@case("If with initializers inside both branches, same names in each")
def if_subgraph(d):
    def br(k):
        return H.make_graph(
            [H.make_node("MatMul", ["x", "bw"], [f"o{k}"])],
            f"b{k}",
            [],
            [H.make_tensor_value_info(f"o{k}", T.FLOAT, ["a", "b"])],
            [N.from_array(W * k, "bw")],
        )

    put(
        d,
        mk(
            [H.make_node("If", ["c"], ["y"], then_branch=br(1), else_branch=br(2))],
            [],
            ins=[H.make_tensor_value_info("x", T.FLOAT, ["n", 8]), H.make_tensor_value_info("c", T.BOOL, [])],
        ),
    )


@case("Loop body with an initializer")
def loop_subgraph(d):
    b = H.make_graph(
        [H.make_node("MatMul", ["s", "bw"], ["s2"]), H.make_node("Identity", ["c_in"], ["c_out"])],
        "body",
        [
            H.make_tensor_value_info("i", T.INT64, []),
            H.make_tensor_value_info("c_in", T.BOOL, []),
            H.make_tensor_value_info("s", T.FLOAT, ["n", 8]),
        ],
        [H.make_tensor_value_info("c_out", T.BOOL, []), H.make_tensor_value_info("s2", T.FLOAT, ["n", 8])],
        [N.from_array(W / 4, "bw")],
    )
    put(d, mk([H.make_node("Loop", ["M", "", "x"], ["y"], body=b)], [N.from_array(np.array(3, "int64"), "M")]))


@case("model-local function whose body holds the weights")
def local_function(d):
    f = H.make_function(
        "my.dom",
        "Lin",
        ["a"],
        ["b"],
        [H.make_node("Constant", [], ["w"], value=N.from_array(W)), H.make_node("MatMul", ["a", "w"], ["b"])],
        [H.make_opsetid("", 17)],
    )
    put(
        d,
        mk([H.make_node("Lin", ["x"], ["y"], domain="my.dom")], [], extra=[H.make_opsetid("my.dom", 1)], functions=[f]),
    )


@case("training_info with its own initializers")
def training_info(d):
    m = mk([MM], [N.from_array(W, "w")])
    ti = m.training_info.add()
    ti.initialization.CopyFrom(H.make_graph([], "init", [], [], []))
    ti.algorithm.CopyFrom(
        H.make_graph(
            [H.make_node("Identity", ["w"], ["w_new"])],
            "algo",
            [],
            [H.make_tensor_value_info("w_new", T.FLOAT, [8, 8])],
            [N.from_array(W, "opt_state")],
        )
    )
    u = ti.update_binding.add()
    u.key = "w"
    u.value = "w_new"
    put(d, m)


@case("unregistered custom-domain op")
def custom_op(d):
    put(d, mk([H.make_node("Mystery", ["x"], ["y"], domain="acme.ops")], [], extra=[H.make_opsetid("acme.ops", 1)]))


@case("com.microsoft FusedMatMul")
def ms_op(d):
    put(
        d,
        mk(
            [H.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")],
            [N.from_array(W, "w")],
            extra=[H.make_opsetid("com.microsoft", 1)],
        ),
    )


@case("string input + string initializer; StringNormalizer needs an en_US.UTF-8 locale in ORT")
def strings(d):
    put(
        d,
        mk(
            [H.make_node("StringNormalizer", ["s"], ["y"], case_change_action="NONE", stopwords=["the"])],
            [N.from_array(np.array(["a", "\u65e5\u672c"], dtype=object), "vocab")],
            ins=[H.make_tensor_value_info("s", T.STRING, ["n"])],
            outs=[H.make_tensor_value_info("y", T.STRING, ["a"]), H.make_tensor_value_info("vocab", T.STRING, [2])],
        ),
    )


@case("seq(tensor) input")
def sequence_in(d):
    put(
        d,
        mk(
            [H.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)],
            [],
            ins=[H.make_tensor_sequence_value_info("s", T.FLOAT, [None, 3])],
        ),
    )


@case("optional(seq(tensor)) input")
def optional_in(d):
    v = onnx.ValueInfoProto()
    v.name = "s"
    v.type.CopyFrom(H.make_optional_type_proto(H.make_tensor_type_proto(T.FLOAT, [2])))
    put(
        d,
        mk(
            [H.make_node("OptionalHasElement", ["s"], ["y"])],
            [],
            ins=[v],
            outs=[H.make_tensor_value_info("y", T.BOOL, [])],
            opset=18,
        ),
    )


@case("float16 weight")
def fp16(d):
    put(
        d,
        mk(
            [MM],
            [N.from_array(W.astype("float16"), "w")],
            ins=[H.make_tensor_value_info("x", T.FLOAT16, ["n", 8])],
            outs=[H.make_tensor_value_info("y", T.FLOAT16, ["a", "b"])],
        ),
    )


@case("bfloat16 weight -> Cast")
def bf16(d):
    t = T()
    t.name = "w0"
    t.data_type = T.BFLOAT16
    t.dims.extend([8, 8])
    t.raw_data = (W.view("uint32") >> 16).astype("uint16").tobytes()
    put(d, mk([H.make_node("Cast", ["w0"], ["w"], to=T.FLOAT), MM], [t]))


@case("int4 weight (packed 2/byte) -> DequantizeLinear")
def int4(d):
    t = T()
    t.name = "q"
    t.data_type = T.INT4
    t.dims.extend([8, 8])
    t.raw_data = rng.integers(0, 256, 32).astype("uint8").tobytes()
    put(
        d,
        mk(
            [H.make_node("DequantizeLinear", ["q", "sc"], ["w"]), MM],
            [t, N.from_array(np.array(0.1, "float32"), "sc")],
            opset=21,
            ir=10,
        ),
    )


@case("float8e4m3fn weight -> DequantizeLinear")
def fp8(d):
    t = T()
    t.name = "q"
    t.data_type = T.FLOAT8E4M3FN
    t.dims.extend([8, 8])
    t.raw_data = rng.integers(0, 126, 64).astype("uint8").tobytes()
    put(
        d,
        mk(
            [H.make_node("DequantizeLinear", ["q", "sc"], ["w"]), MM],
            [t, N.from_array(np.array(0.1, "float32"), "sc")],
            opset=19,
            ir=9,
        ),
    )


@case("QDQ int8 weight + activation")
def qdq(d):
    q = np.clip(np.round(W / 0.03), -128, 127).astype("int8")
    put(
        d,
        mk(
            [
                H.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
                H.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
                H.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
                H.make_node("MatMul", ["xd", "w"], ["y"]),
            ],
            [
                N.from_array(q, "q"),
                N.from_array(np.array(0.03, "float32"), "s"),
                N.from_array(np.array(0, "int8"), "z"),
            ],
        ),
    )


@case("scalar and zero-element initializers")
def odd_shapes(d):
    put(
        d,
        mk(
            [H.make_node("Concat", ["x", "e"], ["c"], axis=0), H.make_node("Mul", ["c", "k"], ["y"])],
            [N.from_array(np.zeros((0, 8), "float32"), "e"), N.from_array(np.array(2, "float32"), "k")],
        ),
    )


@case("NaN/Inf/denormal/-0 in weights")
def nonfinite(d):
    w = W.copy()
    w[0, :4] = [np.nan, np.inf, -0.0, 1e-42]
    put(d, mk([MM], [N.from_array(w, "w")]))


@case("names with spaces, unicode, NUL-free control chars, '/', '..', 1000 chars")
def weird_names(d):
    n = ["../../w", "wei\u00dfe \u65e5\u672c \U0001f511", "a\tb\nc", "w" * 1000]
    nodes = []
    cur = "x"
    for k, w in enumerate(n):
        o = "y" if k == 3 else f"out {k}/\u00fc"
        nodes.append(H.make_node("MatMul", [cur, w], [o], name=w))
        cur = o
    put(d, mk(nodes, [N.from_array(W, w) for w in n]))


@case("unknown protobuf field appended (field 5000)")
def unknown_field(d):
    b = mk([MM], [N.from_array(W, "w")]).SerializeToString() + b"\xc2\xb8\x02\x05hello"
    Path(d, "m.onnx").write_bytes(b)


@case("truncated by 40 bytes")
def truncated(d):
    Path(d, "m.onnx").write_bytes(mk([MM], [N.from_array(W, "w")]).SerializeToString()[:-40])


@case("empty file")
def empty(d):
    Path(d, "m.onnx").write_bytes(b"")


@case("IR version 99")
def ir_future(d):
    put(d, mk([MM], [N.from_array(W, "w")], ir=99))


@case("opset 99")
def opset_future(d):
    put(d, mk([MM], [N.from_array(W, "w")], opset=99))


for _o in (7, 8, 9, 11, 13, 15, 17, 19, 21, 22, 23, 24, 25, 26, 27):
    if _o > onnx.defs.onnx_opset_version():
        break

    def _f(d, o=_o):
        put(
            d,
            mk(
                [H.make_node("Relu", ["x"], ["r"]), H.make_node("MatMul", ["r", "w"], ["y"])],
                [N.from_array(W, "w")],
                opset=o,
                ir=3 if o < 9 else 8 if o < 20 else 10,
                ins=[H.make_tensor_value_info("x", T.FLOAT, ["n", 8])]
                + ([H.make_tensor_value_info("w", T.FLOAT, [8, 8])] if o < 9 else []),
            ),
        )

    CASES[f"opset_{_o:02d}"] = (f"opset {_o}", _f)


# ------------------------------------------------------------ external data
@case("external, plain")
def ext_ok(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset=0, length=256)


@case("external, no offset/length keys")
def ext_nolen(d):
    blob(d, "w.bin")
    extm(d, "w.bin")


@case("external, wrong checksum key")
def ext_checksum(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset=0, length=256, checksum="0" * 40)


@case("external, two tensors at the same offset of one file")
def ext_shared(d):
    blob(d, "w.bin")
    put(
        d,
        mk(
            [H.make_node("MatMul", ["x", "w"], ["h"]), H.make_node("MatMul", ["h", "v"], ["y"])],
            [ext("w", "w.bin", offset=0, length=256), ext("v", "w.bin", offset=0, length=256)],
        ),
    )


@case("external, overlapping ranges")
def ext_overlap(d):
    blob(d, "w.bin", np.concatenate([W, W]).tobytes())
    put(
        d,
        mk(
            [H.make_node("MatMul", ["x", "w"], ["h"]), H.make_node("MatMul", ["h", "v"], ["y"])],
            [ext("w", "w.bin", offset=0, length=256), ext("v", "w.bin", offset=128, length=256)],
        ),
    )


@case("external, offset 3 (misaligned)")
def ext_misaligned(d):
    blob(d, "w.bin", pad=3)
    extm(d, "w.bin", offset=3, length=256)


@case("external, offset beyond EOF")
def ext_off_eof(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset=4096, length=256)


@case("external, length past EOF")
def ext_len_eof(d):
    blob(d, "w.bin", W.tobytes()[:200])
    extm(d, "w.bin", offset=0, length=256)


@case("external, length differs from shape")
def ext_len_shape(d):
    blob(d, "w.bin", pad=64)
    extm(d, "w.bin", offset=0, length=300)


@case("external, negative offset")
def ext_negoff(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset=-8, length=256)


@case("external, offset 2**63 overflow")
def ext_hugeoff(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset=2**63, length=256)


@case("external, non-numeric offset")
def ext_badoff(d):
    blob(d, "w.bin")
    extm(d, "w.bin", offset="0x0", length=256)


@case("external, file missing")
def ext_missing(d):
    extm(d, "w.bin", offset=0, length=256)


@case("external, empty location")
def ext_empty(d):
    extm(d, "", offset=0, length=256)


@case("external, location key absent")
def ext_noloc(d):
    extm(d, None, offset=0, length=256)


@case("external AND raw_data set")
def ext_and_raw(d):
    blob(d, "w.bin")
    t = ext("w", "w.bin", offset=0, length=256)
    t.raw_data = (W * 2).tobytes()
    put(d, mk([MM], [t]))


@case("external, ../ traversal to a real file outside")
def ext_dotdot(d):
    blob(os.path.dirname(d), "outside.bin")
    extm(d, "../outside.bin", offset=0, length=256)


@case("external, ../../../../etc/passwd")
def ext_passwd(d):
    extm(d, "../../../../../../../../etc/passwd", offset=0, length=256)


@case("external, absolute /etc/passwd")
def ext_abs(d):
    extm(d, "/etc/passwd", offset=0, length=256)


@case("external, sub/../w.bin stays inside")
def ext_norm(d):
    os.makedirs(d + "/sub", exist_ok=True)
    blob(d, "w.bin")
    extm(d, "sub/../w.bin", offset=0, length=256)


@case("external, ./w.bin")
def ext_dotslash(d):
    blob(d, "w.bin")
    extm(d, "./w.bin", offset=0, length=256)


@case("external, sub/w.bin")
def ext_subdir(d):
    blob(d, "sub/w.bin")
    extm(d, "sub/w.bin", offset=0, length=256)


@case("external, unicode + space name")
def ext_unicode(d):
    blob(d, "w\u00e9ights \u6570\u636e.bin")
    extm(d, "w\u00e9ights \u6570\u636e.bin", offset=0, length=256)


@case("external, backslash name")
def ext_backslash(d):
    blob(d, "sub\\w.bin")
    extm(d, "sub\\w.bin", offset=0, length=256)


@case("external, final symlink to a file inside")
def ext_symlink_in(d):
    blob(d, "real.bin")
    os.symlink("real.bin", d + "/w.bin")
    extm(d, "w.bin", offset=0, length=256)


@case("external, symlink to a file outside")
def ext_symlink_out(d):
    blob(os.path.dirname(d), "outside.bin")
    os.symlink("../outside.bin", d + "/w.bin")
    extm(d, "w.bin", offset=0, length=256)


@case("external, model file itself is the location")
def ext_self(d):
    extm(d, "m.onnx", offset=0, length=256)


@case("external, location is a directory")
def ext_dir(d):
    os.makedirs(d + "/w.bin")
    extm(d, "w.bin", offset=0, length=256)


@case("external tensor in a Constant node attribute")
def ext_constant(d):
    blob(d, "w.bin")
    put(d, mk([H.make_node("Constant", [], ["w"], value=ext("w", "w.bin", offset=0, length=256)), MM], []))


@case("external initializer inside an If branch")
def ext_if(d):
    blob(d, "w.bin")

    def br(k):
        return H.make_graph(
            [H.make_node("MatMul", ["x", "bw"], [f"o{k}"])],
            f"b{k}",
            [],
            [H.make_tensor_value_info(f"o{k}", T.FLOAT, ["a", "b"])],
            [ext("bw", "w.bin", offset=0, length=256)],
        )

    put(
        d,
        mk(
            [H.make_node("If", ["c"], ["y"], then_branch=br(1), else_branch=br(2))],
            [],
            ins=[H.make_tensor_value_info("x", T.FLOAT, ["n", 8]), H.make_tensor_value_info("c", T.BOOL, [])],
        ),
    )


@case("external, two files")
def ext_two(d):
    blob(d, "a.bin")
    blob(d, "b.bin")
    put(
        d,
        mk(
            [H.make_node("MatMul", ["x", "w"], ["h"]), H.make_node("MatMul", ["h", "v"], ["y"])],
            [ext("w", "a.bin", offset=0, length=256), ext("v", "b.bin", offset=0, length=256)],
        ),
    )


def build(base: Path) -> dict[str, Path]:
    """Write every case below ``base``; case name -> model file."""
    paths = {}
    for name, (_, make) in CASES.items():
        folder = base / name / "model"
        folder.mkdir(parents=True)
        make(str(folder))
        paths[name] = folder / "m.onnx"
    return paths
