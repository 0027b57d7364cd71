"""OpenSSF model signatures: one spelling for each statement, every key of it checked, and who signed."""

import base64
import hashlib
import json
import re
from typing import Any

import pytest

from modelvault import omsbundle
from modelvault.envelope import Signature, pre_authentication
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.keys import PublisherKey
from modelvault.omsbundle import ModelManifest, UnverifiedSignature

DIGESTS = {"a.bin": bytes(32), "sub/b.bin": bytes([1]) * 32}
TOTAL = hashlib.sha256(bytes(32) + bytes([1]) * 32).digest()
SERIALIZATION = {"allow_symlinks": False, "hash_type": "sha256", "ignore_paths": ["c"], "method": "files"}
KIND = "application/vnd.in-toto+json"


def refused(words: str, error: type[Exception] = FormatError) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(words)}$")


def changed(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Keys given as ... are left out."""
    return {k: v for k, v in {**value, **changes}.items() if v is not ...}


def encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def resource(name: Any = "a.bin", digest: Any = "00" * 32, **changes: Any) -> dict[str, Any]:
    return changed({"algorithm": "sha256", "digest": digest, "name": name}, changes)


def statement(predicate: Any = None, serialization: Any = None, **changes: Any) -> bytes:
    inner = {
        "resources": [resource(), resource("sub/b.bin", "01" * 32)],
        "serialization": changed(SERIALIZATION, serialization or {}),
    }
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": changed(inner, predicate or {}),
        "predicateType": "https://model_signing/signature/v1.0",
        "subject": [{"digest": {"sha256": TOTAL.hex()}, "name": "bert"}],
    }
    return encoded(changed(value, changes))


def read(data: bytes) -> ModelManifest:
    return ModelManifest.from_bytes(data, "s")


def test_the_statement() -> None:
    manifest = ModelManifest(name="bert", resources=DIGESTS, ignored=("c",))
    assert manifest.digest == TOTAL
    assert manifest.to_bytes() == statement()
    assert read(statement()) == manifest
    assert [manifest.ignores(path) for path in ("c", "c/d", "c/d/e", "cd", "d/c", "")] == [True] * 3 + [False] * 3
    assert read(statement(predicate={"more": 1})) == manifest  # which the specification has verifiers ignore
    assert read(statement(serialization={"ignore_paths": ...})).ignored == ()


def one_resource(*items: Any) -> bytes:
    return statement(predicate={"resources": list(items)})


SUBJECT = {"digest": {"sha256": TOTAL.hex()}, "name": "bert"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[]", "s: expected an object, got list"),
        (b"{", "s: not valid JSON: expecting property name enclosed in double quotes"),
        (statement(_type="x"), "s._type: expected https://in-toto.io/Statement/v1, got x"),
        (statement(predicateType="x"), "s.predicateType: expected https://model_signing/signature/v1.0, got x"),
        (statement(extra=1), "s: unknown key 'extra'"),
        (statement(subject=...), "s.subject: missing"),
        (statement(subject=[]), "s.subject: expected exactly one, got 0"),
        (statement(subject=[SUBJECT] * 2), "s.subject: expected exactly one, got 2"),
        (statement(subject=[1]), "s.subject[0]: expected an object, got int"),
        (statement(subject=[changed(SUBJECT, {"digest": {}})]), "s.subject[0].digest.sha256: missing"),
        (statement(subject=[changed(SUBJECT, {"digest": 1})]), "s.subject[0].digest: expected an object, got int"),
        (statement(subject=[changed(SUBJECT, {"digest": {"sha256": TOTAL.hex(), "sha1": ""}})]),
         "s.subject[0].digest: unknown key 'sha1'"),
        (statement(subject=[changed(SUBJECT, {"name": ...})]), "s.subject[0].name: missing"),
        (statement(subject=[changed(SUBJECT, {"x": 1})]), "s.subject[0]: unknown key 'x'"),
        (statement(subject=[changed(SUBJECT, {"digest": {"sha256": "00" * 32}})]),
         "s.subject: its digest is not that of the listed resources"),
        (encoded({"_type": "https://in-toto.io/Statement/v1", "subject": [SUBJECT],
                  "predicateType": "https://model_signing/signature/v1.0"}), "s.predicate: missing"),
        (statement(predicate={"resources": ...}), "s.predicate.resources: missing"),
        (statement(predicate={"serialization": ...}), "s.predicate.serialization: missing"),
        (one_resource(), "s.predicate.resources: expected at least one"),
        (one_resource(resource(), 1), "s.predicate.resources[1]: expected an object, got int"),
        (one_resource(resource(algorithm="md5")), "s.predicate.resources[0].algorithm: expected sha256, got md5"),
        (one_resource(resource(name=...)), "s.predicate.resources[0].name: missing"),
        (one_resource(resource(digest=...)), "s.predicate.resources[0].digest: missing"),
        (one_resource(resource(x=1)), "s.predicate.resources[0]: unknown key 'x'"),
        (one_resource(resource(), resource()), "s.predicate.resources[1].name: 'a.bin' is listed twice"),
        (one_resource(*[resource("n" * 90)] * 2), f"s.predicate.resources[1].name: {'n' * 80!r} is listed twice"),
        (one_resource(resource("../a")),
         "s.predicate.resources[0].name: '../a': path leaves its folder through '..'"),
        (one_resource(resource("a//b")), "s.predicate.resources[0].name: 'a//b' is not in its shortest form"),
        (one_resource(resource("./" + "n" * 90)),
         f"s.predicate.resources[0].name: {'./' + 'n' * 78!r} is not in its shortest form"),
        (statement(serialization={"method": "shards"}),
         "s.predicate.serialization.method: expected files, got shards"),
        (statement(serialization={"hash_type": "md5"}),
         "s.predicate.serialization.hash_type: expected sha256, got md5"),
        (statement(serialization={"allow_symlinks": True}),
         "s.predicate.serialization.allow_symlinks: expected false: links could leave the folder"),
        (statement(serialization={"allow_symlinks": ...}), "s.predicate.serialization.allow_symlinks: missing"),
        (statement(serialization={"ignore_paths": ["c"] * 1025}),
         "s.predicate.serialization.ignore_paths: more than 1024 items"),
        (statement(serialization={"ignore_paths": ["c", "/d"]}),
         "s.predicate.serialization.ignore_paths[1]: '/d': absolute path"),
        (statement(serialization={"x": 1}), "s.predicate.serialization: unknown key 'x'"),
        (statement(serialization={"ignore_paths": ["c", "sub"]}),
         "s.predicate: 'sub/b.bin' is both signed and ignored"),
    ],
)  # fmt: skip
def test_statements_that_are_refused(data: bytes, words: str) -> None:
    with refused(words):
        read(data)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"c{n}" for n in range(1024)]
    assert read(statement(serialization={"ignore_paths": many})).ignored == tuple(many)
    monkeypatch.setattr(omsbundle, "MAX_RESOURCES", 2)
    read(statement())
    monkeypatch.setattr(omsbundle, "MAX_RESOURCES", 1)
    with refused("s.predicate.resources: more than 1 items"):
        read(statement())
    monkeypatch.setattr(omsbundle, "MAX_BUNDLE", 10)
    for parse in (ModelManifest.from_bytes, UnverifiedSignature.from_bytes):
        with refused("s: 11 bytes, above the limit of 10"):
            parse(b"[1,2,3,4,5]", "s")


# -- the file around it


def bundle(material: Any = None, envelope: Any = None, **changes: Any) -> bytes:
    inner = {"payload": "eA==", "payloadType": KIND, "signatures": [{"keyid": "k", "sig": "AA=="}, {"sig": "AQ=="}]}
    value = {
        "dsseEnvelope": changed(inner, envelope or {}),
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": changed({"publicKey": {"hint": "h"}, "tlogEntries": []}, material or {}),
    }
    return encoded(changed(value, changes))


def test_the_file() -> None:
    found = UnverifiedSignature.from_bytes(bundle(), "b")
    signatures = Signature(keyid="k", sig=b"\0"), Signature(keyid="", sig=b"\1")
    assert found == UnverifiedSignature(payload=b"x", signatures=signatures)
    materials: list[dict[str, Any]] = [
        {"publicKey": {}}, {"publicKey": {"hint": "h", "rawBytes": "r", "keyDetails": "d"}}, {"tlogEntries": ...},
        {"timestampVerificationData": {"anything": 1}},
    ]  # fmt: skip
    for material in materials:
        assert UnverifiedSignature.from_bytes(bundle(material), "b") == found
    spaced = json.dumps(json.loads(bundle()), indent=2).encode()  # as other signers write it
    assert UnverifiedSignature.from_bytes(spaced, "b") == found
    most = {"signatures": [{"keyid": "k" * 128, "sig": ""}] * 64}
    assert len(UnverifiedSignature.from_bytes(bundle(envelope=most), "b").signatures) == 64


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"1", "b: expected an object, got int"),
        (bundle(mediaType="x"), "b.mediaType: expected application/vnd.dev.sigstore.bundle.v0.3+json, got x"),
        (bundle(verificationMaterial=...), "b.verificationMaterial: missing"),
        (bundle(dsseEnvelope=...), "b.dsseEnvelope: missing"),
        (bundle(x=1), "b: unknown key 'x'"),
        (bundle(material={"publicKey": ...}), "b.verificationMaterial.publicKey: missing"),
        (bundle(material={"certificate": {}}), "b.verificationMaterial: unknown key 'certificate'"),
        (bundle(material={"publicKey": {"x": 1}}), "b.verificationMaterial.publicKey: unknown key 'x'"),
        *((bundle(material={"publicKey": {name: 1}}),
           f"b.verificationMaterial.publicKey.{name}: expected text, got int")
          for name in ("hint", "rawBytes", "keyDetails")),
        (bundle(material={"tlogEntries": [{}]}), "b.verificationMaterial.tlogEntries: more than 0 items"),
        (bundle(material={"timestampVerificationData": 1}),
         "b.verificationMaterial.timestampVerificationData: expected an object, got int"),
        (bundle(envelope={"payloadType": "x"}), f"b.dsseEnvelope.payloadType: expected {KIND}, got x"),
        (bundle(envelope={"payload": ...}), "b.dsseEnvelope.payload: missing"),
        (bundle(envelope={"signatures": ...}), "b.dsseEnvelope.signatures: missing"),
        (bundle(envelope={"x": 1}), "b.dsseEnvelope: unknown key 'x'"),
        (bundle(envelope={"signatures": [{"sig": ""}] * 65}), "b.dsseEnvelope.signatures: more than 64 items"),
        (bundle(envelope={"signatures": [{"sig": ""}, 1]}),
         "b.dsseEnvelope.signatures[1]: expected an object, got int"),
        (bundle(envelope={"signatures": [{}]}), "b.dsseEnvelope.signatures[0].sig: missing"),
        (bundle(envelope={"signatures": [{"sig": "", "keyid": "k" * 129}]}),
         "b.dsseEnvelope.signatures[0].keyid: longer than 128 characters"),
        (bundle(envelope={"signatures": [{"sig": "", "x": 1}]}), "b.dsseEnvelope.signatures[0]: unknown key 'x'"),
    ],
)  # fmt: skip
def test_files_that_are_refused(data: bytes, words: str) -> None:
    with refused(words):
        UnverifiedSignature.from_bytes(data, "b")


def test_who_signed() -> None:
    first, second, other = (PublisherKey.generate("ed25519") for _ in range(3))
    manifest = ModelManifest(name="bert", resources=DIGESTS, ignored=("c",))
    data = omsbundle.to_bundle(manifest, [first, second])
    payload = statement()
    assert json.loads(data) == {
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": KIND,
            "signatures": [
                {
                    "keyid": key.public.fingerprint,
                    "sig": base64.b64encode(key.sign(pre_authentication(payload))).decode(),
                }
                for key in (first, second)  # Ed25519 signs the same message the same way
            ],
        },
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(first.public.to_pem()).hexdigest()},
            "tlogEntries": [],
        },
    }
    found = UnverifiedSignature.from_bytes(data, "b")
    for keys in ([first], [second], [first, second]):
        assert found.verified_by([key.public for key in keys], "b") == manifest
    with refused(f"b: not signed by {other.public.fingerprint}", SignatureInvalid):
        found.verified_by([first.public, other.public], "b")
    with refused("at least one key is needed", ValueError):
        found.verified_by([], "b")


def test_a_signature_without_a_name_may_be_anybody_s() -> None:
    key, other = PublisherKey.generate("ed25519"), PublisherKey.generate("ed25519")
    sig, strange = (k.sign(pre_authentication(statement())) for k in (key, other))
    named = key.public.fingerprint
    for name in ("", named):
        signatures = Signature(keyid="", sig=strange), Signature(keyid=name, sig=sig)
        found = UnverifiedSignature(payload=statement(), signatures=signatures)
        assert found.verified_by([key.public], "b").name == "bert"
    for name, bad in ((other.public.fingerprint, sig), ("", strange), (named, strange)):
        wrong = UnverifiedSignature(payload=statement(), signatures=(Signature(keyid=name, sig=bad),))
        with refused(f"b: not signed by {named}", SignatureInvalid):
            wrong.verified_by([key.public], "b")
    sig = key.sign(pre_authentication(b"1"))
    unreadable = UnverifiedSignature(payload=b"1", signatures=(Signature(keyid="", sig=sig),))
    with refused("b: statement: expected an object, got int"):
        unreadable.verified_by([key.public], "b")


def test_what_no_verifier_accepts_is_not_signed() -> None:
    key = PublisherKey.generate("ed25519")
    with refused("bert.predicate.resources[0].name: '../a': path leaves its folder through '..'"):
        omsbundle.to_bundle(ModelManifest(name="bert", resources={"../a": bytes(32)}, ignored=()), [key])
