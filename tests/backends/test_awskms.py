"""Keys in AWS KMS, spoken to over HTTP at moto's server. No test has met AWS itself."""

import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from story import seal_grant_load_rotate

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey, printable
from modelvault.keys import store

INFO = b"modelvault/v1/grant" + bytes(32)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    needs.module("boto3")
    needs.module("moto.server")
    with needs.moto(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture
def kms(running: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A client for making keys; the product finds the same server through the environment."""
    return client(running[0], monkeypatch, tmp_path)


def client(address: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    import boto3

    needs.aws_environment(address, monkeypatch, folder)
    return boto3.client("kms")


def make(kms: Any, spec: str = "SYMMETRIC_DEFAULT") -> str:
    usage = "ENCRYPT_DECRYPT" if spec == "SYMMETRIC_DEFAULT" else "SIGN_VERIFY"
    return "awskms:" + str(kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"])


def test_the_client_s_limits_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("boto3")
    from modelvault.keys import awskms

    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    client = awskms._client("arn:aws:kms:eu-west-3:1:key/k")
    assert client.meta.region_name == "eu-west-3"
    limits = client.meta.config
    assert (limits.connect_timeout, limits.read_timeout) == (awskms.CONNECT_SECONDS, awskms.ANSWER_SECONDS)
    for key in ("arn:aws:kms", "alias:a:b:us-east-1:d:e:f"):  # no whole ARN, and no ARN
        assert awskms._client(key).meta.region_name == "eu-north-1"


@pytest.mark.parametrize("size", ["256", "384", "521"])
def test_kms_signs(kms: Any, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make(kms, f"ECC_NIST_P{size}")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")  # the ARN names it
    key = store.load_publisher(uri)
    assert key.public.algorithm == f"ecdsa-p{size}"
    for message in (b"", b"m", bytes(100_000)):
        key.public.verify(message, key.sign(message))
    with pytest.raises(KeyUnavailable, match=r"^awskms:alias/release: no region: set AWS_REGION, or name the key by"):
        store.load_publisher("awskms:alias/release")


def test_a_service_that_signs_wrongly_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto as it is hashes twice; when this fails, it has been repaired and moto_server.py can go."""
    needs.module("boto3")
    needs.module("moto.server")
    with needs.moto(tmp_path / "log", "--as-it-is") as (address, _):
        key = store.load_publisher(make(client(address, monkeypatch, tmp_path), "ECC_NIST_P256"))
        with pytest.raises(KeyUnavailable, match="returned a wrong signature"):
            key.sign(b"m")


def test_kms_unwraps(kms: Any) -> None:
    uri = make(kms)
    kms.create_alias(AliasName="alias/bank", TargetKeyId=uri.removeprefix("awskms:"))
    key, public = store.load_recipient(uri), store.load_recipient_public("awskms:alias/bank")
    assert key.public.fingerprint == public.fingerprint  # an alias is the key that it names
    assert key.public.fingerprint != store.load_recipient(make(kms)).public.fingerprint
    wrapped = public.wrap(b"bundle", INFO)
    assert key.unwrap(wrapped, INFO) == b"bundle"
    context = {"modelvault/v1/grant": "00" * 32}  # as trails of calls and policies of keys see it
    assert (
        kms.decrypt(KeyId=uri.removeprefix("awskms:"), CiphertextBlob=wrapped, EncryptionContext=context)["Plaintext"]
        == b"bundle"
    )
    for bad, info in ((wrapped, INFO[:-1] + b"\1"), (wrapped[:-1], INFO), (b"", INFO), (bytes(7000), INFO)):
        with pytest.raises(NoMatchingKey, match=f"^the key bundle does not open with {uri}$"):
            key.unwrap(bad, info)


def test_seal_grant_load_rotate(kms: Any, parties: Any) -> None:
    bank, renewed = store.load_recipient(make(kms)), store.load_recipient(make(kms))
    seal_grant_load_rotate(parties, store.load_publisher(make(kms, "ECC_NIST_P384")), bank, renewed)


def test_what_cannot_be_used(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    symmetric, p256, rsa = make(kms), make(kms, "ECC_NIST_P256"), make(kms, "RSA_2048")
    form = "expected awskms: and a key's ARN, id or alias/NAME"
    signs = "expected a ECC_NIST_P256 or ECC_NIST_P384 or ECC_NIST_P521 key to sign with, got"
    no_host = "audit logs are signed with Ed25519, which is not supported in AWS KMS"
    for uri, load_key, kind, words in (
        ("awskms:", store.load_publisher, FormatError, form),
        ("awskms:a\tb", store.load_publisher, FormatError, form),
        ("awskms:" + "x" * 2049, store.load_publisher, FormatError, form),
        ("awskms:" + "x" * 2048, store.load_publisher, KeyUnavailable, "no such key"),
        ("awskms:alias/nothing", store.load_publisher, KeyUnavailable, "no such key"),
        (symmetric, store.load_publisher, FormatError, f"{signs} SYMMETRIC_DEFAULT"),
        (rsa, store.load_publisher, FormatError, f"{signs} RSA_2048"),
        (
            p256,
            store.load_recipient,
            FormatError,
            "expected a SYMMETRIC_DEFAULT key to encrypt with, got ECC_NIST_P256",
        ),
        (p256, store.load_host, FormatError, no_host),
    ):
        shown = printable(uri[:200] if words == form else uri)
        with pytest.raises(kind, match=f"^{re.escape(f'{shown}: {words}')}$"):
            load_key(uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://kms.example.com")
    with pytest.raises(KeyUnavailable, match=f"^{symmetric}: endpoint: expected https, since keys would cross"):
        store.load_recipient(symmetric)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
    with pytest.raises(KeyUnavailable, match=f"^{symmetric}: no credentials$"):
        store.load_recipient(symmetric)


def test_credentials(kms: Any, running: tuple[str, subprocess.Popen[bytes]]) -> None:
    uri = make(kms)

    def unchecked_actions(count: bytes) -> None:
        request = urllib.request.Request(f"{running[0]}/moto-api/reset-auth", count, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    try:
        unchecked_actions(b"0")
        with pytest.raises(KeyUnavailable, match=f"^{uri}: permission denied$"):
            store.load_recipient(uri)
    finally:
        unchecked_actions(b"inf")


def test_refusals_are_audited_denials(kms: Any, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make(kms)
    key, bank = uri.rpartition("/")[2], store.load_recipient(uri)
    path = parties.seal(recipients=[bank.public])

    def refused(identity: Any, words: str) -> None:
        with pytest.raises(KeyUnavailable, match=f"^{uri}: {words}$"):
            parties.load(path, identity=identity)

    kms.disable_key(KeyId=key)
    refused(bank, "the key is disabled")  # which was enabled when it was opened
    refused(uri, "the key is disabled")
    kms.schedule_key_deletion(KeyId=key)
    refused(bank, "the key is not usable in its present state")
    refused(uri, "the key is pending deletion")
    kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "expired")
    refused(uri, "the credentials have expired")
    denied = [r.fields for r in parties.records() if r.event == "load.denied"]
    assert [(d["reason"], d["detail"].startswith(uri)) for d in denied] == [("KeyUnavailable", True)] * 5


def test_outages_are_audited_denials(
    kms: Any, parties: Any, running: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make(kms)
    path = parties.seal(recipients=[store.load_recipient_public(uri)])
    monkeypatch.setattr("modelvault.keys.awskms.ANSWER_SECONDS", 0.5)
    impatient = store.load_recipient(uri)
    running[1].send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(KeyUnavailable, match=f"^{uri}: no answer within 0.5 seconds$"):
            parties.load(path, identity=impatient)
        for size in (1, 6144):
            with pytest.raises(KeyUnavailable):
                impatient.unwrap(bytes(size), INFO)
        for size in (0, 6145):  # more than KMS takes is not sent
            with pytest.raises(NoMatchingKey):
                impatient.unwrap(bytes(size), INFO)
    finally:
        running[1].send_signal(signal.SIGCONT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{needs.free_port()}")
    with pytest.raises(KeyUnavailable, match=rf"^{uri}: cannot ask the service \(EndpointConnectionError\)$"):
        parties.load(path, identity=uri)
    assert parties.events() == ["opened", "load.intent", "load.denied", "load.denied"]
