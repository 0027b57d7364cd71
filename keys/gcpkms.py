"""Keys in Google Cloud KMS, named ``gcpkms:`` and the key's resource name (docs/KEYS.md).

A recipient's key is ``gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K``; a signing key is one version of such a
key, with ``/cryptoKeyVersions/V`` behind. Credentials come from where Google's client finds them.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization
from google.api_core import exceptions as failure
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import kms

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys.material import HostPublic, PublisherPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import RemoteSigner, ServiceRecipient, as_host, as_publisher

T = TypeVar("T")

ALGORITHM = "gcp-kms"
ANSWER_SECONDS = 10.0  # one attempt, connecting and fetching a token included
MAX_WRAPPED = 2**16
_KEY = re.compile(r"gcpkms:(projects/[^/\s]+/locations/[^/\s]+/keyRings/[\w-]+/cryptoKeys/[\w-]+)", re.ASCII)
_VERSION = re.compile(_KEY.pattern[:-1] + r"/cryptoKeyVersions/[0-9]+)", re.ASCII)
_Algorithm = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm
_SIGNING = {
    _Algorithm.EC_SIGN_P256_SHA256: "sha256",
    _Algorithm.EC_SIGN_P384_SHA384: "sha384",
    _Algorithm.EC_SIGN_ED25519: None,  # signs the message itself, of 64 KiB at most
}
_WORDS: dict[type[Exception], str] = {
    failure.Unauthenticated: "the credentials are not valid, or have expired",
    failure.PermissionDenied: "permission denied",
    failure.NotFound: "no such key",
    failure.FailedPrecondition: "the key is disabled, or not usable in its present state",
    failure.ResourceExhausted: "the service wants fewer requests",
    failure.DeadlineExceeded: f"no answer within {ANSWER_SECONDS:.0f} seconds",
    failure.ServiceUnavailable: "cannot connect to the service",
    DefaultCredentialsError: "no credentials, or none that can be read",
}

logging.getLogger("google").addHandler(logging.NullHandler())  # its warnings are for who asks for them


class CloudKey:
    """One key, or one version of it, by resource name."""

    def __init__(self, uri: str, form: re.Pattern[str], expected: str) -> None:
        found = form.fullmatch(uri)
        if found is None or len(uri) > 1024:
            raise FormatError(f"{uri[:200]}: expected gcpkms:projects/.../cryptoKeys/NAME{expected}")
        self.uri, self.name = uri, found[1]
        self._client = self.ask(kms.KeyManagementServiceClient)

    def ask(self, call: Callable[[], T]) -> T:
        """What the service answers; KeyUnavailable says in one line why it does not. InvalidArgument passes."""
        try:
            return call()
        except failure.InvalidArgument:
            raise
        except failure.GoogleAPICallError as error:
            words = _WORDS.get(type(error)) or f"the service answers {type(error).__name__}"
            if isinstance(error, failure.ServiceUnavailable) and "metadata from plugin" in str(error):
                words = "the credentials cannot be used"  # gRPC's way to say that no token was to be had
        except (GoogleAuthError, ValueError, OSError) as error:
            words = _WORDS.get(type(error)) or "the credentials cannot be used"
        raise KeyUnavailable(f"{self.uri}: {words}") from None

    def call(self, method: str, **request: Any) -> Any:
        """One request, never repeated."""
        function = getattr(self._client, method)
        return self.ask(lambda: function(request={"name": self.name, **request}, retry=None, timeout=ANSWER_SECONDS))


def _signer(uri: str) -> tuple[Any, Callable[[bytes], bytes]]:
    """A signing key's public half, and how it signs."""
    key = CloudKey(uri, _VERSION, "/cryptoKeyVersions/N")
    try:
        answer = key.call("get_public_key")
        public = serialization.load_pem_public_key(answer.pem.encode())
    except (failure.InvalidArgument, ValueError):
        raise FormatError(f"{uri}: expected an asymmetric key") from None
    algorithm = type(answer).pb(answer).algorithm  # a number that a client may be too old to name
    if algorithm not in _SIGNING:
        names = ", ".join(known.name for known in _SIGNING)
        got = next((known.name for known in _Algorithm if known == algorithm), algorithm)
        raise FormatError(f"{uri}: expected a key of {names}, got {got}")
    digest = _SIGNING[algorithm]

    def sign(message: bytes) -> bytes:
        request = {"digest": {digest: hashlib.new(digest, message).digest()}} if digest else {"data": message}
        try:
            return bytes(key.call("asymmetric_sign", **request).signature)
        except failure.InvalidArgument:
            raise KeyUnavailable(f"{uri}: the service refuses to sign") from None

    return public, sign


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    public, sign = _signer(uri)
    return as_publisher(public, uri, sign)


def host(uri: str, secret: Passphrase | None) -> RemoteSigner[HostPublic]:
    public, sign = _signer(uri)
    return as_host(public, uri, sign)


def recipient(uri: str, secret: Passphrase | None) -> ServiceRecipient:
    """A symmetric key, with HPKE's info as additional authenticated data: a bundle opens for its model alone."""
    key = CloudKey(uri, _KEY, "")

    def wrap(bundle: bytes, info: bytes) -> bytes:
        try:
            return bytes(key.call("encrypt", plaintext=bundle, additional_authenticated_data=info).ciphertext)
        except failure.InvalidArgument:
            raise FormatError(f"{uri}: expected a symmetric key to encrypt with") from None

    def unwrap(wrapped: bytes, info: bytes) -> bytes:
        if not 0 < len(wrapped) <= MAX_WRAPPED:
            raise NoMatchingKey(f"the key bundle does not open with {uri}")
        try:
            return bytes(key.call("decrypt", ciphertext=wrapped, additional_authenticated_data=info).plaintext)
        except failure.InvalidArgument:
            raise NoMatchingKey(f"the key bundle does not open with {uri}") from None

    return ServiceRecipient(ALGORITHM, key.name, wrap, unwrap)


recipient_public = recipient
