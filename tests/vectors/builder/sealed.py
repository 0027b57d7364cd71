"""Sealed files: prelude, envelope, statement, grants' frames, padding, payload."""

import struct
from collections.abc import Iterator
from typing import Any

from vectors.builder.base import (
    PAYLOAD_TYPE,
    PUBLISHER,
    RECIPIENT,
    SECOND,
    STRANGER,
    WITNESS,
    Key,
    Vector,
    b64,
    canonical,
    changed,
    envelope,
    message,
    noise,
    sha,
    signature,
    statement,
)  # fmt: skip

MAGIC = bytes.fromhex("894d564c540d0a1a")
PLAIN = {"graph": 61, "weights": 128, "index": 40}


def length(plain: int) -> int:
    """Ciphertext bytes of a stream."""
    return 56 + plain + 16 * (plain // 16384 + 1)


def extents(sizes: dict[str, int] | list[tuple[str, int]]) -> list[dict[str, Any]]:
    found, offset = [], 0
    for kind, size in sizes.items() if isinstance(sizes, dict) else sizes:
        found.append({"kind": kind, "length": length(size), "offset": offset})
        offset += length(size)
    return found


EXTENTS = extents(PLAIN)
PAYLOAD = noise("payload", sum(e["length"] for e in EXTENTS))
PREDICATE = {
    "created": "2026-11-25T12:00:00Z",
    "extents": EXTENTS,
    "keyCommitment": b64(noise("commitment", 32)),
    "nonce": b64(noise("nonce", 32)),
    "policy": {},
    "publishers": [PUBLISHER.fingerprint],
    "version": "1.0",
}


def root(found: list[dict[str, Any]], payload: bytes) -> bytes:
    """Of extents that are shorter than a block each: one leaf an extent."""
    return tree([sha(b"\0", payload[e["offset"] : e["offset"] + e["length"]]) for e in found])


def tree(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1", tree(leaves[:split]), tree(leaves[split:]))


def model(*, name: Any = "direction", digest: Any = None, outer: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A model's statement; changes are the predicate's."""
    own = digest or {"mvltMerkleSha256": root(EXTENTS, PAYLOAD).hex()}
    return statement("sealed-model", name, own, changed(PREDICATE, changes), **(outer or {}))


def container(
    first: bytes, grants: bytes = b"", payload: bytes = PAYLOAD, *, padding: int | None = None, fill: bytes = b"\0",
    magic: bytes = MAGIC, version: int = 1, reserved: int = 0, lengths: tuple[int, int] | None = None, offset: int | None = None,
) -> bytes:  # fmt: skip
    """The whole file; what is given in place of a right value is written as it is."""
    end = 28 + len(first) + len(grants)
    space = -end % 4096 if padding is None else padding
    sizes = lengths or (len(first), len(grants))
    place = end + space if offset is None else offset
    prelude = struct.pack(">8sHHIIQ", magic, version, reserved, *sizes, place)
    return prelude + first + grants + (fill * space)[:space] + payload


def framed(*grants: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(g)) + g for g in grants)


def signed(payload: bytes, keys: tuple[Key, ...] = (PUBLISHER,), **changes: Any) -> bytes:
    return container(envelope(payload, keys, **changes))


def vectors() -> Iterator[Vector]:
    for group in (
        _good,
        _prelude,
        _frames,
        _envelopes,
        _signatures,
        _statements,
        _variants,
        _extents,
        _terms,
        _payloads,
    ):
        for name, about, expect, data, *more in group():
            yield make(name, about, expect, data, *more)


def make(name: str, about: str, expect: str, data: bytes, minimal: str = "", *header: tuple[str, str]) -> Vector:
    second = minimal or ("accepted" if expect == "accepted" else "refused")
    return Vector("sealed", name, about, expect, data, (("minimal", second), *(header or KEY)))


KEY = (("key", b64(PUBLISHER.der)),)
BOTH = (*KEY, ("key", b64(SECOND.der)), ("threshold", "2"))
Case = tuple[Any, ...]


def _good() -> Iterator[Case]:
    yield "good", "nothing is wrong", "accepted", signed(model())
    yield "good-two-signatures", "two keys signed", "accepted", signed(model(), (PUBLISHER, SECOND)), "", *BOTH
    yield (
        "good-unknown-signer",
        "a key that nobody knows signed, too",
        "accepted",
        signed(model(), (STRANGER, PUBLISHER)),
    )
    yield "good-policy", "terms, io, watermark, plainSignature", "accepted", signed(_everything())
    yield "good-no-weights", "a graph and an index are enough", "accepted", _with({"graph": 1, "index": 1})
    many = [("graph", 5), *[("weights", n) for n in range(9)], ("asset", 0), ("asset", 7), ("index", 3)]
    yield "good-many-extents", "an odd number of leaves", "accepted", _with(many)
    yield "good-chunk", "streams of a whole chunk and one byte beside it", "accepted", _with(
        [("graph", 16383), ("weights", 16384), ("asset", 16385), ("index", 1)]
    )  # fmt: skip
    yield "good-padding", "a writer may leave nearly 8 KiB", "accepted", container(
        envelope(model()), padding=-(28 + len(envelope(model()))) % 4096 + 4096
    )  # fmt: skip
    spaced = model().replace(b'{"_type":', b'{ "_type": ', 1)
    yield "good-spaced-statement", "only envelopes must be canonical", "accepted", signed(spaced)
    yield "good-fraction", "a time with a fraction and another zone", "accepted", signed(
        model(created="2026-11-25T14:00:00.25+02:00")
    )  # fmt: skip
    allowed = [*sorted(f"rule-{n}" for n in range(62)), "x" * 64, "zip-bomb"]
    yield "good-scan-allowed", "64 rules that the publisher let pass", "accepted", signed(model(scanAllowed=allowed))
    yield "good-variants", "slots of weights that are sealed twice", "accepted", _with(
        [("graph", 5), ("weights", 1024), ("variants", 8 * 104), ("index", 3)], fingerprint=FINGERPRINT
    )  # fmt: skip


FINGERPRINT = {
    "coalition": 2,
    "commitment": noise("value", 32).hex(),
    "length": 64,
    "original": noise("original", 32).hex(),
    "owner": "SHA256:" + "A" * 43,
    "scheme": "modelvault/fingerprint/v1",
    "slots": 8,
}
WATERMARK = {
    "commitment": noise("mark", 32).hex(),
    "original": noise("original", 32).hex(),
    "owner": "SHA256:" + "A" * 43,
    "scheme": "modelvault/watermark/v1",
    "strength": 3000,
}


def _everything() -> bytes:
    return model(
        policy={"not_after": "2099-12-31T23:59:59Z", "max_loads": {"count": 5, "per": "day"}, "versions": ["1.*"]},
        io={"inputs": [{"dtype": "float", "name": "x", "shape": [1, None]}], "outputs": []},
        watermark=WATERMARK,
        plainSignature={"digest": noise("oms", 32).hex(), "signers": [PUBLISHER.fingerprint]},
    )


def _with(sizes: Any, **changes: Any) -> bytes:
    found = extents(sizes)
    payload = noise("payload", sum(e["length"] for e in found))
    digest = {"mvltMerkleSha256": root(found, payload).hex()}
    return container(envelope(model(digest=digest, extents=found, **changes)), payload=payload)


def _prelude() -> Iterator[Case]:
    good, first = signed(model()), envelope(model())
    yield "empty", "no bytes at all", "FormatError", b""
    yield "short-prelude", "27 bytes", "FormatError", good[:27]
    yield "magic", "the first byte's high bit is lost", "FormatError", container(first, magic=b"\x09" + MAGIC[1:])
    yield "magic-text-mode", "CR LF became LF", "FormatError", good.replace(b"\r\n", b"\n", 1)
    yield "version-0", "format version 0", "FormatError", container(first, version=0)
    yield "version-2", "format version 2", "FormatError", container(first, version=2)
    yield "reserved", "reserved bits are set", "FormatError", container(first, reserved=1)
    yield "envelope-0", "an envelope of 0 bytes", "FormatError", container(b"", lengths=(0, 0))
    yield "envelope-limit", "an envelope above 16 MiB", "FormatError", container(first, lengths=(2**24 + 1, 0))
    yield "envelope-longest", "envelope_len is 2^32 - 1", "FormatError", container(first, lengths=(2**32 - 1, 0))
    yield "grants-limit", "grants above 64 MiB", "FormatError", container(first, lengths=(len(first), 2**26 + 1))
    yield "offset-unaligned", "payload_offset is no multiple of 4096", "FormatError", container(first, padding=100)
    yield "offset-0", "payload_offset is 0", "FormatError", container(first, offset=0)
    yield "offset-inside", "payload_offset lies inside the envelope", "FormatError", container(
        envelope(model(io={"x": "y" * 4096})), offset=4096
    )  # fmt: skip
    yield "offset-far", "12 KiB of padding", "FormatError", container(first, padding=-(28 + len(first)) % 4096 + 8192)
    yield "offset-beyond", "payload_offset lies beyond the file", "FormatError", good[:4000]
    yield "offset-huge", "payload_offset is 2^64 - 4096", "FormatError", container(first, offset=2**64 - 4096)
    yield "padding", "the padding is not zeros", "FormatError", container(first, fill=b"\1")
    yield "padding-last", "the last byte of padding is not zero", "FormatError", good[:4095] + b"\1" + good[4096:]


def _frames() -> Iterator[Case]:
    first = envelope(model())
    unknown = "unknown"  # grants are outside the minimal reader's scope
    yield "grant-0", "a grant of 0 bytes", "FormatError", container(first, framed(b"")), unknown
    yield (
        "grant-long",
        "a grant that ends behind the grants",
        "FormatError",
        container(first, struct.pack(">I", 5) + b"{}"),
        unknown,
    )
    yield "grant-2-32", "a grant of 2^32 - 1 bytes", "FormatError", container(first, b"\xff\xff\xff\xff{}"), unknown
    yield "grant-half-length", "three bytes of a length", "FormatError", container(first, b"\0\0\0"), unknown
    yield "grant-garbage", "a grant that is no JSON", "FormatError", container(first, framed(b"grant")), unknown
    yield "grant-is-model", "the model's envelope as a grant", "FormatError", container(first, framed(first)), unknown


def _raw(first: bytes) -> bytes:
    return container(first)


def _envelopes() -> Iterator[Case]:
    payload, first = model(), envelope(model())
    own = signature(payload, PUBLISHER)
    cases: dict[str, tuple[str, bytes]] = {
        "json-cut": ("the JSON ends early", first[:-1]),
        "json-tail": ("a byte after the JSON", first + b" "),
        "json-space": ("white space in the JSON", first.replace(b",", b", ", 1)),
        "json-order": ("keys are not sorted", b'{"payloadType":"' + PAYLOAD_TYPE.encode() + b'","payload":"' + b64(payload).encode()
                       + b'","signatures":' + canonical([own]) + b"}"),
        "json-escape": ("a character is escaped without need", first.replace(b"vnd.in", b"vnd\\u002ein", 1)),
        "json-twice": ("a key is repeated", b'{"payload":"",' + first[1:]),
        "json-utf8": ("not UTF-8", first.replace(b"SHA256:", b"SHA256\xff", 1)),
        "json-bom": ("a byte order mark", b"\xef\xbb\xbf" + first),
        "json-list": ("a list", b"[" + first + b"]"),
        "json-null": ("null", b"null"),
        "json-deep": ("nested 5000 levels deep", b"[" * 5000 + b"]" * 5000),
        "json-33": ("nested 33 levels deep", b"[" * 33 + b"]" * 33),
        "json-nan": ("NaN", b'{"payload":NaN}'),
        "type": ("another payload type", envelope(payload, payloadType="application/json")),
        "type-missing": ("no payload type", envelope(payload, payloadType=None)),
        "payload-missing": ("no payload", envelope(payload, payload=None)),
        "payload-number": ("the payload is a number", envelope(payload, payload=7)),
        "payload-base64": ("base64 without its padding", envelope(payload + b" ", payload=b64(payload + b" ").rstrip("="))),
        "payload-base64url": ("base64url", envelope(payload, payload=b64(payload)[:-8] + "-_" + b64(payload)[-6:])),
        "payload-bits": ("base64 with bits left over", envelope(payload, payload=b64(b"{}")[:2] + "1=")),
        "payload-newline": ("a line break in base64", envelope(payload, payload=b64(payload)[:76] + "\n" + b64(payload)[76:])),
        "unknown-key": ("an unknown key", envelope(payload, extra=1)),
        "signatures-missing": ("no signatures", envelope(payload, signatures=None)),
        "signatures-none": ("an empty list of signatures", envelope(payload, signatures=[])),
        "signatures-object": ("an object for a list", envelope(payload, signatures={})),
        "signatures-65": ("65 signatures", envelope(payload, signatures=[own, *[{"keyid": str(n), "sig": ""} for n in range(64)]])),
        "signatures-twice": ("one keyid twice", envelope(payload, signatures=[own, own])),
        "signature-key": ("an unknown key in a signature", envelope(payload, signatures=[{**own, "cert": ""}])),
        "signature-keyid": ("no keyid", envelope(payload, signatures=[{"sig": own["sig"]}])),
        "signature-sig": ("no signature in a signature", envelope(payload, signatures=[{"keyid": own["keyid"]}])),
        "signature-base64": ("a signature that is not base64", envelope(payload, signatures=[{**own, "sig": "!"}])),
        "signature-long-keyid": ("a keyid of 129 characters", envelope(payload, signatures=[own, {"keyid": "k" * 129, "sig": ""}])),
    }  # fmt: skip
    for name, (about, data) in cases.items():
        minimal = "unknown" if name == "signature-long-keyid" else ""
        yield f"envelope-{name}", about, "FormatError", _raw(data), minimal


def _signatures() -> Iterator[Case]:
    payload = model()
    good = PUBLISHER.sign(message(payload))
    of = PUBLISHER.fingerprint

    def by(sig: bytes) -> bytes:
        return _raw(envelope(payload, signatures=[{"keyid": of, "sig": b64(sig)}]))

    wrong = "SignatureInvalid"
    yield "signature-flipped", "one bit of the signature", wrong, by(good[:-1] + bytes([good[-1] ^ 1]))
    yield "signature-empty", "a signature of 0 bytes", wrong, by(b"")
    yield "signature-short", "63 bytes", wrong, by(good[:-1])
    yield "signature-long", "65 bytes", wrong, by(good + b"\0")
    yield "signature-zeros", "64 zero bytes", wrong, by(bytes(64))
    big = (int.from_bytes(good[32:], "little") + 2**252 + 27742317777372353535851937790883648493).to_bytes(32, "little")
    yield "signature-malleable", "S is not below the group's order", wrong, by(good[:32] + big)
    yield "signature-raw-payload", "signed without the pre-authentication encoding", wrong, by(PUBLISHER.sign(payload))
    other = message(payload).replace(b"DSSEv1", b"DSSEv0", 1)
    yield "signature-dsse-version", "signed as another version of DSSE", wrong, by(PUBLISHER.sign(other))
    yield (
        "signature-other-statement",
        "signed over another statement",
        wrong,
        by(PUBLISHER.sign(message(model(version="2")))),
    )
    yield (
        "signature-stranger",
        "another key's signature under the publisher's keyid",
        wrong,
        by(STRANGER.sign(message(payload))),
    )
    mixed = [signature(payload, PUBLISHER), {"keyid": SECOND.fingerprint, "sig": b64(bytes(64))}]
    yield (
        "signature-second-wrong",
        "a known second signature is wrong",
        wrong,
        _raw(envelope(payload, signatures=mixed)),
        "",
        *BOTH,
    )
    yield "untrusted", "signed by a key that is not trusted", "UntrustedPublisher", signed(payload, (STRANGER,))
    yield "untrusted-threshold", "one of two signatures", "UntrustedPublisher", signed(payload), "", *BOTH
    yield "untrusted-keyid", "the right signature under another keyid", "UntrustedPublisher", _raw(
        envelope(payload, signatures=[{"keyid": STRANGER.fingerprint, "sig": b64(good)}])
    )  # fmt: skip
    limited = (*KEY, ("models", "fraud-*"))
    yield (
        "untrusted-name",
        "a name that this publisher may not seal",
        "UntrustedPublisher",
        signed(payload),
        "unknown",
        *limited,
    )
    old = (*KEY, ("minimum-version", "1.0.1"))
    yield "version-old", "older than the trust policy allows", "PolicyDenied", signed(payload), "unknown", *old


def _statements() -> Iterator[Case]:
    payload = model()
    digest = {"mvltMerkleSha256": root(EXTENTS, PAYLOAD).hex()}
    subject = {"digest": digest, "name": "direction"}
    cases: dict[str, tuple[str, bytes]] = {
        "json": ("no JSON", b"statement"),
        "list": ("a list", b"[]"),
        "twice": ("a key is repeated", payload.replace(b'"predicate":{', b'"predicate":{"version":"9.0",', 1)),
        "utf8": ("not UTF-8", payload.replace(b"direction", b"directio\xff", 1)),
        "surrogate": ("half a character", payload.replace(b'"direction"', b'"\\ud800"', 1)),
        "type": ("an older in-toto statement", model(outer={"_type": "https://in-toto.io/Statement/v0.1"})),
        "predicate-type": ("another predicate type", model(outer={"predicateType": "urn:modelvault:sealed-model:v2"})),
        "grant": ("a grant's predicate type", model(outer={"predicateType": "urn:modelvault:grant:v1"})),
        "predicate-type-escape": ("a line break and a terminal's escape sequence", model(outer={"predicateType": "a\n\x1b[31mb"})),
        "number-huge": ("a number of 2^64", model(io={"rows": 2**64})),
        "number-digits": ("a number of 5000 digits", model(version=None).replace(b'"io":', b'"io":', 1).replace(b'"created"', b'"io":' + b"9" * 5000 + b',"created"', 1)),
        "predicate-missing": ("no predicate", model(outer={"predicate": None})),
        "unknown-outer": ("an unknown key in the statement", model(outer={"extra": {}})),
        "unknown-key": ("an unknown key in the predicate", model(allow_everything=True)),
        "subjects-0": ("no subject", model(outer={"subject": []})),
        "subjects-2": ("two subjects", model(outer={"subject": [subject, subject]})),
        "subject-key": ("an unknown key in the subject", model(outer={"subject": [{**subject, "uri": ""}]})),
        "digests-2": ("two digests", model(digest={**digest, "sha256": "0" * 64})),
        "digest-other": ("another digest's name", model(digest={"sha256": digest["mvltMerkleSha256"]})),
        "digest-upper": ("upper-case hex digits", model(digest={"mvltMerkleSha256": digest["mvltMerkleSha256"].upper()})),
        "digest-short": ("62 hex digits", model(digest={"mvltMerkleSha256": digest["mvltMerkleSha256"][:62]})),
        "name-empty": ("an empty name", model(name="")),
        "name-long": ("a name of 129 characters", model(name="n" * 129)),
        "name-slash": ("a slash in the name", model(name="a/b")),
        "name-dot": ("a name that begins with a dot", model(name=".hidden")),
        "name-newline": ("a line break at the name's end", model(name="direction\n")),
        "name-unicode": ("a letter beyond ASCII", model(name="richtung-\u00e4")),
        "name-number": ("a number for a name", model(name=1)),
        "version-empty": ("an empty version", model(version="")),
        "version-5": ("five numbers", model(version="1.2.3.4.5")),
        "version-zero": ("a leading zero", model(version="1.02")),
        "version-text": ("letters", model(version="1.0-rc1")),
        "version-digits": ("a number of ten digits", model(version="1.1234567890")),
        "version-arabic": ("digits beyond ASCII", model(version="\u0661.0")),
        "version-number": ("a JSON number", model(version=1)),
        "version-missing": ("no version", model(version=None)),
        "created-missing": ("no time", model(created=None)),
        "created-zone": ("a time without a zone", model(created="2026-11-25T12:00:00")),
        "created-date": ("a date", model(created="2026-11-25")),
        "created-week": ("a week date, which is ISO 8601 but not RFC 3339", model(created="2026-W48-3T12:00:00Z")),
        "created-basic": ("no hyphens and colons", model(created="20261125T120000Z")),
        "created-minutes": ("no seconds", model(created="2026-11-25T12:00Z")),
        "created-feb-30": ("the 30th of February", model(created="2026-02-30T12:00:00Z")),
        "created-year-0": ("before the year 1 in UTC", model(created="0001-01-01T00:00:00+14:00")),
        "created-year-10000": ("after the year 9999 in UTC", model(created="9999-12-31T23:59:59-14:00")),
        "created-offset": ("an offset of 99 minutes", model(created="2026-11-25T12:00:00+00:99")),
        "created-number": ("seconds since 1970", model(created=1795608000)),
        "nonce-missing": ("no nonce", model(nonce=None)),
        "nonce-short": ("a nonce of 31 bytes", model(nonce=b64(bytes(31)))),
        "nonce-base64": ("a nonce that is not base64", model(nonce="*" * 44)),
        "commitment-missing": ("no key commitment", model(keyCommitment=None)),
        "commitment-long": ("a key commitment of 33 bytes", model(keyCommitment=b64(bytes(33)))),
        "publishers-missing": ("no list of publishers", model(publishers=None)),
        "publishers-text": ("a text for the list of publishers", model(publishers=PUBLISHER.fingerprint)),
        "publishers-numbers": ("a number among the publishers", model(publishers=[1])),
        "io-list": ("a list for io", model(io=[])),
        "plain-digest": ("half a digest of the plain files", model(plainSignature={"digest": "00", "signers": []})),
        "publishers-fingerprint": ("a publisher that is no fingerprint", model(publishers=["acme"])),
        "publishers-padded": ("a padded fingerprint", model(publishers=[PUBLISHER.fingerprint + "="])),
        "plain-signers": ("a signer that is no fingerprint", model(plainSignature={"digest": "0" * 64, "signers": ["acme"]})),
        "plain-key": ("an unknown key in plainSignature", model(plainSignature={"digest": "0" * 64, "signers": [], "x": 1})),
        "scan-allowed-none": ("no rule that was let pass", model(scanAllowed=[])),
        "scan-allowed-text": ("a text for the rules that were let pass", model(scanAllowed="zip-bomb")),
        "scan-allowed-number": ("a number among the rules", model(scanAllowed=[1])),
        "scan-allowed-65": ("65 rules", model(scanAllowed=sorted(f"rule-{n}" for n in range(65)))),
        "scan-allowed-order": ("rules that are not sorted", model(scanAllowed=["zip-bomb", "pickle"])),
        "scan-allowed-twice": ("a rule twice", model(scanAllowed=["pickle", "pickle"])),
        "scan-allowed-upper": ("an upper-case letter in a rule", model(scanAllowed=["Pickle"])),
        "scan-allowed-hyphen": ("a rule that begins with a hyphen", model(scanAllowed=["-pickle"])),
        "scan-allowed-empty": ("an empty name of a rule", model(scanAllowed=[""])),
        "scan-allowed-long": ("a name of 65 characters", model(scanAllowed=["x" * 65])),
        "scan-allowed-newline": ("a line break at a rule's end", model(scanAllowed=["pickle\n"])),
        "scan-allowed-unicode": ("a letter beyond ASCII", model(scanAllowed=["\u00e4"])),
        "watermark-scheme": ("an unknown watermark scheme", model(watermark={**WATERMARK, "scheme": "other"})),
        "watermark-owner": ("an owner that is no fingerprint", model(watermark={**WATERMARK, "owner": "acme"})),
        "watermark-strength": ("a strength of 0", model(watermark={**WATERMARK, "strength": 0})),
        "watermark-bool": ("a strength of true", model(watermark={**WATERMARK, "strength": True})),
        "fingerprint-scheme": ("an unknown fingerprint scheme", model(fingerprint={**FINGERPRINT, "scheme": "other"})),
        "fingerprint-slots": ("7 slots", model(fingerprint={**FINGERPRINT, "slots": 7})),
        "fingerprint-store": ("a fingerprint, and no variants", model(fingerprint=FINGERPRINT)),
    }  # fmt: skip
    blind = ("watermark", "fingerprint", "created-", "scan", "publishers-", "plain-", "io-list", "number-huge")
    for name, (about, data) in cases.items():
        minimal = "unknown" if name.startswith(blind) and not name.endswith("-missing") else ""
        yield f"statement-{name}", about, "FormatError", _raw(envelope(data)), minimal


def _variants() -> Iterator[Case]:
    """Fingerprints of every size have a store of that size, unless that is what is wrong."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "slots-eights": ("9 slots", {"slots": 9}),
        "length-64": ("slots of 96 bytes", {"length": 96}),
        "length-0": ("slots of 0 bytes", {"length": 0}),
        "coalition-0": ("a coalition of 0", {"coalition": 0}),
        "coalition-17": ("a coalition of 17", {"coalition": 17}),
        "coalition-missing": ("no coalition", {"coalition": None}),
        "commitment": ("62 hex digits of a commitment", {"commitment": "0" * 62}),
        "original": ("upper-case hex digits of an original", {"original": "A" * 64}),
        "owner": ("an owner that is no fingerprint", {"owner": "acme"}),
        "unknown-key": ("an unknown key", {"recipients": 3}),
    }
    for name, (about, changes) in cases.items():
        mark = changed(FINGERPRINT, changes)
        store = mark["slots"] * (mark["length"] + 40)
        sizes = [("graph", 5), ("weights", mark["slots"] * mark["length"]), ("variants", store), ("index", 3)]
        yield f"fingerprint-{name}", about, "FormatError", _with(sizes, fingerprint=mark), "unknown"
    sizes = [("graph", 5), ("weights", 1024), ("variants", 8 * 104), ("index", 3)]
    yield "fingerprint-none", "variants, and no fingerprint", "FormatError", _with(sizes), "unknown"
    short = [("graph", 5), ("weights", 1024), ("variants", 8 * 104 - 1), ("index", 3)]
    yield (
        "fingerprint-short",
        "a byte of the variants is missing",
        "FormatError",
        _with(short, fingerprint=FINGERPRINT),
        "unknown",
    )
    twice = [("graph", 5), ("weights", 1024), ("variants", 8 * 104), ("variants", 8 * 104), ("index", 3)]
    yield "fingerprint-twice", "variants twice", "FormatError", _with(twice, fingerprint=FINGERPRINT)
    late = [("graph", 5), ("weights", 1024), ("asset", 1), ("variants", 8 * 104), ("index", 3)]
    yield "fingerprint-late", "variants after an asset", "FormatError", _with(late, fingerprint=FINGERPRINT)


def _extents() -> Iterator[Case]:
    graph, weights, index = (dict(e) for e in EXTENTS)

    def gone(kind: str) -> list[dict[str, Any]]:
        return extents([(k, n) for k, n in PLAIN.items() if k != kind])

    cases: dict[str, tuple[str, Any]] = {
        "missing": ("no extents", None),
        "none": ("an empty list", []),
        "no-graph": ("no graph", gone("graph")),
        "no-index": ("no index", gone("index")),
        "two-graphs": ("two graphs", extents([("graph", 1), ("graph", 1), ("index", 1)])),
        "two-indexes": ("two indexes", extents([("graph", 1), ("index", 1), ("index", 1)])),
        "order": ("an asset before the weights", extents([("graph", 1), ("asset", 1), ("weights", 1), ("index", 1)])),
        "kind": ("an unknown kind", extents([("graph", 1), ("script", 1), ("index", 1)])),
        "gap": ("a gap between two extents", [graph, {**weights, "offset": weights["offset"] + 1}, index]),
        "overlap": ("two extents overlap", [graph, {**weights, "offset": weights["offset"] - 1}, index]),
        "first": ("the first extent does not begin at 0", [{**graph, "offset": 1}, weights, index]),
        "negative": ("a negative offset", [{**graph, "offset": -1}, weights, index]),
        "length-0": ("a length of 0", [{**graph, "length": 0}, {**index, "offset": 0}]),
        "length-71": ("no stream is so short", [{**graph, "length": 71}, {**index, "offset": 71}]),
        "length-chunk": ("no stream has this length", [{**graph, "length": 56 + 16400}, {**index, "offset": 56 + 16400}]),
        "length-huge": ("a length of 2^70", [{**graph, "length": 2**70}, index]),
        "length-text": ("a length in text", [{**graph, "length": "133"}, weights, index]),
        "length-float": ("a length that is no integer", [{**graph, "length": 133.0}, weights, index]),
        "length-bool": ("a length of true", [{**graph, "length": True}, weights, index]),
        "unknown-key": ("an unknown key in an extent", [{**graph, "key": 0}, weights, index]),
        "text": ("a text for an extent", ["graph"]),
        "variants": ("variants without a fingerprint", extents([("graph", 1), ("variants", 832), ("index", 1)])),
    }  # fmt: skip
    for name, (about, found) in cases.items():
        yield f"extents-{name}", about, "FormatError", _raw(envelope(model(extents=found)))
    short = _with([("graph", 5), ("weights", 1024), ("variants", 8 * 104 - 1), ("index", 3)], fingerprint=FINGERPRINT)
    yield "extents-variants-length", "variants a byte too short for the slots", "FormatError", short, "unknown"


def _terms() -> Iterator[Case]:
    of_log, witness = (
        f"w+{sha(b'w', key)[:4].hex()}+{b64(key[1:])}" for key in (b"\n\1" + WITNESS.raw, b"\n\4" + WITNESS.raw)
    )
    cases: dict[str, tuple[str, Any]] = {
        "missing": ("no policy", None),
        "list": ("a list for terms", []),
        "unknown": ("a misspelt limit", {"max_load": {"count": 1}}),
        "time": ("a time without a zone", {"not_after": "2026-11-25T12:00:00"}),
        "time-number": ("a time in seconds", {"not_after": 0}),
        "count": ("a negative count", {"max_loads": {"count": -1}}),
        "count-bool": ("a count of true", {"max_sessions": True}),
        "count-missing": ("a quota without a count", {"max_runs": {"per": "day"}}),
        "per": ("an unknown period", {"max_runs": {"count": 1, "per": "week"}}),
        "quota-key": ("an unknown key in a quota", {"max_runs": {"count": 1, "days": 3}}),
        "versions": ("a text for a list", {"versions": "1.*"}),
        "memory": ("an unknown memory mode", {"memory": "huge"}),
        "hardening": ("an unknown hardening level", {"hardening": "none"}),
        "loader": ("a loader version in letters", {"min_loader": "latest"}),
        "share": ("a share above 1", {"queries": {"rejected": 1.5}}),
        "witness": ("a witness key that does not fit its number", {"cosigned": {"by": ["w+00000000+" + b64(b"\4" + RECIPIENT.raw)]}}),
        "witness-hours": ("cosigned in the last 8761 hours", {"cosigned": {"by": [witness], "hours": 8761}}),
        "witness-space": ("white space before a witness's key", {"cosigned": {"by": [" " + witness]}}),
        "witness-log": ("a log's key for a witness's", {"cosigned": {"by": [of_log]}}),
        "providers-1025": ("1025 providers", {"providers": ["p"] * 1025}),
        "provider-long": ("a provider of 4097 characters", {"providers": ["p" * 4097]}),
        "witness-threshold": ("two of no witnesses", {"cosigned": {"by": [], "threshold": 2}}),
    }  # fmt: skip
    for name, (about, policy) in cases.items():
        yield f"terms-{name}", about, "FormatError", signed(model(policy=policy)), "" if policy is None else "unknown"


def _payloads() -> Iterator[Case]:
    good, first = signed(model()), envelope(model())
    yield "payload-cut", "the last byte is missing", "FormatError", good[:-1]
    yield "payload-longer", "a byte after the payload", "FormatError", good + b"\0"
    yield "payload-gone", "no payload", "FormatError", good[:4096]
    for place, at in (("first", 0), ("middle", 150), ("last", len(PAYLOAD) - 1)):
        flipped = PAYLOAD[:at] + bytes([PAYLOAD[at] ^ 1]) + PAYLOAD[at + 1 :]
        yield (
            f"payload-flipped-{place}",
            "one bit of the ciphertext",
            "PayloadTampered",
            container(first, payload=flipped),
        )
    one, two = EXTENTS[0]["length"], EXTENTS[0]["length"] + EXTENTS[1]["length"]
    swapped = PAYLOAD[one:two] + PAYLOAD[:one] + PAYLOAD[two:]
    yield "payload-swapped", "two extents changed places", "PayloadTampered", container(first, payload=swapped)
    whole = {"mvltMerkleSha256": sha(b"\0", PAYLOAD).hex()}
    yield "root-one-leaf", "the root of the payload as one block", "PayloadTampered", signed(model(digest=whole))
    plain = {"mvltMerkleSha256": sha(PAYLOAD).hex()}
    yield "root-plain", "the payload's SHA-256 for its root", "PayloadTampered", signed(model(digest=plain))
    leaves = [sha(b"\0", PAYLOAD[e["offset"] : e["offset"] + e["length"]]) for e in EXTENTS]
    padded = {"mvltMerkleSha256": tree([*leaves, leaves[-1]]).hex()}
    yield (
        "root-doubled-leaf",
        "the last leaf counted twice, as Bitcoin does",
        "PayloadTampered",
        signed(model(digest=padded)),
    )
    bare = [sha(PAYLOAD[e["offset"] : e["offset"] + e["length"]]) for e in EXTENTS]
    unmarked = {"mvltMerkleSha256": sha(sha(bare[0], bare[1]), bare[2]).hex()}
    yield "root-unmarked", "a tree without RFC 6962's prefixes", "PayloadTampered", signed(model(digest=unmarked))
