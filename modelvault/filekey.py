"""The file key and all that is derived from it, and its wrapping in a grant (docs/FORMAT.md sections 4 and 5)."""

import hmac
import secrets
from datetime import UTC, datetime
from typing import Protocol

from modelvault._primitives import (
    LABEL_COMMIT,
    LABEL_EXTENT,
    LABEL_GRANT,
    ExtentDecryptor,
    ExtentEncryptor,
    hkdf,
)
from modelvault.errors import NoMatchingKey, PayloadTampered
from modelvault.manifest import GrantStatement, ModelStatement
from modelvault.policy import Terms

BUNDLE_VERSION = b"\x01"
KEY = 32


class Recipient(Protocol):
    """A public key that key bundles are wrapped for."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def algorithm(self) -> str: ...

    def wrap(self, bundle: bytes, info: bytes) -> bytes: ...


class Identity(Protocol):
    """A private key that opens wrapped bundles, wherever it is kept."""

    @property
    def public(self) -> Recipient: ...

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes: ...


class FileKey:
    """The 32-byte key of one sealed file; everything else is derived from it and the statement's nonce."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "FileKey":
        return cls(secrets.token_bytes(KEY))

    def __repr__(self) -> str:
        return "<FileKey>"

    def __reduce__(self) -> str:
        raise TypeError("a file key cannot be pickled")

    def commitment(self, nonce: bytes) -> bytes:
        """Binds the statement to this key, so that no grant can bring another one."""
        return hkdf(self._key, salt=nonce, info=LABEL_COMMIT)

    def encryptor(self, nonce: bytes, number: int) -> ExtentEncryptor:
        return ExtentEncryptor(self._extent_key(nonce, number), _context(nonce, number))

    def decryptor(self, nonce: bytes, number: int) -> ExtentDecryptor:
        return ExtentDecryptor(self._extent_key(nonce, number), _context(nonce, number))

    def _extent_key(self, nonce: bytes, number: int) -> bytes:
        return hkdf(self._key, salt=nonce, info=LABEL_EXTENT + number.to_bytes(4, "big"))

    def grant(
        self, recipient: Recipient, name: str, digest: bytes, *, licence: Terms | None = None, purpose: str = "run"
    ) -> GrantStatement:
        """A grant of this key to ``recipient``, not signed yet; ``digest`` is the model statement's SHA-256."""
        return GrantStatement(
            grant_id=secrets.token_hex(16),
            model_name=name,
            model=digest,
            created=datetime.now(UTC).replace(microsecond=0),
            recipient=recipient.fingerprint,
            algorithm=recipient.algorithm,
            wrapped=recipient.wrap(BUNDLE_VERSION + self._key, LABEL_GRANT + digest),
            purpose=purpose,
            licence=licence or Terms(),
        )

    @classmethod
    def open(cls, grant: GrantStatement, identity: Identity, statement: ModelStatement) -> "FileKey":
        """Unwrap a grant's bundle; NoMatchingKey if it does not open, PayloadTampered if it brings another key."""
        if grant.algorithm != identity.public.algorithm:
            raise NoMatchingKey(
                f"grant {grant.grant_id}: wrapped with {grant.algorithm[:64]!r}, expected {identity.public.algorithm}"
            )
        bundle = identity.unwrap(grant.wrapped, LABEL_GRANT + grant.model)
        if len(bundle) != len(BUNDLE_VERSION) + KEY or not bundle.startswith(BUNDLE_VERSION):
            raise NoMatchingKey(f"grant {grant.grant_id}: unknown key bundle")
        key = cls(bundle[len(BUNDLE_VERSION) :])
        if not hmac.compare_digest(key.commitment(statement.nonce), statement.key_commitment):
            raise PayloadTampered(f"grant {grant.grant_id}: its key is not the one that the publisher committed to")
        return key


def _context(nonce: bytes, number: int) -> bytes:
    """Cobblestone context: an extent opens only in its own place of its own file."""
    return LABEL_EXTENT + number.to_bytes(4, "big") + nonce
