"""Keys that never come to this process: a token or service signs or unwraps. Named by a URI (docs/KEYS.md)."""

import base64
import hashlib
import importlib
import ipaddress
from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag

from modelvault._primitives import LABEL_SERVICE, hpke_open_p256
from modelvault.errors import KeyUnavailable, NoMatchingKey, SignatureInvalid
from modelvault.keys.material import HostPublic, PublisherPublic, RecipientPublic
from modelvault.keys.pem import Passphrase

P = TypeVar("P", PublisherPublic, HostPublic)

# URI scheme -> its module in this package, and the package of the index that it needs
BACKENDS = {
    "awskms": ("awskms", "boto3"),
    "azurekms": ("azurekms", "azure-keyvault-keys"),
    "gcpkms": ("gcpkms", "google-cloud-kms"),
    "pkcs11": ("pkcs11", "python-pkcs11"),
    "tpm2": ("tpm2", "tpm2-tools"),
    "vault": ("vault", "hvac"),
}


class PublisherSigner(Protocol):
    """Signs sealed models and grants, wherever its private half is kept."""

    @property
    def public(self) -> PublisherPublic: ...

    def sign(self, message: bytes) -> bytes: ...


class HostSigner(Protocol):
    """Signs the heads of one host's audit log."""

    @property
    def public(self) -> HostPublic: ...

    def sign(self, message: bytes) -> bytes: ...


class Wrapper(Protocol):
    """A recipient that key bundles are wrapped for: a public key, or a key of a service."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def algorithm(self) -> str: ...

    def wrap(self, bundle: bytes, info: bytes) -> bytes: ...


class Unwrapper(Protocol):
    """Opens wrapped key bundles, wherever its private half is kept."""

    @property
    def public(self) -> Wrapper: ...

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes: ...


class Backend(Protocol):
    """What a backend's module offers. Each function raises KeyUnavailable, or FormatError for a URI it can't read."""

    def publisher(self, uri: str, secret: Passphrase | None) -> PublisherSigner: ...

    def host(self, uri: str, secret: Passphrase | None) -> HostSigner: ...

    def recipient(self, uri: str, secret: Passphrase | None) -> Unwrapper: ...

    def recipient_public(self, uri: str, secret: Passphrase | None) -> Wrapper: ...


def is_remote(reference: str) -> bool:
    return reference.partition(":")[0] in BACKENDS and ":" in reference


def backend(uri: str) -> Backend:
    """The module for a URI's scheme; KeyUnavailable where the client that it needs is not installed."""
    scheme = uri.partition(":")[0]
    name, package = BACKENDS[scheme]
    try:
        module = importlib.import_module(f"modelvault.keys.{name}")
    except ImportError:
        raise KeyUnavailable(f"{scheme}: needs the package {package} (pip install 'modelvault[{name}]')") from None
    return cast(Backend, module)


def check_address(address: str, name: str) -> None:
    """KeyUnavailable unless ``address`` is https, or http on loopback: answers hold file keys in the clear."""
    try:
        place = urlsplit(address)
    except ValueError:
        raise KeyUnavailable(f"{name}: not a URL") from None
    if place.scheme != "https" and not (place.scheme == "http" and _is_loopback(place.hostname or "")):
        raise KeyUnavailable(f"{name}: expected https, since keys would cross the network in the clear")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RemoteSigner(Generic[P]):
    """A public key here and the private one elsewhere. What comes back is verified before anybody relies on it."""

    __slots__ = ("_sign", "public")

    def __init__(self, public: P, sign: Callable[[bytes], bytes]) -> None:
        self.public: P = public
        self._sign = sign

    def sign(self, message: bytes) -> bytes:
        """Raises KeyUnavailable."""
        signature = self._sign(message)
        try:
            self.public.verify(message, signature)
        except SignatureInvalid:
            raise KeyUnavailable(f"what holds {self.public.fingerprint} returned a wrong signature") from None
        return signature

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signer cannot be pickled or copied")


class EcdhRecipient:
    """Opens bundles wrapped for a P-256 key in hardware: HPKE, of which the hardware does the private key's part."""

    __slots__ = ("_ecdh", "public")

    def __init__(self, part: Any, uri: str, ecdh: Callable[[bytes], bytes]) -> None:
        """``part`` is the public key; ``ecdh`` as in :func:`modelvault._primitives.hpke_open_p256`."""
        self.public = RecipientPublic.of([part], uri)
        self._ecdh = ecdh

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """Raises NoMatchingKey, KeyUnavailable."""
        try:
            return hpke_open_p256(self._ecdh, self.public.point, info, wrapped)
        except (InvalidTag, ValueError):
            raise NoMatchingKey(f"the key bundle does not open with {self.public.fingerprint}") from None


class ServiceRecipient:
    """A service's symmetric key as recipient: who wraps asks the service too. Both halves are this one object."""

    __slots__ = ("_unwrap", "_wrap", "algorithm", "fingerprint")

    def __init__(
        self,
        algorithm: str,
        place: str,
        wrap: Callable[[bytes, bytes], bytes],
        unwrap: Callable[[bytes, bytes], bytes],
    ) -> None:
        """``place`` names the key in all the world; ``wrap(bundle, info)`` and ``unwrap(wrapped, info)`` ask for it."""
        digest = hashlib.sha256(LABEL_SERVICE + algorithm.encode() + b"\0" + place.encode()).digest()
        self.fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
        self.algorithm = algorithm
        self._wrap, self._unwrap = wrap, unwrap

    @property
    def public(self) -> "ServiceRecipient":
        return self

    def wrap(self, bundle: bytes, info: bytes) -> bytes:
        """Raises KeyUnavailable."""
        return self._wrap(bundle, info)

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """Raises NoMatchingKey, KeyUnavailable."""
        return self._unwrap(wrapped, info)


def as_publisher(part: Any, uri: str, sign: Callable[[bytes], bytes]) -> RemoteSigner[PublisherPublic]:
    """A publisher from one of ``cryptography``'s public keys; FormatError where it can't be one."""
    return RemoteSigner(PublisherPublic.of([part], uri), sign)


def as_host(part: Any, uri: str, sign: Callable[[bytes], bytes]) -> RemoteSigner[HostPublic]:
    """A host key (Ed25519) likewise."""
    return RemoteSigner(HostPublic.of([part], uri), sign)
