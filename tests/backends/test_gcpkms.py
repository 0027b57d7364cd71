"""Keys in Google Cloud KMS: Google's own client, at a double of the service. No test has met the service itself."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from story import seal_grant_load_rotate

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import store

RING = "gcpkms:projects/acme/locations/europe-west3/keyRings/models/cryptoKeys/"
INFO = b"modelvault/v1/grant" + bytes(32)


def signer(name: str) -> str:
    return f"{RING}{name}/cryptoKeyVersions/1"


@dataclass
class Double:
    folder: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    needs.module("google.cloud.kms")
    import tunnel

    folder = tmp_path_factory.mktemp("gcpkms")
    tunnel.certificate(folder, "cloudkms.googleapis.com")
    account = rsa.generate_private_key(65537, 2048)
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    described = {
        "type": "service_account",
        "client_email": "test@acme.iam.gserviceaccount.com",
        "private_key_id": "1",
        "private_key": account.private_bytes(*plain).decode(),
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    (folder / "account.json").write_text(json.dumps(described))
    with (
        needs.server("gcpkms_server.py", folder / "log", str(folder)) as (port, process),
        tunnel.tunnel(port) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("https_proxy", proxy)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(folder / "ca.pem"))
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "account.json"))
        yield Double(folder, process)


@pytest.mark.parametrize(
    ("name", "algorithm"), [("p256", "ecdsa-p256"), ("p384", "ecdsa-p384"), ("ed25519", "ed25519")]
)
def test_kms_signs(kms: Double, name: str, algorithm: str) -> None:
    key = store.load_publisher(signer(name))
    assert key.public.algorithm == algorithm
    for message in (b"", b"m", bytes(60_000)):
        key.public.verify(message, key.sign(message))
    assert store.load_publisher_public(signer(name)) == key.public


def test_kms_unwraps(kms: Double) -> None:
    key, public = store.load_recipient(RING + "bank"), store.load_recipient_public(RING + "bank")
    assert key.public.fingerprint == public.fingerprint
    assert key.public.fingerprint != store.load_recipient(RING + "other").public.fingerprint
    wrapped = public.wrap(b"bundle", INFO)
    assert key.unwrap(wrapped, INFO) == b"bundle"
    for bad, info in ((wrapped, INFO[:-1] + b"\1"), (wrapped[:-1], INFO), (b"", INFO), (bytes(70_000), INFO)):
        with pytest.raises(NoMatchingKey, match=f"^the key bundle does not open with {RING}bank$"):
            key.unwrap(bad, info)
    with pytest.raises(NoMatchingKey):
        store.load_recipient(RING + "other").unwrap(wrapped, INFO)


def test_seal_grant_load_rotate(kms: Double, parties: Any) -> None:
    publisher, host = store.load_publisher(signer("p384")), store.load_host(signer("ed25519-host"))
    bank, renewed = store.load_recipient(RING + "bank-1"), store.load_recipient(RING + "bank-2")
    seal_grant_load_rotate(parties, publisher, bank, renewed, host)


def test_what_cannot_be_used(kms: Double) -> None:
    form = "expected gcpkms:projects/.../cryptoKeys/NAME"
    signs = "expected a key of EC_SIGN_P256_SHA256, EC_SIGN_P384_SHA384, EC_SIGN_ED25519, got"
    for uri, load_key, kind, words in (
        ("gcpkms:", store.load_publisher, FormatError, f"{form}/cryptoKeyVersions/N"),
        (RING + "p256", store.load_publisher, FormatError, f"{form}/cryptoKeyVersions/N"),
        (signer("bank"), store.load_recipient, FormatError, form),
        (RING.ljust(1025, "x"), store.load_recipient, FormatError, form),
        (signer("bank"), store.load_publisher, FormatError, "expected an asymmetric key"),
        (signer("rsa"), store.load_publisher, FormatError, f"{signs} RSA_SIGN_PSS_2048_SHA256"),
        (signer("rsa-future"), store.load_publisher, FormatError, f"{signs} 999"),
        (signer("p256"), store.load_host, FormatError, "not a key of this role (expected ed25519)"),
        (signer("p256-nothing"), store.load_publisher, KeyUnavailable, "no such key"),
        (signer("p256-forbidden"), store.load_publisher, KeyUnavailable, "permission denied"),
        (signer("p256-busy"), store.load_publisher, KeyUnavailable, "the service wants fewer requests"),
        (signer("p256-odd"), store.load_publisher, KeyUnavailable, "the service answers DataLoss"),
        (signer("p256-failing"), store.load_publisher, KeyUnavailable, "cannot connect to the service"),  # asked once
        (
            signer("p256-disabled"),
            store.load_publisher,
            KeyUnavailable,
            "the key is disabled, or not usable in its present state",
        ),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'{uri[:200]}: {words}')}$"):
            load_key(uri)
    with pytest.raises(FormatError, match=f"^{signer('k256')}: not a key of this role"):
        store.load_publisher(signer("k256"))
    store.load_recipient(RING.ljust(1024, "x"))
    with pytest.raises(FormatError, match=f"^{RING}p256: expected a symmetric key to encrypt with$"):
        store.load_recipient_public(RING + "p256").wrap(b"bundle", INFO)
    with pytest.raises(KeyUnavailable, match=f"^{signer('ed25519')}: the service refuses to sign$"):
        store.load_publisher(signer("ed25519")).sign(bytes(70_000))


def test_credentials(kms: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = store.load_recipient_public(RING + "bank").wrap(b"bundle", INFO)
    (kms.folder / "expired").touch()
    try:
        with pytest.raises(KeyUnavailable, match=f"^{RING}bank: the credentials are not valid, or have expired$"):
            store.load_recipient(RING + "bank").unwrap(wrapped, INFO)
    finally:
        (kms.folder / "expired").unlink()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(kms.folder / "none.json"))
    with pytest.raises(KeyUnavailable, match=f"^{RING}bank: no credentials, or none that can be read$"):
        store.load_recipient(RING + "bank")
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "hunter2", "refresh_token": "hunter2"}
    unread, unused = "no credentials, or none that can be read", "the credentials cannot be used"
    for described, words in (({"type": "service_account"}, unread), (user, unused)):
        (kms.folder / "other.json").write_text(json.dumps(described))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(kms.folder / "other.json"))
        with pytest.raises(
            KeyUnavailable, match=f"^{RING}bank: {words}$"
        ) as refused:  # a user's token comes from where no double is
            store.load_recipient(RING + "bank").unwrap(wrapped, INFO)
        assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(kms.folder))
    with pytest.raises(KeyUnavailable, match=f"^{RING}bank: {unused}$"):
        store.load_recipient(RING + "bank")
    (kms.folder / "expired").touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(kms.folder / "account.json"))
    line = f"modelvault: error: {signer('p256')}: the credentials are not valid, or have expired\n"
    assert needs.told("pubkey", "publisher", signer("p256")) == line
    (kms.folder / "expired").unlink()


def test_outages_are_audited_denials(kms: Double, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test: the double does not come back from this."""
    uri = RING + "bank-3"
    path = parties.seal(recipients=[store.load_recipient_public(uri)])
    monkeypatch.setattr("modelvault.keys.gcpkms.ANSWER_SECONDS", 0.5)
    kms.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(KeyUnavailable, match=f"^{uri}: no answer within 10 seconds$"):
            parties.load(path, identity=uri)
    finally:
        kms.process.send_signal(signal.SIGCONT)
    monkeypatch.setattr("modelvault.keys.gcpkms.ANSWER_SECONDS", 10)
    kms.process.kill()
    kms.process.wait()
    with pytest.raises(KeyUnavailable, match=f"^{uri}: cannot connect to the service$"):
        parties.load(path, identity=uri)
    for size in (1, 65536):
        with pytest.raises(KeyUnavailable):
            store.load_recipient(uri).unwrap(bytes(size), INFO)
    for size in (0, 65537):  # more than the service takes is not sent
        with pytest.raises(NoMatchingKey):
            store.load_recipient(uri).unwrap(bytes(size), INFO)
    assert parties.events() == ["opened", "load.intent", "load.denied", "load.intent", "load.denied"]
