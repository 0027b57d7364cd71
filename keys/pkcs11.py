"""Keys in PKCS#11 tokens: HSMs, smart cards, TPMs, SoftHSM. Named by RFC 7512 URIs (docs/KEYS.md).

    pkcs11:token=hsm;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin

The token signs with ECDSA P-256, P-384 or Ed25519, and opens bundles with ECDH on P-256. Its PIN is tried once.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import pkcs11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as failure

from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys import store
from modelvault.keys.material import HostPublic, PublisherPublic, RecipientPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import EcdhRecipient, RemoteSigner, as_host, as_publisher

T = TypeVar("T")

_PATH = ("token", "serial", "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_MODULE = "MODELVAULT_PKCS11_MODULE"
_CURVES: dict[bytes, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    bytes.fromhex("06082a8648ce3d030107"): (ec.SECP256R1(), hashes.SHA256()),
    bytes.fromhex("06052b81040022"): (ec.SECP384R1(), hashes.SHA384()),
}
_WORDS: dict[type[Exception], str] = {
    failure.PinIncorrect: "wrong PIN (not tried again: tokens lock after a few)",
    failure.PinInvalid: "wrong PIN (not tried again: tokens lock after a few)",
    failure.PinLenRange: "the PIN is too short or too long",
    failure.PinLocked: "the PIN is locked",
    failure.PinExpired: "the PIN has expired",
    failure.UserPinNotInitialized: "the token has no PIN yet",
    failure.NoSuchToken: "no such token",
    failure.MultipleTokensReturned: "more than one token fits, name it by token or serial",
    failure.NoSuchKey: "no such key on the token",
    failure.MultipleObjectsReturned: "more than one key fits, name it by object and id",
    failure.DeviceRemoved: "the token was removed",
    failure.TokenNotPresent: "the token was removed",
    failure.SessionClosed: "the token was removed",
    failure.SessionHandleInvalid: "the token was removed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uri:
    """A parsed PKCS#11 URI; ``name`` is its path, which holds no secret and stands in errors."""

    name: str
    token: dict[str, Any]
    key: dict[str, Any]
    module: str
    pin_source: str | None

    @classmethod
    def parse(cls, text: str) -> "Uri":
        """Raises FormatError for what RFC 7512 or this module does not know, KeyUnavailable without a module."""
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        name = f"pkcs11:{path}"
        inside = _attributes(path, ";", _PATH, name)
        outside = _attributes(query, "&", _QUERY, name)
        if not inside.keys() & {"object", "id"}:
            raise FormatError(f"{name}: expected object or id, to name a key")
        if inside.get("type", b"private") not in (b"private", b"public"):
            raise FormatError(f"{name}: type: expected private or public")
        module = outside.get("module-path", b"").decode() or os.environ.get(_MODULE, "")
        if not module:
            raise KeyUnavailable(f"{name}: no module: neither module-path in the URI nor {_MODULE} is set")
        if not Path(module).is_absolute() or "\0" in module:
            raise FormatError(f"{name}: module-path: expected an absolute path")
        token: dict[str, Any] = {}
        if "token" in inside:
            token["token_label"] = inside["token"].decode()
        if "serial" in inside:
            token["token_serial"] = inside["serial"]
        key: dict[str, Any] = {"label": inside["object"].decode()} if "object" in inside else {}
        if "id" in inside:
            key["id"] = inside["id"]
        source = outside.get("pin-source")
        return cls(name=name, token=token, key=key, module=module, pin_source=source.decode() if source else None)

    def pin(self, secret: Passphrase | None) -> str:
        if self.pin_source is not None:
            return store.passphrase_file(Path(self.pin_source.removeprefix("file:"))).decode()
        if secret is None:
            raise KeyUnavailable(f"{self.name}: the token wants a PIN, and none was given")
        return secret().decode()


def _attributes(text: str, separator: str, known: tuple[str, ...], name: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in filter(None, text.split(separator)):
        key, equals, value = item.partition("=")
        if key == "pin-value":
            raise FormatError(f"{name}: pin-value: a PIN does not belong in a URI, use pin-source")
        if key not in known or not equals or key in found:
            raise FormatError(f"{name}: {key[:40]!r}: expected each of {', '.join(known)} once at most")
        found[key] = unquote_to_bytes(value)
        if key != "id" and not _is_text(found[key]):
            raise FormatError(f"{name}: {key}: not UTF-8")
    return found


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _failures(name: str) -> Iterator[None]:
    try:
        yield
    except failure.PKCS11Error as error:
        words = _WORDS.get(type(error))
        if words is None:
            detail = str(error) if type(error) is failure.PKCS11Error else type(error).__name__
            words = f"the token refuses: {detail or 'no reason given'}"
        raise KeyUnavailable(f"{name}: {words}") from None


class TokenKey:
    """One key pair on a token. The PIN is asked for at the first use of the private key, and sent once."""

    __slots__ = ("_key", "_lock", "_refusal", "_secret", "_uri", "public")

    def __init__(self, uri: Uri, secret: Passphrase | None) -> None:
        self._uri, self._secret = uri, secret
        self._lock = threading.Lock()
        self._key: Any = None
        self._refusal: failure.PKCS11Error | None = None
        with _failures(uri.name), self._token().open() as session:  # closed again: tokens have few
            self.public = _public(session.get_key(object_class=ObjectClass.PUBLIC_KEY, **uri.key), uri.name)

    @property
    def name(self) -> str:
        return self._uri.name

    def _token(self) -> Any:
        return pkcs11.lib(self._uri.module).get_token(**self._uri.token)

    def _private(self) -> Any:
        """The private key, behind a login; a token's login holds for the whole process."""
        if self._refusal is not None:
            raise self._refusal  # a second wrong PIN could be the one that locks the token
        if self._key is None:
            token = self._token()
            if TokenFlag.USER_PIN_LOCKED in token.flags:
                raise failure.PinLocked
            try:
                session = token.open(user_pin=self._uri.pin(self._secret))
            except failure.UserAlreadyLoggedIn:
                session = token.open()
            except (failure.PinIncorrect, failure.PinInvalid, failure.PinLenRange, failure.PinLocked) as error:
                self._refusal = error
                raise
            self._key = session.get_key(object_class=ObjectClass.PRIVATE_KEY, **self._uri.key)
        return self._key

    def _call(self, work: Callable[[Any], T]) -> T:
        with self._lock, _failures(self.name):
            return work(self._private())

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.public, ed25519.Ed25519PublicKey):
            return self._call(lambda key: bytes(key.sign(message, mechanism=Mechanism.EDDSA)))
        digest = hashes.Hash(_hash_of(self.public))
        digest.update(message)
        value = digest.finalize()
        raw = self._call(lambda key: bytes(key.sign(value, mechanism=Mechanism.ECDSA)))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def ecdh(self, point: bytes) -> bytes:
        """The shared x coordinate with a sender's uncompressed point; ValueError where that is not on the curve."""
        ec.EllipticCurvePublicKey.from_encoded_point(self.public.curve, point)
        template = {Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True, Attribute.VALUE_LEN: 32}

        def derive(key: Any) -> bytes:
            shared = key.derive_key(
                KeyType.GENERIC_SECRET, 256, mechanism_param=(pkcs11.KDF.NULL, None, point), template=template
            )
            value = bytes(shared[Attribute.VALUE])
            shared.destroy()
            return value

        return self._call(derive)


def _public(key: Any, name: str) -> Any:
    """The token's public key object as one of ``cryptography``'s. EC_POINT is raw, or wrapped as an OCTET STRING."""
    point = bytes(key[Attribute.EC_POINT]) if key.key_type in (KeyType.EC, KeyType.EC_EDWARDS) else b""
    try:
        if key.key_type == KeyType.EC_EDWARDS:
            return ed25519.Ed25519PublicKey.from_public_bytes(point[-32:])
        curve = _CURVES[bytes(key[Attribute.EC_PARAMS])][0] if point else None
        if curve is not None:
            return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-(2 * (curve.key_size // 8) + 1) :])
    except (KeyError, ValueError):
        pass
    raise FormatError(f"{name}: expected an EC P-256, EC P-384 or Ed25519 key")


def _hash_of(public: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return next(digest for curve, digest in _CURVES.values() if curve.name == public.curve.name)


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    key = TokenKey(Uri.parse(uri), secret)
    return as_publisher(key.public, key.name, key.sign)


def host(uri: str, secret: Passphrase | None) -> RemoteSigner[HostPublic]:
    key = TokenKey(Uri.parse(uri), secret)
    return as_host(key.public, key.name, key.sign)


def recipient(uri: str, secret: Passphrase | None) -> EcdhRecipient:
    key = TokenKey(Uri.parse(uri), secret)
    return EcdhRecipient(key.public, key.name, key.ecdh)


def recipient_public(uri: str, secret: Passphrase | None) -> RecipientPublic:
    return recipient(uri, secret).public
