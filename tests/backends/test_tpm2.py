"""Keys in a TPM 2.0: swtpm behind the resource manager tpm2-abrmd, used through tpm2-tools."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import needs
import pytest
from story import seal_grant_load_rotate

from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import RecipientKey, store

BANK, GUARDED, P256, P384, RSA, RENEWED, SIGNER = (f"tpm2:0x8101000{n}" for n in range(1, 8))
SECRET = b"4938 17"
_COMMON = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|"


class Tpm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tool(self, *command: str) -> None:
        done = subprocess.run(
            [needs.program(command[0]), *command[1:]], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def make(self, uri: str, kind: str, usage: str, *options: str) -> str:
        self.tool(
            "tpm2_create", "-C", "p.ctx", "-G", kind, "-a", _COMMON + usage, "-u", "k.pub", "-r", "k.priv", *options
        )
        self.tool("tpm2_load", "-C", "p.ctx", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx")
        self.tool("tpm2_evictcontrol", "-C", "o", "-c", "k.ctx", uri.removeprefix("tpm2:"))
        return uri


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    programs = [needs.program(name) for name in ("swtpm", "dbus-daemon", "tpm2-abrmd", "tpm2_create")]
    folder = tmp_path_factory.mktemp("tpm")
    (folder / "state").mkdir()
    bus, first = f"unix:path={folder}/bus", needs.free_port_pair()
    with ExitStack() as stack:

        def start(*command: str) -> None:
            log = stack.enter_context((folder / "log").open("ab"))
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(process.kill)

        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", bus)
        patch.setenv("TPM2TOOLS_TCTI", "tabrmd:bus_type=session")
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin")
        where = [f"dir={folder}/state", f"type=tcp,port={first},bindaddr=127.0.0.1"]
        control = f"type=tcp,port={first + 1},bindaddr=127.0.0.1"
        start(programs[0], "socket", "--tpm2", "--tpmstate", where[0], "--server", where[1], "--ctrl", control,
              "--flags", "not-need-init,startup-clear")  # fmt: skip
        start(programs[1], "--session", "--nofork", f"--address={bus}")
        time.sleep(1)
        start(programs[2], "--session", "--allow-root", f"--tcti=swtpm:host=127.0.0.1,port={first}")
        made = Tpm(folder)
        for attempt in range(50):
            try:
                made.tool("tpm2_createprimary", "-C", "o", "-G", "ecc256", "-c", "p.ctx")
                break
            except AssertionError:
                if attempt == 49:
                    raise
                time.sleep(0.2)
        made.make(BANK, "ecc256", "decrypt")
        made.make(GUARDED, "ecc256", "decrypt", "-p", SECRET.decode())
        made.make(SIGNER, "ecc256", "sign", "-p", SECRET.decode())
        made.make(P256, "ecc256", "sign")
        made.make(P384, "ecc384", "sign")
        made.make(RSA, "rsa2048", "sign")
        yield made


@pytest.mark.parametrize(("uri", "algorithm"), [(P256, "ecdsa-p256"), (P384, "ecdsa-p384")])
def test_a_tpm_signs(tpm: Tpm, uri: str, algorithm: str) -> None:
    key = store.load_publisher(uri)
    assert key.public.algorithm == algorithm
    for message in (b"", b"m", bytes(100_000)):
        key.public.verify(message, key.sign(message))


def test_a_tpm_opens_what_hpke_wrapped(tpm: Tpm) -> None:
    key = store.load_recipient(BANK)
    public = store.load_recipient_public(BANK)
    for _ in range(20):
        assert key.unwrap(public.wrap(b"bundle", b"here"), b"here") == b"bundle"
    wrapped = public.wrap(b"bundle", b"here")
    off_curve = wrapped[:64] + bytes([wrapped[64] ^ 1]) + wrapped[65:]
    for bad in (wrapped[:-1], b"", off_curve, RecipientKey.generate("p256").public.wrap(b"bundle", b"here")):
        with pytest.raises(NoMatchingKey):
            key.unwrap(bad, b"here")
    with pytest.raises(NoMatchingKey):
        key.unwrap(wrapped, b"there")


def test_seal_grant_load_rotate(tpm: Tpm, parties: Any) -> None:
    bank, renewed = store.load_recipient(BANK), store.load_recipient(tpm.make(RENEWED, "ecc256", "decrypt"))
    seal_grant_load_rotate(parties, store.load_publisher(P384), bank, renewed)


def refused(kind: type[Exception], load_key: Any, uri: str, words: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(uri)}: {words}$"):
        load_key(uri)


def test_what_cannot_be_used(tpm: Tpm, monkeypatch: pytest.MonkeyPatch) -> None:
    form = "expected tpm2:0x81 and six hex digits, with .auth=SOURCE at most"
    for uri in ("tpm2:", "tpm2:0x81", "tpm2:0x01010001", "tpm2:0x81010001?pin=1", "tpm2:0x81010001 -T x"):
        refused(FormatError, store.load_publisher, uri, form)
    with pytest.raises(FormatError, match=f"^tpm2:{'x' * 75}: {form}$"):
        store.load_publisher("tpm2:" + "x" * 76)
    refused(FormatError, store.load_publisher, RSA, "expected an elliptic curve key")
    refused(FormatError, store.load_recipient, P384, "not a key of this role .*")
    refused(FormatError, store.load_host, P256, "audit logs are signed with Ed25519, which TPMs do not have")
    refused(KeyUnavailable, store.load_publisher, "tpm2:0x8101ffff", "no key at this handle")
    may_not_sign = store.load_publisher(BANK)
    refused(KeyUnavailable, lambda _: may_not_sign.sign(b"m"), BANK, r"the TPM refuses \(0x[0-9A-Fa-f]+\)")
    monkeypatch.setenv("TPM2TOOLS_TCTI", f"swtpm:host=127.0.0.1,port={needs.free_port()}")
    refused(KeyUnavailable, store.load_publisher, P256, "no TPM can be reached")
    monkeypatch.setenv("PATH", "/nowhere")
    refused(KeyUnavailable, store.load_publisher, P256, "needs tpm2-tools: tpm2_readpublic is not on the PATH")
    monkeypatch.delattr(os, "memfd_create")
    refused(KeyUnavailable, store.load_publisher, P256, "keys in a TPM need Linux")


def test_authorization_and_lockout(tpm: Tpm, parties: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is sent once and never again by one key; enough keys with wrong values do lock the TPM."""
    monkeypatch.setenv("TPM_AUTH", SECRET.decode())
    monkeypatch.setenv("TPM_WRONG", "0000")
    public = store.load_recipient_public(GUARDED)
    wrapped = public.wrap(b"bundle", b"here")
    assert store.load_recipient(f"{GUARDED}?auth=env:TPM_AUTH").unwrap(wrapped, b"here") == b"bundle"
    assert store.load_recipient(f"{GUARDED}?auth=ask", lambda: SECRET).unwrap(wrapped, b"here") == b"bundle"
    signer = store.load_publisher(f"{SIGNER}?auth=ask", lambda: SECRET)
    signer.public.verify(b"m", signer.sign(b"m"))
    (tpm.folder / "auth").write_bytes(SECRET + b"\n")
    (tpm.folder / "auth").chmod(0o600)
    assert store.load_recipient(f"{GUARDED}?auth=file:{tpm.folder / 'auth'}").unwrap(wrapped, b"here") == b"bundle"
    with pytest.raises(KeyUnavailable, match=f"^{GUARDED}: the key wants an authorization value, and none was given$"):
        store.load_recipient(f"{GUARDED}?auth=ask").unwrap(wrapped, b"here")

    path = parties.seal(recipients=[public])
    tpm.tool("tpm2_dictionarylockout", "-s", "-n", "3", "-t", "1000", "-l", "1000")
    wrong = store.load_recipient(f"{GUARDED}?auth=env:TPM_WRONG")
    for _ in range(10):
        words = r"wrong authorization value \(not tried again: the TPM locks after a few\)"
        with pytest.raises(KeyUnavailable, match=f"^{GUARDED}: {words}$"):
            parties.load(path, identity=wrong)
    assert parties.records()[-1].fields["reason"] == "KeyUnavailable"
    right = store.load_recipient(f"{GUARDED}?auth=env:TPM_AUTH")
    assert right.unwrap(wrapped, b"here") == b"bundle"  # ten refusals were one attempt

    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            store.load_recipient(f"{GUARDED}?auth=env:TPM_WRONG").unwrap(wrapped, b"here")
    with pytest.raises(KeyUnavailable, match="the TPM is locked"):
        parties.load(path, identity=f"{GUARDED}?auth=env:TPM_AUTH")
    assert "the TPM is locked" in parties.records()[-1].fields["detail"]
    tpm.tool("tpm2_dictionarylockout", "-c")
    parties.load(path, identity=f"{GUARDED}?auth=env:TPM_AUTH").close()
