"""Key files: public ones for the three roles, and owner's secrets that are none. No private key is written here."""

import hashlib
from collections.abc import Iterator

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, mldsa, mlkem, x25519
from vectors.builder.base import HOST, PUBLISHER, Vector, b64, noise, sha

ROLES = ("publisher-key", "recipient-key", "host-key")


def pem(der: bytes, label: str = "PUBLIC KEY", width: int = 64) -> bytes:
    text = b64(der)
    lines = "".join(text[at : at + width] + "\n" for at in range(0, len(text), width))
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n".encode()


def of(public: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form)  # type: ignore[attr-defined,no-any-return]


def scalar(name: str) -> int:
    return int.from_bytes(sha(name.encode())) >> 8


P256 = of(ec.derive_private_key(scalar("p256"), ec.SECP256R1()).public_key())
P384 = of(ec.derive_private_key(scalar("p384"), ec.SECP384R1()).public_key())
P521 = of(ec.derive_private_key(scalar("p521"), ec.SECP521R1()).public_key())
K256 = of(ec.derive_private_key(scalar("k256"), ec.SECP256K1()).public_key())
MLDSA65 = of(mldsa.MLDSA65PrivateKey.from_seed_bytes(noise("ml-dsa", 32)).public_key())
MLDSA44 = of(mldsa.MLDSA44PrivateKey.from_seed_bytes(noise("ml-dsa", 32)).public_key())
MLKEM768 = of(mlkem.MLKEM768PrivateKey.from_seed_bytes(noise("ml-kem", 64)).public_key())
X25519 = of(x25519.X25519PrivateKey.from_private_bytes(noise("x25519", 32)).public_key())
ED448 = of(ed448.Ed448PrivateKey.from_private_bytes(noise("ed448", 57)).public_key())
ED25519 = PUBLISHER.pem


def fingerprint(*pems: bytes) -> tuple[tuple[str, str], ...]:
    ders = b"".join(serialization.load_pem_public_key(p).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo) for p in pems)  # fmt: skip
    return (("fingerprint", "SHA256:" + b64(hashlib.sha256(ders).digest()).rstrip("=")),)


def vectors() -> Iterator[Vector]:
    yield from _good()
    for kind, name, about, data in [*_roles(), *_pem()]:
        yield Vector(kind, name, about, "FormatError", data)
    for name, about, data in _secrets():
        yield Vector("owner-secret", name, about, "FormatError", data)
    yield Vector("owner-secret", "public", "a public key", "FormatError", ED25519)


def _good() -> Iterator[Vector]:
    for kind, name, parts in [
        ("publisher-key", "ed25519", [ED25519]), ("publisher-key", "p256", [P256]), ("publisher-key", "p384", [P384]),
        ("publisher-key", "p521", [P521]), ("publisher-key", "ml-dsa-65", [MLDSA65]), ("publisher-key", "hybrid", [ED25519, MLDSA65]),
        ("recipient-key", "x25519", [X25519]), ("recipient-key", "p256", [P256]),
        ("recipient-key", "hybrid", [MLKEM768, X25519]), ("host-key", "ed25519", [HOST.pem]),
    ]:  # fmt: skip
        yield Vector(kind, f"good-{name}", "a key of this role", "accepted", b"".join(parts), fingerprint(*parts))
    noted = b"# of the test vectors\n\n" + ED25519
    yield Vector("publisher-key", "good-comment", "comments and blank lines", "accepted", noted, fingerprint(ED25519))
    crlf = ED25519.replace(b"\n", b"\r\n")
    yield Vector("publisher-key", "good-crlf", "line ends of Windows", "accepted", crlf, fingerprint(ED25519))


def _roles() -> Iterator[tuple[str, str, str, bytes]]:
    wrong = {
        "publisher-key": {"x25519": X25519, "ed448": ED448, "secp256k1": K256, "ml-dsa-44": MLDSA44,
                          "swapped": MLDSA65 + ED25519, "two-ed25519": ED25519 + HOST.pem, "three": ED25519 + MLDSA65 + P256},
        "recipient-key": {"ed25519": ED25519, "p384": P384, "ml-kem-alone": MLKEM768, "swapped": X25519 + MLKEM768},
        "host-key": {"x25519": X25519, "p256": P256, "ml-dsa-65": MLDSA65, "hybrid": ED25519 + MLDSA65},
    }  # fmt: skip
    for kind, cases in wrong.items():
        for name, data in cases.items():
            yield kind, f"role-{name}", f"no key of this role: {name}", data


def _pem() -> Iterator[tuple[str, str, str, bytes]]:
    der = PUBLISHER.der
    point = bytearray(serialization.load_pem_public_key(P256).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
    point[-1] ^= 1
    cases = {
        "empty": ("no bytes", b""),
        "text": ("text that is no PEM", b"ssh-ed25519 AAAA\n"),
        "text-before": ("text before the block", b"my key\n" + ED25519),
        "text-after": ("text behind the block", ED25519 + b"my key\n"),
        "der": ("DER without PEM", der),
        "label": ("a certificate's label", pem(der, "CERTIFICATE")),
        "label-rsa": ("an RSA key's label", pem(der, "RSA PUBLIC KEY")),
        "label-differs": ("begin and end differ", ED25519.replace(b"END PUBLIC KEY", b"END CERTIFICATE")),
        "cut": ("no end line", ED25519.split(b"-----END")[0]),
        "base64": ("a character that is not base64", ED25519.replace(b"MCow", b"M!ow")),
        "der-empty": (
            "a block of nothing but padding",
            b"-----BEGIN PUBLIC KEY-----\n====\n-----END PUBLIC KEY-----\n",
        ),
        "der-cut": ("the DER ends early", pem(der[:-1])),
        "der-tail": ("a byte behind the DER", pem(der + b"\0")),
        "der-oid": ("an unknown algorithm", pem(der.replace(b"\x2b\x65\x70", b"\x2b\x65\x7f"))),
        "der-length": ("a key of 31 bytes", pem(bytes.fromhex("3029300506032b6570032000") + der[-31:])),
        "point": ("a point that is not on its curve", pem(bytes(point))),
        "blocks-5": ("five blocks", ED25519 * 5),
        "utf16": ("UTF-16", ED25519.decode().encode("utf-16")),
        "nul": ("a NUL in the base64", ED25519.replace(b"MCow", b"MC\0w")),
    }
    for name, (about, data) in cases.items():
        yield "publisher-key", name, about, data
    for name in ("empty", "text", "label", "cut", "der-cut"):
        about, data = cases[name]
        yield "host-key", name, about, data
        yield "recipient-key", name, about, data


def _secrets() -> Iterator[tuple[str, str, bytes]]:
    label = "MODELVAULT OWNER SECRET"
    yield "empty", "no bytes", b""
    yield "short", "31 zero bytes", pem(bytes(31), label)
    yield "long", "33 zero bytes", pem(bytes(33), label)
    yield "none", "no bytes in the block", pem(b"", label).replace(b"-----\n-----", b"-----\n=\n-----")
    yield "base64", "bits that are no base64", pem(bytes(32), label).replace(b"AAAA", b"AA=A", 1)
    yield "label", "another label", pem(bytes(32), "SECRET")
    yield "twice", "two secrets", pem(bytes(32), label) * 2
    yield "raw", "32 bytes without PEM", bytes(32)
    yield "encrypted-short", "an encrypted secret of 75 bytes", pem(bytes(75), f"ENCRYPTED {label}")
