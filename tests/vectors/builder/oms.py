"""OpenSSF Model Signing bundles; the folder's files stand in the header (``file: PATH=BASE64``)."""

from collections.abc import Iterator
from typing import Any

from vectors.builder.base import (
    PAYLOAD_TYPE,
    PUBLISHER,
    SECOND,
    STATEMENT,
    STRANGER,
    Vector,
    b64,
    canonical,
    changed,
    noise,
    sha,
    signature,
)  # fmt: skip

FILES = {"config.json": b"{}", "layers/0.bin": noise("weights", 40), "empty": b""}
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SERIALIZATION = {"allow_symlinks": False, "hash_type": "sha256", "ignore_paths": [".git"], "method": "files"}
Case = tuple[Any, ...]


def resources(files: dict[str, bytes] | None = None) -> list[dict[str, str]]:
    return [
        {"algorithm": "sha256", "digest": sha(data).hex(), "name": name}
        for name, data in sorted((FILES if files is None else files).items())
    ]


def manifest(
    found: Any = None, *, digest: str | None = None, outer: dict[str, Any] | None = None, **changes: Any
) -> bytes:
    """The signed statement; changes are those of ``serialization``."""
    items = resources() if found is None else found
    own = digest or sha(*(bytes.fromhex(i["digest"]) for i in items if isinstance(i, dict) and "digest" in i)).hex()
    value = {
        "_type": STATEMENT,
        "predicate": {"resources": items, "serialization": changed(SERIALIZATION, changes)},
        "predicateType": "https://model_signing/signature/v1.0",
        "subject": [{"digest": {"sha256": own}, "name": "bert"}],
    }
    return canonical(changed(value, outer or {}))


def bundle(payload: bytes, *, signatures: Any = None, envelope: dict[str, Any] | None = None, **changes: Any) -> bytes:
    signed = [signature(payload, PUBLISHER)] if signatures is None else signatures
    dsse = {"payload": b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": signed}
    value = {
        "dsseEnvelope": changed(dsse, envelope or {}),
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "0"}, "tlogEntries": []},
    }
    return canonical(changed(value, changes))


def vectors() -> Iterator[Vector]:
    for group in (_good, _signatures, _files, _bundles, _manifests):
        for name, about, expect, data, *files in group():
            stored = (files[0] if files else FILES).items()
            header = (("key", b64(PUBLISHER.der)), *(("file", f"{path}={b64(content)}") for path, content in stored))
            yield Vector("oms", name, about, expect, data, header)


def _good() -> Iterator[Case]:
    yield "good", "nothing is wrong", "accepted", bundle(manifest())
    bare = {**signature(manifest(), PUBLISHER), "keyid": ""}
    yield "good-no-keyid", "model_signing leaves keyid empty", "accepted", bundle(manifest(), signatures=[bare])
    two = [signature(manifest(), SECOND), signature(manifest(), PUBLISHER)]
    yield "good-two", "two keys signed", "accepted", bundle(manifest(), signatures=two)
    spaced = bundle(manifest()).replace(b",", b", ", 1)
    yield "good-spaced", "bundles need not be canonical", "accepted", spaced
    ignored = {**FILES, ".git/config": b"x"}
    yield "good-ignored", "a file that the signature leaves out", "accepted", bundle(manifest()), ignored


def _signatures() -> Iterator[Case]:
    payload = manifest()
    wrong = "SignatureInvalid"
    yield "stranger", "signed by another key", wrong, bundle(payload, signatures=[signature(payload, STRANGER)])
    zeros = [{"keyid": PUBLISHER.fingerprint, "sig": b64(bytes(64))}]
    yield "signature-zeros", "64 zero bytes for a signature", wrong, bundle(payload, signatures=zeros)
    yield "signatures-none", "nobody signed", wrong, bundle(payload, signatures=[])
    raw = [{"keyid": "", "sig": b64(PUBLISHER.sign(payload))}]
    yield "signature-raw", "signed without the pre-authentication encoding", wrong, bundle(payload, signatures=raw)
    other = [{**signature(payload, PUBLISHER), "keyid": STRANGER.fingerprint}]
    yield "signature-keyid", "the right signature under another keyid", wrong, bundle(payload, signatures=other)
    changed_one = manifest(resources({**FILES, "empty": b"x"}))
    yield (
        "payload-swapped",
        "another list under this signature",
        wrong,
        bundle(changed_one, signatures=[signature(payload, PUBLISHER)]),
    )


def _files() -> Iterator[Case]:
    good, wrong = bundle(manifest()), "PayloadTampered"
    yield "file-changed", "a file was changed", wrong, good, {**FILES, "config.json": b"{ }"}
    yield "file-added", "a file was added", wrong, good, {**FILES, "extra.bin": b""}
    yield "file-missing", "a file is missing", wrong, good, {k: v for k, v in FILES.items() if k != "empty"}
    renamed = {"layers/1.bin" if k == "layers/0.bin" else k: v for k, v in FILES.items()}
    yield "file-renamed", "a file was renamed", wrong, good, renamed
    swapped = {**FILES, "config.json": FILES["empty"], "empty": FILES["config.json"]}
    yield "files-swapped", "two files changed places", wrong, good, swapped


def _bundles() -> Iterator[Case]:
    payload = manifest()
    good = bundle(payload)
    own = signature(payload, PUBLISHER)
    cases: dict[str, tuple[str, bytes]] = {
        "empty": ("no bytes", b""),
        "json": ("cut", good[:-5]),
        "json-list": ("a list", b"[]"),
        "json-twice": ("a key is repeated", b'{"mediaType":"x",' + good[1:]),
        "json-deep": ("nested deeply", b'{"a":' * 40 + b"1" + b"}" * 40),
        "media-type": ("another version of bundles", bundle(payload, mediaType=MEDIA_TYPE.replace("v0.3", "v0.4"))),
        "media-type-missing": ("no media type", bundle(payload, mediaType=None)),
        "unknown-key": ("an unknown key", bundle(payload, extra={})),
        "message-signature": ("a message signature for an envelope", bundle(payload, dsseEnvelope=None, messageSignature={})),
        "material-missing": ("no verification material", bundle(payload, verificationMaterial=None)),
        "material-certificate": ("a certificate: signed through a service", bundle(payload, verificationMaterial={"certificate": {}})),
        "material-log": ("an entry of a transparency log", bundle(payload, verificationMaterial={"publicKey": {}, "tlogEntries": [{}]})),
        "payload-type": ("another payload type", bundle(payload, envelope={"payloadType": "text/plain"})),
        "payload-missing": ("no payload", bundle(payload, envelope={"payload": None})),
        "payload-base64": ("a payload that is not base64", bundle(payload, envelope={"payload": "?"})),
        "envelope-key": ("an unknown key in the envelope", bundle(payload, envelope={"x": 1})),
        "signatures-65": ("65 signatures", bundle(payload, signatures=[own] * 65)),
        "signature-text": ("a text for a signature", bundle(payload, signatures=["sig"])),
        "signature-key": ("an unknown key in a signature", bundle(payload, signatures=[{**own, "cert": ""}])),
    }  # fmt: skip
    for name, (about, data) in cases.items():
        yield f"bundle-{name}", about, "FormatError", data


def _manifests() -> Iterator[Case]:
    one = resources()[0]

    def named(name: Any) -> bytes:
        return manifest([{**one, "name": name}, *resources()[1:]])

    subject = {"digest": {"sha256": "0" * 64}, "name": "bert"}
    cases: dict[str, tuple[str, bytes]] = {
        "json": ("no JSON", b"list"),
        "type": ("an older statement", manifest(outer={"_type": "https://in-toto.io/Statement/v0.1"})),
        "predicate-type": ("another predicate", manifest(outer={"predicateType": "https://model_signing/signature/v2.0"})),
        "subject-none": ("no subject", manifest(outer={"subject": []})),
        "subject-two": ("two subjects", manifest(outer={"subject": [subject, subject]})),
        "digest": ("a digest that is not the files'", manifest(digest="0" * 64)),
        "resources-none": ("an empty list", manifest([])),
        "resources-object": ("an object for a list", manifest({})),
        "resource-text": ("a text for a file", manifest(["config.json"])),
        "resource-key": ("an unknown key", manifest([{**one, "size": 2}])),
        "resource-algorithm": ("another hash function", manifest([{**one, "algorithm": "md5"}])),
        "resource-digest": ("half a digest", manifest([{**one, "digest": one["digest"][:32]}], digest="0" * 64)),
        "resource-twice": ("a file is listed twice", manifest([one, one])),
        "name-dots": ("a name that leaves the folder", named("../config.json")),
        "name-absolute": ("an absolute name", named("/etc/passwd")),
        "name-drive": ("a name on a drive", named("c:/config.json")),
        "name-backslash": ("a backslash", named("layers\\0.bin")),
        "name-nul": ("a NUL", named("config\0.json")),
        "name-empty": ("no name", named("")),
        "name-dot": ("a longer way to the same file", named("./config.json")),
        "name-slashes": ("two slashes", named("layers//x")),
        "name-number": ("a number", named(1)),
        "ignored": ("a file that is both signed and ignored", manifest(ignore_paths=["layers"])),
        "ignore-dots": ("an ignored path outside the folder", manifest(ignore_paths=["../.."])),
        "symlinks": ("links may be followed", manifest(allow_symlinks=True)),
        "method": ("another method", manifest(method="shards")),
        "hash": ("another hash function for all", manifest(hash_type="blake2b")),
        "serialization-key": ("an unknown key", manifest(shard_size=1)),
    }  # fmt: skip
    for name, (about, payload) in cases.items():
        yield f"manifest-{name}", about, "FormatError", bundle(payload)
