"""Revocation, anti-rollback and hand-overs: what is refused, each with its own words and its audit record."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import file_size_limit

from licences.field import Field, clock
from modelvault import admission, granting, issuing, ledger, permit, verification
from modelvault._codec import CLOCK_AHEAD
from modelvault.audit import AuditLog, LogKey, pruning
from modelvault.audit.lines import Record
from modelvault.envelope import Envelope, sign
from modelvault.errors import (
    AuditTampered,
    FormatError,
    ModelVaultError,
    PolicyDenied,
    Revoked,
    SignatureInvalid,
    UntrustedPublisher,
)
from modelvault.keys import PublisherKey, PublisherPublic, RecipientKey
from modelvault.policy import Terms
from modelvault.revocation import Entry
from modelvault.sealedfile import SealedFile, UnverifiedGrant
from modelvault.termtable import Quota
from modelvault.trust import TrustPolicy, add_publisher, require_revocations
from modelvault.trustupdates import HANDOVERS, handover_path
from modelvault.usage import Usage
from modelvault.verification import inspect, verify

NOW = datetime.now(UTC).replace(microsecond=0)
SECOND = timedelta(seconds=1)


def entry(kind: str, name: str, reason: str = "leaked") -> Entry:
    return Entry(kind=kind, id=name, reason=reason, revoked=NOW)


def publish(field: Field, *entries: Entry, max_age_hours: int | None = None) -> Path:
    """Issue the next list, signed by a key of its own; the first time, the trust policy begins to ask for it."""
    p = field.parties
    path, key = p.folder / "revocations.json", p.folder / "revoker.key"
    if not key.exists():
        signer = PublisherKey.generate("ed25519")
        key.write_bytes(signer.to_pem(None))
        (p.folder / "revoker.pub").write_bytes(signer.public.to_pem())
        require_revocations(p.folder / "trust.toml", path.name, [p.folder / "revoker.pub"], max_age_hours=max_age_hours)
    signer = PublisherKey.from_pem(key.read_bytes(), None, "revoker")
    issuing.revoke(path, entries, signers=[signer], name="acme")
    return path


def refused(field: Field, sealed: Path, kind: type[ModelVaultError], words: str, **choices: Any) -> None:
    with pytest.raises(kind) as error:
        field.parties.load(sealed, **choices)
    assert words in str(error.value)
    assert type(error.value) is kind
    last = field.parties.records()[-1]
    assert (last.event, last.fields["reason"], last.fields["detail"]) == (
        "load.denied",
        kind.__name__,
        str(error.value),
    )


def test_what_can_be_revoked(field: Field, sealed: Path) -> None:
    p = field.parties
    facts = inspect(sealed)
    grant = field.grant(sealed)
    grant_id = UnverifiedGrant.from_bytes(grant.read_bytes(), "g").statement.grant_id
    publish(field)
    p.load(sealed, grant=grant).close()
    publish(field, entry("grant", grant_id, "unpaid"))
    refused(field, sealed, Revoked, f"grant {grant_id} was revoked at", grant=grant)
    p.load(sealed).close()
    publish(field, entry("recipient", p.stranger.public.fingerprint))
    p.load(sealed).close()
    publish(field, entry("recipient", p.customer.public.fingerprint))
    refused(field, sealed, Revoked, f"recipient {p.customer.public.fingerprint} was revoked")
    for name in (facts.statement_digest.hex(), "direction@1"):
        (p.folder / "revocations.json").unlink()
        shutil.rmtree(p.folder / "audit.log", ignore_errors=True)
        for side in p.folder.glob("audit.log*"):
            side.unlink()
        publish(field, entry("model", name))
        refused(field, sealed, Revoked, f"model {name} was revoked")
        with pytest.raises(Revoked):
            verify(sealed, p.trust)


def test_a_revoked_publisher_key(field: Field, sealed: Path) -> None:
    p = field.parties
    publish(field, entry("publisher", p.publisher.public.fingerprint, "laptop stolen"))
    refused(field, sealed, Revoked, f"publisher key {p.publisher.public.fingerprint} was revoked: laptop stolen")
    with pytest.raises(Revoked, match="0 of 1 signatures"):
        verify(sealed, p.trust)


def test_a_grant_signed_by_a_revoked_key(field: Field) -> None:
    p, second = field.parties, PublisherKey.generate("ed25519")
    trust_keys(field, [p.publisher, second], threshold=1)
    sealed = p.seal(name="m", signers=[second, p.publisher])
    grant = p.folder / "g.grant"
    grant.write_bytes(granting.grant(sealed, p.customer.public, own=p.own, signer=second))
    publish(field)
    p.load(sealed, grant=grant).close()
    publish(field, entry("publisher", second.public.fingerprint))
    refused(field, sealed, Revoked, "the grant is not signed by publisher acme: publisher key", grant=grant)


def trust_keys(field: Field, keys: list[PublisherKey], threshold: int) -> None:
    folder = field.parties.folder
    (folder / "trust.toml").unlink()
    paths = []
    for number, key in enumerate(keys):
        paths.append(folder / f"k{number}.pub")
        paths[-1].write_bytes(key.public.to_pem())
    add_publisher(folder / "trust.toml", "acme", paths, models=["*"], threshold=threshold)


def test_the_list_must_be_there(field: Field, sealed: Path) -> None:
    path = publish(field)
    path.unlink()
    refused(field, sealed, PolicyDenied, "the revocation list cannot be read, and the trust policy needs it")
    path.mkdir()
    refused(field, sealed, PolicyDenied, "not a regular file")
    path.rmdir()
    path.write_bytes(b"{}")
    refused(field, sealed, FormatError, "revocations.json")


def test_the_list_at_a_url(field: Field, sealed: Path) -> None:
    path = publish(field)
    store, policy = fsspec.filesystem("memory"), field.parties.folder / "trust.toml"
    policy.write_text(policy.read_text().replace('"revocations.json"', '"memory://lists/revocations.json"'))
    refused(field, sealed, PolicyDenied, "memory://lists/revocations.json: no such file")
    store.pipe("/lists/revocations.json", path.read_bytes())
    field.parties.load(sealed).close()
    publish(field, entry("recipient", field.parties.customer.public.fingerprint))
    store.pipe("/lists/revocations.json", path.read_bytes())
    refused(field, sealed, Revoked, "was revoked")
    store.rm("/lists/revocations.json")
    refused(field, sealed, PolicyDenied, "the revocation list cannot be read, and the trust policy needs it")


def test_the_list_must_be_signed_by_its_own_keys(field: Field, sealed: Path) -> None:
    p = field.parties
    path = publish(field)
    path.unlink()
    issuing.revoke(path, [], signers=[p.publisher], name="acme")
    refused(field, sealed, UntrustedPublisher, "revocation list with 0 of 1 signatures")
    with pytest.raises(UntrustedPublisher, match="not signed by"):
        issuing.revoke(path, [], signers=[PublisherKey.generate("ed25519")], name="acme")


def test_a_stale_list(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publish(field, max_age_hours=2)
    issued = issuing.read_list(
        path, [PublisherKey.from_pem((path.parent / "revoker.key").read_bytes(), None, "k")]
    ).issued
    clock(monkeypatch, issued - CLOCK_AHEAD - SECOND, permit)
    refused(field, sealed, PolicyDenied, "which is yet to come: its age cannot be told")
    clock(monkeypatch, issued - CLOCK_AHEAD, permit)
    field.parties.load(sealed).close()
    clock(monkeypatch, issued + timedelta(hours=2), permit)
    field.parties.load(sealed).close()
    clock(monkeypatch, issued + timedelta(hours=2) + SECOND, permit)
    refused(field, sealed, PolicyDenied, "revocation list acme number 1 is stale")
    verify(sealed, field.parties.trust)
    clock(monkeypatch, issued + timedelta(hours=2) + SECOND, verification)
    with pytest.raises(PolicyDenied, match="is stale"):
        verify(sealed, field.parties.trust)


def test_an_older_list_is_not_taken_back(field: Field, sealed: Path) -> None:
    path = publish(field)
    old = path.read_bytes()
    publish(field, entry("recipient", field.parties.stranger.public.fingerprint))
    field.parties.load(sealed).close()
    path.write_bytes(old)
    refused(field, sealed, PolicyDenied, "revocation list acme number 1 is older than 2, which this host has seen")
    publish(field)
    refused(field, sealed, PolicyDenied, "another list of number 2 was seen")
    publish(field)
    field.parties.load(sealed).close()


def test_a_list_seen_in_a_refused_load_is_remembered(field: Field, sealed: Path) -> None:
    path = publish(field)
    old = path.read_bytes()
    publish(field, entry("recipient", field.parties.customer.public.fingerprint))
    refused(field, sealed, Revoked, "was revoked")
    path.write_bytes(old)
    refused(field, sealed, PolicyDenied, "number 1 is older than 2")


def test_an_older_version_is_not_loaded_again(field: Field) -> None:
    p = field.parties
    old, new = p.seal(output="1.mvlt", name="m", version="1.9"), p.seal(output="2.mvlt", name="m", version="1.10")
    other = p.seal(output="o.mvlt", name="other", version="1")
    p.load(old).close()
    p.load(new).close()
    p.load(new).close()
    p.load(other).close()
    refused(field, old, PolicyDenied, "version 1.9 is older than 1.10, which this host has loaded")
    assert field.load(old) == ("PolicyDenied", f"{old}: version 1.9 is older than 1.10, which this host has loaded")
    text = (p.folder / "trust.toml").read_text().replace('name = "acme"', 'name = "acme"\nallow_older = true')
    (p.folder / "trust.toml").write_text(text)
    p.load(old).close()


def test_a_newer_version_that_was_refused_does_not_count(field: Field) -> None:
    p = field.parties
    old, new = p.seal(output="1.mvlt", name="m", version="1"), p.seal(output="2.mvlt", name="m", version="2")
    data = bytearray(new.read_bytes())
    data[-100] ^= 1
    new.write_bytes(data)
    with pytest.raises(ModelVaultError):
        p.load(new)
    p.load(old).close()


@pytest.mark.parametrize("timed", [True, False])
def test_the_clock_set_back(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch, timed: bool) -> None:
    """A clock behind the log's own last record is not believed, where a term depends on it."""
    grant = field.grant(sealed, not_after=NOW + timedelta(days=365) if timed else None)
    late = NOW + timedelta(days=30)
    clock(monkeypatch, late, permit)
    field.parties.load(sealed, grant=grant).close()
    clock(monkeypatch, late - admission.CLOCK_TOLERANCE, permit)
    field.parties.load(sealed, grant=grant).close()
    clock(monkeypatch, late - admission.CLOCK_TOLERANCE - SECOND, permit)
    if timed:
        refused(field, sealed, PolicyDenied, "the clock was set back", grant=grant)
    else:
        field.parties.load(sealed, grant=grant).close()


def test_a_small_correction_wins_no_time(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = NOW + timedelta(days=1)
    grant = field.grant(sealed, not_after=ends)
    clock(monkeypatch, ends + SECOND, permit)
    refused(field, sealed, PolicyDenied, "expired", grant=grant)
    clock(monkeypatch, ends - SECOND, permit)
    refused(field, sealed, PolicyDenied, "expired", grant=grant)


def test_usage_that_does_not_fit_leaves_nothing(field: Field, sealed: Path) -> None:
    field.parties.load(sealed).close()
    log = field.parties.folder / "audit.log"
    before = sorted(p.name for p in log.parent.iterdir())
    kept = ledger.side_path(log).read_bytes()
    with file_size_limit(3):
        ledger._write(log, b"more than three")
    assert sorted(p.name for p in log.parent.iterdir()) == before
    assert ledger.side_path(log).read_bytes() == kept


@pytest.mark.parametrize("damage", ["deleted", "old", "edited", "garbage"])
def test_the_side_file_is_only_a_cache(field: Field, sealed: Path, damage: str) -> None:
    grant = field.grant(sealed, max_loads=Quota(count=3, per="ever"))
    side = ledger.side_path(field.parties.folder / "audit.log")
    field.parties.load(sealed, grant=grant).close()
    old = side.read_bytes()
    for _ in range(2):
        field.parties.load(sealed, grant=grant).close()
    if damage == "deleted":
        side.unlink()
    else:
        changed = side.read_bytes().replace(b'["",2,0]', b'["",0,0]')
        assert damage != "edited" or changed != side.read_bytes()
        side.write_bytes({"old": old, "edited": changed, "garbage": b"[]"}[damage])
    refused(field, sealed, PolicyDenied, "3 loads in all allowed, 3 are used up", grant=grant)


def test_a_count_taken_out_of_the_log_breaks_it(field: Field, sealed: Path) -> None:
    """Where the log is read anew, its lines must be those under the last head, whatever its own cache says."""
    grant = field.grant(sealed, max_loads=Quota(count=1, per="ever"))
    field.parties.load(sealed, grant=grant).close()
    log = field.parties.folder / "audit.log"
    log.write_bytes(log.read_bytes().replace(b'"load.intent"', b'"load.nothin"'))
    ledger.side_path(log).unlink()
    with pytest.raises(AuditTampered, match="not those under the last head"):
        field.parties.load(sealed, grant=grant)


def test_the_side_file_saves_reading_the_log(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    original = Usage.apply

    def watched(usage: Usage, record: Record) -> None:
        taken.append(record.seq)
        original(usage, record)

    monkeypatch.setattr(Usage, "apply", watched)
    for _ in range(4):
        field.parties.load(sealed).close()
    assert taken == sorted(set(taken))
    side = ledger.side_path(field.parties.folder / "audit.log")
    side.unlink()
    taken.clear()
    field.parties.load(sealed).close()
    assert taken[0] == 0


def test_a_new_log_is_another_log(field: Field, sealed: Path) -> None:
    p = field.parties
    p.load(sealed).close()
    grant = field.grant(sealed, logs=(p.records()[0].fields["origin"],), max_loads=Quota(count=1, per="ever"))
    p.load(sealed, grant=grant).close()
    for side in p.folder.glob("audit.log*"):
        side.unlink()
    refused(field, sealed, PolicyDenied, "audit log modelvault/audit/", grant=grant)


@pytest.mark.parametrize("kept", [True, False])
def test_counts_outlive_pruned_records(field: Field, sealed: Path, kept: bool) -> None:
    p = field.parties
    (p.folder / "host.key").chmod(0o600)
    (p.folder / "host.pub").write_bytes(p.host.public.to_pem())
    log = AuditLog(p.folder / "audit.log", LogKey(p.host, path=p.folder / "host.key"))
    grant = field.grant(sealed, max_loads=Quota(count=3, per="ever"))
    for _ in range(2):
        p.load(sealed, grant=grant, audit=log).close()
    log.rotate()
    if kept:
        ledger.keep(log)
    minimum, paths = pruning.prune(log, p.host.public, datetime.now(UTC) + timedelta(days=1))
    assert (minimum > 0, len(paths)) == (True, 1)
    ledger.side_path(log.path).unlink()
    if not kept:
        with pytest.raises(PolicyDenied, match="pruned records cannot be counted"):
            p.load(sealed, grant=grant, audit=log)
        p.load(sealed, audit=log).close()
        return
    p.load(sealed, grant=grant, audit=log).close()
    with pytest.raises(PolicyDenied, match="3 loads in all allowed, 3 are used up"):
        p.load(sealed, grant=grant, audit=log)


def test_many_counts_are_kept_in_many_records(field: Field) -> None:
    log = field.parties.log
    subjects = [f"{n:032x}" for n in range(450)]
    for at in range(0, 450, 150):
        log.append("load.intent", load=str(at), counts=subjects[at : at + 150])
    before = ledger.peek(log)
    ledger.keep(log)
    after = ledger.peek(log)
    assert before is not None
    assert after is not None
    assert [r.event for r in field.parties.records()].count("usage.kept") == 4
    assert replace(after[0], latest=before[0].latest) == before[0]
    assert len(after[0].counts) == 450


def test_concealed_records_are_counted_too(field: Field) -> None:
    p = field.parties
    path = p.folder / "trust.toml"
    path.write_text(path.read_text() + '[audit]\nconceal = ["model", "grant", "publisher", "counts", "loaded"]\n')
    old, new = p.seal(output="1.mvlt", name="secret", version="1"), p.seal(output="2.mvlt", name="secret", version="2")
    grant = field.grant(new, max_loads=Quota(count=1, per="ever"))
    p.load(new, grant=grant).close()
    assert b'"secret"' not in (p.folder / "audit.log").read_bytes()
    assert b"secret" not in ledger.side_path(p.folder / "audit.log").read_bytes()
    with pytest.raises(PolicyDenied, match="used up"):
        p.load(new, grant=grant)
    with pytest.raises(PolicyDenied, match="version 1 is older than 2"):
        p.load(old)


def test_counts_follow_the_log_through_a_rotation(field: Field, sealed: Path) -> None:
    p = field.parties
    (p.folder / "host.key").chmod(0o600)
    (p.folder / "host.pub").write_bytes(p.host.public.to_pem())
    grant = field.grant(sealed, max_loads=Quota(count=2, per="ever"))
    log = AuditLog(p.folder / "audit.log", LogKey(p.host, path=p.folder / "host.key"))
    for _ in range(2):
        p.load(sealed, grant=grant, audit=log).close()
        log.rotate()
    with pytest.raises(PolicyDenied, match="used up"):
        p.load(sealed, grant=grant, audit=log)
    ledger.side_path(log.path).unlink()
    with pytest.raises(PolicyDenied, match="used up"):
        p.load(sealed, grant=grant, audit=log)


# Hand-overs


def hand_over(
    field: Field, number: int, keys: list[PublisherKey], signers: list[PublisherKey], threshold: int = 1
) -> Path:
    folder = field.parties.folder / HANDOVERS
    folder.mkdir(exist_ok=True)
    path = handover_path(folder, "acme", number)
    public: list[PublisherPublic] = [key.public for key in keys]
    path.write_bytes(issuing.hand_over("acme", number, public, threshold=threshold, signers=signers))
    return path


def test_loaders_follow_a_hand_over(field: Field, sealed: Path) -> None:
    p, new, newest = field.parties, PublisherKey.generate("ed25519"), PublisherKey.generate("ed25519")
    hand_over(field, 1, [p.publisher, new], [p.publisher, new])
    p.load(sealed).close()
    issuing.add_signature(sealed, new)
    fresh = p.folder / "fresh.grant"
    fresh.write_bytes(granting.grant(sealed, p.customer.public, own=p.own, signer=new))
    second = hand_over(field, 2, [new], [new])
    p.load(sealed, grant=fresh).close()
    refused(field, sealed, UntrustedPublisher, "the grant is not signed by publisher acme: SHA256:")
    verify_fails = p.seal(output="old.mvlt", name="m")
    refused(field, verify_fails, UntrustedPublisher, f"{p.publisher.public.fingerprint} was rotated out by hand-over 2")
    hand_over(field, 3, [newest], [new, newest])
    refused(field, sealed, UntrustedPublisher, "was rotated out by hand-over", grant=fresh)
    second.unlink()
    refused(field, sealed, PolicyDenied, "publisher acme: hand-overs end at 1, this host has followed 3")


def test_a_hand_over_needs_old_and_new_signatures(field: Field, sealed: Path) -> None:
    p, new, thief = field.parties, PublisherKey.generate("ed25519"), PublisherKey.generate("ed25519")
    for signers, words in (
        ([new], "0 of 1 signatures by the old keys"),
        ([thief], "0 of 1 signatures by the old keys"),
        ([p.publisher], "0 of 1 signatures by the new keys"),
    ):
        hand_over(field, 1, [new], signers)
        refused(field, sealed, UntrustedPublisher, words)
    path = hand_over(field, 1, [new], [p.publisher])
    path.write_bytes(issuing.countersign(path, new)[0])
    refused(field, sealed, UntrustedPublisher, "was rotated out by hand-over 1")
    with pytest.raises(FormatError, match=r"signed by .* already"):
        issuing.countersign(path, new)
    shutil.copy(path, handover_path(path.parent, "acme", 2))
    refused(field, sealed, FormatError, "number: expected 2, got 1")
    envelope = Envelope.from_bytes(path.read_bytes(), "h", limit=2**20)
    bad = [replace(s, sig=bytes(len(s.sig))) for s in envelope.signatures]
    handover_path(path.parent, "acme", 2).unlink()
    path.write_bytes(replace(envelope, signatures=tuple(bad)).to_bytes())
    refused(field, sealed, SignatureInvalid, "does not verify")


def test_a_revoked_key_hands_over_nothing(field: Field, sealed: Path) -> None:
    p, new = field.parties, PublisherKey.generate("ed25519")
    hand_over(field, 1, [new], [p.publisher, new])
    publish(field, entry("publisher", p.publisher.public.fingerprint))
    refused(field, sealed, Revoked, "0 of 1 signatures by the old keys: publisher key")


def test_two_of_three_hand_over_without_the_leaked_key(field: Field) -> None:
    keys = [PublisherKey.generate("ed25519") for _ in range(4)]
    trust_keys(field, keys[:3], threshold=2)
    hand_over(field, 1, [keys[0], keys[1], keys[3]], [keys[0], keys[1]], threshold=2)
    publish(field, entry("publisher", keys[2].public.fingerprint))
    sealed = field.parties.seal(name="m", signers=[keys[3], keys[0]])
    field.parties.load(sealed).close()
    refused(field, field.parties.seal(output="x.mvlt", name="m", signers=[keys[2], keys[0]]), Revoked, "1 of 2")


# Four eyes


def test_four_eyes(field: Field) -> None:
    p, second = field.parties, PublisherKey.generate("ed25519")
    trust_keys(field, [p.publisher, second], threshold=2)
    sealed = p.seal(name="m")
    digest, payload = inspect(sealed).statement_digest, sealed.read_bytes()[-1000:]
    refused(field, sealed, UntrustedPublisher, "1 of 2 signatures")
    with pytest.raises(FormatError, match=r"signed by .* already"):
        issuing.add_signature(sealed, p.publisher)
    assert issuing.add_signature(sealed, second) == 2
    p.load(sealed).close()
    assert (inspect(sealed).statement_digest, sealed.read_bytes()[-1000:]) == (digest, payload)


def test_one_key_signing_twice_is_one_signature(field: Field) -> None:
    p, second = field.parties, PublisherKey.generate("ed25519")
    trust_keys(field, [p.publisher, second], threshold=2)
    sealed = p.seal(name="m")
    with SealedFile(sealed) as file:
        doubled = Envelope(
            payload=file.envelope.payload,
            signatures=file.envelope.signatures + sign(file.envelope.payload, [p.publisher]).signatures,
        )
        granting.rewrite(file, envelope=doubled.to_bytes())
    refused(field, sealed, FormatError, "two signatures of one key")


def test_a_second_signer_checks_the_payload(field: Field, sealed: Path) -> None:
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(ModelVaultError, match="signed root"):
        issuing.add_signature(sealed, PublisherKey.generate("ed25519"))
    assert sealed.read_bytes() == data


# Grants


def test_grants_that_do_not_fit(field: Field, sealed: Path) -> None:
    p = field.parties
    other = p.seal(output="other.mvlt", name="direction")
    refused(field, sealed, SignatureInvalid, "the grant is for another model", grant=field.grant(other))
    stranger = PublisherKey.generate("ed25519")
    issuing.add_signature(sealed, stranger)
    path = p.folder / "s.grant"
    path.write_bytes(granting.grant(sealed, p.customer.public, own=p.own, signer=stranger))
    refused(field, sealed, UntrustedPublisher, "the grant is not signed by publisher acme", grant=path)


def test_rewrap_moves_grants_with_their_terms(field: Field) -> None:
    p, new = field.parties, RecipientKey.generate()
    sealed = p.seal(name="m", recipients=[])
    terms = Terms(max_loads=Quota(count=7, per="day"))
    granting.embed(sealed, granting.grant(sealed, p.customer.public, own=p.own, signer=p.publisher, licence=terms))
    granting.embed(sealed, granting.grant(sealed, p.customer.public, own=p.own, signer=p.publisher, purpose="audit"))
    before = inspect(sealed)
    moved = granting.rewrap(sealed, p.customer.public.fingerprint, new.public, own=p.own, signer=p.publisher)
    after = inspect(sealed)
    assert moved == 2
    assert after.statement_digest == before.statement_digest
    mine = {g.purpose: g.licence for g in after.grants if g.recipient == new.public.fingerprint}
    assert mine == {"run": terms, "audit": Terms()}
    assert p.customer.public.fingerprint not in {g.recipient for g in after.grants}
    p.load(sealed, identity=new).close()
    stamp = sealed.stat().st_mtime_ns
    assert granting.rewrap(sealed, p.customer.public.fingerprint, new.public, own=p.own, signer=p.publisher) == 0
    assert sealed.stat().st_mtime_ns == stamp


def test_a_policy_with_revocations_is_parsed_strictly(field: Field) -> None:
    publish(field, max_age_hours=4)
    path = field.parties.folder / "trust.toml"
    text = path.read_text()
    found = TrustPolicy.read(path).revocation
    assert found is not None
    assert found.max_age == timedelta(hours=4)
    for bad, words in (
        (text.replace("max_age_hours", "max_age"), "unknown key 'max_age'"),
        (text.replace("max_age_hours = 4", "max_age_hours = 0"), "max_age_hours: expected 1 to"),
        (text.replace("max_age_hours = 4", "threshold = 2"), "threshold: 2 signatures of 1 keys"),
    ):
        path.write_text(bad)
        with pytest.raises(FormatError) as error:
            TrustPolicy.read(path)
        assert words in str(error.value)
