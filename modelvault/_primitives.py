"""Every AEAD, KDF and KEM call of the package, and the labels that keep their uses apart (docs/FORMAT.md section 7)."""

from collections.abc import Iterator
from typing import Any

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from modelvault.errors import FormatError

LABEL_EXTENT = b"modelvault/v1/extent"
LABEL_COMMIT = b"modelvault/v1/commit"
LABEL_GRANT = b"modelvault/v1/grant"
LABEL_OWNER = b"modelvault/v1/owner"
LABEL_WATERMARK = b"modelvault/v1/watermark/"

CHUNK = 16_384
KEYSTREAM_PIECE = 2**18
TAG = 16
STREAM_HEADER = 56  # Cobblestone-256: 24 bytes of salt, 32 of key commitment

ExtentEncryptor = Cobblestone256Encryptor
ExtentDecryptor = Cobblestone256Decryptor

_KEMS = {
    "ml-kem-768+x25519": hpke.KEM.MLKEM768_X25519,
    "x25519": hpke.KEM.X25519,
    "p256": hpke.KEM.P256,
}


def hkdf(key: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(key)


def sealed_length(plain: int) -> int:
    """Ciphertext bytes of a stream of ``plain`` bytes: every stream ends in one chunk that is not full."""
    return STREAM_HEADER + plain + TAG * (plain // CHUNK + 1)


def plain_length(sealed: int) -> int:
    """Inverse of :func:`sealed_length`; FormatError where no stream has that length."""
    body = sealed - STREAM_HEADER
    plain = body - TAG * (body // (CHUNK + TAG) + 1)
    if body < TAG or plain < 0 or sealed_length(plain) != sealed:
        raise FormatError(f"extent length {sealed} is impossible")
    return plain


def _suite(algorithm: str) -> hpke.Suite:
    return hpke.Suite(_KEMS[algorithm], hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def hpke_seal(algorithm: str, public_key: Any, info: bytes, plaintext: bytes) -> bytes:
    """HPKE single-shot encryption (RFC 9180, base mode)."""
    return _suite(algorithm).encrypt(plaintext, public_key, info)


def hpke_open(algorithm: str, private_key: Any, info: bytes, ciphertext: bytes) -> bytes:
    """Inverse of :func:`hpke_seal`; raises cryptography's InvalidTag or ValueError."""
    return _suite(algorithm).decrypt(ciphertext, private_key, info)


def keystream(key: bytes, length: int) -> Iterator[memoryview]:
    """``length`` bytes of AES-256-CTR from a counter block of zeros: a pseudo-random function's output.

    In pieces of KEYSTREAM_PIECE bytes, each valid until the next is taken.
    """
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    zeros, piece = bytes(KEYSTREAM_PIECE), bytearray(KEYSTREAM_PIECE + 15)
    for at in range(0, length, KEYSTREAM_PIECE):
        encryptor.update_into(zeros, piece)
        yield memoryview(piece)[: min(KEYSTREAM_PIECE, length - at)]
