"""Keys, statements and the container: round trips, and what is refused."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelvault import envelope, merkle
from modelvault._primitives import plain_length, sealed_length
from modelvault.container import Header, payload_offset
from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey, SignatureInvalid, UntrustedPublisher
from modelvault.keys import PUBLISHER_ALGORITHMS, RECIPIENT_ALGORITHMS, PublisherKey, RecipientKey, pem, store
from modelvault.manifest import Extent, ModelStatement
from modelvault.policy import Terms
from modelvault.trust import TrustPolicy, add_publisher


def a_statement(root: bytes = bytes(32)) -> ModelStatement:
    graph, index = sealed_length(100), sealed_length(50)
    return ModelStatement(
        name="fraud",
        version="1.2",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        nonce=bytes(32),
        root=root,
        extents=(Extent(kind="graph", offset=0, length=graph), Extent(kind="index", offset=graph, length=index)),
        key_commitment=bytes(32),
        policy=Terms(providers=("CPUExecutionProvider",)),
        publishers=("SHA256:" + "x" * 43,),
    )


@pytest.mark.parametrize("algorithm", PUBLISHER_ALGORITHMS)
def test_publisher_signs(algorithm: str) -> None:
    key = PublisherKey.generate(algorithm)
    signature = key.sign(b"m")
    key.public.verify(b"m", signature)
    for bad in (signature[:-1], signature[:64], signature[:-1] + bytes([signature[-1] ^ 1]), b""):
        if bad != signature:
            with pytest.raises(SignatureInvalid):
                key.public.verify(b"m", bad)


@pytest.mark.parametrize("algorithm", RECIPIENT_ALGORITHMS)
def test_recipient_unwraps(algorithm: str) -> None:
    key = RecipientKey.generate(algorithm)
    wrapped = key.public.wrap(b"bundle", b"here")
    assert key.unwrap(wrapped, b"here") == b"bundle"
    with pytest.raises(NoMatchingKey):
        key.unwrap(wrapped, b"there")


def test_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pem, "SCRYPT_LOG_N", 10)
    data = PublisherKey.generate().to_pem(b"right")
    PublisherKey.from_pem(data, lambda: b"right", "f")
    with pytest.raises(KeyUnavailable, match="wrong passphrase"):
        PublisherKey.from_pem(data, lambda: b"wrong", "f")


def test_open_private_file_is_refused(tmp_path: Path) -> None:
    path = store.write_pair(tmp_path / "k", "a", b"x", None)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(KeyUnavailable):
        store.read_private(path)


def test_statement_and_header_round_trip() -> None:
    statement = a_statement()
    assert ModelStatement.from_bytes(statement.to_bytes(), "s") == statement
    header = Header(envelope=b"{}", grants=(b"one", b"two"))
    data = header.to_bytes(payload_offset(header.length))
    assert Header.from_bytes(data, "f") == header
    with pytest.raises(FormatError, match="padding"):
        Header.from_bytes(data[:-1] + b"x", "f")


@pytest.mark.parametrize("plain", [0, 1, 16383, 16384, 16385])
def test_lengths(plain: int) -> None:
    assert plain_length(sealed_length(plain)) == plain


def test_trust(tmp_path: Path) -> None:
    key, other = PublisherKey.generate("ed25519"), PublisherKey.generate("ed25519")
    (tmp_path / "a.pub").write_bytes(key.public.to_pem())
    add_publisher(tmp_path / "trust.toml", "acme", [tmp_path / "a.pub"], models=["fraud*"])
    policy, statement = TrustPolicy.read(tmp_path / "trust.toml"), a_statement()
    good = envelope.sign(statement.to_bytes(), [key])
    assert policy.verify_model(good, statement, "f").publisher.name == "acme"
    with pytest.raises(UntrustedPublisher):
        policy.verify_model(envelope.sign(statement.to_bytes(), [other]), statement, "f")


def test_merkle_three_leaves() -> None:
    a, b, c = (merkle.leaf_hash(x) for x in (b"a", b"b", b"c"))
    assert merkle.root([a, b, c]) == merkle.node_hash(merkle.node_hash(a, b), c)
