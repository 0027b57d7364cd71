"""The two signed statements: their spelling, their limits, and what the payload's extents must be."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from modelvault._primitives import sealed_length
from modelvault.commitment import Commitment
from modelvault.errors import FormatError
from modelvault.manifest import Extent, GrantStatement, ModelStatement, PlainSignature, check_name, version_key
from modelvault.policy import Terms
from modelvault.variants import Variants

OWNER = "SHA256:" + "A" * 43
GRAPH, WEIGHTS, INDEX = sealed_length(100), sealed_length(5000), sealed_length(50)
P = "s.predicate"


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def extents(*kinds: str) -> list[dict[str, Any]]:
    found, offset = [], 0
    for kind in kinds:
        found.append({"kind": kind, "length": GRAPH, "offset": offset})
        offset += GRAPH
    return found


def predicate(**changes: Any) -> dict[str, Any]:
    value = {
        "created": "2026-01-02T03:04:05Z",
        "extents": extents("graph", "index"),
        "keyCommitment": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "nonce": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        "policy": {},
        "publishers": ["SHA256:" + "x" * 43],
        "version": "1.2",
        **changes,
    }
    return {k: v for k, v in value.items() if v is not ...}


def model_text(outer: dict[str, Any] | None = None, **changes: Any) -> bytes:
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": predicate(**changes),
        "predicateType": "urn:modelvault:sealed-model:v1",
        "subject": [{"digest": {"mvltMerkleSha256": "0f" * 32}, "name": "fraud"}],
        **(outer or {}),
    }
    return json.dumps({k: v for k, v in value.items() if v is not ...}, sort_keys=True, separators=(",", ":")).encode()


def read(data: bytes) -> ModelStatement:
    return ModelStatement.from_bytes(data, "s")


def a_model(**changes: Any) -> ModelStatement:
    values: dict[str, Any] = {
        "name": "fraud",
        "version": "1.2",
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "nonce": b"\x01" * 32,
        "root": b"\x0f" * 32,
        "extents": (Extent(kind="graph", offset=0, length=GRAPH), Extent(kind="index", offset=GRAPH, length=GRAPH)),
        "key_commitment": bytes(32),
        "policy": Terms(),
        "publishers": ("SHA256:" + "x" * 43,),
        **changes,
    }
    return ModelStatement(**values)


def test_a_model_s_statement() -> None:
    statement = a_model()
    assert statement.to_bytes() == model_text()
    assert read(model_text()) == statement
    assert statement.payload_size == 2 * GRAPH
    assert [e.plain for e in statement.extents] == [100, 100]


def test_what_a_statement_may_hold_besides() -> None:
    variants = Variants(owner=OWNER, original=bytes(32), slots=8, length=64, coalition=2, commitment=bytes(32))
    store = sealed_length(variants.store)
    statement = a_model(
        extents=(
            Extent(kind="graph", offset=0, length=GRAPH),
            Extent(kind="weights", offset=GRAPH, length=WEIGHTS),
            Extent(kind="variants", offset=GRAPH + WEIGHTS, length=store),
            Extent(kind="asset", offset=GRAPH + WEIGHTS + store, length=INDEX),
            Extent(kind="asset", offset=GRAPH + WEIGHTS + store + INDEX, length=INDEX),
            Extent(kind="index", offset=GRAPH + WEIGHTS + store + 2 * INDEX, length=INDEX),
        ),
        policy=Terms(max_sessions=3),
        io={"inputs": []},
        watermark=Commitment(owner=OWNER, original=bytes(32), strength=5, value=bytes(32)),
        variants=variants,
        plain_signature=PlainSignature(digest=b"\x0a" * 32, signers=("SHA256:" + "y" * 43,)),
        allowed=("a", "b-2"),
    )
    data = statement.to_bytes()
    assert read(data) == statement
    found = json.loads(data)["predicate"]
    assert found["policy"] == {"max_sessions": 3}
    assert found["io"] == {"inputs": []}
    assert found["watermark"]["strength"] == 5
    assert found["fingerprint"]["slots"] == 8
    assert found["plainSignature"] == {"digest": "0a" * 32, "signers": ["SHA256:" + "y" * 43]}
    assert found["scanAllowed"] == ["a", "b-2"]
    assert statement.payload_size == GRAPH + WEIGHTS + store + 3 * INDEX


@pytest.mark.parametrize(
    ("kinds", "fine"),
    [
        (("graph", "index"), True),
        (("graph", "weights", "index"), True),
        (("graph", "weights", "weights", "asset", "asset", "index"), True),
        (("index", "graph"), False),
        (("graph",), False),
        (("index",), False),
        ((), False),
        (("graph", "graph", "index"), False),
        (("graph", "index", "index"), False),
        (("graph", "asset", "weights", "index"), False),
        (("graph", "index", "asset"), False),
    ],
)
def test_the_order_of_extents(kinds: tuple[str, ...], fine: bool) -> None:
    if fine:
        assert [e.kind for e in read(model_text(extents=extents(*kinds))).extents] == list(kinds)
    else:
        with refused(f"{P}.extents: expected one graph, weights, variants, assets, one index, in this order"):
            read(model_text(extents=extents(*kinds)))


def test_as_many_extents_as_may_be() -> None:
    many = extents("graph", *["weights"] * 65_533, "index")
    assert len(read(model_text(extents=many)).extents) == 65_535


def changed(number: int, **changes: Any) -> list[dict[str, Any]]:
    found = extents("graph", "index")
    found[number] |= changes
    return found


VARIANTS = {
    "coalition": 2, "commitment": "00" * 32, "length": 64, "original": "00" * 32, "owner": OWNER,
    "scheme": "modelvault/fingerprint/v1", "slots": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "1.02"},
         r"version: '1.02' is not allowed (expected (0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3})"),
        ({"version": 1}, "version: expected text, got int"),
        ({"created": "now"}, "created: not an RFC 3339 time"),
        ({"nonce": "AA=="}, "nonce: expected 32 bytes, got 1"),
        ({"keyCommitment": "AA=="}, "keyCommitment: expected 32 bytes, got 1"),
        ({"policy": ...}, "policy: missing"),
        ({"policy": {"max_session": 1}}, "policy: unknown key 'max_session'"),
        ({"publishers": ["k"] * 65}, "publishers: more than 64 items"),
        ({"publishers": ["k"]}, "publishers: expected a SHA256: fingerprint, got 'k'"),
        ({"io": []}, "io: expected an object, got list"),
        ({"watermark": {}}, "watermark.scheme: missing"),
        ({"fingerprint": {}}, "fingerprint.scheme: missing"),
        ({"plainSignature": {}}, "plainSignature.digest: missing"),
        ({"plainSignature": {"digest": "00" * 32, "signers": ["k"] * 65}},
         "plainSignature.signers: more than 64 items"),
        ({"plainSignature": {"digest": "00" * 32, "signers": [], "x": 1}}, "plainSignature: unknown key 'x'"),
        ({"scanAllowed": ["r"] * 65}, "scanAllowed: more than 64 items"),
        ({"scanAllowed": []}, "scanAllowed: expected names in order, each once"),
        ({"scanAllowed": ["b", "a"]}, "scanAllowed: expected names in order, each once"),
        ({"scanAllowed": ["A"]}, "scanAllowed: 'A' is not allowed (expected [a-z0-9][a-z0-9-]{0,63})"),
        ({"extents": [1] * 65_536}, "extents: more than 65535 items"),
        ({"extents": [1]}, "extents[0]: expected an object, got int"),
        ({"extents": changed(1, kind="code")},
         "extents[1].kind: expected one of graph, weights, variants, asset, index, got 'code'"),
        ({"extents": changed(0, offset=1)}, "extents[0].offset: expected 0, got 1"),
        ({"extents": changed(1, offset=GRAPH + 1)}, f"extents[1].offset: expected {GRAPH}, got {GRAPH + 1}"),
        ({"extents": changed(1, offset=GRAPH - 1)}, f"extents[1].offset: expected {GRAPH}, got {GRAPH - 1}"),
        ({"extents": changed(1, more=1)}, "extents[1]: unknown key 'more'"),
        ({"fingerprint": VARIANTS}, "extents: variants are not as in fingerprint"),
        ({"extents": extents("graph", "variants", "index")}, "extents: variants are not as in fingerprint"),
        ({"extents": extents("graph", "variants", "index"), "fingerprint": VARIANTS},
         "extents: variants are not as in fingerprint"),
    ],
)  # fmt: skip
def test_model_statements_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with refused(f"{P}.{words}"):
        read(model_text(**changes))


def test_a_stream_of_no_possible_length() -> None:
    with refused("extent length 7 is impossible"):
        read(model_text(extents=changed(1, length=7)))


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        ({"_type": "x"}, "s._type: expected https://in-toto.io/Statement/v1, got x"),
        ({"predicateType": "urn:modelvault:grant:v1"},
         "s.predicateType: expected urn:modelvault:sealed-model:v1, got urn:modelvault:grant:v1"),
        ({"subject": []}, "s.subject: expected exactly one, got 0"),
        ({"subject": [1, 2]}, "s.subject: more than 1 items"),
        ({"subject": [{"digest": {}, "name": "n"}]}, "s.subject[0].digest.mvltMerkleSha256: missing"),
        ({"subject": [{"digest": {"mvltMerkleSha256": "00" * 32, "sha256": "00" * 32}, "name": "n"}]},
         "s.subject[0].digest: unknown key 'sha256'"),
        ({"subject": [{"digest": {"mvltMerkleSha256": "00" * 32}, "name": "n", "uri": "x"}]},
         "s.subject[0]: unknown key 'uri'"),
        ({"subject": [{"digest": {"mvltMerkleSha256": "00" * 32}, "name": "n" * 129}]},
         "s.subject[0].name: longer than 128 characters"),
        ({"subject": [{"digest": {"mvltMerkleSha256": "00" * 32}, "name": "../n"}]},
         "s.subject: '../n' is not allowed (expected [A-Za-z0-9][A-Za-z0-9._-]{0,127})"),
        ({"predicate": ...}, "s.predicate: missing"),
        ({"extra": 1}, "s: unknown key 'extra'"),
    ],
)  # fmt: skip
def test_statements_around_the_predicate(outer: dict[str, Any], words: str) -> None:
    with refused(words):
        read(model_text(outer))


def test_predicates_take_no_unknown_key() -> None:
    with refused(f"{P}: unknown key 'more'"):
        read(model_text(more=1))


def test_size_limits() -> None:
    with refused(f"s: {12 * 2**20 + 1} bytes, above the limit of {12 * 2**20}"):
        read(b" " * (12 * 2**20 + 1))
    with refused(f"g: {256 * 2**10 + 1} bytes, above the limit of {256 * 2**10}"):
        GrantStatement.from_bytes(b" " * (256 * 2**10 + 1), "g")


def a_grant(**changes: Any) -> GrantStatement:
    values: dict[str, Any] = {
        "grant_id": "0" * 32,
        "model_name": "fraud",
        "model": b"\x0f" * 32,
        "created": datetime(2026, 1, 2, tzinfo=UTC),
        "recipient": "SHA256:r",
        "algorithm": "x25519",
        "wrapped": b"w",
        **changes,
    }
    return GrantStatement(**values)


def grant_text(**changes: Any) -> bytes:
    value = {
        "created": "2026-01-02T00:00:00Z",
        "grantId": "0" * 32,
        "licence": {},
        "purpose": "run",
        "recipient": "SHA256:r",
        "wrap": {"algorithm": "x25519", "ciphertext": "dw=="},
        **changes,
    }
    outer = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": {k: v for k, v in value.items() if v is not ...},
        "predicateType": "urn:modelvault:grant:v1",
        "subject": [{"digest": {"sha256": "0f" * 32}, "name": "fraud"}],
    }
    return json.dumps(outer, sort_keys=True, separators=(",", ":")).encode()


def test_a_grant_s_statement() -> None:
    assert a_grant().to_bytes() == grant_text()
    assert GrantStatement.from_bytes(grant_text(), "s") == a_grant()
    more = a_grant(purpose="audit", licence=Terms(max_sessions=2), variants=b"v")
    assert more.to_bytes() == grant_text(purpose="audit", licence={"max_sessions": 2}, variants="dg==")
    assert GrantStatement.from_bytes(more.to_bytes(), "s") == more


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grantId": "0" * 31}, f"grantId: {'0' * 31!r} is not allowed (expected [0-9a-f]{{32}})"),
        ({"purpose": "train"}, "purpose: expected one of run, audit, got 'train'"),
        ({"purpose": "t" * 90}, f"purpose: expected one of run, audit, got {'t' * 80!r}"),
        ({"created": "x"}, "created: not an RFC 3339 time"),
        ({"recipient": "r" * 129}, "recipient: longer than 128 characters"),
        ({"licence": ...}, "licence: missing"),
        ({"licence": {"x": 1}}, "licence: unknown key 'x'"),
        ({"wrap": {"algorithm": "a" * 65, "ciphertext": ""}}, "wrap.algorithm: longer than 64 characters"),
        ({"wrap": {"algorithm": "a"}}, "wrap.ciphertext: missing"),
        ({"wrap": {"algorithm": "a", "ciphertext": "", "x": 1}}, "wrap: unknown key 'x'"),
        ({"variants": 1}, "variants: expected base64 text, got int"),
    ],
)
def test_grants_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with refused(f"{P}.{words}"):
        GrantStatement.from_bytes(grant_text(**changes), "s")
    with refused(f"{P}: unknown key 'more'"):
        GrantStatement.from_bytes(grant_text(more=1), "s")


def test_a_grant_is_no_model_statement() -> None:
    with refused("s.predicateType: expected urn:modelvault:sealed-model:v1, got urn:modelvault:grant:v1"):
        read(grant_text())
    bad = grant_text().replace(b'"name":"fraud"', b'"name":"a b"')
    with refused("s.subject: 'a b' is not allowed (expected [A-Za-z0-9][A-Za-z0-9._-]{0,127})"):
        GrantStatement.from_bytes(bad, "s")


def test_names_and_versions() -> None:
    assert check_name("A.b_c-9" + "x" * 121, "f") == "A.b_c-9" + "x" * 121
    long = "x" * 129
    with refused(f"f: {long[:80]!r} is not allowed (expected [A-Za-z0-9][A-Za-z0-9._-]{{0,127}})"):
        check_name(long, "f")
    assert version_key("1.2") == (1, 2, 0, 0)
    assert version_key("1.2.3.4") == (1, 2, 3, 4)
    assert version_key("1.10") > version_key("1.9.9")
    for good in ("0", "1.2.3.4", "999999999"):
        assert read(model_text(version=good)).version == good
    for bad in ("", "01", "1.", "1.2.3.4.5", "1234567890", "1.2-rc1", "1.2\n"):
        with pytest.raises(FormatError):
            read(model_text(version=bad))
