"""Key files: round trips, passphrases, and what is refused."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.keys import (
    PUBLISHER_ALGORITHMS,
    RECIPIENT_ALGORITHMS,
    HostKey,
    HostPublic,
    OwnerSecret,
    PublisherKey,
    PublisherPublic,
    RecipientKey,
    RecipientPublic,
    pem,
    store,
)

PAIRS: list[tuple[Any, Any, str | None]] = [
    *((PublisherKey, PublisherPublic, a) for a in PUBLISHER_ALGORITHMS),
    *((RecipientKey, RecipientPublic, a) for a in RECIPIENT_ALGORITHMS),
    (HostKey, HostPublic, None),
]


def make(kind: Any, algorithm: str | None) -> Any:
    return kind.generate(algorithm) if algorithm else kind.generate()


@pytest.mark.parametrize(("private", "public", "algorithm"), PAIRS)
@pytest.mark.parametrize("passphrase", [None, "wörd".encode()])
def test_files_round_trip(private: Any, public: Any, algorithm: str | None, passphrase: bytes | None) -> None:
    key = make(private, algorithm)
    data = key.to_pem(passphrase)
    again = private.from_pem(data, lambda: passphrase, "f")
    assert again.public.fingerprint == key.public.fingerprint
    read = public.from_pem(key.public.to_pem(), "f")
    assert read.fingerprint == key.public.fingerprint
    assert read.fingerprint.startswith("SHA256:")
    assert len(read.fingerprint) == 50


@pytest.mark.parametrize(("private", "public", "algorithm"), PAIRS)
def test_keys_do_not_show_or_copy_themselves(private: Any, public: Any, algorithm: str | None) -> None:
    key = make(private, algorithm)
    assert repr(key) == f"<{private.__name__}>"
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            attempt(key)


def test_roles_do_not_mix() -> None:
    for data, kind in (
        (PublisherKey.generate("ecdsa-p384").public.to_pem(), RecipientPublic),
        (RecipientKey.generate("x25519").public.to_pem(), PublisherPublic),
        (RecipientKey.generate().public.to_pem(), HostPublic),
        (pem.public_pem([ec.generate_private_key(ec.SECP256K1()).public_key()]), PublisherPublic),
        (pem.public_pem([rsa.generate_private_key(65537, 2048).public_key()]), PublisherPublic),
    ):
        with pytest.raises(FormatError, match="not a key of this role"):
            kind.from_pem(data, "f")


def test_hybrid_parts_have_an_order() -> None:
    first, second = PublisherKey.generate().public.to_pem().split(b"-----END PUBLIC KEY-----\n")[:2]
    end = b"-----END PUBLIC KEY-----\n"
    with pytest.raises(FormatError, match="not a key of this role"):
        PublisherPublic.from_pem(second + end + first + end, "f")


GOOD = PublisherKey.generate("ed25519").public.to_pem()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected 1 to 4 PEM blocks, got 0"),
        (GOOD * 5, "expected 1 to 4 PEM blocks, got 5"),
        (GOOD + b"tail", "text that is not a PEM block"),
        (GOOD.replace(b"PUBLIC KEY", b"CERTIFICATE"), "expected PUBLIC KEY, got CERTIFICATE"),
        (GOOD.replace(b"MCow", b"MCox"), "not a public key that this version reads"),
        (GOOD.replace(b"END PUBLIC", b"END PRIVATE"), "text that is not a PEM block"),
        (b"\xff\xfe\x00", "text that is not a PEM block"),
    ],
    ids=["empty", "five", "tail", "certificate", "other key", "other end", "binary"],
)
def test_files_that_are_no_keys(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        PublisherPublic.from_pem(data, "f")


def test_comments_may_stand_between_blocks() -> None:
    key = PublisherKey.generate()
    text = b"# acme, 2026\n" + key.public.to_pem().replace(b"-----BEGIN", b"\n# part\n-----BEGIN")
    assert PublisherPublic.from_pem(text, "f").fingerprint == key.public.fingerprint


def test_passphrases() -> None:
    key = HostKey.generate()
    data = key.to_pem(b"right")
    for number in range(600):
        with pytest.raises(KeyUnavailable, match="f: wrong passphrase"):
            HostKey.from_pem(data, lambda number=number: b"%d" % number, "f")  # type: ignore[misc]
    with pytest.raises(KeyUnavailable, match="f: encrypted, and no passphrase was given"):
        HostKey.from_pem(data, None, "f")
    with pytest.raises(FormatError, match="expected PRIVATE KEY, got PUBLIC KEY"):
        HostKey.from_pem(key.public.to_pem(), None, "f")
    with pytest.raises(FormatError, match="not a private key that this version reads"):
        HostKey.from_pem(key.to_pem(None).replace(b"MC4C", b"MC4D"), None, "f")


def test_the_container_is_standard_pkcs8_with_strong_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pem, "SCRYPT_LOG_N", 17)
    key = HostKey.generate()
    data = key.to_pem(b"right")
    assert serialization.load_pem_private_key(data, b"right").private_bytes_raw() == key.parts[0].private_bytes_raw()  # type: ignore[union-attr]
    block = pem.blocks(data, "f")[0][1]
    import base64

    der = base64.b64decode(b"".join(block.splitlines()[1:-1]))
    assert (2**17).to_bytes(3, "big") in der
    assert bytes.fromhex("06092b06010401da47040b") in der  # scrypt's object identifier (RFC 7914)


@pytest.mark.parametrize("passphrase", [None, b"word"])
def test_owner_secrets(passphrase: bytes | None) -> None:
    owner = OwnerSecret.generate()
    data = owner.to_pem(passphrase)
    again = OwnerSecret.from_pem(data, lambda: passphrase or b"", "f")
    assert (again.secret, again.fingerprint) == (owner.secret, owner.fingerprint)
    assert owner.secret.hex() not in repr(owner)
    with pytest.raises(TypeError):
        pickle.dumps(owner)


def test_owner_secrets_that_are_refused() -> None:
    owner = OwnerSecret.generate()
    sealed = owner.to_pem(b"word")
    with pytest.raises(KeyUnavailable, match="wrong passphrase"):
        OwnerSecret.from_pem(sealed, lambda: b"other", "f")
    with pytest.raises(KeyUnavailable, match="no passphrase was given"):
        OwnerSecret.from_pem(sealed, None, "f")
    for data, words in (
        (GOOD, "expected one MODELVAULT OWNER SECRET block"),
        (pem.armour("MODELVAULT OWNER SECRET", bytes(31)), "expected 32 bytes, got 31"),
        (pem.armour("ENCRYPTED MODELVAULT OWNER SECRET", bytes(31)), "encrypted secret has 31 bytes"),
    ):
        with pytest.raises(FormatError, match=words):
            OwnerSecret.from_pem(data, lambda: b"", "f")


def test_the_store(tmp_path: Path) -> None:
    key = PublisherKey.generate("ed25519")
    path = store.write_pair(tmp_path / "keys", "acme", key.to_pem(None), key.public.to_pem())
    assert store.load_publisher(str(path)).public.fingerprint == key.public.fingerprint
    assert store.load_publisher_public(str(path.with_suffix(".pub"))).fingerprint == key.public.fingerprint
    with pytest.raises(FileError, match="exists already"):
        store.write_pair(tmp_path / "keys", "acme", b"", b"")
    with pytest.raises(FormatError, match="key name"):
        store.write_pair(tmp_path / "keys", "../acme", b"", b"")
    with pytest.raises(KeyUnavailable, match="publisher key 'nobody': not found at"):
        store.load_publisher("nobody")
    (tmp_path / "big").write_bytes(bytes(store.MAX_KEY_FILE + 1))
    with pytest.raises(FileError, match="larger than the limit"):
        store.load_publisher_public(str(tmp_path / "big"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MODELVAULT_HOME": "/m"}, Path("/m")),
        ({"XDG_CONFIG_HOME": "/c"}, Path("/c/modelvault")),
        ({"HOME": "/h"}, Path("/h/.config/modelvault")),
    ],
)
def test_home(environment: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELVAULT_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert store.home() == expected
