"""DSSE envelopes: what is signed, who signed, and that one value has one spelling."""

import base64
import json
import re
from typing import Any

import pytest

from modelvault import envelope
from modelvault.envelope import Envelope, Signature
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.keys import PublisherKey

KIND = "application/vnd.in-toto+json"


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def text(**changes: Any) -> bytes:
    value = {"payload": "eA==", "payloadType": KIND, "signatures": [{"keyid": "k", "sig": "AA=="}], **changes}
    return json.dumps({k: v for k, v in value.items() if v is not ...}, sort_keys=True, separators=(",", ":")).encode()


def read(data: bytes) -> Envelope:
    return Envelope.from_bytes(data, "e", limit=2**20)


def test_the_bytes_that_are_signed() -> None:
    """DSSE v1: PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body."""
    assert envelope.pre_authentication(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert envelope.pre_authentication(b"") == b"DSSEv1 28 application/vnd.in-toto+json 0 "
    key = PublisherKey.generate("ed25519")
    signed = envelope.sign(b"body", [key])
    key.public.verify(b"DSSEv1 28 application/vnd.in-toto+json 4 body", signed.signatures[0].sig)
    assert signed.signatures[0].keyid == key.public.fingerprint


def test_the_spelling() -> None:
    value = Envelope(payload=b"x", signatures=(Signature(keyid="k", sig=b"\0"),))
    assert value.to_bytes() == text()
    assert read(text()) == value
    assert Envelope.from_bytes(text(), "e", limit=len(text())) == value
    assert len(read(text(payload="A" * 10_000)).payload) == 7500


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[]", "e: expected an object, got list"),
        (text(payloadType="text/plain"), f"e.payloadType: expected {KIND}, got text/plain"),
        (text(payload=...), "e.payload: missing"),
        (text(payload="x"), "e.payload: not base64"),
        (text(signatures=...), "e.signatures: missing"),
        (text(signatures=[]), "e.signatures: expected at least one"),
        (text(signatures=[{}] * 65), "e.signatures: more than 64 items"),
        (text(signatures=[{"keyid": "k", "sig": "AA=="}, 1]), "e.signatures[1]: expected an object, got int"),
        (text(signatures=[{"keyid": "k"}]), "e.signatures[0].sig: missing"),
        (text(signatures=[{"keyid": "k" * 129, "sig": ""}]), "e.signatures[0].keyid: longer than 128 characters"),
        (text(signatures=[{"keyid": "k", "sig": "", "x": 1}]), "e.signatures[0]: unknown key 'x'"),
        (text(signatures=[{"keyid": "k", "sig": ""}] * 2), "e.signatures: two signatures of one key"),
        (text(extra=1), "e: unknown key 'extra'"),
        (text() + b" ", "e: JSON is not canonical"),
        (json.dumps(json.loads(text())).encode(), "e: JSON is not canonical"),
    ],
)
def test_envelopes_that_are_refused(data: bytes, words: str) -> None:
    with refused(words):
        read(data)
    with refused(f"e: {len(data)} bytes, above the limit of 1"):
        Envelope.from_bytes(data, "e", limit=1)


def test_as_many_signatures_as_may_be() -> None:
    many = [{"keyid": f"{n:0128}", "sig": ""} for n in range(64)]
    assert len(read(text(signatures=many)).signatures) == 64


def test_who_signed() -> None:
    first, second, other = (PublisherKey.generate("ed25519") for _ in range(3))
    signed = read(envelope.sign(b"body", [first, second]).to_bytes())
    public = [k.public for k in (first, second, other)]
    assert signed.verified_by(public) == {first.public.fingerprint, second.public.fingerprint}
    assert signed.verified_by(public[:1]) == {first.public.fingerprint}
    assert signed.verified_by(public[2:]) == signed.verified_by([]) == frozenset()


def test_a_signature_of_a_known_key_that_does_not_verify_is_never_passed_over() -> None:
    first, second = (PublisherKey.generate("ed25519") for _ in range(2))
    good = envelope.sign(b"body", [first, second])
    wrong = Signature(keyid=second.public.fingerprint, sig=good.signatures[0].sig)
    for changed in (
        Envelope(payload=b"other", signatures=good.signatures),
        Envelope(payload=b"body", signatures=(good.signatures[0], wrong)),
    ):
        with pytest.raises(SignatureInvalid):
            changed.verified_by([first.public, second.public])
    assert base64.b64encode(b"body") in good.to_bytes()
