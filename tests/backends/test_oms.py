"""OpenSSF Model Signing: our signatures in their verifier, theirs in ours, and what theirs lets pass."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs
import pytest

from modelvault import samples
from modelvault._codec import b64encode, json_encode
from modelvault.cli.main import main
from modelvault.envelope import pre_authentication
from modelvault.errors import FileError, FormatError, ModelVaultError, PayloadTampered, SignatureInvalid
from modelvault.keys import PublisherKey
from modelvault.oms import SignedModel, sign_model, verify_model
from modelvault.verification import inspect

Change = Callable[[Path], object]
CHANGES: dict[str, Change] = {
    "flipped": lambda m: (m / "layers" / "0" / "w.bin").write_bytes(b"\x01" + bytes(99)),
    "added": lambda m: (m / "layers" / "extra.bin").write_bytes(b"x"),
    "removed": lambda m: (m / "config.json").unlink(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with nested files, and names that sort differently as text and as paths."""
    model = tmp_path / "bert"
    for name, data in {
        "config.json": b"{}",
        "layers/0/w.bin": bytes(100),
        "layers/0.txt": b"zero",
        "empty": b"",
    }.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(data)
    return model


@pytest.fixture(params=["ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> PublisherKey:
    key = PublisherKey.generate(request.param)
    (tmp_path / "k.key").write_bytes(key.to_pem(None))
    (tmp_path / "k.pub").write_bytes(key.public.to_pem())
    return key


def theirs(tmp_path: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """Run model_signing, with no home folder to read or write."""
    command = [needs.program("model_signing"), *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": str(tmp_path)}
    )


def test_model_signing_accepts_ours(folder: Path, key: PublisherKey, tmp_path: Path) -> None:
    sign_model(folder, tmp_path / "m.sig", [key, PublisherKey.generate()])
    arguments = ("verify", "key", folder, "--signature", tmp_path / "m.sig", "--public_key", tmp_path / "k.pub")
    done = theirs(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    CHANGES["flipped"](folder)
    assert theirs(tmp_path, *arguments).returncode != 0


@pytest.mark.parametrize("inside", [False, True])
def test_we_accept_theirs(folder: Path, key: PublisherKey, tmp_path: Path, inside: bool) -> None:
    signature = (folder if inside else tmp_path) / "model.sig"
    (folder / ".gitattributes").write_text("not covered")
    done = theirs(tmp_path, "sign", "key", folder, "--private_key", tmp_path / "k.key", "--signature", signature)
    assert done.returncode == 0, done.stderr
    manifest, ignored = verify_model(folder, signature, [key.public])
    assert list(manifest.resources) == ["config.json", "empty", "layers/0/w.bin", "layers/0.txt"]
    assert set(ignored) - {"model.sig"} == {".gitattributes"}
    (folder / ".gitattributes").unlink()
    for change in CHANGES.values():
        change(folder)
        with pytest.raises(PayloadTampered):
            verify_model(folder, signature, [key.public])


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_every_change_is_seen(folder: Path, change: str, tmp_path: Path) -> None:
    key = PublisherKey.generate("ecdsa-p256")
    sign_model(folder, folder / "model.sig", [key])
    verify_model(folder, folder / "model.sig", [key.public])
    CHANGES[change](folder)
    with pytest.raises(PayloadTampered):
        verify_model(folder, folder / "model.sig", [key.public])


def test_all_named_keys_must_have_signed(folder: Path, tmp_path: Path) -> None:
    first, second = PublisherKey.generate("ecdsa-p384"), PublisherKey.generate()
    sign_model(folder, tmp_path / "m.sig", [first])
    with pytest.raises(SignatureInvalid, match="not signed by"):
        verify_model(folder, tmp_path / "m.sig", [first.public, second.public])
    sign_model(folder, tmp_path / "m.sig", [first, second])
    verify_model(folder, tmp_path / "m.sig", [second.public, first.public])
    with pytest.raises(ValueError, match="at least one key"):
        verify_model(folder, tmp_path / "m.sig", [])
    with pytest.raises(FormatError, match="first key"):
        sign_model(folder, tmp_path / "n.sig", [second, first])
    assert not (tmp_path / "n.sig").exists()


def test_links_and_special_files_are_refused(folder: Path, tmp_path: Path) -> None:
    key = PublisherKey.generate("ecdsa-p256")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(FileError, match="symbolic link"):
        sign_model(folder, tmp_path / "m.sig", [key])
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        sign_model(folder, tmp_path / "m.sig", [key])
    assert not (tmp_path / "m.sig").exists()
    with pytest.raises(FormatError, match="at least one"):
        (tmp_path / "nothing").mkdir()
        sign_model(tmp_path / "nothing", tmp_path / "m.sig", [key])
    with pytest.raises(FileError, match="not a directory"):
        sign_model(folder / "config.json", tmp_path / "m.sig", [key])


def bundle(key: PublisherKey, statement: Any) -> dict[str, Any]:
    """A well signed bundle around any statement."""
    payload = statement if isinstance(statement, bytes) else json_encode(statement)
    signature = {"keyid": "", "sig": b64encode(key.sign(pre_authentication(payload)))}
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(key.public.to_pem()).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": b64encode(payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [signature],
        },
    }


def statement(files: list[tuple[str, bytes]], **serialization: Any) -> dict[str, Any]:
    digests = [hashlib.sha256(data).digest() for _, data in files]
    resources = [
        {"name": n, "algorithm": "sha256", "digest": d.hex()} for (n, _), d in zip(files, digests, strict=True)
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": hashlib.sha256(b"".join(digests)).hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, **serialization},
            "resources": resources,
        },
    }


GOOD = [("a", b"a"), ("b", b"b")]
LET_PASS = {  # by model_signing 1.1.1: the folder, what is signed for it, and our reason
    "duplicate": (GOOD, statement([*GOOD, ("b", b"b")]), "listed twice"),
    "hidden duplicate": (GOOD, statement([("a", b"evil"), *GOOD]), "listed twice"),
    "no resources": ([], statement([]), "expected at least one"),
    "long form": (GOOD, statement([("a", b"a"), ("./b", b"b")]), "shortest form"),
}
REFUSED = {
    **{name: (signed, words) for name, (_, signed, words) in LET_PASS.items()},
    "parent": (statement([*GOOD, ("../c", b"c")]), "leaves its folder"),
    "absolute": (statement([*GOOD, ("/etc/passwd", b"c")]), "absolute path"),
    "backslash": (statement([*GOOD, ("..\\c", b"c")]), "backslash"),
    "ignores all": (statement(GOOD, ignore_paths=["."]), "names no file"),
    "ignores parent": (statement(GOOD, ignore_paths=[".."]), "leaves its folder"),
    "signed and ignored": (statement(GOOD, ignore_paths=["a"]), "both signed and ignored"),
    "links": (statement(GOOD, allow_symlinks=True), "allow_symlinks"),
    "shards": (statement(GOOD, method="shards"), "expected files"),
    "weak hash": (statement(GOOD, hash_type="blake2b"), "expected sha256"),
    "two subjects": (statement(GOOD) | {"subject": statement(GOOD)["subject"] * 2}, "exactly one"),
    "wrong root": (statement(GOOD) | {"subject": statement([("a", b"a")])["subject"]}, "not that of the listed"),
    "unknown key": (statement(GOOD) | {"extra": 1}, "unknown key"),
    "other predicate": (statement(GOOD) | {"predicateType": "x"}, "predicateType"),
    "no statement": (b"[]", "expected an object"),
    "not JSON": (b"{", "not valid JSON"),
    "repeated key": (b'{"_type":1,"_type":1}', "a key is repeated"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused_although_well_signed(case: str, tmp_path: Path) -> None:
    signed, words = REFUSED[case]
    key = PublisherKey.generate("ecdsa-p256")
    write(tmp_path / "m", GOOD)
    (tmp_path / "m.sig").write_bytes(json_encode(bundle(key, signed)))
    with pytest.raises(FormatError, match=words):
        verify_model(tmp_path / "m", tmp_path / "m.sig", [key.public])


@pytest.mark.parametrize("case", sorted(LET_PASS))
def test_what_model_signing_lets_pass(case: str, tmp_path: Path) -> None:
    """If one of these fails, their verifier has been repaired and our documentation is out of date."""
    files, signed, words = LET_PASS[case]
    key = PublisherKey.generate("ecdsa-p256")
    write(tmp_path / "m", files)
    (tmp_path / "k.pub").write_bytes(key.public.to_pem())
    (tmp_path / "m.sig").write_bytes(json_encode(bundle(key, signed)))
    arguments = ("--signature", tmp_path / "m.sig", "--public_key", tmp_path / "k.pub")
    done = theirs(tmp_path, "verify", "key", tmp_path / "m", *arguments)
    assert done.returncode == 0, done.stderr
    with pytest.raises(FormatError, match=words):
        verify_model(tmp_path / "m", tmp_path / "m.sig", [key.public])


def test_model_signing_reads_outside_the_folder(tmp_path: Path) -> None:
    key = PublisherKey.generate("ecdsa-p256")
    write(tmp_path / "m", GOOD)
    (tmp_path / "k.pub").write_bytes(key.public.to_pem())
    (tmp_path / "c").write_bytes(b"c")
    (tmp_path / "m.sig").write_bytes(json_encode(bundle(key, REFUSED["parent"][0])))
    arguments = ("--signature", tmp_path / "m.sig", "--public_key", tmp_path / "k.pub", "--ignore_unsigned_files")
    done = theirs(tmp_path, "verify", "key", tmp_path / "m", *arguments)
    assert done.returncode == 0, done.stderr


def write(folder: Path, files: list[tuple[str, bytes]]) -> None:
    folder.mkdir()
    for name, data in files:
        (folder / name).write_bytes(data)


def test_a_changed_bundle_is_refused(tmp_path: Path) -> None:
    key = PublisherKey.generate("ecdsa-p256")
    write(tmp_path / "m", GOOD)
    good = bundle(key, statement(GOOD))
    path = tmp_path / "m.sig"
    path.write_bytes(json_encode(good))
    verify_model(tmp_path / "m", path, [key.public])

    other = bundle(PublisherKey.generate("ecdsa-p256"), statement(GOOD))
    envelope = good["dsseEnvelope"]
    changed: list[tuple[Any, type[ModelVaultError]]] = [
        (other, SignatureInvalid),
        (
            good | {"dsseEnvelope": envelope | {"payload": b64encode(json_encode(statement(GOOD[:1])))}},
            SignatureInvalid,
        ),
        (good | {"dsseEnvelope": envelope | {"signatures": []}}, SignatureInvalid),
        (good | {"dsseEnvelope": envelope | {"payloadType": "text/plain"}}, FormatError),
        (good | {"mediaType": "application/vnd.dev.sigstore.bundle.v0.2+json"}, FormatError),
        (good | {"verificationMaterial": {"certificate": {"rawBytes": "AA=="}}}, FormatError),
        (good | {"unknown": 1}, FormatError),
        ([], FormatError),
    ]
    for value, kind in changed:
        path.write_text(json.dumps(value))
        with pytest.raises(kind):
            verify_model(tmp_path / "m", path, [key.public])


def test_sealing_what_was_signed(parties: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = PublisherKey.generate("ecdsa-p256")
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(samples.MODEL, model / "model.onnx")
    (model / "labels.json").write_text("[0, 180]")
    sign_model(model, tmp_path / "m.sig", [key])
    signed = SignedModel.verified(model, tmp_path / "m.sig", [key.public])
    path = parties.seal(model, name="direction", signed=signed)
    record = inspect(path).statement.plain_signature
    assert record is not None
    assert (record.digest, record.signers) == (signed.manifest.digest, (key.public.fingerprint,))
    parties.load(path).close()

    (model / "labels.json").write_text("[0, 181]")  # after it was verified, before it is sealed
    with pytest.raises(PayloadTampered, match="what is sealed is not what was signed"):
        parties.seal(model, "late.mvlt", signed=signed)
    (model / "labels.json").unlink()
    with pytest.raises(PayloadTampered, match=r"labels\.json"):
        parties.seal(model, "late.mvlt", signed=signed)
    assert not (parties.folder / "late.mvlt").exists()
    with pytest.raises(PayloadTampered, match="is missing"):
        SignedModel.verified(model, tmp_path / "m.sig", [key.public])


def test_the_command_line_seals_what_they_signed(
    parties: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = PublisherKey.generate("ecdsa-p384")
    (tmp_path / "k.key").write_bytes(key.to_pem(None))
    (tmp_path / "k.pub").write_bytes(key.public.to_pem())
    (tmp_path / "p.key").write_bytes(parties.publisher.to_pem(None))
    (tmp_path / "p.key").chmod(0o600)
    (tmp_path / "own.pub").write_bytes(parties.own.public.to_pem())
    model, signature, sealed = tmp_path / "model", tmp_path / "m.sig", tmp_path / "m.mvlt"
    model.mkdir()
    shutil.copy(samples.MODEL, model / "model.onnx")
    done = theirs(tmp_path, "sign", "key", model, "--private_key", tmp_path / "k.key", "--signature", signature)
    assert done.returncode == 0, done.stderr

    def run(*args: str | Path, code: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(map(str, args)))
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == code, captured.err
        return captured.out + captured.err

    keys = ("--sign", tmp_path / "p.key", "--own", tmp_path / "own.pub", "--to", tmp_path / "own.pub")
    signed = ("--model-signature", signature, "--model-key", tmp_path / "k.pub")
    run("seal", model, "-o", sealed, *keys, *signed)
    assert json.loads(run("inspect", sealed, "--json"))["plain_signature"]["signers"] == [key.public.fingerprint]
    assert key.public.fingerprint in run("inspect", sealed)
    stranger = PublisherKey.generate("ecdsa-p256")
    (tmp_path / "s.pub").write_bytes(stranger.public.to_pem())
    other = ("--model-signature", signature, "--model-key", tmp_path / "s.pub")
    assert "not signed by" in run("seal", model, "-o", tmp_path / "n.mvlt", *keys, *other, code=8)
    assert not (tmp_path / "n.mvlt").exists()
    before = sealed.read_bytes()
    (model / "extra.txt").write_text("x")
    assert "not among the signed files" in run("seal", model, "-o", sealed, "--force", *keys, *signed, code=10)
    assert sealed.read_bytes() == before
