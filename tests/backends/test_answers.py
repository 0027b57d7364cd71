"""What a backend makes of answers that no working token, TPM or service gives: each is a clear refusal."""

import base64
import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import needs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from serving import serving

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import store


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def der(key: ec.EllipticCurvePrivateKey) -> str:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(key.public_key().public_bytes(*form)).decode()


P256 = ec.generate_private_key(ec.SECP256R1())
PEM = pem(P256)

# -- a server that speaks Vault's protocol, and says what the test wants


class Answers(BaseHTTPRequestHandler):
    """Status and JSON by the end of the path; and what was asked."""

    given: ClassVar[dict[str, tuple[int, Any]]] = {}
    asked: ClassVar[list[str]] = []

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = self.place()
        self.asked.append(place)
        status, value = next((a for end, a in self.given.items() if f"/{end}/" in place), (404, {"errors": []}))
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "/v1/elsewhere")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def place(self) -> str:
        return self.path

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, Any]]]:
    needs.module("hvac")
    with serving(Answers) as url:
        monkeypatch.setenv("VAULT_ADDR", url)
        monkeypatch.setenv("VAULT_TOKEN", "token")
        monkeypatch.setattr(Answers, "given", {})
        monkeypatch.setattr(Answers, "asked", [])
        yield Answers.given


def facts(kind: str, public: str) -> tuple[int, Any]:
    return 200, {"data": {"type": kind, "latest_version": 1, "keys": {"1": {"public_key": public}}}}


REFUSAL = (400, {"errors": ["key is", "disabled"]})
HEALTHY = (200, {"cluster_id": "c"})


def test_a_vault_that_refuses(vault: dict[str, tuple[int, Any]]) -> None:
    words = "^vault://transit/k: the server refuses: key is disabled$"
    vault["keys"] = (400, {"errors": ["x" * 201]})
    with pytest.raises(KeyUnavailable, match=f"^vault://transit/k: the server refuses: {'x' * 200}$"):
        store.load_publisher("vault://transit/k")
    vault["keys"] = REFUSAL
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("vault://transit/k")
    vault["keys"], vault["sign"] = facts("ecdsa-p256", PEM), REFUSAL
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["keys"], vault["encrypt"], vault["decrypt"] = facts("aes256-gcm96", ""), REFUSAL, REFUSAL
    vault["sys"] = HEALTHY
    bank = store.load_recipient("vault://transit/k")
    with pytest.raises(KeyUnavailable, match=words):
        bank.public.wrap(b"bundle", b"info")
    with pytest.raises(NoMatchingKey, match=r"^the key bundle does not open with vault://transit/k$"):
        bank.unwrap(b"vault:v1:AAAA", b"info")
    vault["decrypt"] = (400, {"errors": ["no luck", "encryption key not found"]})
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: no such key or mount$"):
        bank.unwrap(b"vault:v1:AAAA", b"info")
    vault["sys"] = REFUSAL
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: the server is sealed or down$"):
        store.load_recipient("vault://transit/k")


def test_a_vault_in_standby_is_good_enough(vault: dict[str, tuple[int, Any]]) -> None:
    vault["sys"] = HEALTHY
    store.load_recipient("vault://transit/k")
    assert Answers.asked == ["/v1/sys/health?standbyok=True"]


NOT_UNDERSTOOD = r"^vault://transit/k: the server's answer is not understood$"


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"data": []},
        {"data": {}},
        {"data": {"type": "ed25519", "latest_version": "1", "keys": {"1": {"public_key": ""}}}},
        {"data": {"type": 25519, "latest_version": 1, "keys": {"1": {"public_key": ""}}}},
        {"data": {"type": "ed25519", "latest_version": 1, "keys": ["1"]}},
        {"data": {"type": "ed25519", "latest_version": 1, "keys": {"1": "public_key"}}},
        {"data": {"type": "ed25519", "latest_version": 1, "keys": {"1": {"public_key": 1}}}},
    ],
)
def test_a_vault_whose_answer_lacks_something(vault: dict[str, tuple[int, Any]], answer: Any) -> None:
    vault["keys"] = (200, answer)
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        store.load_publisher("vault://transit/k")


@pytest.mark.parametrize(
    "answer", [(200, {}), (200, {"data": {}}), (200, {"data": {"plaintext": "!"}}), (307, {}), (204, b"")]
)
def test_a_vault_that_gives_nothing(vault: dict[str, tuple[int, Any]], answer: tuple[int, Any]) -> None:
    vault["keys"], vault["sign"], vault["sys"] = facts("ecdsa-p256", PEM), answer, HEALTHY
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["keys"], vault["encrypt"], vault["decrypt"] = facts("aes256-gcm96", ""), answer, answer
    bank = store.load_recipient("vault://transit/k")
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        bank.public.wrap(b"bundle", b"info")
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        bank.unwrap(b"vault:v1:AAAA", b"info")
    vault["keys"] = answer
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        bank.public.wrap(b"bundle", b"info")
    assert "/v1/elsewhere" not in Answers.asked  # where the token would go, too


def test_a_vault_that_talks_nonsense(vault: dict[str, tuple[int, Any]]) -> None:
    for kind, public, words in (
        ("ed25519", "AAAA", "the server's public key is not understood"),
        ("ecdsa-p256", "no PEM", "the server's public key is not understood"),
        ("ecdsa-p256", pem(ec.generate_private_key(ec.SECP256K1())), "not a key of this role .*"),
        ("ed25519", "no base64!", "the server's answer is not understood"),
    ):
        vault["keys"] = facts(kind, public)
        with pytest.raises((FormatError, KeyUnavailable), match=f"^vault://transit/k: {words}$"):
            store.load_publisher("vault://transit/k")
    vault["keys"], vault["sign"] = facts("ecdsa-p256", PEM), (200, {"data": {"signature": "vault:v1:AAAA"}})
    with pytest.raises(KeyUnavailable, match="returned a wrong signature"):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["sign"] = (200, {"data": {"signature": "vault:v1:!"}})
    with pytest.raises(KeyUnavailable, match=NOT_UNDERSTOOD):
        store.load_publisher("vault://transit/k").sign(b"m")
    vault["keys"] = (418, {"errors": ["teapot"]})
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: the server answers UnexpectedError$"):
        store.load_publisher("vault://transit/k")


def test_a_vault_without_a_certificate(vault: dict[str, tuple[int, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", os.environ["VAULT_ADDR"].replace("http:", "https:"))
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/k: the server's certificate is not trusted$"):
        store.load_publisher("vault://transit/k")


# -- a server that speaks AWS KMS's protocol


class Kms(Answers):
    def place(self) -> str:
        return f"/{self.headers['X-Amz-Target'].rpartition('.')[2]}/"


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, tuple[int, Any]]]:
    needs.module("boto3")
    with serving(Kms) as url:
        needs.aws_environment(url, monkeypatch, tmp_path)
        monkeypatch.setattr(Answers, "given", {})
        monkeypatch.setattr(Answers, "asked", [])
        yield Answers.given


def described(spec: str, usage: str, **more: str) -> tuple[int, Any]:
    return 200, {"KeyMetadata": {"KeyId": "k", "Arn": "arn", "KeySpec": spec, "KeyUsage": usage, **more}}


def test_a_kms_whose_public_key_is_none(kms: dict[str, tuple[int, Any]]) -> None:
    kms["DescribeKey"], kms["GetPublicKey"] = described("ECC_NIST_P256", "SIGN_VERIFY"), (200, {"PublicKey": "AAAA"})
    with pytest.raises(FormatError, match=r"^awskms:k: the service's public key is not understood$"):
        store.load_publisher("awskms:k")
    kms["GetPublicKey"] = (200, {"PublicKey": der(ec.generate_private_key(ec.SECP256K1()))})
    with pytest.raises(FormatError, match=r"^awskms:k: not a key of this role"):
        store.load_publisher("awskms:k")


def test_a_kms_key_of_another_use(kms: dict[str, tuple[int, Any]]) -> None:
    for spec, usage, load_key, words in (
        ("ECC_NIST_P256", "KEY_AGREEMENT", store.load_publisher, "to sign with, got ECC_NIST_P256"),
        ("SYMMETRIC_DEFAULT", "GENERATE_VERIFY_MAC", store.load_recipient, "to encrypt with, got SYMMETRIC_DEFAULT"),
        ("RSA_2048", "ENCRYPT_DECRYPT", store.load_recipient, "to encrypt with, got RSA_2048"),
    ):
        kms["DescribeKey"] = described(spec, usage)
        with pytest.raises(FormatError, match=f"^awskms:k: expected a .* key {words}$"):
            load_key("awskms:k")


def test_a_kms_that_refuses(kms: dict[str, tuple[int, Any]]) -> None:
    for status, code, words in (
        (400, "AccessDeniedException", "permission denied"),
        (403, "", "permission denied"),
        (400, "ExpiredTokenException", "the credentials have expired"),
        (400, "UnrecognizedClientException", "the credentials are not valid"),
        (400, "NotFoundException", "no such key"),
        (400, "InvalidCiphertextException", "the service answers InvalidCiphertextException"),  # to another question
        (400, "X" * 81, f"the service answers {'X' * 80}"),
    ):
        kms["DescribeKey"] = (status, {"__type": code} if code else {})
        with pytest.raises(KeyUnavailable, match=f"^awskms:k: {words}$"):
            store.load_publisher("awskms:k")


@pytest.mark.parametrize(
    "answer", [{}, [], "no answer", b"<html>", {"KeyMetadata": []}, {"KeyMetadata": {"KeyId": "k"}}]
)
def test_a_kms_that_talks_nonsense(kms: dict[str, tuple[int, Any]], answer: Any) -> None:
    words = r"^awskms:k: the service's answer is not understood$"
    kms["DescribeKey"] = (200, answer)
    for load_key in (store.load_publisher, store.load_recipient):
        with pytest.raises(KeyUnavailable, match=words):
            load_key("awskms:k")
    kms["DescribeKey"], kms["GetPublicKey"] = described("ECC_NIST_P256", "SIGN_VERIFY"), (200, answer)
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("awskms:k")
    kms["GetPublicKey"], kms["Sign"] = (200, {"PublicKey": der(P256)}), (200, answer)
    with pytest.raises(KeyUnavailable, match=words):
        store.load_publisher("awskms:k").sign(b"m")
    kms["DescribeKey"] = described("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
    kms["Encrypt"], kms["Decrypt"] = (200, answer), (200, answer)
    bank = store.load_recipient("awskms:k")
    with pytest.raises(KeyUnavailable, match=words):
        bank.public.wrap(b"bundle", bytes(32))
    with pytest.raises(KeyUnavailable, match=words):
        bank.unwrap(b"wrapped", bytes(32))


def test_a_kms_that_fails_is_asked_twice(kms: dict[str, tuple[int, Any]]) -> None:
    kms["DescribeKey"] = (500, {"__type": "KMSInternalException"})
    with pytest.raises(KeyUnavailable, match=r"^awskms:k: the service answers KMSInternalException$"):
        store.load_publisher("awskms:k")
    assert Answers.asked == ["/DescribeKey/"] * 2


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


def test_a_tpm_key_on_another_curve(tools: Any, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(pem(ec.generate_private_key(ec.SECP256K1())))
    with pytest.raises(FormatError, match=r"^tpm2:0x81010001: not a key of this role"):
        store.load_publisher("tpm2:0x81010001")


def octal(data: bytes) -> str:
    """As printf reads it."""
    return "".join(f"\\{byte:03o}" for byte in data)


def test_a_tpm_whose_coordinate_is_short(tools: Any) -> None:
    """One in 256 begins with a zero, which a TPM may leave out."""
    key = store.load_recipient("tpm2:0x81010001")
    shared = b"\1"
    while shared[0]:
        wrapped = key.public.wrap(b"bundle", b"info")
        shared = P256.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(P256.curve, wrapped[:65]))
    answer = sized(sized(shared.lstrip(b"\0")))
    tools("tpm2_ecdhzgen", f"printf '{octal(answer)}' > \"$2\"")
    assert key.unwrap(wrapped, b"info") == b"bundle"
    tools("tpm2_ecdhzgen", f"printf '{octal(sized(sized(b'1')))}' > \"$2\"")
    with pytest.raises(NoMatchingKey):
        key.unwrap(wrapped, b"info")


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


@pytest.mark.parametrize(
    "answer",
    [
        "",
        r"\000\004\000\000",
        r"\000\004\000\041",
        r"\000\044\000\040short",
        octal(sized(sized(bytes(33)))),
        octal(sized(sized(bytes(288)))),
    ],
)
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
        ("Esys_Sign(0x9A2) - authorization failure", r"wrong authorization value \(not tried again: .*\)"),
        ("Esys_Sign(0x921) - lockout mode", "the TPM is locked after wrong authorization values"),
        ("Esys_TR_FromTPMPublic(0x18B) - handle", "no key at this handle"),
        ("Could not load tcti", "no TPM can be reached"),
        ("Esys_Sign(0x2C3) - type", r"the TPM refuses \(0x2C3\)"),
        ("", r"the TPM refuses \(no reason given\)"),
        (r"\377 (0x2C3)", r"the TPM refuses \(0x2C3\)"),
    ],
)
def test_a_tpm_that_refuses(tools: Any, printed: str, words: str) -> None:
    tools("tpm2_readpublic", f"printf '{printed}' >&2; exit 1")
    with pytest.raises(KeyUnavailable, match=f"^tpm2:0x81010001: {words}$"):
        store.load_publisher("tpm2:0x81010001")
