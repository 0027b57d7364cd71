"""Keys from the environment, a file descriptor, and a real keyring."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import needs
import pytest

from modelvault.errors import FormatError, KeyUnavailable
from modelvault.keys import HostKey, OwnerSecret, PublisherKey, RecipientKey, store
from modelvault.keys.store import MAX_KEY_FILE
from modelvault.loader import load


def pipe(data: bytes) -> int:
    """The reading end of a pipe that gives ``data`` and ends."""
    read, write = os.pipe()

    def feed() -> None:
        with open(write, "wb") as file:
            file.write(data)

    threading.Thread(target=feed).start()
    return read


@pytest.mark.parametrize("passphrase", [None, b"horse"])
def test_every_role_from_the_environment(monkeypatch: pytest.MonkeyPatch, passphrase: bytes | None) -> None:
    def ask() -> bytes:
        return b"horse"

    publisher, recipient, host = PublisherKey.generate(), RecipientKey.generate(), HostKey.generate()
    owner = OwnerSecret.generate()
    monkeypatch.setenv("P", publisher.to_pem(passphrase).decode())
    monkeypatch.setenv("R", recipient.to_pem(passphrase).decode())
    monkeypatch.setenv("H", host.to_pem(passphrase).decode())
    monkeypatch.setenv("O", owner.to_pem(passphrase).decode())
    monkeypatch.setenv("PUB", recipient.public.to_pem().decode())
    assert store.load_publisher("env:P", ask).public == publisher.public
    assert store.load_recipient("env:R", ask).public == recipient.public
    assert store.load_host("env:H", ask).public == host.public
    assert store.load_owner("env:O", ask).secret == owner.secret
    assert store.load_recipient_public("env:PUB") == recipient.public


def test_a_descriptor_serves_one_key() -> None:
    key = RecipientKey.generate()
    descriptor = pipe(key.to_pem(None))
    assert store.load_recipient(f"fd:{descriptor}").public == key.public
    with pytest.raises(KeyUnavailable, match="empty or not there"):
        store.load_recipient(f"fd:{descriptor}")
    os.close(descriptor)
    with pytest.raises(KeyUnavailable, match="not open for reading"):
        store.load_recipient(f"fd:{descriptor}")


def test_what_is_not_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(KeyUnavailable, match="env:NONE: empty or not there"):
        store.load_recipient("env:NONE")
    with pytest.raises(FormatError) as refused:
        store.load_recipient("env:SECRET")
    assert "hunter2" not in str(refused.value)
    for reference in ("fd:", "fd:-1", "fd:x", "fd:9999999"):
        with pytest.raises(FormatError, match="file descriptor"):
            store.load_recipient(reference)
    descriptor = pipe(b"x" * (MAX_KEY_FILE + 1))
    with pytest.raises(FormatError, match="larger than the limit"):
        store.load_recipient(f"fd:{descriptor}")
    os.close(descriptor)
    with pytest.raises(KeyUnavailable, match="no own recipient key"):
        store.own_of("env:P", ".pub")


def test_a_passphrase_from_a_descriptor() -> None:
    descriptor = pipe(b"correct horse\nsecond line")
    assert store.passphrase_file(Path(f"fd:{descriptor}")) == b"correct horse"
    os.close(descriptor)


def test_a_load_with_no_key_file(parties: Any, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTOMER", parties.customer.to_pem(None).decode())
    monkeypatch.setenv("MODELVAULT_HOST_KEY", "env:HOST")
    monkeypatch.setenv("HOST", parties.host.to_pem(None).decode())
    load(sealed, identity="env:CUSTOMER", trust=parties.trust, audit=parties.folder / "audit.log").close()
    assert parties.events() == ["opened", "load.intent", "load.done", "session.closed"]


def test_a_function_that_fetches_the_key(parties: Any, sealed: Path) -> None:
    parties.load(sealed, identity=lambda: parties.customer.to_pem(None)).close()
    parties.load(sealed, identity=lambda: parties.customer).close()

    def fail() -> bytes:
        raise RuntimeError("token hunter2 has expired")

    with pytest.raises(KeyUnavailable, match=r"the key provider failed \(RuntimeError\)") as refused:
        parties.load(sealed, identity=fail)
    assert "hunter2" not in str(refused.value)
    assert parties.events()[-1] == "load.denied"


def test_keyring(tmp_path: Path) -> None:
    """A real backend of keyring, in a process of its own: a backend is chosen once a process."""
    needs.module("keyring")
    needs.module("keyrings.alt")
    key = RecipientKey.generate()
    environment = {
        **os.environ,
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        "XDG_DATA_HOME": str(tmp_path),
    }
    script = (
        "import sys; from modelvault.keys import store; print(store.load_recipient(sys.argv[1]).public.fingerprint)"
    )

    def call(*command: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **settings)

    stored = call(
        sys.executable, "-m", "keyring", "set", "modelvault", "bank", input=key.to_pem(None).decode(), timeout=60
    )
    assert stored.returncode == 0, stored.stderr
    assert call(sys.executable, "-c", script, "keyring:bank").stdout.strip() == key.public.fingerprint
    assert "keyring:other: empty or not there" in call(sys.executable, "-c", script, "keyring:other").stderr
    environment["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
    assert "the keyring does not answer (NoKeyringError)" in call(sys.executable, "-c", script, "keyring:bank").stderr
