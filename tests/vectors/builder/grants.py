"""Grants. The file is the grant alone; it belongs into (or beside) the sealed file sealed/good.vec."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from vectors.builder import sealed
from vectors.builder.base import (
    PUBLISHER,
    RECIPIENT,
    SECOND,
    STRANGER,
    Vector,
    b64,
    canonical,
    changed,
    envelope,
    noise,
    sha,
    signature,
    statement,
)  # fmt: skip

MODEL = {"sha256": sha(sealed.model()).hex()}
PREDICATE = {
    "created": "2026-11-25T12:00:00Z",
    "grantId": noise("grant", 16).hex(),
    "licence": {},
    "purpose": "run",
    "recipient": RECIPIENT.fingerprint,
    "wrap": {"algorithm": "x25519", "ciphertext": b64(noise("wrap", 81))},
}


def body(*, name: Any = "direction", digest: Any = None, outer: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return statement("grant", name, digest or MODEL, changed(PREDICATE, changes), **(outer or {}))


def vectors() -> Iterator[Vector]:
    key = ("key", b64(PUBLISHER.der))
    for name, about, expect, data in [*_good(), *_signatures(), *_statements(), *_frames()]:
        yield Vector("grant", name, about, expect, data, (key, ("model", "sealed/good.vec")))
    for name, about, expect, data in _variants():
        yield Vector("grant", name, about, expect, data, (key, ("model", "sealed/good-variants.vec")))


Case = tuple[str, str, str, bytes]


def _good() -> Iterator[Case]:
    yield "good", "nothing is wrong", "accepted", envelope(body())
    yield "good-audit", "for auditing", "accepted", envelope(body(purpose="audit"))
    licence = {"not_after": "2099-12-31T23:59:59Z", "max_runs": {"count": 10, "per": "month"}}
    yield "good-licence", "with terms", "accepted", envelope(body(licence=licence))
    yield "good-second", "signed by one more key", "accepted", envelope(body(), (SECOND, PUBLISHER))
    yield "good-service", "for a key of a service", "accepted", envelope(
        body(wrap={"algorithm": "aws-kms", "ciphertext": b64(noise("kms", 200))})
    )  # fmt: skip


def _signatures() -> Iterator[Case]:
    payload = body()
    bad = [{"keyid": PUBLISHER.fingerprint, "sig": b64(bytes(64))}]
    yield "signature-zeros", "64 zero bytes for a signature", "SignatureInvalid", envelope(payload, signatures=bad)
    moved = [signature(sealed.model(), PUBLISHER)]
    yield "signature-of-model", "the model's own signature", "SignatureInvalid", envelope(payload, signatures=moved)
    yield (
        "stranger",
        "signed by a key that is not the publisher's",
        "UntrustedPublisher",
        envelope(payload, (STRANGER,)),
    )
    yield (
        "other-model",
        "for another model's statement",
        "SignatureInvalid",
        envelope(body(digest={"sha256": "0" * 64})),
    )
    yield "other-name", "this statement under another name", "SignatureInvalid", envelope(body(name="fraud"))


def _statements() -> Iterator[Case]:
    wrap: dict[str, Any] = PREDICATE["wrap"]  # type: ignore[assignment]
    cases: dict[str, tuple[str, bytes]] = {
        "predicate-type": ("a model's predicate type", body(outer={"predicateType": "urn:modelvault:sealed-model:v1"})),
        "digest-root": ("the digest under the name of a root", body(digest={"mvltMerkleSha256": MODEL["sha256"]})),
        "digest-short": ("half a digest", body(digest={"sha256": "0" * 32})),
        "name": ("a name with a slash", body(name="../direction")),
        "id-missing": ("no id", body(grantId=None)),
        "id-short": ("an id of 31 digits", body(grantId="0" * 31)),
        "id-upper": ("an id in upper case", body(grantId="A" * 32)),
        "created": ("no time", body(created="yesterday")),
        "purpose": ("an unknown purpose", body(purpose="train")),
        "purpose-missing": ("no purpose", body(purpose=None)),
        "recipient-missing": ("no recipient", body(recipient=None)),
        "recipient-long": ("a recipient of 129 characters", body(recipient="r" * 129)),
        "licence-missing": ("no licence", body(licence=None)),
        "licence-unknown": ("a misspelt limit", body(licence={"not_afer": "2099-12-31T23:59:59Z"})),
        "licence-list": ("a list for a licence", body(licence=[])),
        "wrap-missing": ("no wrap", body(wrap=None)),
        "wrap-text": ("a text for wrap", body(wrap="x25519")),
        "wrap-unknown": ("an unknown key in wrap", body(wrap={**wrap, "kdf": "none"})),
        "wrap-algorithm": ("no algorithm", body(wrap={"ciphertext": wrap["ciphertext"]})),
        "wrap-ciphertext": ("no ciphertext", body(wrap={"algorithm": "x25519"})),
        "wrap-base64": ("a ciphertext that is not base64", body(wrap={**wrap, "ciphertext": "%%%%"})),
        "unknown-key": ("an unknown key", body(exportable=True)),
        "variants": ("keys of slots for a model without", body(variants=b64(noise("ring", 1 + 8 * 32 + 16)))),
        "variants-base64": ("variants that are not base64", body(variants="?")),
        "bool": ("true for the recipient", body(recipient=True)),
    }  # fmt: skip
    for name, (about, payload) in cases.items():
        yield f"statement-{name}", about, "FormatError", envelope(payload)


def _variants() -> Iterator[Case]:
    """Grants of a model with eight slots."""
    (container,) = (v.data for v in sealed.vectors() if v.name == "good-variants")
    written = json.loads(container[28 : 28 + int.from_bytes(container[12:16], "big")])
    model = {"sha256": sha(base64.b64decode(written["payload"])).hex()}

    def of(ring: bytes | None, **changes: Any) -> bytes:
        return envelope(body(digest=model, variants=ring and b64(ring), **changes))

    yield "good-variants", "keys of eight slots", "accepted", of(noise("ring", 1 + 8 * 32 + 16))
    yield "good-variants-audit", "the master key of a model's slots", "accepted", of(noise("ring", 48), purpose="audit")
    yield "variants-missing", "no keys of the slots", "FormatError", of(None)


def _frames() -> Iterator[Case]:
    good = envelope(body())
    yield "json", "not JSON", "FormatError", b"-----BEGIN GRANT-----\n"
    yield "json-cut", "cut in the middle", "FormatError", good[: len(good) // 2]
    yield "json-tail", "a line feed at the end", "FormatError", good + b"\n"
    yield "json-pretty", "white space", "FormatError", good.replace(b":", b": ", 1)
    yield "json-key", "an unknown key in the envelope", "FormatError", envelope(body(), comment="")
    yield "signatures-none", "nobody signed", "FormatError", envelope(body(), signatures=[])
    yield "statement-list", "a list for a statement", "FormatError", envelope(canonical([]))
