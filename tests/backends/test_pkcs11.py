"""Keys in a real PKCS#11 token (SoftHSM2): made there, used there, never exported."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import needs
import pytest
from story import seal_grant_load_rotate

from modelvault.audit import verify_log
from modelvault.cli.main import main
from modelvault.errors import FormatError, KeyUnavailable, NoMatchingKey
from modelvault.keys import RecipientKey, store

PIN = "493817"
KEYS = {"p256": "EC:secp256r1", "p384": "EC:secp384r1", "ed25519": "EC:edwards25519", "rsa": "rsa:2048"}


@dataclass
class Token:
    module: str
    folder: Path

    def uri(self, name: str, *query: str, token: str = "vault") -> str:
        return f"pkcs11:token={token};object={name}?" + "&".join([f"module-path={self.module}", *query])

    def make(self, name: str, kind: str, *usage: str) -> str:
        command = ["pkcs11-tool", "--module", self.module, "--token-label", "vault", "--login", "--pin", PIN]
        identity = "ff" + os.urandom(3).hex()  # not text
        command += ["--keypairgen", "--key-type", KEYS[kind], "--label", name, "--id", identity, *usage]
        subprocess.run(command, check=True, capture_output=True)
        return self.uri(name)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token of its own. The module reads its configuration once a process, so all tests share it."""
    needs.module("pkcs11")
    needs.program("pkcs11-tool")
    util = needs.program("softhsm2-util")
    module = needs.file("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        made = [util, "--init-token", "--free", "--label", "vault", "--pin", PIN, "--so-pin", "12345678"]
        subprocess.run(made, check=True, capture_output=True)
        token = Token(module, folder)
        for name, kind in (("p256", "p256"), ("p384", "p384"), ("ed25519", "ed25519"), ("rsa", "rsa")):
            token.make(name, kind)
        token.make("bank", "p256", "--usage-derive")
        yield token


def pin() -> bytes:
    return PIN.encode()


def no_pin() -> bytes:
    raise AssertionError("the PIN was asked for")


@pytest.mark.parametrize(
    ("name", "algorithm"), [("p256", "ecdsa-p256"), ("p384", "ecdsa-p384"), ("ed25519", "ed25519")]
)
def test_a_token_signs(token: Token, name: str, algorithm: str) -> None:
    key = store.load_publisher(token.uri(name), pin)
    assert key.public.algorithm == algorithm
    for message in (b"", b"m", bytes(100_000)):
        key.public.verify(message, key.sign(message))
    assert store.load_publisher_public(token.uri(name), no_pin) == key.public


def test_a_token_opens_what_hpke_wrapped(token: Token) -> None:
    key = store.load_recipient(token.uri("bank"), pin)
    public = store.load_recipient_public(token.uri("bank"), no_pin)
    assert public.algorithm == "p256"
    wrapped = public.wrap(b"bundle", b"here")
    assert key.unwrap(wrapped, b"here") == b"bundle"
    off_curve = wrapped[:64] + bytes([wrapped[64] ^ 1]) + wrapped[65:]
    for bad in (wrapped[:-1], wrapped[:80], b"", off_curve, RecipientKey.generate("p256").public.wrap(b"b", b"here")):
        with pytest.raises(NoMatchingKey):
            key.unwrap(bad, b"here")
    with pytest.raises(NoMatchingKey):
        key.unwrap(wrapped, b"there")


def test_seal_grant_load_rotate(token: Token, parties: Any) -> None:
    publisher, host = store.load_publisher(token.uri("p384"), pin), store.load_host(token.uri("ed25519"), pin)
    made = token.make(f"bank-{os.urandom(3).hex()}", "p256", "--usage-derive")
    bank, renewed = store.load_recipient(token.uri("bank"), pin), store.load_recipient(made, pin)
    seal_grant_load_rotate(parties, publisher, bank, renewed, host)
    verify_log(parties.folder / "audit.log", store.load_host_public(token.uri("ed25519"), no_pin))


def test_the_command_line_with_a_token(
    token: Token, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from modelvault import samples

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pin").write_text(PIN + "\n")
    (tmp_path / "pin").chmod(0o600)
    signer = token.uri("p256", f"pin-source=file:{tmp_path / 'pin'}")
    bank = token.uri("bank", f"pin-source=file:{tmp_path / 'pin'}")

    def run(*args: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(args))
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == code, captured.err
        return captured.out + captured.err

    run("keygen", "recipient", "own", "--no-passphrase")
    run("keygen", "host", "--no-passphrase")
    run("pubkey", "publisher", signer, "-o", "hsm.pub")
    run("trust", "add", "hsm.pub", "--models", "*")
    assert "take it with --own" in run("seal", str(samples.MODEL), "-o", "m.mvlt", "--sign", signer, code=6)
    run("seal", str(samples.MODEL), "-o", "m.mvlt", "--sign", signer, "--own", "own", "--to", bank)
    run("run", "m.mvlt", "--identity", bank)
    assert "BEGIN PUBLIC KEY" in run("pubkey", "recipient", bank)


def in_a_process(token: Token, uri: str, given: str) -> str:
    """Load and use a key in a new process, since a login holds for a process; the error's last line."""
    script = (
        "import sys; from modelvault.keys import store\n"
        "key = store.load_publisher(sys.argv[1], lambda: (print('asked'), sys.argv[2].encode())[1])\n"
        "for _ in range(2):\n    try: key.sign(b'm'); print('signed')\n    except Exception as e: print(repr(e))"
    )
    done = subprocess.run(
        [needs.program("python"), "-c", script, uri, given], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_pins(token: Token) -> None:
    assert in_a_process(token, token.uri("p256"), PIN) == "asked\nsigned\nsigned\n"
    wrong = in_a_process(token, token.uri("p256"), "000000")
    assert wrong.startswith("asked\nKeyUnavailable('pkcs11:token=vault;object=p256: wrong PIN (not tried again")
    assert wrong.count("asked") == 1
    assert "signed" not in wrong
    assert "000000" not in wrong


def spied(token: Token, parties: Any, given: str, **settings: str) -> tuple[list[str], str]:
    """Load a model that is sealed for the token's key "bank", twice with one identity, in a new process.

    What is said of it; and every call to the token, as OpenSC's spy, which stands before it, writes them down.
    """
    spy = needs.file(*map(str, Path("/usr/lib").glob("**/pkcs11-spy.so")), "/usr/lib/pkcs11-spy.so")
    path = parties.seal(recipients=[store.load_recipient_public(token.uri("bank"))])
    (parties.folder / "host.key").write_bytes(parties.host.to_pem(None))
    script = (
        "import sys; from modelvault.loader import load; from modelvault.audit import AuditLog\n"
        "from modelvault.keys import HostKey, store\n"
        "folder, model, uri, pin = sys.argv[1:]\n"
        "host = HostKey.from_pem(open(folder + '/host.key', 'rb').read(), None, 'host')\n"
        "log, bank = AuditLog(folder + '/audit.log', host), store.load_recipient(uri, lambda: pin.encode())\n"
        "for _ in range(2):\n"
        "    try: load(model, identity=bank, trust=folder + '/trust.toml', audit=log).close()\n"
        "    except Exception as e: print(repr(e))"
    )
    arguments = [str(parties.folder), str(path), Token(spy, token.folder).uri("bank"), given]
    command = [needs.program("python"), "-c", script, *arguments]
    environment = {
        **os.environ,
        "PKCS11SPY": token.module,
        "PKCS11SPY_OUTPUT": str(parties.folder / "calls"),
    } | settings
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    return (done.stdout + done.stderr).splitlines(), (parties.folder / "calls").read_text()


def test_a_wrong_pin_is_sent_once(token: Token, parties: Any) -> None:
    told, calls = spied(token, parties, "000000")
    words = "pkcs11:token=vault;object=bank: wrong PIN (not tried again: tokens lock after a few)"
    assert told == [f"KeyUnavailable('{words}')"] * 2
    assert calls.count(": C_Login\n") == 1
    assert calls.count(": C_CloseSession\n") == 1  # the one that read the public half
    denied = [r.fields for r in parties.records() if r.event == "load.denied"]
    assert [(d["reason"], d["detail"]) for d in denied] == [("KeyUnavailable", words)] * 2


def test_a_locked_pin_is_not_tried(token: Token, parties: Any) -> None:
    """SoftHSM never locks a PIN by itself: the flag is set in the token's file, where other tokens set it."""
    copied = parties.folder / "softhsm"  # this process keeps what it has read of the token: it is not to see the flag
    shutil.copytree(token.folder / "tokens", copied / "tokens")
    (copied / "softhsm2.conf").write_text(f"directories.tokendir = {copied / 'tokens'}\nlog.level = ERROR\n")
    (place,) = (copied / "tokens").glob("*/token.object")
    sound, kind = place.read_bytes(), b"\0\0\0\0\x80\0SK" + (2).to_bytes(8, "big")  # CKA_OS_TOKENFLAGS, a number
    at = sound.index(kind) + len(kind)
    flags = int.from_bytes(sound[at : at + 8], "big") | 0x40000  # CKF_USER_PIN_LOCKED
    place.write_bytes(sound[:at] + flags.to_bytes(8, "big") + sound[at + 8 :])
    told, calls = spied(token, parties, PIN, SOFTHSM2_CONF=str(copied / "softhsm2.conf"))
    assert told == ["KeyUnavailable('pkcs11:token=vault;object=bank: the PIN is locked')"] * 2
    assert "C_Login" not in calls
    assert parties.events().count("load.denied") == 2


def test_what_cannot_be_used(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message names the key, and says of its URI no more than that."""

    def refused(kind: type[Exception], load_key: Any, uri: str, words: str) -> None:
        with pytest.raises(kind, match=f"^{re.escape(uri.partition('?')[0])}: {words}$") as raised:
            load_key(uri, pin)
        assert "1234" not in str(raised.value)

    unset = "no module: neither module-path in the URI nor MODELVAULT_PKCS11_MODULE is set"
    for uri, words in (
        (token.uri("nothing"), "no such key on the token"),
        (token.uri("p256", token="nowhere"), "no such token"),
        ("pkcs11:token=vault;object=p256", unset),
        ("pkcs11:token=vault;object=p256?module-path=/none.so", "the token refuses: .*cannot open shared object.*"),
        ("pkcs11:token=vault;object=p256?module-path=/etc/passwd", "the token refuses: .*invalid ELF header.*"),
    ):
        refused(KeyUnavailable, store.load_publisher, uri, words)
    monkeypatch.setenv("MODELVAULT_PKCS11_MODULE", token.module)
    store.load_publisher("pkcs11:token=vault;object=p256", pin)
    path = "expected each of token, serial, object, id, type once at most"
    for uri, words in (
        ("pkcs11:token=vault", "expected object or id, to name a key"),
        ("pkcs11:object=p256?pin-value=1234", "pin-value: a PIN does not belong in a URI, use pin-source"),
        ("pkcs11:object=p256;object=p384", f"'object': {path}"),
        ("pkcs11:object=p256;colour=red", f"'colour': {path}"),
        ("pkcs11:object=p256?colour=red", "'colour': expected each of module-path, pin-source once at most"),
        ("pkcs11:object=p256;token", f"'token': {path}"),
        ("pkcs11:object=p256;" + "x" * 41, f"'{'x' * 40}': {path}"),
        ("pkcs11:object=p256;type=private=", "type: expected private or public"),
        ("pkcs11:object=%ff", "object: not UTF-8"),
        ("pkcs11:object=p256?module-path=%ff", "module-path: not UTF-8"),
        ("pkcs11:object=p256?module-path=relative.so", "module-path: expected an absolute path"),
        ("pkcs11:object=p256?module-path=/lib/a%00b", "module-path: expected an absolute path"),
        ("pkcs11:object=p256;type=cert", "type: expected private or public"),
        (token.uri("rsa"), "expected an EC P-256, EC P-384 or Ed25519 key"),
    ):
        refused(FormatError, store.load_publisher, uri, words)
    refused(FormatError, store.load_recipient, token.uri("p384"), "not a key of this role .*")
    refused(FormatError, store.load_host, token.uri("p256"), "not a key of this role .*")


def test_the_client_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pkcs11", None)
    monkeypatch.delitem(sys.modules, "modelvault.keys.pkcs11", raising=False)
    with pytest.raises(KeyUnavailable, match="needs the package python-pkcs11"):
        store.load_publisher("pkcs11:object=x")


def test_other_ways_to_name_a_key(token: Token) -> None:
    import pkcs11

    named = store.load_publisher_public(token.uri("p256"), no_pin)
    found = pkcs11.lib(token.module).get_token(token_label="vault")
    with found.open() as session:
        key = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label="p256")
        identity = "".join(f"%{byte:02x}" for byte in key.id)
    module = f"?module-path={token.module}"
    serial = found.serial.decode() if isinstance(found.serial, bytes) else found.serial
    for path in (
        f"serial={serial.strip()};object=p256",
        f"token=vault;id={identity}",
        f"token=vault;object=p256;id={identity}",
        "token=vault;object=p256;type=public",
        "token=vault;object=p256;type=private",
    ):
        assert store.load_publisher_public(f"pkcs11:{path}{module}", no_pin) == named
    name = "pkcs11:token=vault;object=p256"
    with pytest.raises(KeyUnavailable, match=f"^{name}: the token wants a PIN, and none was given$"):
        store.load_publisher(token.uri("p256")).sign(b"m")


def test_a_curve_of_another_kind(token: Token) -> None:
    command = ["pkcs11-tool", "--module", token.module, "--token-label", "vault", "--login", "--pin", PIN]
    command += ["--keypairgen", "--key-type", "EC:secp521r1", "--label", "p521", "--id", "05"]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(FormatError, match="expected an EC P-256, EC P-384 or Ed25519 key"):
        store.load_publisher(token.uri("p521"), pin)
