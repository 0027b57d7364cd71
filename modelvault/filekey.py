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
    InvalidTag,
    aead_open,
    aead_seal,
    hkdf,
)
from modelvault.errors import NoMatchingKey, PayloadTampered
from modelvault.manifest import GrantStatement, ModelStatement
from modelvault.policy import Terms
from modelvault.variants import Keys, open_keys

PLAIN_BUNDLE, VARIANTS_BUNDLE = b"\x01", b"\x02"
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
    """The 32-byte key of one sealed file; everything else is derived from it and the statement's nonce.

    ``variants``: what opens the slots of a file with fingerprints, where a grant brought it.
    """

    __slots__ = ("_key", "variants")

    def __init__(self, key: bytes, variants: Keys | None = None) -> None:
        self._key = key
        self.variants = variants

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
        self,
        recipient: Recipient,
        name: str,
        digest: bytes,
        *,
        licence: Terms | None = None,
        purpose: str = "run",
        variants: Keys | None = None,
    ) -> GrantStatement:
        """A grant of this key to ``recipient``, not signed yet; ``digest`` is the model statement's SHA-256.

        ``variants``: the slots' keys that the recipient gets of a file with fingerprints. They travel beside the
        bundle, which every recipient's key or service can wrap, under a key of their own in it.
        """
        bundle, sealed, info = PLAIN_BUNDLE + self._key, None, LABEL_GRANT + digest
        if variants is not None:
            ring_key = secrets.token_bytes(KEY)
            bundle, sealed = VARIANTS_BUNDLE + self._key + ring_key, aead_seal(ring_key, variants.to_bytes(), info)
        return GrantStatement(
            grant_id=secrets.token_hex(16),
            model_name=name,
            model=digest,
            created=datetime.now(UTC).replace(microsecond=0),
            recipient=recipient.fingerprint,
            algorithm=recipient.algorithm,
            wrapped=recipient.wrap(bundle, info),
            purpose=purpose,
            licence=licence or Terms(),
            variants=sealed,
        )

    @classmethod
    def open(cls, grant: GrantStatement, identity: Identity, statement: ModelStatement) -> "FileKey":
        """Unwrap a grant's bundle; NoMatchingKey if it does not open, PayloadTampered if it brings another key."""
        source = f"grant {grant.grant_id}"
        if grant.algorithm != identity.public.algorithm:
            raise NoMatchingKey(
                f"{source}: wrapped with {grant.algorithm[:64]!r}, expected {identity.public.algorithm}"
            )
        info = LABEL_GRANT + grant.model
        bundle = identity.unwrap(grant.wrapped, info)
        version, ring_key = (PLAIN_BUNDLE, b"") if statement.variants is None else (VARIANTS_BUNDLE, bundle[1 + KEY :])
        if len(bundle) != 1 + KEY + (KEY if statement.variants else 0) or not bundle.startswith(version):
            raise NoMatchingKey(f"{source}: unknown key bundle")
        key = cls(bundle[1 : 1 + KEY])
        if not hmac.compare_digest(key.commitment(statement.nonce), statement.key_commitment):
            raise PayloadTampered(f"{source}: its key is not the one that the publisher committed to")
        if statement.variants is not None:
            try:
                opened = aead_open(ring_key, grant.variants or b"", info)
            except InvalidTag:
                raise PayloadTampered(f"{source}: variants: do not decrypt") from None
            key.variants = open_keys(opened, statement.variants, purpose=grant.purpose, field=f"{source}: variants")
        return key


def _context(nonce: bytes, number: int) -> bytes:
    """Cobblestone context: an extent opens only in its own place of its own file."""
    return LABEL_EXTENT + number.to_bytes(4, "big") + nonce
