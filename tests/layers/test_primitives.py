"""Every construction against a published vector or a second implementation, and the labels that keep uses apart."""

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from modelvault import _primitives as primitives
from modelvault.errors import FormatError
from modelvault.keys import RecipientKey


def test_labels_are_those_of_the_format() -> None:
    labels = {name: value for name, value in vars(primitives).items() if name.startswith("LABEL_")}
    assert labels == {
        "LABEL_EXTENT": b"modelvault/v1/extent",
        "LABEL_COMMIT": b"modelvault/v1/commit",
        "LABEL_GRANT": b"modelvault/v1/grant",
        "LABEL_OWNER": b"modelvault/v1/owner",
        "LABEL_SERVICE": b"modelvault/v1/service",
        "LABEL_WATERMARK": b"modelvault/v1/watermark/",
        "LABEL_FINGERPRINT": b"modelvault/v1/fingerprint/",
    }
    assert len(set(labels.values())) == len(labels)


def test_hkdf_is_rfc_5869_s_first_case() -> None:
    key, salt, info = bytes([0x0B] * 22), bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert primitives.hkdf(key, salt=salt, info=info, length=42).hex() == expected
    assert primitives.hkdf(key, salt=salt, info=info).hex() == expected[:64]


@pytest.mark.parametrize("plain", [0, 1, 16383, 16384, 16385, 32768, 10**6])
def test_lengths_of_streams(plain: int) -> None:
    sealed = 56 + plain + 16 * (plain // 16384 + 1)
    assert primitives.sealed_length(plain) == sealed
    assert primitives.plain_length(sealed) == plain


@pytest.mark.parametrize("sealed", [-1, 0, 55, 56, 71, 56 + 16384 + 16, 56 + 16384 + 31, 56 + 32768 + 32])
def test_lengths_that_no_stream_has(sealed: int) -> None:
    with pytest.raises(FormatError, match=f"^extent length {sealed} is impossible$"):
        primitives.plain_length(sealed)


def test_every_length_has_one_meaning() -> None:
    possible = {primitives.sealed_length(n): n for n in range(2 * 16384 + 40)}
    for sealed in range(2 * 16384 + 60):
        if sealed in possible:
            assert primitives.plain_length(sealed) == possible[sealed]
        else:
            with pytest.raises(FormatError):
                primitives.plain_length(sealed)


@pytest.mark.parametrize("algorithm", ["ml-kem-768+x25519", "x25519", "p256"])
def test_hpke_binds_key_and_info(algorithm: str) -> None:
    key = RecipientKey.generate(algorithm)
    wrapped = key.public.wrap(b"bundle", b"here")
    assert key.unwrap(wrapped, b"here") == b"bundle"
    assert wrapped != key.public.wrap(b"bundle", b"here")


def test_single_use_encryption() -> None:
    key = bytes(range(32))
    sealed = primitives.aead_seal(key, b"plain", b"context")
    assert len(sealed) == 5 + primitives.TAG
    assert primitives.aead_open(key, sealed, b"context") == b"plain"
    for bad_key, bad, context in (
        (key, sealed, b""),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"context"),
        (bytes(32), sealed, b"context"),
    ):
        with pytest.raises(InvalidTag):
            primitives.aead_open(bad_key, bad, context)
    bare = primitives.aead_seal(key, b"plain")
    out = bytearray(5)
    primitives.aead_open_into(key, bare, memoryview(out))
    assert bytes(out) == primitives.aead_open(key, bare) == b"plain"
    with pytest.raises(InvalidTag):
        primitives.aead_open_into(key, sealed, memoryview(out))
    assert primitives.aead_seal(bytes(32), b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"  # GCM's test case 13


def software_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    return key, key.public_key().public_bytes(*form)


def test_hpke_by_an_ecdh_result_alone() -> None:
    """The key schedule made here is the one of ``cryptography``'s own HPKE (RFC 9180)."""
    private, point = software_key()

    def ecdh(sender: bytes) -> bytes:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        return private.exchange(ec.ECDH(), public)

    wrapped = primitives.hpke_seal("p256", private.public_key(), b"info", b"secret")
    assert primitives.hpke_open("p256", private, b"info", wrapped) == b"secret"
    assert primitives.hpke_open_p256(ecdh, point, b"info", wrapped) == b"secret"
    empty = primitives.hpke_seal("p256", private.public_key(), b"", b"")
    assert len(empty) == 65 + 16
    assert primitives.hpke_open_p256(ecdh, point, b"", empty) == b""
    with pytest.raises(InvalidTag):
        primitives.hpke_open_p256(ecdh, point, b"other", wrapped)
    with pytest.raises(ValueError, match=r"^ciphertext is too short$"):
        primitives.hpke_open_p256(ecdh, point, b"", empty[:-1])


@pytest.mark.parametrize("length", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 2**19 + 5])
def test_the_keystream_is_counter_mode_from_zero(length: int) -> None:
    key = bytes(range(32))
    pieces = [bytes(piece) for piece in primitives.keystream(key, length)]
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    assert b"".join(pieces) == encryptor.update(bytes(length)) + encryptor.finalize()
    assert [len(p) for p in pieces[:-1]] == [2**18] * (len(pieces) - 1)
