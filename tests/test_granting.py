"""Grants: issued without the payload, embedded, replaced and removed; the ciphertext stays as it is."""

from pathlib import Path

import pytest
from conftest import Parties

from modelvault import granting
from modelvault.errors import FormatError, NoMatchingKey, UntrustedPublisher
from modelvault.keys import PublisherKey, RecipientKey
from modelvault.sealedfile import SealedFile
from modelvault.verification import inspect, verify


def payload(path: Path) -> bytes:
    with SealedFile(path) as sealed:
        return path.read_bytes()[sealed.payload_offset :]


def issue(parties: Parties, path: Path, recipient: RecipientKey) -> bytes:
    return granting.grant(path, recipient.public, own=parties.own, signer=parties.publisher)


def test_embedding_many_and_removing_one(parties: Parties, sealed: Path) -> None:
    before, digest = payload(sealed), inspect(sealed).statement_digest
    others = [RecipientKey.generate("x25519") for _ in range(12)]
    for key in others:
        granting.embed(sealed, issue(parties, sealed, key))
    verify(sealed, parties.trust)
    assert payload(sealed) == before
    assert inspect(sealed).statement_digest == digest
    assert len(inspect(sealed).grants) == 14
    granting.embed(sealed, issue(parties, sealed, others[3]))
    assert len(inspect(sealed).grants) == 14
    for key in (others[3], others[11]):
        parties.load(sealed, identity=key).close()
    assert granting.ungrant(sealed, others[3].public.fingerprint) == 1
    with pytest.raises(NoMatchingKey):
        parties.load(sealed, identity=others[3])
    parties.load(sealed, identity=others[4]).close()
    with pytest.raises(NoMatchingKey, match="no embedded grant"):
        granting.ungrant(sealed, others[3].public.fingerprint)
    assert payload(sealed) == before


def test_a_grant_beside_the_file_leaves_it_alone(parties: Parties, sealed: Path) -> None:
    before = sealed.read_bytes()
    granting.write_grant(parties.folder / "s.grant", issue(parties, sealed, parties.stranger))
    with parties.load(sealed, identity=parties.stranger, grant=parties.folder / "s.grant") as session:
        assert session.get_inputs()[0].name == "x"
    assert sealed.read_bytes() == before
    with pytest.raises(NoMatchingKey):
        parties.load(sealed, grant=parties.folder / "s.grant")


def test_only_the_publisher_can_grant(parties: Parties, sealed: Path) -> None:
    with pytest.raises(NoMatchingKey, match="only its publisher can grant it"):
        granting.grant(sealed, parties.stranger.public, own=parties.stranger, signer=parties.publisher)
    with pytest.raises(UntrustedPublisher, match="not signed by"):
        granting.grant(sealed, parties.stranger.public, own=parties.own, signer=PublisherKey.generate("ed25519"))
    with pytest.raises(FormatError):
        granting.embed(sealed, b"{}")


def test_an_audit_grant_does_not_run(parties: Parties) -> None:
    path = parties.seal(recipients=[])
    audit = granting.grant(path, parties.customer.public, own=parties.own, signer=parties.publisher, purpose="audit")
    granting.embed(path, audit)
    verify(path, parties.trust)
    with pytest.raises(NoMatchingKey, match="no grant to run"):
        parties.load(path)
    assert {g.purpose for g in inspect(path).grants} == {"run", "audit"}
