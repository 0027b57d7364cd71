"""Keys in OpenBao's or Vault's transit engine, named ``vault://MOUNT/NAME`` (docs/KEYS.md).

The server comes from VAULT_ADDR (or BAO_ADDR), the token from VAULT_TOKEN (or BAO_TOKEN), as for its own command line.
``?version=N`` pins the version of a signing key; without it the latest one signs.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import hvac
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hvac import exceptions as failure

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys.material import HostPublic, PublisherPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import RemoteSigner, ServiceRecipient, as_host, as_publisher, check_address

T = TypeVar("T")

ALGORITHM = "vault-transit"
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0  # one attempt: a load waits no longer for a server that is away
_URI = re.compile(r"vault://([A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)/([A-Za-z0-9_.-]+)(?:\?version=([0-9]{1,9}))?")
_HASHES = {"ecdsa-p256": "sha2-256", "ecdsa-p384": "sha2-384", "ecdsa-p521": "sha2-512"}
_AEADS = ("aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")
_WORDS: dict[type[Exception], str] = {
    failure.Forbidden: "permission denied, or the token has expired",
    failure.Unauthorized: "permission denied, or the token has expired",
    failure.InvalidPath: "no such key or mount",
    failure.VaultDown: "the server is sealed or down",
    failure.VaultNotInitialized: "the server is not initialised",
    failure.RateLimitExceeded: "the server wants fewer requests",
}


class TransitKey:
    """One named key of a transit engine."""

    def __init__(self, uri: str) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise FormatError(f"{uri[:200]}: expected vault://MOUNT/NAME, with ?version=N at most")
        self.mount, self.key, self.version = found[1], found[2], int(found[3] or 0)
        self.name = f"vault://{self.mount}/{self.key}"
        self._client = _client(self.name)

    def ask(self, call: Callable[[hvac.Client], Any]) -> Any:
        """What the server answers; KeyUnavailable says in one line why it does not. InvalidRequest passes."""
        try:
            return call(self._client)
        except failure.InvalidRequest:
            raise
        except failure.VaultError as error:
            words = _WORDS.get(type(error)) or f"the server answers {type(error).__name__}"
        except requests.Timeout:
            words = f"no answer within {ANSWER_SECONDS:.0f} seconds"
        except requests.exceptions.SSLError:
            words = "the server's certificate is not trusted"
        except (requests.RequestException, ValueError):
            words = "cannot connect to the server"
        raise KeyUnavailable(f"{self.name}: {words}") from None

    def facts(self) -> dict[str, Any]:
        """The key's type and public versions."""
        try:
            answer = self.ask(lambda client: client.secrets.transit.read_key(self.key, mount_point=self.mount))
        except failure.InvalidRequest as error:
            self.refused(error)
        return _field(answer, dict, self.name, "data")

    def refused(self, error: failure.VaultError) -> NoReturn:
        raise KeyUnavailable(f"{self.name}: the server refuses: {' '.join(error.errors or [])[:200]}") from None

    def place(self) -> str:
        """Names this key among all servers: the cluster's id, the mount, the name."""
        health = self.ask(lambda client: client.sys.read_health_status(standby_ok=True, method="GET"))
        cluster = health.get("cluster_id") if isinstance(health, dict) else None
        if not cluster:
            raise KeyUnavailable(f"{self.name}: the server is sealed or down")
        return f"{cluster}\0{self.mount}\0{self.key}"


def _client(name: str) -> hvac.Client:
    address = os.environ.get("VAULT_ADDR") or os.environ.get("BAO_ADDR")
    token = os.environ.get("VAULT_TOKEN") or os.environ.get("BAO_TOKEN")
    if not address or not token:
        raise KeyUnavailable(f"{name}: VAULT_ADDR and VAULT_TOKEN are not both set")
    check_address(address, f"{name}: VAULT_ADDR")
    # A redirect would carry the token to wherever the answer points.
    timeout: Any = (CONNECT_SECONDS, ANSWER_SECONDS)
    return hvac.Client(address, token, timeout=timeout, allow_redirects=False)


def _signer(uri: str) -> tuple[TransitKey, Any, Callable[[bytes], bytes]]:
    """A signing key: where it is, its public half, and how it signs."""
    key = TransitKey(uri)
    facts = key.facts()
    kind = _field(facts, str, key.name, "type")
    version = key.version or _field(facts, int, key.name, "latest_version")
    known = _field(facts, dict, key.name, "keys").get(str(version))
    if known is None:
        raise KeyUnavailable(f"{key.name}: has no version {version}")
    if kind not in ("ed25519", *_HASHES):
        raise FormatError(f"{key.name}: expected a key of type ed25519, {' or '.join(_HASHES)}, got {kind}")
    public = _public(kind, _field(known, str, key.name, "public_key"), key.name)

    def sign(message: bytes) -> bytes:
        settings: dict[str, Any] = {"key_version": version, "mount_point": key.mount}
        if kind in _HASHES:  # a digest made here: a statement may be larger than a request may be
            message = hashlib.new(_HASHES[kind].replace("sha2-", "sha"), message).digest()
            settings |= {"hash_algorithm": _HASHES[kind], "prehashed": True, "marshaling_algorithm": "asn1"}
        try:
            answer = key.ask(lambda c: c.secrets.transit.sign_data(key.key, hash_input=_text(message), **settings))
        except failure.InvalidRequest as error:
            key.refused(error)
        signature = _field(answer, str, key.name, "data", "signature")
        return _bytes(signature.rpartition(":")[2], key.name)

    return key, public, sign


def _public(kind: str, text: str, name: str) -> Any:
    try:
        if kind == "ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(_bytes(text, name))
        return serialization.load_pem_public_key(text.encode())
    except ValueError:
        raise FormatError(f"{name}: the server's public key is not understood") from None


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    key, public, sign = _signer(uri)
    return as_publisher(public, key.name, sign)


def host(uri: str, secret: Passphrase | None) -> RemoteSigner[HostPublic]:
    key, public, sign = _signer(uri)
    return as_host(public, key.name, sign)


def recipient(uri: str, secret: Passphrase | None) -> ServiceRecipient:
    """Bundles are encrypted by the server, with HPKE's info as associated data: a bundle opens for its model alone."""
    key = TransitKey(uri)
    if key.version:
        raise FormatError(f"{key.name}: version: only for keys that sign")

    def wrap(bundle: bytes, info: bytes) -> bytes:
        kind = _field(key.facts(), str, key.name, "type")
        if kind not in _AEADS:
            raise FormatError(f"{key.name}: expected a key of type {', '.join(_AEADS)}, got {kind}")
        settings = {"plaintext": _text(bundle), "associated_data": _text(info), "mount_point": key.mount}
        try:
            answer = key.ask(lambda client: client.secrets.transit.encrypt_data(key.key, **settings))
        except failure.InvalidRequest as error:
            key.refused(error)
        return _field(answer, str, key.name, "data", "ciphertext").encode()

    def unwrap(wrapped: bytes, info: bytes) -> bytes:
        settings = {"ciphertext": wrapped.decode("latin-1"), "associated_data": _text(info), "mount_point": key.mount}
        try:
            answer = key.ask(lambda client: client.secrets.transit.decrypt_data(key.key, **settings))
        except failure.InvalidRequest as error:
            if "key not found" in " ".join(error.errors or []):
                raise KeyUnavailable(f"{key.name}: {_WORDS[failure.InvalidPath]}") from None
            raise NoMatchingKey(f"the key bundle does not open with {key.name}") from None
        return _bytes(_field(answer, str, key.name, "data", "plaintext"), key.name)

    return ServiceRecipient(ALGORITHM, key.place(), wrap, unwrap)


recipient_public = recipient


def _field(answer: Any, form: type[T], name: str, *path: str) -> T:
    """What stands at a place of the server's answer."""
    for key in path:
        answer = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(answer, form):
        raise KeyUnavailable(f"{name}: the server's answer is not understood")
    return answer


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise KeyUnavailable(f"{name}: the server's answer is not understood") from None
