"""Verify a sealed model or an audit log from docs/FORMAT.md and docs/AUDITING.md alone: a second, independent reader.

    python verify_minimal.py MODEL.mvlt PUBLISHER.pub ...       every key named must have signed
    python verify_minimal.py LOG HOST.pub [CHECKPOINT ...]      closed segments (LOG.000000 ...) are found beside LOG
Status 0 when everything holds, else 1. What is encrypted, terms and grants are not read.
"""

import base64
import hashlib
import json
import re
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

TYPES = ["application/vnd.in-toto+json", "https://in-toto.io/Statement/v1", "urn:modelvault:sealed-model:v1"]
KINDS, NAME = "graph(,weights)*(,variants)?(,asset)*,index", "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
PREDICATE = {"created", "extents", "keyCommitment", "nonce", "policy", "publishers", "version"}


def need(holds, reason):
    if not holds:
        raise ValueError(reason)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def decode(text, length=None):
    data = base64.b64decode(text, validate=True)
    need(base64.b64encode(data).decode() == text and length in (None, len(data)), "base64")
    return data


def canonical(data):
    value = json.loads(data.decode())
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    need(isinstance(value, dict) and text.encode() == data, "JSON that is not canonical")
    return value


def fingerprint(*parts):
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return "SHA256:" + base64.b64encode(sha(*(part.public_bytes(*form) for part in parts))).decode().rstrip("=")


def load_key(path):
    blocks = re.findall(b"-+BEGIN[^-]+-+[^-]+-+END[^-]+-+", path.read_bytes())
    parts = [serialization.load_pem_public_key(block) for block in blocks]
    return fingerprint(*parts), parts


def add(peaks, size, leaf):
    """Add a leaf to a Merkle tree of `size` leaves, kept as the roots of its full subtrees; return the tree's root."""
    while size & 1:
        leaf, size = sha(b"\1", peaks.pop(), leaf), size >> 1
    peaks.append(leaf)
    for peak in peaks[-2::-1]:
        leaf = sha(b"\1", peak, leaf)
    return leaf


def check_sealed(file, total, keys):
    magic, size, grants_size, offset = struct.unpack(">12sIIQ", file.read(28))
    end, place, peaks, leaves, root = 28 + size + grants_size, 0, [], 0, b""
    need(magic == b"\x89MVLT\r\n\x1a\0\1\0\0" and 1 <= size <= 16 << 20 and grants_size <= 64 << 20, "prelude")
    need(offset % 4096 == 0 and end <= offset < end + 8192 and offset <= total, "payload offset")
    envelope, _, padding = canonical(file.read(size)), file.read(grants_size), file.read(offset - end)
    payload, given = decode(envelope["payload"]), envelope["signatures"]
    signatures = {s["keyid"]: decode(s["sig"]) for s in given if s.keys() == {"keyid", "sig"}}
    need(1 <= len(signatures) == len(given) <= 64 and not any(padding), "signatures or padding")
    for name, parts in keys.items():
        own = [signatures[name][:64], signatures[name][64:]] if parts[1:] else [signatures[name]]
        for part, signature in zip(parts, own, strict=True):
            curve = [ec.ECDSA(getattr(hashes, f"SHA{min(part.key_size, 512)}")())] if hasattr(part, "curve") else []
            part.verify(signature, b"DSSEv1 28 %s %d %s" % (TYPES[0].encode(), len(payload), payload), *curve)
    once = lambda pairs: dict(pairs) if len(dict(pairs)) == len(pairs) else need(False, "a key is repeated")  # noqa: E731
    statement = json.loads(payload.decode(), object_pairs_hook=once)
    (subject,), body = statement["subject"], statement["predicate"]
    need([envelope["payloadType"], statement["_type"], statement["predicateType"]] == TYPES, "types")
    need([*map(len, (envelope, statement, subject))] == [3, 4, 2] and len(payload) <= 12 << 20, "unknown keys")
    need(body.keys() - {"fingerprint", "io", "plainSignature", "scanAllowed", "watermark"} == PREDICATE, "predicate")
    need(re.fullmatch(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}", body["version"]), "version")
    need(re.fullmatch(NAME, subject["name"]) and decode(body["nonce"], 32) + decode(body["keyCommitment"], 32), "name")
    need(re.fullmatch(KINDS, ",".join(extent["kind"] for extent in body["extents"])), "kinds of extents")
    for extent in body["extents"]:
        length, first, place = extent["length"], place, place + extent["length"]
        need(len(extent) == 3 and extent["offset"] == first and length >= 72 <= (length - 56) % 16400 + 56, "extent")
        for start in range(0, min(length, total), 4 << 20):
            root = add(peaks, leaves, sha(b"\0", file.read(min(4 << 20, length - start))))
            leaves += 1
    need(offset + place == total and subject["digest"] == {"mvltMerkleSha256": root.hex()}, "root")


def check_log(segments, following, kept):
    peaks, size, batch, previous, pruned, minimum, checkpoint, origin = [], 0, 0, b"", 0, 0, "", ""
    for epoch, lines in enumerate(segments):
        need(following, "an epoch that did not end")
        key, following, fresh, gap = following, None, True, False
        for line in lines:
            record, leaf = canonical(line), sha(b"\0", line)
            if "checkpoint" in record:
                need(not fresh and len(record) == 1, "head without records")
                signed = re.findall("— ([^ \n]+) ([^ \n]+)\n", record["checkpoint"])
                need(record["checkpoint"] == checkpoint + "\n" + "".join(f"— {n} {b}\n" for n, b in signed), "head")
                number = sha(origin.encode(), b"\n\1", key.public_bytes_raw())[:4]
                (own,) = [decode(blob) for name, blob in signed if name == origin and decode(blob)[:4] == number]
                key.verify(own[4:], checkpoint.encode())
                fresh, gap, batch, previous = True, False, batch + 1, sha(line)
                continue
            need(len(line) <= 65535 and not following, "a record after key.rotated")
            origin = record["origin"] if size == 0 else origin
            need(size or (record["event"], record["key"]) == ("opened", fingerprint(key)), "opened by another key")
            if "leaf" in record:
                leaf, gap, pruned = decode(record["leaf"], 32), True, size + 1
            else:
                batch = max(batch, record["batch"]) if gap else batch
                need([*map(record.get, ("v", "seq", "epoch", "batch"))] == [1, size, epoch, batch], "place of a record")
                need(gap or decode(record.get("prev", "")) == (previous if fresh else b""), "prev")
            if record.get("event") == "key.rotated":
                following = ed25519.Ed25519PublicKey.from_public_bytes(decode(record["public"], 32))
                need(record["next"] == fingerprint(following), "next")
            minimum = max(minimum, record["minimum"]) if record.get("event") == "pruned" else minimum
            root, size, fresh = base64.b64encode(add(peaks, size, leaf)).decode(), size + 1, False
            checkpoint = f"{origin}\n{size}\n{root}\n"
            kept.discard(checkpoint)
        need(fresh and size, "no head after the last records")
    need(pruned <= minimum and not kept, "pruned beyond the permission, or a kept checkpoint that it does not contain")


if __name__ == "__main__":
    try:
        path, *others = map(Path, sys.argv[1:])
        with path.open("rb") as file:
            if file.peek(1)[:1] == b"\x89":
                check_sealed(file, path.stat().st_size, dict(map(load_key, others)))
            else:
                files = [*sorted(path.parent.glob(path.name + "." + "[0-9]" * 6)), path]
                segments = [segment.read_bytes().split(b"\n") for segment in files]
                need(not any(lines.pop() for lines in segments), "a line that does not end")
                kept = {"".join(name.read_text().splitlines(keepends=True)[:3]) for name in others[1:]}
                check_log(segments, load_key(others[0])[1][0], kept)
    except Exception as error:
        sys.exit(f"refused: {type(error).__name__} {error}")
    print("holds")
