"""Keys in a TPM 2.0, at persistent handles, named ``tpm2:0x81010001`` (docs/KEYS.md). They cannot leave their machine.

The TPM is spoken to through tpm2-tools, found on the PATH; ``TPM2TOOLS_TCTI`` chooses another TPM than the default one.
``?auth=SOURCE`` says where a key's authorization value is: ``file:PATH``, ``env:``, ``fd:``, ``keyring:``, or ``ask``.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys import store
from modelvault.keys.material import PublisherPublic, RecipientPublic
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import EcdhRecipient, HostSigner, RemoteSigner, as_publisher

SECONDS = 20
MAX_OUTPUT = 4096
_URI = re.compile(r"tpm2:(0x81[0-9a-fA-F]{6})(?:\?auth=(.+))?")
_REFUSALS = (  # response codes of the TPM 2.0 specification, part 2, as tpm2-tools prints them
    (re.compile("0x98E|0x9A2", re.I), "wrong authorization value (not tried again: the TPM locks after a few)"),
    (re.compile("0x921", re.I), "the TPM is locked after wrong authorization values"),
    (re.compile("0x18B", re.I), "no key at this handle"),
    (re.compile("tcti", re.I), "no TPM can be reached"),
)
_DIGESTS = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
_COORDINATE = 32  # of P-256


class TpmKey:
    """One key pair in the TPM. One call at a time; after a refusal none at all, since each could lock the TPM."""

    def __init__(self, uri: str, secret: Passphrase | None) -> None:
        found = _URI.fullmatch(uri)
        if found is None:
            raise FormatError(f"{uri[:80]}: expected tpm2:0x81 and six hex digits, with ?auth=SOURCE at most")
        self._handle, self._auth = found[1], found[2]
        self.name = f"tpm2:{self._handle}"
        self._secret = secret
        if not hasattr(os, "memfd_create"):
            raise KeyUnavailable(f"{self.name}: keys in a TPM need Linux")
        self._lock = threading.Lock()
        self._refused = ""
        pem = self._run("tpm2_readpublic", "-f", "pem")
        try:
            self.public: Any = serialization.load_pem_public_key(pem)
        except ValueError:
            self.public = None
        if not isinstance(self.public, ec.EllipticCurvePublicKey):
            raise FormatError(f"{self.name}: expected an elliptic curve key")

    def sign(self, message: bytes) -> bytes:
        """A DER signature by ECDSA, over a digest made here."""
        name = _DIGESTS[self.public.curve.name]
        digest = hashlib.new(name, message).digest()
        return self._use("tpm2_sign", "-g", name, "-d", "-f", "plain", positional=digest)

    def ecdh(self, point: bytes) -> bytes:
        """The shared x coordinate with a sender's uncompressed P-256 point; ValueError where it is not on the curve."""
        ec.EllipticCurvePublicKey.from_encoded_point(self.public.curve, point)
        x, y = point[1 : 1 + _COORDINATE], point[1 + _COORDINATE :]
        shared = self._use("tpm2_ecdhzgen", option=("-u", _sized(_sized(x) + _sized(y))))
        size = int.from_bytes(shared[2:4], "big")  # TPM2B_ECC_POINT: size, x with its size, y with its size
        if not 0 < size <= _COORDINATE or len(shared) < 4 + size:
            raise KeyUnavailable(f"{self.name}: the TPM's answer is not understood")
        return shared[4 : 4 + size].rjust(_COORDINATE, b"\0")

    def _use(self, tool: str, *options: str, **inputs: Any) -> bytes:
        """A command with the private key."""
        with self._lock:
            if self._refused:
                raise KeyUnavailable(self._refused)
            try:
                return self._run(tool, *options, auth=self._authorization(), **inputs)
            except KeyUnavailable as error:
                self._refused = str(error)
                raise

    def _authorization(self) -> bytes | None:
        if self._auth is None:
            return None
        if self._auth != "ask":
            return store.passphrase_file(Path(self._auth.removeprefix("file:")))
        if self._secret is None:
            raise KeyUnavailable(f"{self.name}: the key wants an authorization value, and none was given")
        return self._secret()

    def _run(
        self,
        tool: str,
        *options: str,
        auth: bytes | None = None,
        option: tuple[str, bytes] | None = None,
        positional: bytes | None = None,
    ) -> bytes:
        """Run one of tpm2-tools; what goes in and out lies in memory files, and secrets never in arguments."""
        program = shutil.which(tool)
        if program is None:
            raise KeyUnavailable(f"{self.name}: needs tpm2-tools: {tool} is not on the PATH")
        with _memory_file(option[1] if option else positional or b"") as given, _memory_file(b"") as output:
            command = [program, "-Q", "-c", self._handle, *options, "-o", f"/dev/fd/{output}"]
            command += ["-p", "file:-"] if auth is not None else []
            command += [option[0], f"/dev/fd/{given}"] if option else []
            command += [f"/dev/fd/{given}"] if positional is not None else []
            try:
                done = subprocess.run(  # noqa: S603 - a fixed list of programs, and no shell
                    command,
                    input=auth or b"",
                    capture_output=True,
                    timeout=SECONDS,
                    pass_fds=(given, output),
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise KeyUnavailable(f"{self.name}: no answer within {SECONDS} seconds") from None
            if done.returncode:
                raise KeyUnavailable(f"{self.name}: {_reason(done.stderr.decode(errors='replace'))}")
            return os.pread(output, MAX_OUTPUT, 0)


def _reason(printed: str) -> str:
    for pattern, words in _REFUSALS:
        if pattern.search(printed):
            return words
    code = re.search(r"\((0x[0-9a-fA-F]+)\)", printed)
    return f"the TPM refuses ({code[1] if code else 'no reason given'})"


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("modelvault")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def publisher(uri: str, secret: Passphrase | None) -> RemoteSigner[PublisherPublic]:
    key = TpmKey(uri, secret)
    return as_publisher(key.public, key.name, key.sign)


def host(uri: str, secret: Passphrase | None) -> HostSigner:
    raise FormatError(f"{uri}: audit logs are signed with Ed25519, which TPMs do not have")


def recipient(uri: str, secret: Passphrase | None) -> EcdhRecipient:
    key = TpmKey(uri, secret)
    return EcdhRecipient(key.public, key.name, key.ecdh)


def recipient_public(uri: str, secret: Passphrase | None) -> RecipientPublic:
    return recipient(uri, secret).public
