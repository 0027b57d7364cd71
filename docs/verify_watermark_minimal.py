"""Verify a watermark from docs/WATERMARK.md alone: a second, independent reader.

    python verify_watermark_minimal.py SUSPECT.onnx RECORD.json OWNER.key [ORIGINAL.onnx]   informed with the original
A secret under a passphrase is opened with $MODELVAULT_PASSPHRASE. Status 0 for a claim at 1e-12, 30 for none. Nothing
is aligned: the suspect's tensors stand in the original's order or, blind, keep their shapes.
"""

import base64
import hashlib
import hmac
import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
from cryptography.hazmat.primitives.kdf import hkdf, scrypt

V1, SCHEME, MARK, STEP = b"modelvault/v1/watermark/", "modelvault/watermark/v1", 0.003, 4 / math.sqrt(2) / 256
WEIGHTS = "DequantizeLinear:0 Cast:0 MatMulInteger:1 ConvInteger:1 QLinearMatMul:3 QLinearConv:3 QGemm:3 QAttention:1 "
WEIGHTS += "DynamicQuantizeMatMul:1 MatMulIntegerToFloat:1 DynamicQuantizeLSTM:1 DynamicQuantizeLSTM:2"
LEAVES = {"TreeEnsembleRegressor": "target_weights", "TreeEnsembleClassifier": "class_weights"}
CHIPS = 1 - 2 * np.array([[(b & 1) + (b >> 1 & i).bit_count() & 1 for i in range(128)] for b in range(256)])
EXP = [1]
for _ in range(254):
    EXP.append(EXP[-1] << 1 ^ (0x11D if EXP[-1] & 128 else 0))


def tensors(path):
    """Every dense tensor of a model as (name, type, elements as stored), and the names that are read as weights."""
    found, weights, waiting = [], set(), [onnx.load(path)]
    while waiting:
        item = waiting.pop(0)
        kind = onnx.TensorProto.DataType.Name(item.data_type) if isinstance(item, onnx.TensorProto) else ""
        if kind in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8"):
            data = onnx.numpy_helper.to_array(item)
            found.append((item.name, kind, data.view("<u2") if kind == "BFLOAT16" else data))
        if isinstance(item, onnx.NodeProto):
            weights |= {name for n, name in enumerate(item.input) if f"{item.op_type}:{n}" in WEIGHTS.split()}
            for part in item.attribute:
                if item.op_type == "Constant" and part.name == "value":
                    part.t.name = item.output[0]
                if part.name == LEAVES.get(item.op_type):
                    found.append((None, "FLOAT", np.array(part.floats, "<f4")))
        below = [value for field, value in item.ListFields() if field.message_type and "sparse" not in field.name]
        waiting += [m for value in below for m in ([value] if hasattr(value, "ListFields") else value)]
    return found, weights


def floats(kind, data):
    """A table of float32: dimensions of 1 dropped, the first of the others against the rest."""
    dims = [d for d in data.shape if d != 1]
    data = (data.astype("u4") << 16).view("f4") if kind == "BFLOAT16" else data.astype("f4")
    return data.reshape(dims[0] if len(dims) > 1 else 1, -1)


def is_carrier(name, kind, data, weights):
    if data.size < 1024 or ("INT8" in kind and name not in weights):
        return False
    values = floats(kind, data)
    sample = values.reshape(-1)[:: max(1, data.size // 1024)][:1024]
    wide = len(values) > 1 or name is None
    return wide and np.isfinite(np.vdot(values, values)) and len(np.unique(sample[sample != 0])) >= 64


def digest_of(kind, data):
    head = f"{kind} {','.join(map(str, data.shape))}\n".encode()
    return hashlib.sha256(V1 + b"tensor\n" + head + data.tobytes()).digest()


def derive(key, salt, use):
    return hkdf.HKDF(hashes.SHA256(), 32, salt, V1 + use).derive(key)


def stream(key, digest, use, size):
    cipher = Cipher(algorithms.AES(derive(key, digest, use)), modes.CTR(bytes(16)))
    return np.frombuffer(cipher.encryptor().update(bytes(size)), np.uint8)


def shares(like, counts):
    """EM: the share of each column's distribution in what was counted, by size (rows)."""
    part = np.full(like.shape[1], 1 / like.shape[1])
    for _ in range(200):
        part = counts @ (like * part / (like @ part)[:, None])
        part /= part.sum()
    return part


def clipped(d):
    some = np.abs(d.reshape(-1)[:: max(1, d.size // 65536)])
    limit = 4 * 1.4826 * np.median(some[some > 0] if some.any() else np.abs(d[d != 0]))
    return np.clip(d, -limit, limit)


def weigh_floats(d):
    used, squares = d != 0, np.square(clipped(d))
    v = math.sqrt(squares.sum() / used.sum())
    mean = [np.where((n := used.sum(k)) < 16, v * v, squares.sum(k) / np.maximum(n, 1)) for k in (1, 0)]
    sigma = np.maximum(np.sqrt(np.outer(*mean)) / v, MARK)
    u = np.clip(d / sigma, -64, 64).astype("f4")
    classes = np.abs(u).view("u4") >> 20
    sizes = (np.arange(classes.max() + 1, dtype="u4") << 20).view("f4") * np.float64(1.0625)
    a = min(1, max(2**-20, MARK / v))
    variances = a * a * 2.0 ** np.arange(math.ceil(2 * math.log2(64 / a)) + 1)
    like = np.exp(-np.square(sizes)[:, None] / (2 * variances)) / np.sqrt(variances)
    some, every = (array.reshape(-1)[:: max(1, d.size // 65536)] for array in (classes, u))
    joint = like * shares(like, np.bincount(some[every != 0], minlength=len(sizes)))
    return MARK * u * (joint @ (1 / variances) / joint.sum(1))[classes] / sigma


def weigh_steps(d):
    n, places = np.minimum(128, np.abs(np.rint(d))).astype(int), np.arange(-129, 130)
    noise = [places == 0, *(np.exp(-np.square(places) / (0.5 * 2**j)) for j in range(16))]
    here, below, above = (np.array([p[129 + k : 258 + k] / p.sum() for p in noise]).T for k in (0, -1, 1))
    like = here * (1 - 2 / 256) + (below + above) / 256
    part = shares(like, np.bincount(n.reshape(-1), minlength=129))
    return np.sign(d) * (STEP * ((below - above) @ part) / (like @ part))[n]


def expected(kind, suspect, original=None):
    """Section 7's q: what each element is expected to hold of the pattern. No key is in it."""
    suspect, steps = np.nan_to_num(suspect, nan=0, posinf=0, neginf=0), "INT8" in kind
    squares = np.square(suspect if original is None else original).astype("f8") ** (not steps)
    rho = np.sqrt(squares.mean(1, keepdims=True) * squares.mean(0, keepdims=True) / (squares.mean() or 1))
    change = suspect.astype("f8") - (0 if original is None else original)
    d = np.divide(change, rho, out=np.zeros_like(rho), where=(suspect != 0) & (rho > 0))
    if steps and original is None:
        return 2 * STEP * clipped(d) / max(np.mean(clipped(d) ** 2), 4 * STEP**2)
    return (weigh_steps(d) if steps else weigh_floats(d)) if d.any() else d


def slot_sums(key, digest, q):
    """Each slot's sum of q times the pattern, and the sum of all squares of q."""
    shifts = stream(key, digest, b"slots", 2 * -(-q.size // 4096)).view("<u2").astype(int)
    ones = np.unpackbits(stream(key, digest, b"pattern", q.size)[:, None], axis=1).sum(1, dtype=int)
    slots = (np.repeat(shifts, 4096)[: q.size] + np.arange(q.size)) % 4096
    return np.bincount(slots, q.reshape(-1) * (ones - 4) / math.sqrt(2), 4096), np.square(q).sum()


def times(a, b):
    return EXP[(EXP.index(a) + EXP.index(b)) % 255] if a and b else 0


def correct(word, places):
    """The word of the Reed-Solomon code that differs at ``places`` alone, by elimination; None where there is none."""
    rows = [[EXP[r * (31 - p) % 255] for p in places] + [0] for r in range(12)]
    for row, root in zip(rows, EXP, strict=False):
        for byte in word:
            row[-1] = times(row[-1], root) ^ byte
    for n in range(len(places)):
        inverse = EXP[-EXP.index(rows[n][n]) % 255]
        rows[n] = [times(value, inverse) for value in rows[n]]
        others = [[v ^ times(row[n], p) for v, p in zip(row, rows[n], strict=True)] for row in rows]
        rows = [*others[:n], rows[n], *others[n + 1 :]]
    changes = dict(zip(places, [row[-1] for row in rows], strict=False))
    fits = not any(row[-1] for row in rows[len(places) :])
    return bytes(byte ^ changes.get(n, 0) for n, byte in enumerate(word)) if fits else None


def code_word(key, payload):
    check = hmac.digest(derive(key, b"", b"payload"), payload, "sha256")[:4]
    return correct(payload + check + bytes(12), range(20, 32))


def read_payload(key, sums):
    """The payload that the slots spell; bytes that are wrong and not erased are not looked for, as they may be."""
    fit = sums.reshape(32, 128) @ CHIPS.T
    best, order = fit.argmax(1), np.sort(fit)
    unsure = np.argsort(order[:, -1] - order[:, -2]).tolist()
    words = [correct(best.tolist(), unsure[:erased]) for erased in range(0, 13, 2)]
    return next((w[:16] for w in words if w and code_word(key, w[:16]) == w), None)


def load_secret(path):
    label, body = re.fullmatch(r"-+BEGIN (.*) OWNER SECRET-+\n([^-]+)-+END .*\n", path.read_text(), re.DOTALL).groups()
    body = base64.b64decode(body)
    if label != "MODELVAULT":
        passphrase = os.environ["MODELVAULT_PASSPHRASE"].encode()
        key = scrypt.Scrypt(body[:16], 32, 2**17, 8, 1).derive(passphrase)
        body = aead.AESGCM(key).decrypt(body[16:28], body[28:], b"modelvault/v1/owner")
    return body


def compared(suspect, record, original):
    """(digest, q) of every carrier: of the original's or, blind, of those recorded ones that are found."""
    if original:
        found, weights = tensors(original)
        for (name, kind, data), (_, other, leaked) in zip(found, suspect, strict=True):
            if is_carrier(name, kind, data, weights):
                yield digest_of(kind, data), expected(kind, floats(other, leaked), floats(kind, data))
        return
    held = [(kind, floats(kind, data)) for _, kind, data in suspect if data.size >= 128]
    places = np.arange(256)
    for entry in record["carriers"]:
        wanted = np.unpackbits(np.frombuffer(bytes.fromhex(entry["signs"]), np.uint8))
        shape = floats("INT8", np.empty(entry["shape"], "i1")).shape
        fits = [t for kind, t in held if t.shape == shape and ("INT8" in kind) == ("INT8" in entry["dtype"])]
        agree = [((t.reshape(-1)[places * t.size // 256] > 0) == wanted).sum() for t in fits]
        if max(agree, default=0) >= 180:
            yield bytes.fromhex(entry["digest"]), expected(entry["dtype"], fits[int(np.argmax(agree))])


def verify(suspect, record, secret, original=None):
    """(score, log10 of the bound on its chance, payload read) for the payload of a record, which must open."""
    commitment, payload = record["commitment"], bytes.fromhex(record["payload"])
    identity = bytes.fromhex(commitment["original"])
    key = derive(secret, identity, b"model")
    terms = {"original": identity.hex(), "payload": payload.hex(), "scheme": SCHEME, "strength": commitment["strength"]}
    opening = derive(key, b"", b"commitment") + json.dumps(terms, separators=(",", ":")).encode()
    if hashlib.sha256(V1 + b"commitment\n" + opening).hexdigest() != commitment["commitment"]:
        raise ValueError("the record is not of this owner")
    carriers = {}
    for digest, q in compared(tensors(suspect)[0], record, original):
        carriers.setdefault(digest, q)
    if original and hashlib.sha256(V1 + b"original\n" + b"".join(sorted(carriers))).digest() != identity:
        raise ValueError("the record is of another original")
    sums, energy = np.zeros(4096), 0.0
    for digest, q in carriers.items():
        own, power = slot_sums(key, digest, q)
        sums, energy = sums + own, energy + power
    words = {code_word(key, named) for named in (payload, bytes(16))}
    z = max(float(sums @ CHIPS[list(word)].reshape(-1)) / math.sqrt(energy or 1) for word in words)
    bound = max(-256 * math.log(2), math.log(2 * len(words)) - z * z / 2) if z > 0 else 0.0
    return z, min(0.0, bound / math.log(10)), read_payload(key, sums)


if __name__ == "__main__":
    suspect, record, owner, *original = map(Path, sys.argv[1:])
    score, chance, payload = verify(suspect, json.loads(record.read_text()), load_secret(owner), *original)
    print(f"score {score:.3f}\nlog10 p {chance:.2f}\npayload {payload.hex() if payload else None}")
    sys.exit(0 if chance <= -12 else 30)
