"""Write the seeds that no test vector holds into corpus/, one folder a target: python tests/fuzz/make_corpus.py"""

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from vectors.builder.base import WITNESS, b64, noise, sha  # noqa: E402
from vectors.builder.keys import pem  # noqa: E402
from vectors.builder.logs import good, line, note  # noqa: E402
from vectors.builder.sealed import FINGERPRINT, WATERMARK  # noqa: E402


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def model() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.arange(64, dtype=np.float32).reshape(8, 8), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 8])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def external() -> bytes:
    found = model()
    tensor = found.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", "256")):
        tensor.external_data.add(key=key, value=value)
    return bytes(found.SerializeToString())


def untyped() -> bytes:
    found = model()
    found.graph.input[0].type.tensor_type.elem_type = 145_791
    return bytes(found.SerializeToString())


def npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, w=np.arange(6, dtype=np.float32).reshape(2, 3))
    return data.getvalue()


def safetensors() -> bytes:
    header = compact({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})
    return struct.pack("<Q", len(header)) + header + bytes(16)


TERMS = {
    "not_after": "2099-12-31T23:59:59Z", "versions": ["1.*"], "max_loads": {"count": 5, "per": "day"},
    "max_sessions": 2,
    "min_loader": "0.1", "memory": "lean", "queries": {"rejected": 0.5, "total": 9}, "purposes": ["test"],
}  # fmt: skip
TOML = b"""not_after = 2099-12-31T23:59:59Z
max_loads = { count = 20, per = "day" }
purposes = ["screening"]
[queries]
rejected = 0.5
"""
TRUST = b"""version = 1
[[publisher]]
name = "acme"
models = ["*"]
threshold = 1
[[publisher.key]]
file = "a.pub"
fingerprint = "SHA256:x"
[audit]
rotate_days = 30
"""
INDEX = {
    "assets": [{"path": "a/b", "sha256": "0" * 64, "size": 1}], "region": 256, "sources": [], "weights": {"FLOAT": 256},
    "guard": [{"name": "x", "dtype": "float32", "shape": [[1, 2]], "values": [0, 1.5]}],
}  # fmt: skip
TABLE = [{"dtype": "FLOAT", "length": 256, "name": "w", "offset": 0, "shape": [8, 8]}]
USAGE = {
    "counts": {"a": {"day": ["2026-11-25", 1, 2]}},
    "lists": {"l": [1, "00"]},
    "sessions": {"1": {"boot": "b", "subjects": []}},
}
MARK = {
    "carriers": [{"digest": "0" * 64, "dtype": "FLOAT", "name": "w", "shape": [8, 8], "signs": "00" * 32}],
    "commitment": WATERMARK, "created": "2026-11-25T12:00:00Z", "model": "m", "payload": "00" * 16,
    "type": "modelvault/watermark-record/v1",
}  # fmt: skip


def scrypt_bomb(n: int = 2**40) -> bytes:
    """An encrypted key that asks for n x 1 KiB of memory, with nothing in it."""

    def tlv(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([tag, len(body)]) + body

    costs = [tlv(2, cost.to_bytes(6, "big")) for cost in (n, 8, 1, 32)]
    derivation = tlv(0x30, tlv(6, bytes.fromhex("2b06010401da47040b")), tlv(0x30, tlv(4, bytes(8)), *costs))
    cipher = tlv(0x30, tlv(6, bytes.fromhex("60864801650304012a")), tlv(4, bytes(16)))
    scheme = tlv(0x30, tlv(6, bytes.fromhex("2a864886f70d01050d")), tlv(0x30, derivation, cipher))
    return pem(tlv(0x30, scheme, tlv(4, bytes(16))), "ENCRYPTED PRIVATE KEY")


def corpus() -> dict[str, bytes]:
    """Target and name to input."""
    log = good()
    kept = note(log.text())
    key = f"w+{sha(b'w', bytes([10, 4]), WITNESS.raw)[:4].hex()}+{b64(bytes([4]) + WITNESS.raw)}"
    stamp = b64(sha(b"w", bytes([10, 4]), WITNESS.raw)[:4] + (1795608000).to_bytes(8, "big") + bytes(64))
    opening = compact({"commitment": b64(sha(bytes(32), compact("v"))), "salt": b64(bytes(32)), "value": "v"})
    state = {
        "origin": log.origin, "epoch": 0, "began": 0, "since": "2026-11-25T12:00:00Z", "key": b64(WITNESS.raw),
        "ended": False,
        "offset": 9, "head": 1, "batch": 1, "size": 1, "edge": ["0" * 64],
    }  # fmt: skip
    return {
        "base64/text": b"SGVsbG8=",
        "time/zulu": b"2026-11-25T12:00:00Z",
        "time/offset": b"2026-11-25T12:00:00.123456+01:00",
        "terms/all": compact(TERMS),
        "terms_toml/all": TOML,
        "trust_policy/all": TRUST,
        "variants/all": compact(FINGERPRINT),
        "commitment/all": compact(WATERMARK),
        "key_ring/eight": b"\0" + noise("ring", 257),
        "slot_places/eight": struct.pack("<8Q", *range(0, 2**14, 2**11)),
        "index/all": compact(INDEX) + b"\n" + compact(TABLE) + b"\n",
        "cosignature/witness": (kept + line(log.text(), WITNESS, "v") + f"\N{EM DASH} w {stamp}\n").encode(),
        "verifier_key/witness": key.encode(),
        "audit_openings/one": opening + b"\n",
        "audit_state/one": compact(state),
        "audit_usage/one": compact(USAGE),
        "witness_request/first": f"old 0\n\n{kept}".encode(),
        "graph/external": external(),
        "onnx_model/inline": model().SerializeToString(),
        "onnx_model/external": external(),
        "scanned/inline": model().SerializeToString(),
        "scanned/external": external(),
        "compared/inline": model().SerializeToString(),
        "tensor_file/npz": npz(),
        "tensor_file/safetensors": safetensors(),
        "watermark_record/one": compact(MARK),
        "urls/s3": b"s3://bucket/key?versionId=1#part",
        "urls/memory": b"memory://user:pass@host/m.mvlt",
        "key_references/env": b"env:NAME",
        "key_references/name": b"publisher-2026",
        "key_references/https": b"https://[::1]:8200/v1",
        "token_uri/all": b"token=hsm;object=release;id=%01?module-path=/usr/lib/p11.so",
    }


# What fuzzing found; each ended in a traceback, or in a message of several lines.
FINDINGS = {
    "terms_toml/digits": b"max_sessions = " + b"1" * 5000,
    "terms_toml/hex-digits": b"max_sessions = 0x" + b"f" * 6000,
    "terms_toml/year-0": b"not_after = 0001-01-01T00:00:00+14:00",
    "terms_toml/dotted": b".".join([b"a"] * 3000) + b" = 1",
    "trust_policy/nul": TRUST.replace(b"a.pub", b"a\\u0000.pub"),
    "index/large-number": compact(
        {**INDEX, "guard": [{"name": "x", "dtype": "float32", "shape": [[1, 10**400]], "values": [0, 1]}]}
    ),
    "time/year-0": b"0001-01-01T00:00:00+14:00",
    "grant_statement/line-feed": b'{"_type":"https://in-toto.io/Statement/v1","predicateType":"a\\nb"}',
    "onnx_model/not-utf-8": external().replace(b"length", b"l\xe5ngth"),
    "onnx_model/element-type": untyped(),
    "private_keys/scrypt": scrypt_bomb(),
    "key_references/line-feed": b"https:\n/v0",
    "key_references/long": b"x" * 300 + b"/y",
    "key_references/long-name": b"x" * 300,
}


def main() -> None:
    for path, data in {**corpus(), **FINDINGS}.items():
        (HERE / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / "corpus" / path).write_bytes(data)


if __name__ == "__main__":
    main()
