"""The owner's secret: 32 bytes that watermark patterns are drawn from; no key pair, so a file of its own kind."""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from modelvault._primitives import LABEL_OWNER
from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys import pem

SECRET = 32
SALT = 16
NONCE = 12
PLAIN = "MODELVAULT OWNER SECRET"
ENCRYPTED = "ENCRYPTED " + PLAIN


@dataclass(frozen=True, slots=True, repr=False)
class OwnerSecret:
    """32 random bytes; the fingerprint is public, and names the secret without giving anything away."""

    secret: bytes

    @classmethod
    def generate(cls) -> "OwnerSecret":
        return cls(secrets.token_bytes(SECRET))

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(LABEL_OWNER + self.secret).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def to_pem(self, passphrase: bytes | None) -> bytes:
        if passphrase is None:
            return pem.armour(PLAIN, self.secret)
        salt, nonce = secrets.token_bytes(SALT), secrets.token_bytes(NONCE)
        sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, self.secret, LABEL_OWNER)
        return pem.armour(ENCRYPTED, salt + nonce + sealed)

    @classmethod
    def from_pem(cls, data: bytes, passphrase: pem.Passphrase | None, source: str) -> "OwnerSecret":
        """Raises FormatError, KeyUnavailable."""
        found = pem.blocks(data, source)
        if len(found) != 1 or found[0][0] not in (PLAIN, ENCRYPTED):
            raise FormatError(f"{source}: expected one {PLAIN} block")
        label, block = found[0]
        try:
            body = base64.b64decode(b"".join(block.splitlines()[1:-1]), validate=True)
        except binascii.Error:
            raise FormatError(f"{source}: not base64") from None
        if label == ENCRYPTED:
            body = _decrypt(body, passphrase, source)
        if len(body) != SECRET:
            raise FormatError(f"{source}: expected {SECRET} bytes, got {len(body)}")
        return cls(body)

    def __repr__(self) -> str:
        return "<OwnerSecret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an owner secret cannot be pickled or copied")


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**pem.SCRYPT_LOG_N, r=pem.SCRYPT_R, p=1).derive(passphrase)


def _decrypt(body: bytes, passphrase: pem.Passphrase | None, source: str) -> bytes:
    if passphrase is None:
        raise KeyUnavailable(f"{source}: encrypted, and no passphrase was given")
    if len(body) != SALT + NONCE + SECRET + 16:
        raise FormatError(f"{source}: encrypted secret has {len(body)} bytes")
    key = _derive(passphrase(), body[:SALT])
    try:
        return AESGCM(key).decrypt(body[SALT : SALT + NONCE], body[SALT + NONCE :], LABEL_OWNER)
    except InvalidTag:
        raise KeyUnavailable(f"{source}: wrong passphrase") from None
