"""Every AEAD, KDF and KEM call of the package, and the labels that keep their uses apart (docs/FORMAT.md section 7)."""

from collections.abc import Callable, Iterator
from typing import Any

from cryptography import exceptions
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from modelvault.errors import FormatError

LABEL_EXTENT = b"modelvault/v1/extent"
LABEL_COMMIT = b"modelvault/v1/commit"
LABEL_GRANT = b"modelvault/v1/grant"
LABEL_OWNER = b"modelvault/v1/owner"
LABEL_SERVICE = b"modelvault/v1/service"
LABEL_WATERMARK = b"modelvault/v1/watermark/"
LABEL_FINGERPRINT = b"modelvault/v1/fingerprint/"

CHUNK = 16_384
KEYSTREAM_PIECE = 2**18
TAG = 16
STREAM_HEADER = 56  # Cobblestone-256: 24 bytes of salt, 32 of key commitment

InvalidTag = exceptions.InvalidTag
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
    if plain < 0 or sealed_length(plain) != sealed:
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


_ONLY_NONCE = bytes(12)


def aead_seal(key: bytes, plaintext: bytes, context: bytes = b"") -> bytes:
    """AES-256-GCM under a key that encrypts this one message and no other: ciphertext || tag."""
    return AESGCM(key).encrypt(_ONLY_NONCE, plaintext, context)


def aead_open(key: bytes, sealed: bytes, context: bytes = b"") -> bytes:
    """Inverse of :func:`aead_seal`; raises InvalidTag."""
    return AESGCM(key).decrypt(_ONLY_NONCE, sealed, context)


def aead_open_into(key: bytes, sealed: bytes | bytearray | memoryview, out: memoryview) -> None:
    """:func:`aead_open` without context, into ``out`` (of the plaintext's length); raises InvalidTag."""
    AESGCM(key).decrypt_into(_ONLY_NONCE, sealed, None, out)


_P256_POINT = 65
_KEM_SUITE = b"KEM\x00\x10"  # DHKEM(P-256, HKDF-SHA256)
_HPKE_SUITE = b"HPKE\x00\x10\x00\x01\x00\x02"  # with HKDF-SHA256, AES-256-GCM


def hpke_open_p256(ecdh: Callable[[bytes], bytes], public_point: bytes, info: bytes, ciphertext: bytes) -> bytes:
    """:func:`hpke_open` for a P-256 key in hardware, which gives no more than an ECDH result (RFC 9180).

    ``ecdh`` takes the sender's uncompressed point (65 bytes) and returns the shared point's x coordinate (32 bytes); it
    must refuse points that are not on the curve. ``public_point`` is the recipient's own. Raises InvalidTag,
    ValueError.
    """
    if len(ciphertext) < _P256_POINT + TAG:
        raise ValueError("ciphertext is too short")
    sender, sealed = ciphertext[:_P256_POINT], ciphertext[_P256_POINT:]
    prk = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", ecdh(sender))
    shared = _labeled_expand(_KEM_SUITE, prk, b"shared_secret", sender + public_point, 32)
    psk_id = _labeled_extract(_HPKE_SUITE, b"", b"psk_id_hash", b"")
    context = b"\x00" + psk_id + _labeled_extract(_HPKE_SUITE, b"", b"info_hash", info)  # mode_base
    secret = _labeled_extract(_HPKE_SUITE, shared, b"secret", b"")
    key = _labeled_expand(_HPKE_SUITE, secret, b"key", context, 32)
    nonce = _labeled_expand(_HPKE_SUITE, secret, b"base_nonce", context, 12)  # of the first message, the only one
    return AESGCM(key).decrypt(nonce, sealed, b"")


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return HKDF.extract(hashes.SHA256(), salt or bytes(32), b"HPKE-v1" + suite + label + ikm)


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labeled).derive(prk)


def keystream(key: bytes, length: int) -> Iterator[memoryview]:
    """``length`` bytes of AES-256-CTR from a counter block of zeros: a pseudo-random function's output.

    In pieces of KEYSTREAM_PIECE bytes, each valid until the next is taken.
    """
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    size = min(length, KEYSTREAM_PIECE)
    zeros, piece = bytes(size), bytearray(size + 15)
    for at in range(0, length, KEYSTREAM_PIECE):
        encryptor.update_into(zeros, piece)
        yield memoryview(piece)[: min(KEYSTREAM_PIECE, length - at)]
