"""Writes watermark.json: one worked example of docs/WATERMARK.md, the same on every run.

python tests/vectors/make_watermark.py
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from modelvault.keys import OwnerSecret
from modelvault.watermark.carriers import model_digest, sketch_signs, tensor_digest, to_float
from modelvault.watermark.code import check_bytes, rs_encode
from modelvault.watermark.detect import Evidence, difference, log10_bound, score
from modelvault.watermark.marker import Marker
from modelvault.watermark.pattern import ModelKey
from modelvault.watermark.record import commit

PATH = Path(__file__).parent / "watermark.json"
SECRET = bytes(range(32))
STRENGTH = 5000
PAYLOAD = b"vector 1".ljust(16, b"\0")
TENSORS = (("FLOAT", (48, 96)), ("INT8", (32, 64)))


def numbers(seed: str, count: int) -> Any:
    """Sixteen-bit integers from SHA-256 in counter mode."""
    data = b"".join(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(-(-2 * count // 32)))
    return np.frombuffer(data[: 2 * count], "<i2").astype(np.float64)


def elements(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Sums of four uniform numbers; integers from -128 to 127."""
    count = shape[0] * shape[1]
    total = sum(numbers(f"{dtype} {part}", count) for part in range(4)) / 65536
    return bytes(total.astype("<f4").tobytes() if dtype == "FLOAT" else np.round(total * 60).astype("i1").tobytes())


def text(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def build() -> dict[str, Any]:
    held = [(d, s, elements(d, s)) for d, s in TENSORS]
    digests = [tensor_digest(*t) for t in held]
    original = model_digest(digests)
    key = ModelKey(SECRET, original)
    mac = key.derive(b"", b"payload")
    marker = Marker(key, STRENGTH / 1e6, PAYLOAD, frozenset(digests))
    tensors, scores = [], []
    for (dtype, shape, data), digest in zip(held, digests, strict=True):
        count = shape[0] * shape[1]
        marked = marker.edit(dtype, shape, data)
        assert marked is not None
        [(_, pattern)] = list(key.pattern(digest, count))
        found = difference(dtype, shape, to_float(dtype, marked), to_float(dtype, data))
        scores.append(score(key, digest, found))
        tensors.append(
            {
                "dtype": dtype,
                "shape": list(shape),
                "data": text(data),
                "digest": digest.hex(),
                "pattern_key": key.derive(digest, b"pattern").hex(),
                "pattern": pattern[:32].tolist(),
                "shifts": key.shifts(digest, count).tolist(),
                "record_signs": sketch_signs(to_float(dtype, data)).hex(),
                "marked": text(marked),
            }
        )
    signs = key.signs(PAYLOAD)
    commitment = commit(OwnerSecret(SECRET), original, STRENGTH, PAYLOAD)
    return {
        "secret": SECRET.hex(),
        "strength": STRENGTH,
        "payload": PAYLOAD.hex(),
        "original": original.hex(),
        "payload_key": mac.hex(),
        "code_word": rs_encode(PAYLOAD + check_bytes(mac, PAYLOAD)).hex(),
        "signs": hashlib.sha256(signs.tobytes()).hexdigest(),
        "first_signs": signs[:32].tolist(),
        "commitment_key": key.derive(b"", b"commitment").hex(),
        "commitment": commitment.to_dict(),
        "tensors": tensors,
        "z": round(Evidence.of(scores).z(signs), 3),
        "log10_p_of_z_10_in_4_trials": round(log10_bound(10, 2), 6),
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1, sort_keys=True) + "\n")
