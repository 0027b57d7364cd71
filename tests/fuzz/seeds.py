"""What a target's fuzzing begins with: the kept corpus, and what the test vectors hold."""

import base64
import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

from vectors.builder import all_vectors
from vectors.builder.base import Vector

CORPUS = Path(__file__).parent / "corpus"
LARGEST = 8192

# For each target: the vectors' kinds, and how to get at its input in their bytes.
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "json": (("log", "grant", "oms"), "whole"),
    "container": (("sealed",), "whole"),
    "sealed_file": (("sealed",), "whole"),
    "envelope": (("grant", "revocations", "handover"), "whole"),
    "model_statement": (("sealed",), "payload"),
    "grant_statement": (("grant",), "payload"),
    "grant": (("grant",), "whole"),
    "revocations": (("revocations",), "whole"),
    "revocation_statement": (("revocations",), "payload"),
    "handover": (("handover",), "whole"),
    "handover_statement": (("handover",), "payload"),
    "public_keys": (("publisher-key", "recipient-key", "host-key"), "whole"),
    "private_keys": (("publisher-key", "owner-secret"), "whole"),
    "owner_secret": (("owner-secret",), "whole"),
    "checkpoint": (("checkpoint",), "whole"),
    "cosignature": (("checkpoint",), "whole"),
    "audit_line": (("log",), "lines"),
    "audit_log": (("log",), "whole"),
    "audit_proof": (("proof",), "whole"),
    "oms_bundle": (("oms",), "whole"),
    "oms_manifest": (("oms",), "payload"),
}


def seeds(target: str) -> list[bytes]:
    """Distinct inputs, the kept ones first."""
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    kinds, part = KINDS.get(target, ((), "whole"))
    found = [data for v in _vectors() if v.kind in kinds for data in _inputs(v.data, part)]
    return list(dict.fromkeys([*kept, *(data for data in found if len(data) <= LARGEST)]))


@functools.cache
def _vectors() -> list[Vector]:
    return list(all_vectors())


def _inputs(data: bytes, part: str) -> Iterator[bytes]:
    if part == "whole":
        yield data
    elif part == "lines":
        yield from data.split(b"\n")
    else:
        # A sealed file's envelope is the first JSON in it; a bundle's stands in dsseEnvelope.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            start = data.index(b"{")
            value = json.JSONDecoder().raw_decode(data[start:].split(b"\0")[0].decode())[0]
            yield base64.b64decode(value.get("dsseEnvelope", value)["payload"], validate=True)
