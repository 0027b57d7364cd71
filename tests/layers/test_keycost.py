"""What an encrypted key file may ask for before it opens."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz.make_corpus import scrypt_bomb

from modelvault._files import exists, open_regular
from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.keys import PublisherKey, pem
from modelvault.keys.cost import MAX_ITERATIONS, check_cost


def pbkdf2(iterations: int) -> bytes:
    """A key as OpenSSL encrypts it, with the count of iterations replaced."""
    encryption = serialization.BestAvailableEncryption(b"word")
    form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, encryption
    der = Ed25519PrivateKey.generate().private_bytes(*form)
    old = (2048).to_bytes(2, "big")
    assert der.count(b"\x02\x02" + old) == 1
    return pem.armour(
        "ENCRYPTED PRIVATE KEY", der.replace(b"\x02\x02" + old, b"\x02\x02" + iterations.to_bytes(2, "big"))
    )


def test_what_people_write_is_read() -> None:
    for block in (PublisherKey.generate("ed25519").to_pem(b"word"), pbkdf2(2048)):
        check_cost(block, "f")
        assert PublisherKey.from_pem(block, lambda: b"word", "f").public


def test_large_keys_have_long_lengths() -> None:
    key = PublisherKey.generate("ecdsa-p384")
    check_cost(key.to_pem(b"word"), "f")
    check_cost(pem.armour("ENCRYPTED PRIVATE KEY", b"\x30\x82\x01\x00" + bytes(256)), "f")


@pytest.mark.parametrize("n", [2**20 + 1, 2**40])
def test_scrypt(n: int) -> None:
    with pytest.raises(FormatError, match=r"^f: its passphrase costs .* units of work, above the limit of 8.39e\+06$"):
        check_cost(scrypt_bomb(n), "f")


def test_scrypt_at_the_limit() -> None:
    check_cost(scrypt_bomb(2**20), "f")


def test_iterations() -> None:
    for count, fine in ((MAX_ITERATIONS, True), (MAX_ITERATIONS + 1, False)):
        parameters = b"\x30\x08\x04\x00\x02\x04" + count.to_bytes(4, "big")
        block = pem.armour("ENCRYPTED PRIVATE KEY", b"\x30\x0c\x30\x0a" + parameters)
        if fine:
            check_cost(block, "f")
        else:
            with pytest.raises(FormatError, match=r"^f: its passphrase costs 1e"):
                check_cost(block, "f")


def long(tag: int, body: bytes) -> bytes:
    """A DER element whose length takes two bytes more than it must."""
    return bytes([tag, 0x83]) + len(body).to_bytes(3, "big") + body


def test_lengths_are_read_in_every_place() -> None:
    number = long(2, (MAX_ITERATIONS + 1).to_bytes(4, "big"))
    block = pem.armour("ENCRYPTED PRIVATE KEY", long(0x30, long(0x30, long(4, bytes(300)) + long(0x30, number))))
    with pytest.raises(FormatError, match=r"^f: its passphrase costs 1e"):
        check_cost(block, "f")


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"\x30\x02\x30\x00"])
def test_nothing_costs_nothing(der: bytes) -> None:
    check_cost(pem.armour("ENCRYPTED PRIVATE KEY", der), "f")


@pytest.mark.parametrize(
    "der",
    [b"\x30", b"\x30\x05\x30", b"\x30\x02\x30\x09", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80" + bytes(200)],
)
def test_damage(der: bytes) -> None:
    with pytest.raises(KeyUnavailable, match=r"^f: wrong passphrase, or a damaged file$"):
        check_cost(pem.armour("ENCRYPTED PRIVATE KEY", der), "f")


def test_deep_nesting_and_no_base64() -> None:
    nested = b""
    for _ in range(20_000):
        nested = b"\x30\x83" + len(nested).to_bytes(3, "big") + nested
    bad = (b"-----BEGIN X-----\n%b\n-----END X-----\n" % text for text in (b"=A=", b"MAIwAA==AAAA"))
    for block in (pem.armour("ENCRYPTED PRIVATE KEY", nested), *bad):
        with pytest.raises(KeyUnavailable, match=r"^f: wrong passphrase, or a damaged file$"):
            check_cost(block, "f")


def test_paths_that_nothing_can_have() -> None:
    with pytest.raises(FileError, match=r"^a\\x00b: NUL in a path$"):
        open_regular("a\0b")
    with pytest.raises(FileError, match=r"file name too long$"):
        exists("x" * 300)
    assert exists("/")
