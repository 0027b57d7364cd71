"""Hostile sealed files: every byte of the header, every length and boundary, and what a malicious party would swap."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Parties

from modelvault import decryption, envelope, granting, onnxfile, payload
from modelvault.container import PRELUDE, Header, payload_offset
from modelvault.errors import (
    FormatError,
    ModelError,
    ModelVaultError,
    NoMatchingKey,
    PayloadTampered,
    SignatureInvalid,
    UntrustedPublisher,
)
from modelvault.keys import PublisherKey, RecipientKey
from modelvault.manifest import ModelStatement
from modelvault.onnxfile import SplitModel, split
from modelvault.sealedfile import SealedFile
from modelvault.trust import add_publisher
from modelvault.verification import inspect, verify


@pytest.fixture
def small(parties: Parties) -> Path:
    """The bundled model with a header as short as can be: classical keys, so that every byte can be tried."""
    parties.publisher = PublisherKey.generate("ed25519")
    parties.customer = RecipientKey.generate("x25519")
    parties.own = RecipientKey.generate("x25519")
    (parties.folder / "trust.toml").unlink()
    (parties.folder / "acme.pub").write_bytes(parties.publisher.public.to_pem())
    add_publisher(parties.folder / "trust.toml", "acme", [parties.folder / "acme.pub"], models=["*"])
    return parties.seal(name="direction")


def with_bytes(path: Path, data: bytes) -> Path:
    changed = path.with_name("changed.mvlt")
    changed.write_bytes(data)
    return changed


def test_every_flipped_byte_of_the_header_is_refused(parties: Parties, small: Path) -> None:
    data = bytearray(small.read_bytes())
    with SealedFile(small) as sealed:
        length = sealed.header.length
    changed, trust = small.with_name("changed.mvlt"), parties.trust
    changed.write_bytes(data)
    survived = []
    with changed.open("r+b", buffering=0) as file:
        for at in range(length):
            file.seek(at)
            file.write(bytes([data[at] ^ (1 << at % 8)]))
            try:
                verify(changed, trust)
                survived.append(at)
            except ModelVaultError as error:
                assert "\n" not in str(error)
            file.seek(at)
            file.write(data[at : at + 1])
    assert length > 3000
    assert survived == []
    verify(changed, trust)


def test_a_flipped_byte_anywhere_in_the_payload_is_refused(parties: Parties, small: Path) -> None:
    data = small.read_bytes()
    with SealedFile(small) as sealed:
        start, extents = sealed.payload_offset, sealed.statement.extents
    for extent in extents:
        for at in (extent.offset, extent.offset + 60, extent.offset + extent.length - 1):
            flipped = bytearray(data)
            flipped[start + at] ^= 0x80
            changed = with_bytes(small, bytes(flipped))
            with pytest.raises(PayloadTampered):
                verify(changed, parties.trust)
            with pytest.raises(PayloadTampered):
                parties.load(changed)


def boundaries(path: Path) -> Iterator[int]:
    with SealedFile(path) as sealed:
        header, start = sealed.header, sealed.payload_offset
        yield from (0, 8, PRELUDE.size, PRELUDE.size + len(header.envelope), header.length, start)
        for extent in sealed.statement.extents:
            yield start + extent.offset + extent.length


def test_truncated_at_every_boundary(parties: Parties, small: Path) -> None:
    data = small.read_bytes()
    for boundary in boundaries(small):
        for cut in {max(boundary - 1, 0), boundary, boundary + 1} - {len(data), len(data) + 1}:
            with pytest.raises(FormatError):
                verify(with_bytes(small, data[:cut]), parties.trust)


@pytest.mark.parametrize("tail", [b"\0", b"x" * 4096])
def test_trailing_bytes(parties: Parties, small: Path, tail: bytes) -> None:
    with pytest.raises(FormatError, match="payload: file has"):
        verify(with_bytes(small, small.read_bytes() + tail), parties.trust)


@pytest.mark.parametrize(
    ("format_", "at", "value", "words"),
    [
        (">H", 8, 2, "version: expected 1, got 2"),
        (">H", 10, 1, "reserved"),
        (">I", 12, 2**32 - 1, "envelope_len"),
        (">I", 12, 0, "envelope_len"),
        (">I", 16, 2**32 - 1, "grants_len"),
        (">Q", 20, 2**64 - 1, "payload_offset"),
        (">Q", 20, 2**63 - 4096, "payload_offset"),
        (">Q", 20, 0, "payload_offset"),
    ],
)
def test_huge_and_impossible_lengths(
    parties: Parties, small: Path, format_: str, at: int, value: int, words: str
) -> None:
    data = bytearray(small.read_bytes())
    struct.pack_into(format_, data, at, value)
    with pytest.raises(FormatError, match=words):
        verify(with_bytes(small, bytes(data)), parties.trust)


def resigned(parties: Parties, path: Path, change: Any, signer: PublisherKey | None = None) -> Path:
    """The file with its statement changed as JSON, signed again: what a publisher itself could write."""
    with SealedFile(path) as sealed:
        statement = json.loads(sealed.envelope.payload)
        payload = path.read_bytes()[sealed.payload_offset :]
        grants = sealed.header.grants
    change(statement)
    text = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    signed = envelope.sign(text, [signer or parties.publisher]).to_bytes()
    header = Header(envelope=signed, grants=grants)
    return with_bytes(path, header.to_bytes(payload_offset(header.length)) + payload)


def _set(*keys: Any, value: Any) -> Any:
    def change(statement: Any) -> None:
        for key in keys[:-1]:
            statement = statement[key]
        statement[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("predicate", "extents", 0, "offset", value=1), r"extents\[0\].offset: expected 0"),
        (_set("predicate", "extents", 0, "length", value=2**62), "expected"),
        (_set("predicate", "extents", 0, "length", value=-1), "length"),
        (_set("predicate", "extents", 0, "length", value=True), "expected an integer"),
        (_set("predicate", "extents", 0, "kind", value="weights"), "expected one graph"),
        (_set("predicate", "extents", value=[]), "expected one graph"),
        (_set("predicate", "nonce", value="AAAA"), "nonce: expected 32 bytes"),
        (_set("predicate", "version", value="1.x"), "version"),
        (_set("predicate", "policy", value={"not_afer": "2030-01-01T00:00:00Z"}), "unknown key 'not_afer'"),
        (_set("predicate", "policy", value={"not_after": "soon"}), "not an RFC 3339 time"),
        (_set("subject", value=[]), "subject: expected exactly one"),
        (_set("subject", 0, "name", value="../x"), "not allowed"),
        (_set("predicateType", value="urn:other"), "predicateType"),
        (_set("extra", value=1), "unknown key 'extra'"),
    ],
)
def test_statements_a_publisher_must_not_sign(parties: Parties, small: Path, change: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        verify(resigned(parties, small, change), parties.trust)


def test_signed_by_somebody_else(parties: Parties, small: Path) -> None:
    forged = resigned(parties, small, lambda s: None, signer=PublisherKey.generate("ed25519"))
    with pytest.raises(UntrustedPublisher, match="acme: 0 of 1 signatures"):
        parties.load(forged)
    assert parties.events() == ["opened", "load.denied"]


def test_swapped_extents_do_not_decrypt_even_when_signed(
    parties: Parties, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two weights extents change places and the publisher's own key signs the result: the context refuses it."""
    monkeypatch.setattr(payload, "WEIGHTS_EXTENT", 16384)
    path = parties.seal(output="many.mvlt")
    with SealedFile(path) as sealed:
        first, second = [e for e in sealed.statement.extents if e.kind == "weights"][:2]
        data, start = bytearray(path.read_bytes()), sealed.payload_offset
        left = slice(start + first.offset, start + first.offset + first.length)
        right = slice(start + second.offset, start + second.offset + second.length)
        data[left], data[right] = data[right], data[left]
    swapped = with_bytes(path, bytes(data))
    with pytest.raises(PayloadTampered, match="signed root"):
        verify(swapped, parties.trust)
    monkeypatch.setattr(SealedFile, "check_root", lambda self, leaves: None)
    with pytest.raises(PayloadTampered, match=r"extents\[1\]: does not decrypt"):
        parties.load(swapped)


def test_a_grant_of_another_model_is_refused(parties: Parties, small: Path) -> None:
    other = parties.seal(output="other.mvlt", name="other")
    grant = granting.grant(other, parties.stranger.public, own=parties.own, signer=parties.publisher)
    (parties.folder / "x.grant").write_bytes(grant)
    with pytest.raises(SignatureInvalid, match="another model"):
        parties.load(small, identity=parties.stranger, grant=parties.folder / "x.grant")
    with pytest.raises(FormatError, match="another model"):
        granting.embed(small, grant)


def test_a_grant_moved_by_its_signer_does_not_unwrap(parties: Parties, small: Path) -> None:
    """Even re-signed for this model, the wrapped key is bound to the other one by HPKE's info."""
    other = parties.seal(output="other.mvlt", name="other")
    with SealedFile(other) as there, SealedFile(small) as here:
        statement = next(
            g.statement for g in there.grants() if g.statement.recipient == parties.customer.public.fingerprint
        )
        moved = replace(statement, model=here.statement_digest, model_name="direction")
    (parties.folder / "x.grant").write_bytes(envelope.sign(moved.to_bytes(), [parties.publisher]).to_bytes())
    with pytest.raises(NoMatchingKey, match="does not open"):
        parties.load(small, grant=parties.folder / "x.grant")


def test_a_grant_signed_by_somebody_else(parties: Parties, small: Path) -> None:
    with SealedFile(small) as sealed:
        statement = next(sealed.grants()).statement
    (parties.folder / "x.grant").write_bytes(
        envelope.sign(statement.to_bytes(), [PublisherKey.generate("ed25519")]).to_bytes()
    )
    with pytest.raises(UntrustedPublisher, match="not signed by publisher acme"):
        parties.load(small, grant=parties.folder / "x.grant")


def test_a_grant_that_brings_another_key(parties: Parties, small: Path) -> None:
    from modelvault.filekey import FileKey

    with SealedFile(small) as sealed:
        grant = FileKey.generate().grant(parties.customer.public, "direction", sealed.statement_digest)
    (parties.folder / "x.grant").write_bytes(envelope.sign(grant.to_bytes(), [parties.publisher]).to_bytes())
    with pytest.raises(PayloadTampered, match="not the one that the publisher committed to"):
        parties.load(small, grant=parties.folder / "x.grant")


def test_duplicate_signatures_do_not_reach_a_threshold(parties: Parties, small: Path) -> None:
    trust = parties.folder / "trust.toml"
    other = PublisherKey.generate("ed25519")
    (parties.folder / "other.pub").write_bytes(other.public.to_pem())
    trust.unlink()
    keys = [parties.folder / "acme.pub", parties.folder / "other.pub"]
    add_publisher(trust, "acme", keys, models=["*"], threshold=2)
    with pytest.raises(UntrustedPublisher, match="1 of 2"):
        verify(small, parties.trust)
    with SealedFile(small) as sealed:
        signature = sealed.envelope.signatures[0]
        doubled = replace(sealed.envelope, signatures=(signature, signature))
        header = Header(envelope=doubled.to_bytes(), grants=sealed.header.grants)
        data = header.to_bytes(payload_offset(header.length)) + small.read_bytes()[sealed.payload_offset :]
    with pytest.raises(FormatError, match="two signatures of one key"):
        verify(with_bytes(small, data), parties.trust)
    assert verify(parties.seal(output="two.mvlt", signers=[parties.publisher, other]), parties.trust).signers


def crafted(parties: Parties, monkeypatch: pytest.MonkeyPatch, change: Any) -> Path:
    """A file whose publisher put its own graph in: everything is signed and granted."""

    def malicious(path: Path, *, keep_docs: bool = False, edit: Any = None, look: Any = None) -> SplitModel:
        model = split(path, keep_docs=keep_docs, look=look)
        graph = onnx.load_from_string(model.graph)
        change(graph)
        return replace(model, graph=graph.SerializeToString())

    monkeypatch.setattr(onnxfile, "split", malicious)
    return parties.seal(output="crafted.mvlt")


def _external(location: str, **entries: str) -> Any:
    def change(model: Any) -> None:
        tensor = next(
            n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].t.external_data
        )
        for entry in tensor.external_data:
            entry.value = {"location": location, **entries}.get(entry.key, entry.value)

    return change


@pytest.mark.parametrize("location", ["secret.bin", "/etc/passwd", "../secret.bin", "weights/../secret.bin", ""])
def test_a_graph_that_names_another_file(parties: Parties, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    (parties.folder / "secret.bin").write_bytes(bytes(10**6))
    monkeypatch.chdir(parties.folder)
    path = crafted(parties, monkeypatch, _external(location))
    with pytest.raises(FormatError, match="refers to a file outside the sealed model"):
        parties.load(path)
    # Were that check blind, onnxruntime would still look where no file can be.
    monkeypatch.setattr(decryption, "check_sealed_graph", lambda *_: None)
    with pytest.raises(ModelError, match="onnxruntime refused"):
        parties.load(path)


@pytest.mark.parametrize(("offset", "words"), [("999999999", "beyond the weights region"), ("-1", "not a number")])
def test_a_graph_that_reads_beyond_its_weights(
    parties: Parties, monkeypatch: pytest.MonkeyPatch, offset: str, words: str
) -> None:
    path = crafted(parties, monkeypatch, _external("weights", offset=offset))
    with pytest.raises(FormatError, match=words):
        parties.load(path)


def test_unknown_and_wrong_files(parties: Parties, tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", b"\x89MVLT\r\n", bytes(100)):
        with pytest.raises(FormatError):
            inspect(with_bytes(tmp_path / "x", data))


def test_inspect_reads_no_payload(parties: Parties, small: Path) -> None:
    """Public facts of a file come from its header: a payload of holes does not matter to inspect, only to verify."""
    with SealedFile(small) as sealed:
        start, size = sealed.payload_offset, sealed.statement.payload_size
    hollow = with_bytes(small, small.read_bytes()[:start] + bytes(size))
    assert inspect(hollow).statement.name == "direction"
    with pytest.raises(PayloadTampered):
        verify(hollow, parties.trust)


def test_statement_survives_its_own_round_trip(small: Path) -> None:
    with SealedFile(small) as sealed:
        assert ModelStatement.from_bytes(sealed.envelope.payload, "s").to_bytes() == sealed.envelope.payload
