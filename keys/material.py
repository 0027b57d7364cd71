"""Key values: publisher (signs), recipient (unwraps), host (signs its audit log). Private ones never show or pickle."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, x25519

from modelvault._primitives import hpke_open, hpke_seal
from modelvault.errors import FormatError, NoMatchingKey, SignatureInvalid
from modelvault.keys import pem

ED25519_SIGNATURE = 64
MLDSA65_SIGNATURE = 3309

_PUBLISHER_PARTS: dict[str, tuple[type, ...]] = {
    "ed25519+ml-dsa-65": (ed25519.Ed25519PublicKey, mldsa.MLDSA65PublicKey),
    "ed25519": (ed25519.Ed25519PublicKey,),
    "ecdsa-p256": (ec.EllipticCurvePublicKey,),
    "ecdsa-p384": (ec.EllipticCurvePublicKey,),
    "ecdsa-p521": (ec.EllipticCurvePublicKey,),
    "ml-dsa-65": (mldsa.MLDSA65PublicKey,),
}
_RECIPIENT_PARTS: dict[str, tuple[type, ...]] = {
    "ml-kem-768+x25519": (mlkem.MLKEM768PublicKey, x25519.X25519PublicKey),
    "x25519": (x25519.X25519PublicKey,),
    "p256": (ec.EllipticCurvePublicKey,),
}
_CURVES = {"ecdsa-p256": "secp256r1", "p256": "secp256r1", "ecdsa-p384": "secp384r1", "ecdsa-p521": "secp521r1"}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "ecdsa-p256": hashes.SHA256(),
    "ecdsa-p384": hashes.SHA384(),
    "ecdsa-p521": hashes.SHA512(),
}
PUBLISHER_ALGORITHMS = tuple(_PUBLISHER_PARTS)
RECIPIENT_ALGORITHMS = tuple(_RECIPIENT_PARTS)


def _algorithm(parts: Sequence[Any], table: dict[str, tuple[type, ...]], source: str) -> str:
    for name, types in table.items():
        fits = len(parts) == len(types) and all(isinstance(p, t) for p, t in zip(parts, types, strict=True))
        if fits and (name not in _CURVES or parts[0].curve.name == _CURVES[name]):
            return name
    raise FormatError(f"{source}: not a key of this role (expected {', '.join(table)})")


@dataclass(frozen=True, slots=True)
class _Public:
    """``parts`` are ``cryptography`` public keys, in the order of their PEM blocks."""

    algorithm: str
    parts: tuple[Any, ...]

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and the unpadded base64 of SHA-256 over the blocks' SPKI DER: names the key everywhere."""
        digest = hashlib.sha256(pem.public_der(self.parts)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def to_pem(self) -> bytes:
        return pem.public_pem(self.parts)


@dataclass(frozen=True, slots=True, repr=False)
class _Private:
    parts: tuple[Any, ...]

    def to_pem(self, passphrase: bytes | None) -> bytes:
        return pem.private_pem(self.parts, passphrase)

    def _public_parts(self) -> tuple[Any, ...]:
        return tuple(part.public_key() for part in self.parts)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key cannot be pickled or copied")


class PublisherPublic(_Public):
    """Verifies what a publisher signed."""

    __slots__ = ()

    @classmethod
    def from_pem(cls, data: bytes, source: str) -> Self:
        """Raises FormatError."""
        return cls.of(pem.load_public(data, source), source)

    @classmethod
    def of(cls, parts: Sequence[Any], source: str = "key") -> Self:
        return cls(_algorithm(parts, _PUBLISHER_PARTS, source), tuple(parts))

    def verify(self, message: bytes, signature: bytes) -> None:
        """SignatureInvalid unless every part's signature over ``message`` is valid."""
        try:
            if self.algorithm in _HASHES:
                self.parts[0].verify(signature, message, ec.ECDSA(_HASHES[self.algorithm]))
                return
            sizes = [
                ED25519_SIGNATURE if isinstance(p, ed25519.Ed25519PublicKey) else MLDSA65_SIGNATURE for p in self.parts
            ]
            if len(signature) != sum(sizes):
                raise InvalidSignature
            for part, size in zip(self.parts, sizes, strict=True):
                part.verify(signature[:size], message)
                signature = signature[size:]
        except (InvalidSignature, ValueError):
            raise SignatureInvalid(f"signature by {self.fingerprint} does not verify") from None


class PublisherKey(_Private):
    """Signs sealed models and grants."""

    __slots__ = ()

    @classmethod
    def generate(cls, algorithm: str = "ed25519+ml-dsa-65") -> Self:
        make: dict[str, Any] = {
            "ed25519": ed25519.Ed25519PrivateKey.generate,
            "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
            "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "ecdsa-p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        }
        return cls(tuple(make[name]() for name in algorithm.split("+")))

    @classmethod
    def from_pem(cls, data: bytes, passphrase: pem.Passphrase | None, source: str) -> Self:
        """Raises FormatError, KeyUnavailable."""
        key = cls(tuple(pem.load_private(data, passphrase, source)))
        _algorithm(key._public_parts(), _PUBLISHER_PARTS, source)
        return key

    @property
    def public(self) -> PublisherPublic:
        return PublisherPublic.of(self._public_parts())

    def sign(self, message: bytes) -> bytes:
        """A hybrid's signature is its parts' signatures, joined."""
        algorithm = self.public.algorithm
        if algorithm in _HASHES:
            return bytes(self.parts[0].sign(message, ec.ECDSA(_HASHES[algorithm])))
        return b"".join(part.sign(message) for part in self.parts)


class RecipientPublic(_Public):
    """Key bundles are wrapped for it."""

    __slots__ = ()

    @classmethod
    def from_pem(cls, data: bytes, source: str) -> Self:
        """Raises FormatError."""
        return cls.of(pem.load_public(data, source), source)

    @classmethod
    def of(cls, parts: Sequence[Any], source: str = "key") -> Self:
        return cls(_algorithm(parts, _RECIPIENT_PARTS, source), tuple(parts))

    @property
    def point(self) -> bytes:
        """The uncompressed point of a P-256 key, 65 bytes."""
        form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        return bytes(self.parts[0].public_bytes(*form))

    def wrap(self, bundle: bytes, info: bytes) -> bytes:
        """HPKE; only the private key opens it, and only with the same ``info``."""
        key = hpke.MLKEM768X25519PublicKey(*self.parts) if len(self.parts) == 2 else self.parts[0]
        return hpke_seal(self.algorithm, key, info, bundle)


class RecipientKey(_Private):
    """Opens key bundles."""

    __slots__ = ()

    @classmethod
    def generate(cls, algorithm: str = "ml-kem-768+x25519") -> Self:
        make: dict[str, Any] = {
            "ml-kem-768": mlkem.MLKEM768PrivateKey.generate,
            "x25519": x25519.X25519PrivateKey.generate,
            "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        }
        return cls(tuple(make[name]() for name in algorithm.split("+")))

    @classmethod
    def from_pem(cls, data: bytes, passphrase: pem.Passphrase | None, source: str) -> Self:
        """Raises FormatError, KeyUnavailable."""
        key = cls(tuple(pem.load_private(data, passphrase, source)))
        _algorithm(key._public_parts(), _RECIPIENT_PARTS, source)
        return key

    @property
    def public(self) -> RecipientPublic:
        return RecipientPublic.of(self._public_parts())

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """NoMatchingKey where the bundle was not wrapped for this key and ``info``."""
        key = hpke.MLKEM768X25519PrivateKey(*self.parts) if len(self.parts) == 2 else self.parts[0]
        try:
            return hpke_open(self.public.algorithm, key, info, wrapped)
        except (InvalidTag, ValueError):
            raise NoMatchingKey(f"the key bundle does not open with {self.public.fingerprint}") from None


class HostPublic(_Public):
    """Verifies one host's audit log."""

    __slots__ = ()

    @classmethod
    def from_pem(cls, data: bytes, source: str) -> Self:
        """Raises FormatError."""
        return cls.of(pem.load_public(data, source), source)

    @classmethod
    def of(cls, parts: Sequence[Any], source: str = "key") -> Self:
        return cls(_algorithm(parts, {"ed25519": (ed25519.Ed25519PublicKey,)}, source), tuple(parts))

    @classmethod
    def from_bytes(cls, raw: bytes, source: str) -> Self:
        """From the raw key, 32 bytes. Raises FormatError."""
        try:
            return cls.of([ed25519.Ed25519PublicKey.from_public_bytes(raw)])
        except ValueError:
            raise FormatError(f"{source}: not an Ed25519 public key") from None

    @property
    def public_bytes(self) -> bytes:
        """The raw Ed25519 key, 32 bytes."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return bytes(self.parts[0].public_bytes(*raw))

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises SignatureInvalid."""
        try:
            self.parts[0].verify(signature, message)
        except InvalidSignature:
            raise SignatureInvalid(f"signature by {self.fingerprint} does not verify") from None


class HostKey(_Private):
    """Signs the heads of one host's audit log (Ed25519)."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> Self:
        return cls((ed25519.Ed25519PrivateKey.generate(),))

    @classmethod
    def from_pem(cls, data: bytes, passphrase: pem.Passphrase | None, source: str) -> Self:
        """Raises FormatError, KeyUnavailable."""
        key = cls(tuple(pem.load_private(data, passphrase, source)))
        HostPublic.of(key._public_parts(), source)
        return key

    @property
    def public(self) -> HostPublic:
        return HostPublic.of(self._public_parts())

    def sign(self, message: bytes) -> bytes:
        return bytes(self.parts[0].sign(message))
