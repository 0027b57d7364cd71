"""Keys in Azure Key Vault: Azure's own client, at a double of the service. No test has met the service itself."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import pytest
from story import seal_grant_load_rotate

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import store

VAULT = "azurekms://acme.vault.azure.net/keys/"
REFUSED = "permission denied, or the key is disabled or expired"
INFO = b"modelvault/v1/grant" + bytes(32)


@dataclass
class Double:
    folder: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    needs.module("azure.keyvault.keys")
    needs.module("azure.identity")
    import tunnel

    folder = tmp_path_factory.mktemp("azurekms")
    tunnel.certificate(folder, "acme.vault.azure.net")
    with (
        needs.server("azurekms_server.py", folder / "log", str(folder)) as (port, process),
        tunnel.tunnel(port) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [n for n in os.environ if n.startswith("AZURE_")]:
            patch.delenv(name)
        patch.setenv("https_proxy", proxy)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
        patch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{(folder / 'identity').read_text()}/token")
        patch.setenv("IDENTITY_HEADER", "x")
        patch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        yield Double(folder, process)


@pytest.mark.parametrize("name", ["p256", "p384", "p521"])
def test_a_vault_signs(vault: Double, name: str) -> None:
    key = store.load_publisher(VAULT + name)
    assert key.public.algorithm == f"ecdsa-{name}"
    for message in (b"", b"m", bytes(100_000)):
        key.public.verify(message, key.sign(message))
    assert store.load_publisher_public(VAULT + name) == key.public


def test_a_vault_unwraps(vault: Double) -> None:
    key, public = store.load_recipient(VAULT + "bank"), store.load_recipient_public(VAULT + "bank")
    assert key.public.fingerprint == public.fingerprint
    other = store.load_recipient(VAULT + "other")
    assert key.public.fingerprint != other.public.fingerprint
    wrapped = public.wrap(b"bundle", INFO)
    assert key.unwrap(wrapped, INFO) == b"bundle"
    flipped = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    for bad, info in ((wrapped, INFO[:-1] + b"\1"), (wrapped[:-1], INFO), (b"", INFO), (flipped, INFO)):
        with pytest.raises(NoMatchingKey, match=f"^the key bundle does not open with {VAULT}bank$"):
            key.unwrap(bad, info)
    with pytest.raises(NoMatchingKey):
        other.unwrap(wrapped, INFO)


def test_seal_grant_load_rotate(vault: Double, parties: Any) -> None:
    bank, renewed = store.load_recipient(VAULT + "bank-1"), store.load_recipient(VAULT + "bank-2")
    seal_grant_load_rotate(parties, store.load_publisher(VAULT + "p384"), bank, renewed)


def test_what_cannot_be_used(vault: Double) -> None:
    form = "expected azurekms://NAME.vault.azure.net/keys/NAME, with /VERSION at most"
    signs = "expected an EC key on P-256 or P-384 or P-521, got"
    wraps = "expected an RSA key of 2048 bits or more, got"
    no_host = "audit logs are signed with Ed25519, which Azure Key Vault does not have"
    for uri, load_key, kind, words in (
        ("azurekms:", store.load_publisher, FormatError, form),
        ("azurekms:" + "x" * 200, store.load_publisher, FormatError, form),
        ("azurekms://acme.example.com/keys/p256", store.load_publisher, FormatError, form),
        ("azurekms://evil.com/x.vault.azure.net/keys/k", store.load_publisher, FormatError, form),
        (VAULT + "p256/1", store.load_publisher, FormatError, form),
        (VAULT + "rsa", store.load_publisher, FormatError, f"{signs} RSA"),
        (VAULT + "k256", store.load_publisher, FormatError, f"{signs} P-256K"),
        (VAULT + "p256", store.load_recipient, FormatError, f"{wraps} P-256"),
        (VAULT + "rsa2040", store.load_recipient, FormatError, f"{wraps} RSA"),
        (VAULT + "p256", store.load_host, FormatError, no_host),
        (VAULT + "p256-nothing", store.load_publisher, KeyUnavailable, "no such key"),
        (VAULT + "p256-failing", store.load_publisher, KeyUnavailable, "the service answers 503"),  # asked once
        (VAULT + "p256/" + "0" * 32, store.load_publisher, KeyUnavailable, "the service refuses the request"),
        (VAULT + "bank-forbidden", store.load_recipient, KeyUnavailable, REFUSED),
        (VAULT + "bank-disabled", store.load_recipient, KeyUnavailable, REFUSED),
    ):
        with pytest.raises(kind, match=f"^{re.escape(f'{uri[:200]}: {words}')}$"):
            load_key(uri)
    refusing = store.load_publisher(VAULT + "p256-refusing")
    with pytest.raises(KeyUnavailable, match=f"^{VAULT}p256-refusing: the service refuses to sign$"):
        refusing.sign(b"m")


def test_a_vault_that_talks_nonsense(vault: Double) -> None:
    answer, public = "the service's answer is not understood", "the service's public key is not understood"
    signs, wraps = "expected an EC key on P-256 or P-384 or P-521, got", "expected an RSA key of 2048 bits or more, got"
    for number, publisher, recipient in (
        (0, answer, answer),
        (1, answer, answer),
        (2, answer, answer),
        (3, public, f"{wraps} P-256"),
        (4, public, f"{wraps} P-256"),
        (5, f"{signs} RSA", public),
        (6, f"{signs} RSA", public),
        (7, f"{signs} odd", f"{wraps} odd"),
        (8, "the key is expired, or the service is not what it seems", "the key is expired, or .*"),
    ):
        uri = f"{VAULT}odd{number}"
        for load_key, words in ((store.load_publisher, publisher), (store.load_recipient, recipient)):
            with pytest.raises((FormatError, KeyUnavailable), match=f"^{uri}: {words}$"):
                load_key(uri)
    for number in (0, 1):
        signer, bank = (
            store.load_publisher(f"{VAULT}p256-odd{number}"),
            store.load_recipient(f"{VAULT}bank-odd{number}"),
        )
        with pytest.raises(KeyUnavailable, match=f"^{VAULT}p256-odd{number}: {answer}$"):
            signer.sign(b"m")
        with pytest.raises(KeyUnavailable, match=f"^{VAULT}bank-odd{number}: {answer}$"):
            bank.unwrap(bank.public.wrap(b"bundle", INFO), INFO)


def test_versions(vault: Double) -> None:
    from modelvault.keys.azurekms import VaultKey

    newest = str(VaultKey(VAULT + "p256-versions").key.id).removeprefix("https:")
    pinned = store.load_publisher("azurekms:" + newest)
    assert pinned.public == store.load_publisher(VAULT + "p256-versions").public
    pinned.public.verify(b"m", pinned.sign(b"m"))


def test_credentials(vault: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.load_recipient(VAULT + "bank")
    wrapped = key.public.wrap(b"bundle", INFO)
    (vault.folder / "expired").touch()
    try:
        with pytest.raises(KeyUnavailable, match=f"^{VAULT}bank: the credentials are not valid, or have expired$"):
            key.unwrap(wrapped, INFO)
    finally:
        (vault.folder / "expired").unlink()
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{needs.free_port()}/token")
    with pytest.raises(KeyUnavailable, match=f"^{VAULT}bank: no credentials, or none that can be used$"):
        store.load_recipient(VAULT + "bank")
    line = f"modelvault: error: {VAULT}bank: no credentials, or none that can be used\n"
    assert needs.told("pubkey", "recipient", VAULT + "bank") == line


def test_outages_are_audited_denials(vault: Double, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test: the double does not come back from this."""
    uri = VAULT + "bank-3"
    path = parties.seal(recipients=[store.load_recipient_public(uri)])
    monkeypatch.setattr("modelvault.keys.azurekms.ANSWER_SECONDS", 0.5)
    impatient = store.load_recipient(uri)
    impatient.unwrap(impatient.public.wrap(b"bundle", INFO), INFO)  # so that a connection is there, and stays
    monkeypatch.setattr("modelvault.keys.azurekms.CONNECT_SECONDS", 0.5)
    unconnected = store.load_recipient(uri)
    wrapped = unconnected.public.wrap(b"bundle", INFO)
    vault.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(KeyUnavailable, match=f"^{uri}: no answer within 0.5 seconds$"):
            unconnected.unwrap(wrapped, INFO)
        with pytest.raises(KeyUnavailable, match=f"^{uri}: no answer within 0.5 seconds$"):
            parties.load(path, identity=impatient)
    finally:
        vault.process.send_signal(signal.SIGCONT)
    vault.process.kill()
    vault.process.wait()
    with pytest.raises(KeyUnavailable, match=f"^{uri}: cannot connect to the service$"):
        parties.load(path, identity=impatient)
    assert parties.events() == ["opened", "load.intent", "load.denied", "load.intent", "load.denied"]
