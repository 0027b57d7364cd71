"""Key files: consecutive PEM blocks, private ones as PKCS#8, under a passphrase with scrypt.

The PKCS#8 writer of ``cryptography`` derives from a passphrase with 2048 rounds of PBKDF2, which a thief of the file
tries at millions of guesses a second. PBES2 with scrypt (RFC 7914) is as standard, and read by the same loaders.
"""

import base64
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys.cost import check_cost

Passphrase = Callable[[], bytes]

SCRYPT_LOG_N = 17  # 128 MiB and about a quarter of a second a guess
SCRYPT_R = 8
MAX_BLOCKS = 4

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----\r?\n?")
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def public_pem(keys: Sequence[Any]) -> bytes:
    """SPKI PEM blocks, one after another."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return b"".join(key.public_bytes(serialization.Encoding.PEM, spki) for key in keys)


def public_der(keys: Sequence[Any]) -> bytes:
    """The same keys' SPKI DER, joined: what a fingerprint hashes."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return b"".join(key.public_bytes(serialization.Encoding.DER, spki) for key in keys)


def private_pem(keys: Sequence[Any], passphrase: bytes | None) -> bytes:
    """PKCS#8 PEM blocks, encrypted when there is a passphrase."""
    return b"".join(_private_block(key, passphrase) for key in keys)


def _private_block(key: Any, passphrase: bytes | None) -> bytes:
    plain = serialization.NoEncryption()
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, plain)
    return (
        armour("PRIVATE KEY", der) if passphrase is None else armour("ENCRYPTED PRIVATE KEY", _pbes2(der, passphrase))
    )


def armour(label: str, der: bytes) -> bytes:
    """One PEM block (RFC 7468)."""
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), base64_lines(der), label.encode())


def base64_lines(data: bytes) -> bytes:
    text = base64.b64encode(data)
    return b"".join(text[i : i + 64] + b"\n" for i in range(0, len(text), 64))


def blocks(data: bytes, source: str) -> list[tuple[str, bytes]]:
    """The file's PEM blocks as (label, whole block); comment lines and blank lines may stand between them."""
    found = list(_BLOCK.finditer(data))
    for line in _BLOCK.sub(b"", data).splitlines():
        if line.strip() and not line.startswith(b"#"):
            raise FormatError(f"{source}: text that is not a PEM block")
    if not 0 < len(found) <= MAX_BLOCKS:
        raise FormatError(f"{source}: expected 1 to {MAX_BLOCKS} PEM blocks, got {len(found)}")
    return [(match[1].decode(), match[0]) for match in found]


def load_public(data: bytes, source: str) -> list[Any]:
    """Public key objects, in file order; FormatError names ``source``."""
    keys = []
    for label, block in blocks(data, source):
        if label != "PUBLIC KEY":
            raise FormatError(f"{source}: expected PUBLIC KEY, got {label}")
        try:
            keys.append(serialization.load_pem_public_key(block))
        except (ValueError, UnsupportedAlgorithm):
            raise FormatError(f"{source}: not a public key that this version reads") from None
    return keys


def load_private(data: bytes, passphrase: Passphrase | None, source: str) -> list[Any]:
    """Private key objects; ``passphrase`` is asked once, and only when a block is encrypted.

    Raises FormatError; KeyUnavailable where the passphrase is missing or wrong.
    """
    keys, secret = [], None
    for label, block in blocks(data, source):
        if label not in ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"):
            raise FormatError(f"{source}: expected PRIVATE KEY, got {label}")
        encrypted = label.startswith("ENCRYPTED")
        if encrypted and secret is None:
            if passphrase is None:
                raise KeyUnavailable(f"{source}: encrypted, and no passphrase was given")
            secret = passphrase()
        keys.append(_load_private_block(block, secret if encrypted else None, source))
    return keys


def _load_private_block(block: bytes, secret: bytes | None, source: str) -> Any:
    if secret is not None:
        check_cost(block, source)
    try:
        return serialization.load_pem_private_key(block, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        if secret is not None:  # one wrong passphrase in 256 gives well-formed padding, and then any error at all
            raise KeyUnavailable(f"{source}: wrong passphrase, or a damaged file") from None
        raise FormatError(f"{source}: not a private key that this version reads") from None


def _tlv(tag: int, *parts: bytes) -> bytes:
    """One DER element."""
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _pbes2(der: bytes, passphrase: bytes) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958) by PBES2 (RFC 8018) with scrypt and AES-256-CBC."""
    salt, iv, n = secrets.token_bytes(16), secrets.token_bytes(16), 2**SCRYPT_LOG_N
    key = Scrypt(salt=salt, length=32, n=n, r=SCRYPT_R, p=1).derive(passphrase)
    padder, encryptor = padding.PKCS7(128).padder(), Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    kdf = _tlv(0x30, _tlv(0x04, salt), _integer(n), _integer(SCRYPT_R), _integer(1), _integer(32))
    cipher = _tlv(0x30, _AES_256_CBC, _tlv(0x04, iv))
    scheme = _tlv(0x30, _PBES2, _tlv(0x30, _tlv(0x30, _SCRYPT, kdf), cipher))
    return _tlv(0x30, scheme, _tlv(0x04, sealed))
