"""Revocation lists and hand-overs."""

from collections.abc import Iterator
from typing import Any

from vectors.builder import keys, sealed
from vectors.builder.base import (
    NEXT,
    PUBLISHER,
    SECOND,
    STRANGER,
    Key,
    Vector,
    b64,
    canonical,
    changed,
    envelope,
    sha,
    signature,
    statement,
)  # fmt: skip

Case = tuple[str, str, str, bytes]
ENTRY = {"id": "fraud@2.1", "kind": "model", "reason": "weights leaked", "revoked": "2026-11-01T00:00:00Z"}


def vectors() -> Iterator[Vector]:
    for name, about, expect, data in _revocations():
        header = (("key", b64(SECOND.der)), ("model", "sealed/good.vec"))
        yield Vector("revocations", name, about, expect, data, header)
    for name, about, expect, data in _handovers():
        yield Vector("handover", name, about, expect, data, (("key", b64(PUBLISHER.der)),))


def _list(entries: Any, *, digest: Any = None, outer: dict[str, Any] | None = None, **changes: Any) -> bytes:
    own = digest or {"sha256": sha(canonical(entries)).hex()}
    predicate = {"entries": entries, "issued": "2026-11-25T12:00:00Z", "number": 1}
    return statement("revocations", "revocations", own, changed(predicate, changes), **(outer or {}))


def revocations_of(signer: Key, entries: list[dict[str, str]], **changes: Any) -> bytes:
    """A signed list of these entries."""
    return envelope(_list(entries, **changes), (signer,))


def _revocations() -> Iterator[Case]:
    def by(payload: bytes, *signers: Key) -> bytes:
        return envelope(payload, signers or (SECOND,))

    digest = sha(sealed.model()).hex()
    yield "good", "another model is revoked", "accepted", by(_list([ENTRY]))
    yield "good-empty", "nothing is revoked", "accepted", by(_list([]))
    yield "revoked-digest", "this sealed file", "Revoked", by(_list([{**ENTRY, "id": digest}]))
    yield "revoked-version", "this name and version", "Revoked", by(_list([ENTRY, {**ENTRY, "id": "direction@1.0"}]))
    publisher = {**ENTRY, "kind": "publisher", "id": PUBLISHER.fingerprint}
    yield "revoked-publisher", "the publisher's key", "Revoked", by(_list([publisher]))
    yield "untrusted", "signed by a key that may not sign lists", "UntrustedPublisher", by(_list([]), STRANGER)
    yield "untrusted-publisher", "signed by the publisher of the model", "UntrustedPublisher", by(_list([]), PUBLISHER)
    wrong = [{**signature(_list([ENTRY]), SECOND)}]
    yield "signature", "another list's signature", "SignatureInvalid", envelope(_list([]), signatures=wrong)
    cases: dict[str, tuple[str, bytes]] = {
        "digest": ("a subject that is not the entries'", _list([ENTRY], digest={"sha256": "0" * 64})),
        "predicate-type": ("a hand-over's type", _list([], outer={"predicateType": "urn:modelvault:handover:v1"})),
        "number-0": ("number 0", _list([], number=0)),
        "number-missing": ("no number", _list([], number=None)),
        "number-huge": ("number 2^63", _list([], number=2**63)),
        "issued": ("no time", _list([], issued="now")),
        "entries-object": ("an object for the entries", _list({})),
        "entry-text": ("a text for an entry", _list(["fraud@2.1"])),
        "entry-kind": ("an unknown kind", _list([{**ENTRY, "kind": "host"}])),
        "entry-reason": ("a reason of 513 characters", _list([{**ENTRY, "reason": "r" * 513}])),
        "entry-id": ("an id of 257 characters", _list([{**ENTRY, "id": "m" * 257}])),
        "entry-key": ("an unknown key in an entry", _list([{**ENTRY, "until": "2027"}])),
        "entry-missing": ("an entry without an id", _list([changed(ENTRY, {"id": None})])),
        "entry-time": ("an entry without a time", _list([{**ENTRY, "revoked": ""}])),
        "unknown-key": ("an unknown key", _list([], next="2027")),
    }
    for name, (about, payload) in cases.items():
        yield name, about, "FormatError", by(payload)
    yield "empty", "no bytes", "FormatError", b""
    yield "space", "white space in the envelope", "FormatError", by(_list([])).replace(b",", b" ,", 1)


def _handover(pems: Any, *, digest: Any = None, **changes: Any) -> bytes:
    own = digest or {"sha256": sha(canonical(pems)).hex()}
    predicate = {"created": "2026-11-25T12:00:00Z", "keys": pems, "number": 1, "threshold": 1}
    return statement("handover", "acme", own, changed(predicate, changes))


def _handovers() -> Iterator[Case]:
    new = [NEXT.pem.decode()]
    both = (PUBLISHER, NEXT)
    yield "good", "to another key", "accepted", envelope(_handover(new), both)
    yield (
        "good-keep",
        "the old key stays",
        "accepted",
        envelope(_handover([*new, PUBLISHER.pem.decode()]), (PUBLISHER,)),
    )
    yield "old-missing", "the old key did not sign", "UntrustedPublisher", envelope(_handover(new), (NEXT,))
    yield "new-missing", "the new key did not sign", "UntrustedPublisher", envelope(_handover(new), (PUBLISHER,))
    two = _handover([*new, SECOND.pem.decode()], threshold=2)
    yield "new-threshold", "one of two new keys signed", "UntrustedPublisher", envelope(two, both)
    yield "stranger", "a stranger signed", "UntrustedPublisher", envelope(_handover(new), (STRANGER, NEXT))
    bad = [signature(_handover(new), NEXT), {**signature(_handover([]), PUBLISHER)}]
    yield (
        "signature",
        "the old key's signature over something else",
        "SignatureInvalid",
        envelope(_handover(new), signatures=bad),
    )
    cases: dict[str, tuple[str, bytes]] = {
        "number-2": ("number 2 comes first", _handover(new, number=2)),
        "number-0": ("number 0", _handover(new, number=0)),
        "threshold-0": ("a threshold of 0", _handover(new, threshold=0)),
        "threshold-2": ("two of one key", _handover(new, threshold=2)),
        "keys-none": ("no keys", _handover([])),
        "keys-twice": ("one key twice", _handover([*new, *new])),
        "keys-text": ("a text for the keys", _handover(new[0])),
        "keys-garbage": ("a key that is no PEM", _handover(["key"])),
        "keys-role": ("a recipient's key", _handover([keys.X25519.decode()])),
        "keys-surrogate": ("half a character in a key", _handover(new).replace(b"-----BEGIN", b"\\ud800-----BEGIN")),
        "digest": ("a subject that is not the keys'", _handover(new, digest={"sha256": "0" * 64})),
        "created": ("a time without a zone", _handover(new, created="2026-11-25T12:00:00")),
        "unknown-key": ("an unknown key", _handover(new, revoke=True)),
    }
    for name, (about, payload) in cases.items():
        yield name, about, "FormatError", envelope(payload, both)
    yield "json", "no JSON", "FormatError", b"{"
