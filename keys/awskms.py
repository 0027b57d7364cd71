"""Keys in AWS KMS, named ``awskms:ARN``, ``awskms:alias/NAME`` or ``awskms:KEY-ID`` (docs/KEYS.md).

Region and credentials come from where boto3 finds them; an ARN brings its own region.
"""

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
import botocore.exceptions as failure
from botocore.config import Config
from botocore.parsers import ResponseParserError
from cryptography.hazmat.primitives import serialization

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys.material import PublisherPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import HostSigner, RemoteSigner, ServiceRecipient, as_publisher, check_address

T = TypeVar("T")

ALGORITHM = "aws-kms"
CONNECT_SECONDS, ANSWER_SECONDS, ATTEMPTS = 5, 10, 2
_SIGNING = {
    "ECC_NIST_P256": ("ECDSA_SHA_256", "sha256"),
    "ECC_NIST_P384": ("ECDSA_SHA_384", "sha384"),
    "ECC_NIST_P521": ("ECDSA_SHA_512", "sha512"),
}
_WRONG_BUNDLE = ("InvalidCiphertextException", "IncorrectKeyException")
_WORDS = {
    "403": "permission denied",  # the status alone, where a proxy answers
    "AccessDeniedException": "permission denied",
    "ExpiredTokenException": "the credentials have expired",
    "UnrecognizedClientException": "the credentials are not valid",
    "InvalidClientTokenId": "the credentials are not valid",
    "NotFoundException": "no such key",
    "DisabledException": "the key is disabled",
    "KMSInvalidStateException": "the key is not usable in its present state",
    "ThrottlingException": "the service wants fewer requests",
}
_STATES = {"Disabled": "the key is disabled", "PendingDeletion": "the key is pending deletion"}


class KmsKey:
    """One KMS key, its metadata read once."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        key = uri.removeprefix("awskms:")
        if not key or len(key) > 2048 or not key.isprintable():
            raise FormatError(f"{uri[:200]}: expected awskms: and a key's ARN, id or alias/NAME")
        self._client: Any = self.ask(lambda: _client(key))
        check_address(self._client.meta.endpoint_url, f"{uri}: endpoint")
        self.facts: dict[str, Any] = self.ask(lambda: self.kms.describe_key(KeyId=key)["KeyMetadata"])
        self.arn: str = self.ask(lambda: self.facts["Arn"])
        if words := _STATES.get(str(self.facts.get("KeyState"))):
            raise KeyUnavailable(f"{uri}: {words}")

    @property
    def kms(self) -> Any:
        return self._client

    def ask(self, call: Callable[[], T], wrong_bundle: bool = False) -> T:
        """What KMS answers; KeyUnavailable says in one line why it does not, NoMatchingKey that a bundle is foreign."""
        try:
            return call()
        except failure.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "error"))
            if wrong_bundle and code in _WRONG_BUNDLE:
                raise NoMatchingKey(f"the key bundle does not open with {self.name}") from None
            words = _WORDS.get(code, f"the service answers {code[:80]}")
        except (failure.ConnectTimeoutError, failure.ReadTimeoutError):
            words = f"no answer within {ANSWER_SECONDS} seconds"
        except (failure.NoCredentialsError, failure.PartialCredentialsError, failure.CredentialRetrievalError):
            words = "no credentials"
        except failure.NoRegionError:
            words = "no region: set AWS_REGION, or name the key by its ARN"
        except failure.BotoCoreError as error:
            words = f"cannot ask the service ({type(error).__name__})"
        except (ResponseParserError, AttributeError, KeyError, TypeError):  # the client's ways with what is no answer
            words = "the service's answer is not understood"
        raise KeyUnavailable(f"{self.name}: {words}") from None


def _client(key: str) -> Any:
    limits = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    fields = key.split(":")
    region = fields[3] if key.startswith("arn:") and len(fields) >= 6 else None
    return boto3.session.Session().client("kms", region_name=region, config=limits)


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    """An ECC_NIST_P256, _P384 or _P521 key for SIGN_VERIFY; KMS signs a digest made here, its messages are short."""
    key = KmsKey(uri)
    spec = str(key.facts.get("KeySpec"))
    if spec not in _SIGNING or key.facts.get("KeyUsage") != "SIGN_VERIFY":
        raise FormatError(f"{uri}: expected a {' or '.join(_SIGNING)} key to sign with, got {spec}")
    algorithm, digest = _SIGNING[spec]
    der: bytes = key.ask(lambda: key.kms.get_public_key(KeyId=key.arn)["PublicKey"])

    def sign(message: bytes) -> bytes:
        value = hashlib.new(digest, message).digest()
        settings = {"KeyId": key.arn, "Message": value, "MessageType": "DIGEST", "SigningAlgorithm": algorithm}
        signature: bytes = key.ask(lambda: key.kms.sign(**settings)["Signature"])
        return signature

    try:
        return as_publisher(serialization.load_der_public_key(der), uri, sign)
    except ValueError:
        raise FormatError(f"{uri}: the service's public key is not understood") from None


def host(uri: str, secret: Passphrase | None) -> HostSigner:
    raise FormatError(f"{uri}: audit logs are signed with Ed25519, which is not supported in AWS KMS")


def recipient(uri: str, secret: Passphrase | None) -> ServiceRecipient:
    """A SYMMETRIC_DEFAULT key; the model's digest is the encryption context, so CloudTrail shows who opened what."""
    key = KmsKey(uri)
    if key.facts.get("KeyUsage") != "ENCRYPT_DECRYPT" or key.facts.get("KeySpec") != "SYMMETRIC_DEFAULT":
        raise FormatError(f"{uri}: expected a SYMMETRIC_DEFAULT key to encrypt with, got {key.facts.get('KeySpec')}")

    def wrap(bundle: bytes, info: bytes) -> bytes:
        settings = {"KeyId": key.arn, "Plaintext": bundle, "EncryptionContext": _context(info)}
        wrapped: bytes = key.ask(lambda: key.kms.encrypt(**settings)["CiphertextBlob"])
        return wrapped

    def unwrap(wrapped: bytes, info: bytes) -> bytes:
        if not 0 < len(wrapped) <= 6144:  # KMS's own bound
            raise NoMatchingKey(f"the key bundle does not open with {uri}")
        settings = {"KeyId": key.arn, "CiphertextBlob": wrapped, "EncryptionContext": _context(info)}
        bundle: bytes = key.ask(lambda: key.kms.decrypt(**settings)["Plaintext"], wrong_bundle=True)
        return bundle

    return ServiceRecipient(ALGORITHM, key.arn, wrap, unwrap)


recipient_public = recipient


def _context(info: bytes) -> dict[str, str]:
    """HPKE's info, a label and a SHA-256, as a readable encryption context."""
    return {info[:-32].decode("latin-1"): info[-32:].hex()}
