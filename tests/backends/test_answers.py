"""What a backend makes of answers that no working token, TPM or service gives: each is a clear refusal."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import needs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from serving import serving

from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys import store

P256 = ec.generate_private_key(ec.SECP256R1()).public_key()
PEM = P256.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

# -- a server that speaks Vault's protocol, and says what the test wants


class Answers(BaseHTTPRequestHandler):
    """Status and JSON by the end of the path."""

    given: ClassVar[dict[str, tuple[int, Any]]] = {}

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, value = next((a for end, a in self.given.items() if f"/{end}/" in self.path), (404, {"errors": []}))
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, Any]]]:
    needs.module("hvac")
    with serving(Answers) as url:
        monkeypatch.setenv("VAULT_ADDR", url)
        monkeypatch.setenv("VAULT_TOKEN", "token")
        monkeypatch.setattr(Answers, "given", {})
        yield Answers.given


def facts(kind: str, public: str) -> tuple[int, Any]:
    return 200, {"data": {"type": kind, "latest_version": 1, "keys": {"1": {"public_key": public}}}}


REFUSAL = (400, {"errors": ["key is", "disabled"]})


def test_a_vault_that_refuses(vault: dict[str, tuple[int, Any]]) -> None:
    words = "^vault://transit/k: the server refuses: key is disabled$"
    vault["keys"] = REFUSAL
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("vault://transit/k")
    vault["keys"], vault["sign"] = facts("ecdsa-p256", PEM), REFUSAL
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["keys"], vault["encrypt"] = facts("aes256-gcm96", ""), REFUSAL
    vault["health"] = vault["sys"] = (200, {"cluster_id": "c"})
    with pytest.raises(KeyUnavailable, match=words):
        store.load_recipient_public("vault://transit/k").wrap(b"bundle", b"info")


def test_a_vault_that_talks_nonsense(vault: dict[str, tuple[int, Any]]) -> None:
    for kind, public, words in (
        ("ed25519", "AAAA", "the server's public key is not understood"),
        ("ecdsa-p256", "no PEM", "the server's public key is not understood"),
        ("ed25519", "no base64!", "the server's answer is not understood"),
    ):
        vault["keys"] = facts(kind, public)
        with pytest.raises((FormatError, KeyUnavailable), match=f"^vault://transit/k: {words}$"):
            store.load_publisher("vault://transit/k")
    vault["keys"], vault["sign"] = facts("ecdsa-p256", PEM), (200, {"data": {"signature": "vault:v1:AAAA"}})
    with pytest.raises(KeyUnavailable, match="returned a wrong signature"):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["sign"] = (200, {"data": {"signature": "vault:v1:!"}})
    with pytest.raises(KeyUnavailable, match="the server's answer is not understood"):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["keys"] = (418, {"errors": ["teapot"]})
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: the server answers \w+$"):
        store.load_publisher("vault://transit/k")


def test_a_vault_without_a_certificate(vault: dict[str, tuple[int, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", os.environ["VAULT_ADDR"].replace("http:", "https:"))
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: the server's certificate is not trusted$"):
        store.load_publisher("vault://transit/k")


# -- KMS


def test_a_kms_whose_public_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("boto3")
    from modelvault.keys import awskms

    client = SimpleNamespace(
        meta=SimpleNamespace(endpoint_url="https://kms.example"),
        describe_key=lambda KeyId: {
            "KeyMetadata": {"Arn": "arn", "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}
        },
        get_public_key=lambda KeyId: {"PublicKey": b"no DER"},
    )
    monkeypatch.setattr(awskms, "_client", lambda key: client)
    with pytest.raises(FormatError, match=r"^awskms:k: the service's public key is not understood$"):
        store.load_publisher("awskms:k")


# -- tpm2-tools of our own


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Programs on the PATH; each writes its text to where ``-o`` points."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "key.pem").write_text(PEM)

    def make(name: str, line: str) -> None:
        script = f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{line}\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)

    make("tpm2_readpublic", f'cat {tmp_path / "key.pem"} > "$2"')
    return make


def test_a_tpm_that_talks_nonsense(tools: Any) -> None:
    tools("tpm2_readpublic", 'echo nonsense > "$2"')
    with pytest.raises(FormatError, match=r"^tpm2:0x81010001: expected an elliptic curve key$"):
        store.load_publisher("tpm2:0x81010001")


@pytest.mark.parametrize("answer", ["", r"\000\004\000\000", r"\000\004\000\041", r"\000\044\000\040short"])
def test_a_tpm_whose_ecdh_is_no_point(tools: Any, answer: str) -> None:
    tools("tpm2_ecdhzgen", f"printf '{answer}' > \"$2\"")
    key = store.load_recipient("tpm2:0x81010001")
    wrapped = key.public.wrap(b"bundle", b"info")
    with pytest.raises(KeyUnavailable, match=r"^tpm2:0x81010001: the TPM's answer is not understood$"):
        key.unwrap(wrapped, b"info")


def test_a_tpm_that_does_not_answer(tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelvault.keys import tpm2

    tools("tpm2_readpublic", "exec sleep 60")
    monkeypatch.setattr(tpm2, "SECONDS", 0.2)
    with pytest.raises(KeyUnavailable, match=r"^tpm2:0x81010001: no answer within 0\.2 seconds$"):
        store.load_publisher("tpm2:0x81010001")


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("Esys_Sign(0x9A2) - authorization failure", "wrong authorization value"),
        ("Esys_Sign(0x921) - lockout mode", "the TPM is locked after wrong authorization values"),
        ("Esys_TR_FromTPMPublic(0x18B) - handle", "no key at this handle"),
        ("Could not load tcti", "no TPM can be reached"),
        ("Esys_Sign(0x2C3) - type", r"the TPM refuses \(0x2C3\)"),
        ("", r"the TPM refuses \(no reason given\)"),
    ],
)
def test_a_tpm_that_refuses(tools: Any, printed: str, words: str) -> None:
    tools("tpm2_readpublic", f"echo '{printed}' >&2; exit 1")
    with pytest.raises(KeyUnavailable, match=f"^tpm2:0x81010001: {words}"):
        store.load_publisher("tpm2:0x81010001")
