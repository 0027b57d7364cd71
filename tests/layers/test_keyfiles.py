"""Key files, references to keys, and what stands between this process and a key elsewhere."""

import base64
import copy
import hashlib
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import file_size_limit
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelvault.errors import FileError, FormatError, KeyUnavailable, NoMatchingKey, SignatureInvalid
from modelvault.keys import (
    PUBLISHER_ALGORITHMS,
    HostKey,
    HostPublic,
    OwnerSecret,
    PublisherKey,
    PublisherPublic,
    RecipientKey,
    pem,
    remote,
    sources,
    store,
)
from modelvault.keys.material import RecipientPublic
from modelvault.keys.remote import EcdhRecipient, RemoteSigner, ServiceRecipient


def refused(words: str, error: type[Exception] = FormatError) -> Any:
    return pytest.raises(error, match=rf"^{re.escape(words)}$")


# -- PEM


def test_a_block_is_rfc_7468_s() -> None:
    text = pem.armour("SOME LABEL", bytes(range(60)))
    lines = text.split(b"\n")
    assert (lines[0], lines[-2], lines[-1]) == (b"-----BEGIN SOME LABEL-----", b"-----END SOME LABEL-----", b"")
    assert [len(line) for line in lines[1:-2]] == [64, 16]
    assert base64.b64decode(b"".join(lines[1:-2])) == bytes(range(60))
    assert pem.base64_lines(bytes(48)) == b"A" * 64 + b"\n"
    assert pem.blocks(text, "f") == [("SOME LABEL", text)]
    assert pem.blocks(text.replace(b"\n", b"\r\n"), "f")[0][0] == "SOME LABEL"
    assert [label for label, _ in pem.blocks(b"# a\n\n" + text + b"  \n# b\n" + text * 3, "f")] == ["SOME LABEL"] * 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected 1 to 4 PEM blocks, got 0"),
        (b"# only a comment\n", "expected 1 to 4 PEM blocks, got 0"),
        (pem.armour("X", b"a") * 5, "expected 1 to 4 PEM blocks, got 5"),
        (b" # not in the first column\n" + pem.armour("X", b"a"), "text that is not a PEM block"),
        (pem.armour("X", b"a").replace(b"END X", b"END Y"), "text that is not a PEM block"),
        (pem.armour("x", b"a"), "text that is not a PEM block"),
        (pem.armour("X", b"a")[:-6], "text that is not a PEM block"),
    ],
)
def test_text_that_is_no_pem(data: bytes, words: str) -> None:
    with refused(f"f: {words}"):
        pem.blocks(data, "f")


def test_public_files() -> None:
    key = PublisherKey.generate("ed25519").public
    data = key.to_pem()
    assert data == key.parts[0].public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (loaded,) = pem.load_public(data, "f")
    assert PublisherPublic.of([loaded]) == key
    der = key.parts[0].public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert pem.public_der([key.parts[0]] * 2) == der * 2
    assert key.fingerprint == "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    with refused("f: expected PUBLIC KEY, got OTHER"):
        pem.load_public(data + pem.armour("OTHER", b"x"), "f")
    with refused("f: not a public key that this version reads"):
        pem.load_public(pem.armour("PUBLIC KEY", b"x"), "f")


def test_private_files() -> None:
    key = PublisherKey.generate()
    plain, sealed = key.to_pem(None), key.to_pem(b"word")
    assert plain.count(b"BEGIN PRIVATE KEY") == 2
    assert sealed.count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    asked: list[int] = []

    def ask() -> bytes:
        asked.append(1)
        return b"word"

    assert len(pem.load_private(plain, ask, "f")) == 2
    assert asked == []
    assert PublisherKey.from_pem(sealed, ask, "f").public == key.public
    assert asked == [1]  # once for all parts
    mixed = plain[: plain.index(b"-----END") + 25] + sealed[sealed.rindex(b"-----BEGIN") :]
    assert PublisherKey.from_pem(mixed, ask, "f").public == key.public
    mixed = sealed[: sealed.rindex(b"-----BEGIN")] + plain[plain.rindex(b"-----BEGIN") :]
    assert PublisherKey.from_pem(mixed, ask, "f").public == key.public
    for data, secret, words, error in (
        (sealed, None, "encrypted, and no passphrase was given", KeyUnavailable),
        (sealed, lambda: b"other", "wrong passphrase, or a damaged file", KeyUnavailable),
        (key.public.to_pem(), None, "expected PRIVATE KEY, got PUBLIC KEY", FormatError),
        (pem.armour("PRIVATE KEY", b"x"), None, "not a private key that this version reads", FormatError),
        (pem.armour("ENCRYPTED PRIVATE KEY", b"x"), ask, "wrong passphrase, or a damaged file", KeyUnavailable),
    ):
        with refused(f"f: {words}", error):
            pem.load_private(data, secret, "f")
    for kind in (PublisherKey, HostKey):
        with pytest.raises(FormatError, match=r"^f: not a key of this role"):
            kind.from_pem(RecipientKey.generate("x25519").to_pem(None), None, "f")
    with pytest.raises(FormatError, match=r"^f: not a key of this role"):
        RecipientKey.from_pem(HostKey.generate().to_pem(None), None, "f")


def test_every_error_names_the_file() -> None:
    stranger = RecipientKey.generate("x25519").public.to_pem()
    for kind, other in (
        (PublisherPublic, stranger), (HostPublic, stranger), (RecipientPublic, HostKey.generate().public.to_pem())
    ):  # fmt: skip
        with pytest.raises(FormatError, match=r"^f: not a key of this role"):
            kind.from_pem(other, "f")
        with refused("f: expected 1 to 4 PEM blocks, got 0"):
            kind.from_pem(b"", "f")
    for private in (PublisherKey, RecipientKey, HostKey, OwnerSecret):
        with refused("f: expected 1 to 4 PEM blocks, got 0"):
            private.from_pem(b"", None, "f")


@pytest.mark.parametrize("log_n", [7, 8, 15, 16])
def test_the_encrypted_container_is_der(log_n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by ``cryptography``, whatever the size of the numbers in it; no two files of one key are alike."""
    monkeypatch.setattr(pem, "SCRYPT_LOG_N", log_n)
    key = RecipientKey.generate()
    for part in key.parts:
        block = pem.private_pem([part], b"word")
        read = serialization.load_pem_private_key(block, b"word")
        assert pem.public_der([read.public_key()]) == pem.public_der([part.public_key()])
        assert block != pem.private_pem([part], b"word")
        with pytest.raises(ValueError):
            serialization.load_pem_private_key(block, b"wort")


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_der_lengths(size: int, head: str) -> None:
    assert pem._tlv(4, bytes(size)).hex() == head + "00" * size
    assert pem._tlv(0x30, b"a", b"bc") == b"\x30\x03abc"


@pytest.mark.parametrize(
    ("value", "der"), [(0, "020100"), (1, "020101"), (127, "02017f"), (128, "02020080"), (2**17, "0203020000")]
)
def test_der_integers(value: int, der: str) -> None:
    assert pem._integer(value).hex() == der


def test_the_encrypted_container_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5958, RFC 8018 and RFC 7914: a salt and an IV of 16 bytes, N = 1024, r = 8, p = 1, a key of 32 bytes."""
    monkeypatch.setattr(secrets, "token_bytes", lambda size: bytes(size or 32))
    kdf = "302c06092b06010401da47040b" + "301f" + "0410" + "00" * 16 + "02020400" + "020108" + "020101" + "020120"
    cipher = "301d" + "060960864801650304012a" + "0410" + "00" * 16
    scheme = "305a" + "06092a864886f70d01050d" + "304d" + kdf + cipher
    der = pem._pbes2(bytes(40), b"word")
    assert der.hex()[:-96] == "30818e" + scheme + "0430"
    key = hashlib.scrypt(b"word", salt=bytes(16), n=1024, r=8, p=1, dklen=32)
    decryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).decryptor()
    assert decryptor.update(der[-48:]) + decryptor.finalize() == bytes(40) + bytes([8]) * 8


def test_the_cost_of_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (pem.SCRYPT_LOG_N, pem.SCRYPT_R) == (17, 8)


# -- the owner's secret


def test_owner_files() -> None:
    owner = OwnerSecret(bytes(range(32)))
    digest = hashlib.sha256(b"modelvault/v1/owner" + bytes(range(32))).digest()
    assert owner.fingerprint == "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    assert owner.to_pem(None) == pem.armour("MODELVAULT OWNER SECRET", bytes(range(32)))
    sealed = owner.to_pem(b"word")
    assert sealed != owner.to_pem(b"word")
    assert OwnerSecret.from_pem(sealed, lambda: b"word", "f") == owner
    assert repr(owner) == "<OwnerSecret>"
    assert len(OwnerSecret.generate().secret) == 32
    assert OwnerSecret.generate() != OwnerSecret.generate()
    body = base64.b64decode(b"".join(sealed.splitlines()[1:-1]))
    encrypted = "ENCRYPTED MODELVAULT OWNER SECRET"
    plain = owner.to_pem(None)
    for data, secret, words, error in (
        (plain + plain, None, "expected one MODELVAULT OWNER SECRET block", FormatError),
        (plain.replace(b"\nAAEC", b"\nA=EC"), None, "not base64", FormatError),
        (plain.replace(b"=\n", b"=\nAAAA\n"), None, "not base64", FormatError),
        (pem.armour("MODELVAULT OWNER SECRET", bytes(33)), None, "expected 32 bytes, got 33", FormatError),
        (pem.armour(encrypted, body + b"x"), lambda: b"word", "encrypted secret has 77 bytes", FormatError),
        (pem.armour(encrypted, body[:-1] + bytes([body[-1] ^ 1])), lambda: b"word", "wrong passphrase", KeyUnavailable),
        (sealed, lambda: b"wort", "wrong passphrase", KeyUnavailable),
        (sealed, None, "encrypted, and no passphrase was given", KeyUnavailable),
    ):
        with refused(f"f: {words}", error):
            OwnerSecret.from_pem(data, secret, "f")


def test_an_owner_file_by_hand() -> None:
    """scrypt (RFC 7914) and AES-256-GCM, salt and nonce first."""
    text = OwnerSecret(bytes(range(32))).to_pem(b"word")
    body = base64.b64decode(b"".join(text.splitlines()[1:-1]))
    key = hashlib.scrypt(b"word", salt=body[:16], n=2**pem.SCRYPT_LOG_N, r=8, p=1, dklen=32)
    assert AESGCM(key).decrypt(body[16:28], body[28:], b"modelvault/v1/owner") == bytes(range(32))


# -- signatures


@pytest.mark.parametrize("algorithm", PUBLISHER_ALGORITHMS)
def test_every_algorithm_signs(algorithm: str) -> None:
    key = PublisherKey.generate(algorithm)
    assert key.public.algorithm == algorithm
    signature = key.sign(b"m")
    key.public.verify(b"m", signature)
    for message, bad in ((b"n", signature), (b"m", signature[:-1]), (b"m", b"")):
        with refused(f"signature by {key.public.fingerprint} does not verify", SignatureInvalid):
            key.public.verify(message, bad)
    if algorithm.startswith("ecdsa"):
        digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "521": hashes.SHA512()}[algorithm[-3:]]
        key.parts[0].public_key().verify(signature, b"m", ec.ECDSA(digest))


def test_private_keys_do_not_show_or_copy_themselves() -> None:
    for key in (PublisherKey.generate("ed25519"), RecipientKey.generate("x25519"), HostKey.generate()):
        assert repr(key) == f"<{type(key).__name__}>"
        with refused("a private key cannot be pickled or copied", TypeError):
            copy.copy(key)
    with refused("an owner secret cannot be pickled or copied", TypeError):
        copy.copy(OwnerSecret.generate())


def test_a_hybrid_signature_is_its_parts_joined() -> None:
    key = PublisherKey.generate()
    signature = key.sign(b"m")
    assert len(signature) == 64 + 3309
    key.parts[0].public_key().verify(signature[:64], b"m")
    key.parts[1].public_key().verify(signature[64:], b"m")
    key.public.verify(b"m", signature)
    for at in (0, 63, 64, len(signature) - 1):
        bad = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
        with refused(f"signature by {key.public.fingerprint} does not verify", SignatureInvalid):
            key.public.verify(b"m", bad)
    for bad in (signature[:-1], signature + b"\0", signature[:64]):
        with pytest.raises(SignatureInvalid):
            key.public.verify(b"m", bad)
    with pytest.raises(SignatureInvalid):
        key.public.verify(b"n", signature)


def test_host_keys() -> None:
    key = HostKey.generate()
    raw = key.public.public_bytes
    assert HostPublic.from_bytes(raw, "f") == key.public
    key.public.verify(b"m", key.sign(b"m"))
    with refused(f"signature by {key.public.fingerprint} does not verify", SignatureInvalid):
        key.public.verify(b"n", key.sign(b"m"))
    with refused("f: not an Ed25519 public key"):
        HostPublic.from_bytes(raw[:-1], "f")


def test_curves_are_told_apart() -> None:
    p256, p384 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1()))
    assert PublisherPublic.of([p256.public_key()]).algorithm == "ecdsa-p256"
    assert PublisherPublic.of([p384.public_key()]).algorithm == "ecdsa-p384"
    assert len(RecipientPublic.of([p256.public_key()]).point) == 65
    with refused("key: not a key of this role (expected ml-kem-768+x25519, x25519, p256)"):
        RecipientPublic.of([p384.public_key()])
    with refused("key: not a key of this role (expected ed25519)"):
        HostPublic.of([p256.public_key()])
    with pytest.raises(FormatError, match=r"^key: not a key of this role"):
        PublisherPublic.of([])


# -- where keys live


def test_files_of_keys(tmp_path: Path) -> None:
    where = tmp_path / "keys" / "publisher"
    path = store.write_pair(where, "acme", b"private", b"public")
    assert path == where / "acme.key"
    assert (path.read_bytes(), (where / "acme.pub").read_bytes()) == (b"private", b"public")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (where, path, where / "acme.pub")]
    assert modes == [0o700, 0o600, 0o644]
    for name in ("acme", "other"):
        (where / f"{name}.pub").write_bytes(b"")
        with refused(f"{where / name}.key: a key of this name exists already", FileError):
            store.write_pair(where, name, b"new", b"new")
    assert path.read_bytes() == b"private"
    store.write_pair(where, "alone", b"private", None)
    assert not (where / "alone.pub").exists()
    (where / "linked.key").symlink_to(tmp_path / "elsewhere")
    with refused(f"{where / 'linked.key'}: file exists", FileError):  # a link to nothing is not written through
        store.write_pair(where, "linked", b"private", None)
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "file").write_bytes(b"")
    with refused(f"{tmp_path / 'file' / 'k' / 'a.key'}: not a directory", FileError):
        store.write_pair(tmp_path / "file" / "k", "a", b"", None)


def test_pairs_are_written_all_or_none(tmp_path: Path) -> None:
    """As on a full disk: whichever file does not fit, none stays, and the next attempt is not in the way of itself."""
    pairs: dict[str, tuple[bytes, bytes | None]] = {"a": (b"1" * 10, b"2" * 20), "a.own": (b"3" * 30, b"4" * 40)}
    for limit, failing in ((5, "a.key"), (15, "a.pub"), (25, "a.own.key"), (35, "a.own.pub")):
        with file_size_limit(limit), refused(f"{tmp_path / failing}: file too large", FileError):
            store.write_pairs(tmp_path, pairs)
        assert list(tmp_path.iterdir()) == []
    assert store.write_pairs(tmp_path, pairs) == [tmp_path / "a.key", tmp_path / "a.own.key"]
    assert {p.name: p.read_bytes()[:1] for p in tmp_path.iterdir()} == {
        "a.key": b"1", "a.pub": b"2", "a.own.key": b"3", "a.own.pub": b"4",
    }  # fmt: skip
    (tmp_path / "b.own.pub").write_bytes(b"")
    with refused(f"{tmp_path / 'b.own.key'}: a key of this name exists already", FileError):
        store.write_pairs(tmp_path, {"b": (b"", None), "b.own": (b"", b"")})
    assert not (tmp_path / "b.key").exists()


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert store.folder("host") == tmp_path / "keys" / "host"
    store.write_pair(store.folder("host"), "default", b"x", b"y")
    assert store.find("host", "default", ".key") == tmp_path / "keys" / "host" / "default.key"
    (tmp_path / "default").write_bytes(b"here")
    assert store.find("host", "default", ".key") == Path("default")  # a path that exists comes first
    for reference, words in (
        ("none", f"host key 'none': not found at {tmp_path / 'keys/host/none.key'}"),
        ("some/none", "host key 'some/none': not found at some/none"),
        (str(tmp_path), f"host key {str(tmp_path)!r}: not found at {tmp_path}"),
    ):
        with refused(words, KeyUnavailable):
            store.find("host", reference, ".key")
    for bad in ("", ".hidden", "a b", "x" * 65, "-x"):
        with refused(f"key name {bad!r}: expected [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}"):
            store.check_key_name(bad)
    with refused(f"key name {'!' * 80!r}: expected [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}"):
        store.check_key_name("!" * 90)
    assert store.check_key_name("x" * 64) == "x" * 64
    store.write_pair(store.folder("publisher"), "acme", b"x", b"y")
    assert store.own_of("acme", ".pub") == str(tmp_path / "keys" / "publisher" / "acme.own.pub")
    with refused("env:K: no own recipient key stands beside it, name one", KeyUnavailable):
        store.own_of("env:K", ".pub")
    assert [store.is_uri(r) for r in ("env:K", "vault://a/b", "tpm2:0x81", "acme", "env", "c:/x")] == [True] * 3 + [
        False
    ] * 3


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"MODELVAULT_HOME": "/m"}, "/m"),
        ("linux", {"XDG_CONFIG_HOME": "/c"}, "/c/modelvault"),
        ("linux", {}, "/h/.config/modelvault"),
        ("darwin", {"XDG_CONFIG_HOME": "/c"}, "/h/Library/Application Support/modelvault"),
    ],
)
def test_home(platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELVAULT_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/h", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert store.home() == Path(expected)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o677])
def test_private_files_that_others_can_use(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"x")
    path.chmod(mode)
    with refused(f"{path}: mode {mode:04o} lets others use it, expected 0600", KeyUnavailable):
        store.read_private(path)
    path.chmod(0o400)
    assert store.read_private(path) == b"x"


def test_private_files_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"x")
    path.chmod(0o600)
    with refused(f"{tmp_path / 'none'}: no such file or directory", FileError):
        store.read_private(tmp_path / "none")
    real = path.stat()
    for owner, me, fine in ((0, 7, True), (7, 7, True), (8, 7, False), (7, 0, False)):
        monkeypatch.setattr(Path, "stat", lambda _, owner=owner: SimpleNamespace(st_mode=real.st_mode, st_uid=owner))
        monkeypatch.setattr(os, "geteuid", lambda me=me: me)
        if fine:
            assert store.read_private(path) == b"x"
        else:
            with refused(f"{path}: owned by another user", KeyUnavailable):
                store.read_private(path)


def test_passphrases_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p"
    for data in (b"word", b"word\n", b"word\r\n", b"word\nsecond\n"):
        path.write_bytes(data)
        path.chmod(0o600)
        assert store.passphrase_file(path) == b"word"
    path.write_bytes(b" wordX \r\n")
    assert store.passphrase_file(path) == b" wordX "
    path.write_bytes(b"wordX\n")
    assert store.passphrase_file(path) == b"wordX"
    for data in (b"", b"\n", b"\r\n", b"\nword"):
        path.write_bytes(data)
        with refused(f"{path}: empty passphrase", KeyUnavailable):
            store.passphrase_file(path)
    monkeypatch.setenv("P", "word\nmore")
    assert store.passphrase_file(Path("env:P")) == b"word"


def test_every_role_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELVAULT_HOME", str(tmp_path))
    publisher, recipient, host = PublisherKey.generate("ed25519"), RecipientKey.generate("x25519"), HostKey.generate()
    owner = OwnerSecret.generate()
    for role, key in (("publisher", publisher), ("recipient", recipient), ("host", host)):
        made: Any = key
        store.write_pair(store.folder(role), "k", made.to_pem(b"word"), made.public.to_pem())
    store.write_pair(store.folder("owner"), "k", owner.to_pem(b"word"), None)
    assert store.load_publisher("k", lambda: b"word").public == publisher.public
    assert store.load_recipient("k", lambda: b"word").public == recipient.public
    assert store.load_host("k", lambda: b"word").public == host.public
    assert store.load_owner("k", lambda: b"word") == owner
    assert store.load_publisher_public("k") == publisher.public
    assert store.load_recipient_public("k") == recipient.public
    assert store.load_host_public("k") == host.public
    where = tmp_path / "keys" / "host" / "k.key"
    with refused(f"{where}: encrypted, and no passphrase was given", KeyUnavailable):
        store.load_host("k")
    where.with_suffix(".pub").write_bytes(b"text")
    with refused(f"{where.with_suffix('.pub')}: text that is not a PEM block"):
        store.load_host_public("k")
    monkeypatch.setenv("K", host.public.to_pem().decode())
    assert store.load_host_public("env:K") == host.public
    monkeypatch.setenv("P", publisher.to_pem(b"word").decode())
    assert store.load_publisher("env:P", lambda: b"word").public == publisher.public
    with refused("env:P: encrypted, and no passphrase was given", KeyUnavailable):
        store.load_publisher("env:P")
    monkeypatch.setenv("K", "x" * (store.MAX_KEY_FILE + 1))
    with refused(f"env:K: larger than the limit of {store.MAX_KEY_FILE} bytes"):
        store.load_host_public("env:K")


def test_every_role_by_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which function of a backend each reference asks, with what."""
    asked: list[tuple[str, str, Any]] = []

    def answer(role: str) -> Any:
        def ask(uri: str, secret: Any) -> Any:
            asked.append((role, uri, secret))
            return SimpleNamespace(public=f"public {role}")

        return ask

    backend: Any = ModuleType("modelvault.keys.vault")
    for role in ("publisher", "host", "recipient", "recipient_public"):
        setattr(backend, role, answer(role))
    monkeypatch.setitem(sys.modules, "modelvault.keys.vault", backend)

    def secret() -> bytes:
        return b""

    uri = "vault://transit/k"
    for load, role in (
        (store.load_publisher, "publisher"), (store.load_host, "host"), (store.load_recipient, "recipient"),
        (store.load_recipient_public, "recipient_public"),
    ):  # fmt: skip
        found: Any = load(uri, secret)
        assert found.public == f"public {role}"
    assert store.load_publisher_public(uri, secret) == "public publisher"  # type: ignore[comparison-overlap]
    assert store.load_host_public(uri, secret) == "public host"  # type: ignore[comparison-overlap]
    assert [role for role, _, _ in asked] == ["publisher", "host", "recipient", "recipient_public", "publisher", "host"]
    assert {(u, s) for _, u, s in asked} == {(uri, secret)}


# -- text that stands in no file


def test_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "text")
    assert all(sources.is_source(reference) for reference in ("env:K", "fd:3", "keyring:k", "keyring:k:2"))
    assert not any(sources.is_source(reference) for reference in ("file:k", "env"))
    monkeypatch.setenv("K:2", "more")
    assert sources.read("env:K:2", limit=4) == b"more"
    assert sources.read("env:K", limit=4) == b"text"
    with refused("env:K: larger than the limit of 3 bytes"):
        sources.read("env:K", limit=3)
    for reference in ("env:NOT_THERE", "env:"):
        with refused(f"{reference}: empty or not there", KeyUnavailable):
            sources.read(reference, limit=3)


def test_descriptors(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    writing = os.open(tmp_path / "g", os.O_WRONLY | os.O_CREAT)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert sources.read(f"fd:{descriptor}", limit=10) == b"0123456789"
        os.lseek(descriptor, 0, os.SEEK_SET)
        with refused(f"fd:{descriptor}: larger than the limit of 9 bytes"):
            sources.read(f"fd:{descriptor}", limit=9)
        with refused(f"fd:{writing}: not open for reading", KeyUnavailable):
            sources.read(f"fd:{writing}", limit=9)
        with refused(f"fd:{folder}: is a directory", KeyUnavailable):
            sources.read(f"fd:{folder}", limit=9)
    finally:
        for open_one in (descriptor, writing, folder):
            os.close(open_one)
    for name in ("", "-1", "1.5", "x", "1234567"):
        with refused(f"fd:{name}: expected the number of an open file descriptor"):
            sources.read(f"fd:{name}", limit=9)
    with refused("fd:999999: not open for reading", KeyUnavailable):
        sources.read("fd:999999", limit=9)


def test_descriptors_are_read_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"0123456789")
    os.close(write)
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: real(fd, min(size, 3)))
    try:
        assert sources.read(f"fd:{read}", limit=10) == b"0123456789"
    finally:
        os.close(read)


def test_descriptors_are_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"0123456789" * 2)
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: real(fd, min(size, 5)))
    try:
        with refused(f"fd:{read}: larger than the limit of 10 bytes"):
            sources.read(f"fd:{read}", limit=10)
        assert real(read, 20) == b"123456789"  # eleven bytes were taken
    finally:
        os.close(read)
        os.close(write)


def test_a_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a keyring of one entry; a real one is tried in tests/backends."""

    class KeyringError(Exception):
        pass

    def get(service: str, name: str) -> str | None:
        if name == "locked":
            raise KeyringError("prompt dismissed")
        return {("modelvault", "bank"): "text"}.get((service, name))

    keyring, errors = ModuleType("keyring"), ModuleType("keyring.errors")
    keyring.get_password, errors.KeyringError = get, KeyringError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert sources.read("keyring:bank", limit=9) == b"text"
    with refused("keyring:none: empty or not there", KeyUnavailable):
        sources.read("keyring:none", limit=9)
    with refused("keyring:locked: the keyring does not answer (KeyringError)", KeyUnavailable):
        sources.read("keyring:locked", limit=9)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with refused("keyring:bank: needs the package keyring (pip install 'modelvault[keyring]')", KeyUnavailable):
        sources.read("keyring:bank", limit=9)


# -- keys elsewhere


def test_backends_are_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(remote.is_remote(reference) for reference in ("pkcs11:object=x", "tpm2:0x81", "pkcs11:a:b"))
    assert not any(remote.is_remote(reference) for reference in ("vault", "env:K"))
    for scheme, (name, package) in remote.BACKENDS.items():
        monkeypatch.setitem(sys.modules, f"modelvault.keys.{name}", None)
        words = f"{scheme}: needs the package {package} (pip install 'modelvault[{name}]')"
        with refused(words, KeyUnavailable):
            remote.backend(f"{scheme}:x:y")


@pytest.mark.parametrize(
    ("address", "fine"),
    [
        ("https://kms.example", True), ("http://127.0.0.1:8200", True), ("http://[::1]:8200", True),
        ("http://localhost", True), ("http://127.1.2.3", True), ("http://kms.example", False),
        ("http://10.0.0.1", False),
        ("ftp://localhost", False), ("kms.example", False), ("http://", False), ("", False),
    ],
)  # fmt: skip
def test_addresses(address: str, fine: bool) -> None:
    if fine:
        remote.check_address(address, "k")
    else:
        with refused("k: expected https, since keys would cross the network in the clear", KeyUnavailable):
            remote.check_address(address, "k")
    with refused("k: not a URL", KeyUnavailable):
        remote.check_address("http://[::1", "k")


def test_a_signer_elsewhere_is_not_believed() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    signer = remote.as_publisher(private.public_key(), "uri", private.sign)
    assert isinstance(signer, RemoteSigner)
    signer.public.verify(b"m", signer.sign(b"m"))
    lying = remote.as_host(private.public_key(), "uri", lambda _: bytes(64))
    with refused(f"what holds {lying.public.fingerprint} returned a wrong signature", KeyUnavailable):
        lying.sign(b"m")
    for attempt in (signer.__reduce__, lying.__reduce__):
        with pytest.raises(TypeError, match=r"^a signer cannot be pickled or copied$"):
            attempt()
    with pytest.raises(FormatError, match=r"^uri: not a key of this role"):
        remote.as_publisher(x25519.X25519PrivateKey.generate().public_key(), "uri", private.sign)
    with pytest.raises(FormatError, match=r"^uri: not a key of this role"):
        remote.as_host(ec.generate_private_key(ec.SECP256R1()).public_key(), "uri", private.sign)


def test_ecdh_elsewhere() -> None:
    private = ec.generate_private_key(ec.SECP256R1())

    def ecdh(point: bytes) -> bytes:
        sender = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        return private.exchange(ec.ECDH(), sender)

    key = EcdhRecipient(private.public_key(), "uri", ecdh)
    wrapped = key.public.wrap(b"bundle", b"info")
    assert key.unwrap(wrapped, b"info") == b"bundle"
    for bad, info in ((wrapped, b"other"), (wrapped[:80], b"info"), (b"\x04" + bytes(120), b"info")):
        with refused(f"the key bundle does not open with {key.public.fingerprint}", NoMatchingKey):
            key.unwrap(bad, info)
    with pytest.raises(FormatError, match=r"^uri: not a key of this role"):
        EcdhRecipient(ed25519.Ed25519PrivateKey.generate().public_key(), "uri", ecdh)


def test_a_service_s_key_has_a_name_of_its_own() -> None:
    key = ServiceRecipient("alg", "place", lambda b, i: b + i, lambda w, i: w.removesuffix(i))
    digest = hashlib.sha256(b"modelvault/v1/service" + b"alg\0place").digest()
    assert key.fingerprint == "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    assert key.algorithm == "alg"
    assert key.public is key
    assert key.unwrap(key.wrap(b"bundle", b"info"), b"info") == b"bundle"
