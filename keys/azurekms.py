"""Keys in Azure Key Vault, named ``azurekms://VAULT.vault.azure.net/keys/NAME/VERSION`` (docs/KEYS.md).

Credentials come from where azure-identity's DefaultAzureCredential finds them. A signing key's version may be left out:
the newest then signs. A recipient's key is RSA, which is what vaults unwrap with: the bundle is encrypted with AES-256-
GCM under a key of its own, and that one with RSA-OAEP (the parts of RFC 7516's RSA-OAEP-256 with A256GCM).
"""

import hashlib
import logging
import re
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

from azure.core import exceptions as failure
from azure.identity import DefaultAzureCredential
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from modelvault._primitives import InvalidTag, aead_open, aead_seal
from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys.material import PublisherPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import HostSigner, RemoteSigner, ServiceRecipient, as_publisher

T = TypeVar("T")

ALGORITHM = "azure-rsa-oaep-256"
CONNECT_SECONDS, ANSWER_SECONDS = 5, 10  # one attempt
MIN_RSA_BITS = 2048
_URI = re.compile(  # a token goes to Azure's own domains and nowhere else
    r"azurekms://([a-z0-9-]+\.(?:vault|managedhsm)\.(?:azure\.net|azure\.cn|usgovcloudapi\.net))"
    r"/keys/([a-zA-Z0-9-]+)(?:/([0-9a-f]{32}))?"
)
_CURVES: dict[str, tuple[ec.EllipticCurve, str, str]] = {
    "P-256": (ec.SECP256R1(), "sha256", "ES256"),
    "P-384": (ec.SECP384R1(), "sha384", "ES384"),
    "P-521": (ec.SECP521R1(), "sha512", "ES512"),
}
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_STATUSES = {
    401: "the credentials are not valid, or have expired",
    403: "permission denied, or the key is disabled or expired",
    404: "no such key",
    409: "the key is not usable in its present state",
    429: "the service wants fewer requests",
}

logging.getLogger("azure").addHandler(logging.NullHandler())  # its warnings are for who asks for them


class VaultKey:
    """One version of a key in a vault, its public half read once."""

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise FormatError(f"{uri[:200]}: expected azurekms://NAME.vault.azure.net/keys/NAME, with /VERSION at most")
        self.uri = uri
        limits = {"connection_timeout": CONNECT_SECONDS, "read_timeout": ANSWER_SECONDS, "retry_total": 0}
        credential = DefaultAzureCredential(**limits)
        client = KeyClient(f"https://{found[1]}", credential, **limits)
        try:
            self.key: Any = self.ask(lambda: client.get_key(found[2], found[3]))
        except failure.HttpResponseError:
            raise KeyUnavailable(f"{uri}: the service refuses the request") from None
        self.service: Any = CryptographyClient(self.key, credential, **limits)

    def ask(self, call: Callable[[], T]) -> T:
        """What the vault answers; KeyUnavailable says in one line why it does not. A refused request passes."""
        try:
            return call()
        except failure.ClientAuthenticationError as error:
            words = _STATUSES[401] if error.status_code else "no credentials, or none that can be used"
        except failure.HttpResponseError as error:
            if error.status_code == 400:
                raise
            words = _STATUSES.get(error.status_code or 0, f"the service answers {error.status_code}")
        except (failure.ServiceResponseTimeoutError, failure.ServiceRequestTimeoutError):
            words = f"no answer within {ANSWER_SECONDS} seconds"
        except failure.AzureError:
            words = "cannot connect to the service"
        except ValueError:  # the client's own checks: an expired key, a challenge from elsewhere
            words = "the key is expired, or the service is not what it seems"
        except (AttributeError, TypeError):  # the client's ways with what is no answer
            words = "the service's answer is not understood"
        raise KeyUnavailable(f"{self.uri}: {words}") from None


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    """An EC key on P-256, P-384 or P-521; the vault signs a digest made here."""
    key = VaultKey(uri)
    parts = key.key.key
    if parts.crv not in _CURVES:
        raise FormatError(f"{uri}: expected an EC key on {' or '.join(_CURVES)}, got {_kind(parts)}")
    curve, digest, algorithm = _CURVES[parts.crv]
    size = (curve.key_size + 7) // 8

    def sign(message: bytes) -> bytes:
        value = hashlib.new(digest, message).digest()
        try:
            raw = key.ask(lambda: bytes(key.service.sign(algorithm, value).signature))
        except failure.HttpResponseError:
            raise KeyUnavailable(f"{uri}: the service refuses to sign") from None
        return encode_dss_signature(_number(raw[:size]), _number(raw[size:]))

    try:
        numbers = ec.EllipticCurvePublicNumbers(_number(parts.x), _number(parts.y), curve)
        return as_publisher(numbers.public_key(), uri, sign)
    except (TypeError, ValueError):
        raise FormatError(f"{uri}: the service's public key is not understood") from None


def host(uri: str, secret: Passphrase | None) -> HostSigner:
    raise FormatError(f"{uri}: audit logs are signed with Ed25519, which Azure Key Vault does not have")


def recipient(uri: str, secret: Passphrase | None) -> ServiceRecipient:
    """An RSA key. Who wraps needs to read the key, and no more; HPKE's info binds a bundle to its model."""
    key = VaultKey(uri)
    parts = key.key.key
    if not parts.n or len(parts.n.lstrip(b"\0")) * 8 < MIN_RSA_BITS:
        raise FormatError(f"{uri}: expected an RSA key of {MIN_RSA_BITS} bits or more, got {_kind(parts)}")
    try:
        public = rsa.RSAPublicNumbers(_number(parts.e), _number(parts.n)).public_key()
    except (TypeError, ValueError):
        raise FormatError(f"{uri}: the service's public key is not understood") from None
    size = public.key_size // 8

    def wrap(bundle: bytes, info: bytes) -> bytes:
        once = secrets.token_bytes(32)
        return public.encrypt(once, _OAEP) + aead_seal(once, bundle, info)

    def unwrap(wrapped: bytes, info: bytes) -> bytes:
        try:
            if len(wrapped) <= size:
                raise ValueError
            once = key.ask(lambda: bytes(key.service.unwrap_key("RSA-OAEP-256", wrapped[:size]).key))
            return aead_open(once, wrapped[size:], info)
        except (failure.HttpResponseError, InvalidTag, ValueError):
            raise NoMatchingKey(f"the key bundle does not open with {uri}") from None

    return ServiceRecipient(ALGORITHM, str(key.key.id), wrap, unwrap)


recipient_public = recipient


def _kind(parts: Any) -> str:
    kind = parts.crv or parts.kty
    return str(getattr(kind, "value", kind))


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")
