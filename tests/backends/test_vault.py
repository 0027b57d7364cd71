"""Keys in a real OpenBao server's transit engine, in development mode on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import pytest
from story import seal_grant_load_rotate

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import store

ROOT = "root-token-of-a-test"


@dataclass
class Server:
    """A running server, asked through its own command line."""

    program: str
    address: str
    process: subprocess.Popen[bytes]

    def cli(self, *command: str, token: str = ROOT) -> str:
        environment = {**os.environ, "BAO_ADDR": self.address, "BAO_TOKEN": token}
        done = subprocess.run([self.program, *command], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    def make(self, name: str, kind: str) -> str:
        self.cli("write", "-f", f"transit/keys/{name}", f"type={kind}")
        return f"vault://transit/{name}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    needs.module("hvac")
    program = needs.program("bao")
    home, port = tmp_path_factory.mktemp("bao"), needs.free_port()
    command = [program, "server", "-dev", f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}"]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen([*command, "-dev-no-store-token"], stdout=log, stderr=log, env={"HOME": str(home)}) as process,
    ):
        server = Server(program, f"http://127.0.0.1:{port}", process)
        try:
            for _ in range(200):
                if b"Development mode should NOT be used" in (home / "log").read_bytes():
                    break
                time.sleep(0.1)
            server.cli("secrets", "enable", "transit")
            yield server
        finally:
            process.terminate()


def test_a_private_authority(tmp_path: Path) -> None:
    """The certificates of VAULT_CACERT are read when hvac is imported, so in a process of its own."""
    needs.module("hvac")
    port = needs.free_port()
    command = [needs.program("bao"), "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={tmp_path}"]
    command += [f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
    environment = {"PATH": os.environ["PATH"], "VAULT_ADDR": f"https://127.0.0.1:{port}", "VAULT_TOKEN": ROOT}
    script = "from modelvault.keys import store; store.load_publisher('vault://transit/none')"

    def answer(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment | more
        )
        return done.stderr

    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env={"HOME": str(tmp_path)}) as process,
    ):
        try:
            for _ in range(200):
                if b"Development mode should NOT be used" in (tmp_path / "log").read_bytes():
                    break
                time.sleep(0.1)
            assert "the server's certificate is not trusted" in answer()
            assert "no such key or mount" in answer(VAULT_CACERT=str(next(tmp_path.glob("*ca*.pem"))))
        finally:
            process.terminate()


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("VAULT_ADDR", running.address)
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    return running


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def test_transit_signs(server: Server, kind: str) -> None:
    uri = server.make(f"sign-{kind}", kind)
    key = store.load_publisher(uri)
    assert key.public.algorithm == kind
    for message in (b"", b"m", bytes(1_000_000)):
        key.public.verify(message, key.sign(message))
    server.cli("write", "-f", f"transit/keys/sign-{kind}/rotate")
    rotated, pinned = store.load_publisher(uri), store.load_publisher(f"{uri}?version=1")
    assert rotated.public != key.public
    assert pinned.public == key.public == store.load_publisher_public(f"{uri}?version=1")
    rotated.public.verify(b"m", rotated.sign(b"m"))
    pinned.public.verify(b"m", pinned.sign(b"m"))
    key.public.verify(b"m", key.sign(b"m"))  # a key that was loaded keeps its version
    with pytest.raises(KeyUnavailable, match=f"^{uri}: has no version 3$"):
        store.load_publisher(f"{uri}?version=3")


def test_transit_unwraps(server: Server) -> None:
    uri = server.make("bank", "aes256-gcm96")
    key, public = store.load_recipient(uri), store.load_recipient_public(uri)
    assert key.public.fingerprint == public.fingerprint
    assert key.public.fingerprint != store.load_recipient(server.make("other", "aes256-gcm96")).public.fingerprint
    wrapped = public.wrap(b"bundle", b"here")
    server.cli("write", "-f", "transit/keys/bank/rotate")
    assert key.unwrap(wrapped, b"here") == b"bundle"
    for bad, info in ((wrapped, b"there"), (wrapped[:-4], b"here"), (b"", b"here"), (b"\xff", b"here")):
        with pytest.raises(NoMatchingKey, match=f"^the key bundle does not open with {uri}$"):
            key.unwrap(bad, info)
    server.cli("write", "transit/keys/bank/config", "min_decryption_version=2")
    with pytest.raises(NoMatchingKey):
        key.unwrap(wrapped, b"here")


def test_seal_grant_load_rotate(server: Server, parties: Any) -> None:
    publisher, host = (store.load_publisher(server.make("release", "ecdsa-p384")), server.make("host", "ed25519"))
    bank, renewed = (store.load_recipient(server.make(n, "aes256-gcm96")) for n in ("bank-1", "bank-2"))
    seal_grant_load_rotate(parties, publisher, bank, renewed, store.load_host(host))


def test_a_grant_of_another_algorithm_is_refused(server: Server, parties: Any) -> None:
    """What a grant says about its algorithm is held against the key, not believed."""
    bank = store.load_recipient(server.make("bank-3", "aes256-gcm96"))

    class Mislabelled:
        fingerprint, algorithm = bank.public.fingerprint, "x25519"
        wrap = staticmethod(bank.public.wrap)

    path = parties.seal(recipients=[Mislabelled()])
    with pytest.raises(NoMatchingKey, match="wrapped with 'x25519', expected vault-transit"):
        parties.load(path, identity=bank)


def test_what_cannot_be_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    aes, rsa = server.make("aes", "aes256-gcm96"), server.make("rsa", "rsa-2048")
    ecdsa = server.make("p256", "ecdsa-p256")
    form = "expected vault://MOUNT/NAME, with ?version=N at most"
    signs = "expected a key of type ed25519, ecdsa-p256 or ecdsa-p384 or ecdsa-p521, got"
    wraps = "expected a key of type aes128-gcm96, aes256-gcm96, chacha20-poly1305, xchacha20-poly1305, got rsa-2048"
    for uri, load_key, kind, words in (
        ("vault://transit/none", store.load_publisher, KeyUnavailable, "vault://transit/none: no such key or mount"),
        ("vault://transit", store.load_publisher, FormatError, f"vault://transit: {form}"),
        ("vault:" + "x" * 200, store.load_publisher, FormatError, f"vault:{'x' * 194}: {form}"),
        (f"{ecdsa}?version=x", store.load_publisher, FormatError, f"{ecdsa}?version=x: {form}"),
        (f"{ecdsa}?v=1", store.load_publisher, FormatError, f"{ecdsa}?v=1: {form}"),
        (f"{ecdsa}?version=7", store.load_publisher, KeyUnavailable, f"{ecdsa}: has no version 7"),
        (f"{aes}?version=1", store.load_recipient, FormatError, f"{aes}: version: only for keys that sign"),
        (aes, store.load_publisher, FormatError, f"{aes}: {signs} aes256-gcm96"),
        (rsa, store.load_publisher, FormatError, f"{rsa}: {signs} rsa-2048"),
        (ecdsa, store.load_host, FormatError, f"{ecdsa}: not a key of this role (expected ed25519)"),
        (rsa, lambda uri: store.load_recipient_public(uri).wrap(b"bundle", b"here"), FormatError, f"{rsa}: {wraps}"),
    ):
        with pytest.raises(kind, match=f"^{re.escape(words)}$"):
            load_key(uri)
    with pytest.raises(
        KeyUnavailable, match=r"^vault://nowhere/none: (no such key or mount|permission denied, or .*)$"
    ):
        store.load_publisher("vault://nowhere/none")


def test_another_mount(server: Server) -> None:
    server.cli("secrets", "enable", "-path=team/keys", "transit")
    for name, kind in (("sign", "ecdsa-p256"), ("bank", "aes256-gcm96")):
        server.cli("write", "-f", f"team/keys/keys/{name}", f"type={kind}")
    key, bank = store.load_publisher("vault://team/keys/sign"), store.load_recipient("vault://team/keys/bank")
    key.public.verify(b"m", key.sign(b"m"))
    assert bank.unwrap(bank.public.wrap(b"bundle", b"here"), b"here") == b"bundle"
    assert bank.public.fingerprint != store.load_recipient(server.make("bank", "aes256-gcm96")).public.fingerprint


def test_where_the_server_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAULT_ADDR and VAULT_TOKEN, or else OpenBao's own names; over https, except on this machine."""
    from modelvault.keys import vault

    uri = server.make("found", "ed25519")
    monkeypatch.setenv("VAULT_ADDR", "http://vault.example.com:8200")
    with pytest.raises(KeyUnavailable, match=f"^{uri}: VAULT_ADDR: expected https, since keys would cross"):
        store.load_publisher(uri)
    for name, other in (("ADDR", server.address), ("TOKEN", ROOT)):
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.delenv(f"VAULT_{name}")
        with pytest.raises(KeyUnavailable, match=f"^{uri}: VAULT_ADDR and VAULT_TOKEN are not both set$"):
            store.load_publisher(uri)
        monkeypatch.setenv(f"BAO_{name}", other)
        store.load_publisher(uri)
        monkeypatch.setenv(f"VAULT_{name}", other)
    assert vault._client(uri).adapter._kwargs["timeout"] == (5.0, 10.0)  # hvac's own limit is longer


def test_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = server.make("guarded", "aes256-gcm96")
    wrapped = store.load_recipient_public(uri).wrap(b"bundle", b"here")
    monkeypatch.setenv("VAULT_TOKEN", "wrong-token")
    with pytest.raises(KeyUnavailable, match="permission denied") as refused:
        store.load_recipient(uri).unwrap(wrapped, b"here")
    assert "wrong-token" not in str(refused.value)
    token = server.cli("token", "create", "-ttl=1s", "-field=token")
    monkeypatch.setenv("VAULT_TOKEN", token)
    key = store.load_recipient(uri)
    assert key.unwrap(wrapped, b"here") == b"bundle"
    time.sleep(1.5)
    with pytest.raises(KeyUnavailable, match="token has expired"):
        key.unwrap(wrapped, b"here")


def test_refusals_are_audited_denials(server: Server, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = server.make("bank-6", "aes256-gcm96")
    path = parties.seal(recipients=[store.load_recipient_public(uri)])
    token = server.cli("token", "create", "-ttl=1s", "-field=token")
    time.sleep(1.5)
    monkeypatch.setenv("VAULT_TOKEN", token)
    with pytest.raises(KeyUnavailable, match=f"^{uri}: permission denied, or the token has expired$"):
        parties.load(path, identity=uri)
    monkeypatch.setenv("VAULT_TOKEN", ROOT)
    server.cli("write", "transit/keys/bank-6/config", "deletion_allowed=true")
    server.cli("delete", "transit/keys/bank-6")
    with pytest.raises(KeyUnavailable, match=f"^{uri}: no such key or mount$"):
        parties.load(path, identity=uri)
    assert parties.events() == ["opened", *["load.intent", "load.denied"] * 2]
    assert token not in (parties.folder / "audit.log").read_text()


def test_outages_are_audited_denials(server: Server, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = store.load_recipient(server.make("bank-4", "aes256-gcm96"))
    path = parties.seal(recipients=[bank.public])
    monkeypatch.setattr("modelvault.keys.vault.ANSWER_SECONDS", 0.5)
    impatient = store.load_recipient("vault://transit/bank-4")
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(KeyUnavailable, match=r"^vault://transit/bank-4: no answer within 0 seconds$"):
            parties.load(path, identity=impatient)
    finally:
        server.process.send_signal(signal.SIGCONT)
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{needs.free_port()}")
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/bank-4: cannot connect to the server$"):
        parties.load(path, identity="vault://transit/bank-4")
    assert parties.events() == ["opened", "load.intent", "load.denied", "load.denied"]
    assert [r.fields.get("reason") for r in parties.records()][2:] == ["KeyUnavailable"] * 2


def test_a_sealed_server(server: Server, parties: Any) -> None:
    """The last test: a development server does not come back from this."""
    bank = store.load_recipient(server.make("bank-5", "aes256-gcm96"))
    path = parties.seal(recipients=[bank.public])
    server.cli("operator", "seal")
    with pytest.raises(KeyUnavailable, match=r"^vault://transit/bank-5: the server is sealed or down$"):
        parties.load(path, identity=bank)
    with pytest.raises(KeyUnavailable, match="sealed or down"):
        parties.load(path, identity="vault://transit/bank-5")
