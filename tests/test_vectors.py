"""Every test vector through the bytes API, the file API and the command line, and through the minimal reader."""

import base64
import hashlib
import io
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from vectors.builder import all_vectors
from vectors.builder.base import Vector, parse

from modelvault import merkle, verification
from modelvault.audit import proofs, verify_log
from modelvault.audit.cosigned import check_cosigned, read_cosigned
from modelvault.audit.segments import Segment
from modelvault.audit.verification import _extends, _kept, _read
from modelvault.auditterms import AuditTerms
from modelvault.checkpoint import Checkpoint
from modelvault.cli import main as cli
from modelvault.container import MAX_ENVELOPE, PRELUDE, Header, Prelude
from modelvault.cosignature import VerifierKey, cosigned_at
from modelvault.envelope import Envelope
from modelvault.errors import AuditTampered, FormatError, ModelVaultError, PayloadTampered, SignatureInvalid
from modelvault.keys import HostPublic, PublisherPublic, RecipientPublic, store
from modelvault.keys.owner import OwnerSecret
from modelvault.manifest import BLOCK, ModelStatement
from modelvault.oms import verify_model
from modelvault.omsbundle import ModelManifest, UnverifiedSignature
from modelvault.revocation import MAX_LIST_ENVELOPE, RevocationList
from modelvault.sealedfile import UnverifiedGrant
from modelvault.trust import Publisher, TrustPolicy, VerifiedModel
from modelvault.trustupdates import UpdatedTrust, follow, install, updated
from modelvault.verification import verify_grant

FOLDER = Path(__file__).parent / "vectors"
MINIMAL = Path(__file__).parents[1] / "docs" / "verify_minimal.py"
VECTORS = list(all_vectors())
Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A vector's header and file, and a folder to work in."""

    vector: Vector
    header: dict[str, list[str]]
    data: bytes
    folder: Path

    @property
    def keys(self) -> list[bytes]:
        """The public keys of the header as PEM."""
        return [pem(base64.b64decode(text)) for text in self.header["key"]]

    @property
    def host(self) -> HostPublic:
        return HostPublic.from_pem(self.keys[0], "key")

    def one(self, key: str, default: str = "") -> str:
        return self.header.get(key, [default])[0]

    def file(self, name: str, data: bytes | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data if data is None else data)
        return path

    def publisher(self) -> Publisher:
        keys = tuple(PublisherPublic.from_pem(p, "key") for p in self.keys)
        return Publisher(
            name="acme",
            models=(self.one("models", "*"),),
            threshold=int(self.one("threshold", "1")),
            keys=keys,
            minimum_version=self.one("minimum-version", "0"),
        )

    def trust(self, *, keys: list[bytes] | None = None, revocations: bool = False) -> Path:
        """A trust policy file that says what :meth:`publisher` says."""
        lines = ["version = 1", "[[publisher]]", 'name = "acme"', f'models = ["{self.one("models", "*")}"]']
        lines += [f"threshold = {self.one('threshold', '1')}"]
        lines += [f'minimum_version = "{self.one("minimum-version", "0")}"']
        lines += self._pinned("publisher", self.keys if keys is None else keys)
        if revocations:
            lines += ["[revocation]", 'list = "list.json"', *self._pinned("revocation", self.keys)]
        return self.file("trust.toml", "\n".join(lines).encode())

    def _pinned(self, table: str, keys: list[bytes]) -> list[str]:
        lines = []
        for number, key in enumerate(keys):
            path = self.file(f"{table}{number}.pub", key)
            fingerprint = PublisherPublic.from_pem(key, "key").fingerprint
            lines += [f"[[{table}.key]]", f'file = "{path.name}"', f'fingerprint = "{fingerprint}"']
        return lines


def pem(der: bytes) -> bytes:
    key = serialization.load_der_public_key(der)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@cache
def other(path: str) -> bytes:
    """The file of another vector."""
    return parse((FOLDER / path).read_bytes())[1]


@cache
def model_key() -> bytes:
    """The key that signed sealed/good.vec."""
    return pem(base64.b64decode(parse((FOLDER / "sealed/good.vec").read_bytes())[0]["key"][0]))


def read_sealed(data: bytes, trust: Publisher | TrustPolicy) -> tuple[VerifiedModel, Envelope]:
    """A sealed file in memory, through layer 2 alone."""
    policy = TrustPolicy(publishers=(trust,)) if isinstance(trust, Publisher) else trust
    prelude = Prelude.from_bytes(data[: PRELUDE.size], "file")
    header = Header.from_bytes(data[: prelude.payload_offset], "file")
    envelope = Envelope.from_bytes(header.envelope, "envelope", limit=MAX_ENVELOPE)
    statement = ModelStatement.from_bytes(envelope.payload, "statement")
    payload = data[prelude.payload_offset :]
    if len(payload) != statement.payload_size:
        raise FormatError("payload: size")
    model = policy.verify_model(envelope, statement, "file")
    for grant in header.grants:
        read_grant(grant, model, envelope)
    leaves = [
        merkle.leaf_hash(payload[e.offset + at : min(e.offset + at + BLOCK, e.offset + e.length)])
        for e in statement.extents
        for at in range(0, e.length, BLOCK)
    ]
    if merkle.root(leaves) != statement.root:
        raise PayloadTampered("payload")
    return model, envelope


def read_grant(data: bytes, model: VerifiedModel, envelope: Envelope) -> None:
    digest = hashlib.sha256(envelope.payload).digest()
    verify_grant(UnverifiedGrant.from_bytes(data, "grant"), model, digest, "grant")


def sealed(case: Case) -> tuple[Check, Check, list[str]]:
    path, trust = case.file("m.mvlt"), case.trust()
    return (
        lambda: read_sealed(case.data, case.publisher()),
        lambda: verification.verify(path, TrustPolicy.read(trust)),
        ["verify", str(path), "--trust", str(trust)],
    )


def grant(case: Case) -> tuple[Check, Check, list[str]]:
    base = other(case.one("model"))
    prelude = Prelude.from_bytes(base[: PRELUDE.size], "file")
    header = Header.from_bytes(base[: prelude.payload_offset], "file")
    offset = 4096 * (-(-(header.length + 4 + len(case.data)) // 4096))
    with_grant = Header(envelope=header.envelope, grants=(case.data,)) if case.data else header
    path = case.file("m.mvlt", with_grant.to_bytes(offset) + base[prelude.payload_offset :])
    trust = case.trust()
    return (
        lambda: read_grant(case.data, *read_sealed(base, case.publisher())),
        lambda: verification.verify(path, TrustPolicy.read(trust)),
        ["verify", str(path), "--trust", str(trust)],
    )


def public_key(role: str, kind: Any, load: Callable[[str], Any]) -> Callable[[Case], tuple[Check, Check, list[str]]]:
    def checks(case: Case) -> tuple[Check, Check, list[str]]:
        path = case.file("k.pub")

        def fits(key: Any) -> None:
            assert key.fingerprint == case.one("fingerprint")

        return (
            lambda: fits(kind.from_pem(case.data, "k")),
            lambda: fits(load(str(path))),
            ["pubkey", role, str(path), "--json"],
        )

    return checks


def owner_secret(case: Case) -> tuple[Check, Check, list[str]]:
    path = case.file("o.key")
    path.chmod(0o600)
    model = case.file("m.onnx", b"")
    return (
        lambda: OwnerSecret.from_pem(case.data, lambda: b"x", "o"),
        lambda: store.load_owner(str(path), lambda: b"x"),
        ["watermark", "embed", str(model), "--owner", str(path), "-o", str(case.folder / "out.onnx")],
    )


def revocations(case: Case) -> tuple[Check, Check, list[str]]:
    path = case.file("m.mvlt", other(case.one("model")))
    case.file("list.json")
    trust = case.trust(keys=[model_key()], revocations=True)
    signer = PublisherPublic.from_pem(case.keys[0], "key")

    def in_memory() -> None:
        envelope = Envelope.from_bytes(case.data, "list", limit=MAX_LIST_ENVELOPE)
        found = RevocationList.from_bytes(envelope.payload, "list")
        policy = TrustPolicy(publishers=(Publisher(name="revoker", models=("*",), threshold=1, keys=(signer,)),))
        if not policy.publishers[0].signers(envelope):
            raise policy.publishers[0].refusal(envelope, "list")
        key = PublisherPublic.from_pem(model_key(), "key")
        revoked = found.reasons("publisher")
        acme = Publisher(name="acme", models=("*",), threshold=1, keys=(key,), revoked=revoked)
        model, signed = read_sealed(path.read_bytes(), acme)
        updated = UpdatedTrust(policy=policy, revocations=found)
        updated.check_model(model, hashlib.sha256(signed.payload).digest(), "m")

    return (
        in_memory,
        lambda: verification.verify(path, TrustPolicy.read(trust)),
        ["verify", str(path), "--trust", str(trust)],
    )


def trust(case: Case) -> tuple[Check, Check, list[str]]:
    """A policy lies in a file, with others beside it; the model that it is asked about can be in memory."""
    path, model = case.file("trust.toml"), case.file("m.mvlt", other(case.one("model")))
    for entry in case.header["file"]:
        name, text = entry.split("=", 1)
        case.file(name, base64.b64decode(text))

    def in_memory() -> None:
        asked = updated(TrustPolicy.read(path))
        found, signed = read_sealed(model.read_bytes(), asked.policy)
        asked.check_age(datetime.now(UTC))
        asked.check_model(found, hashlib.sha256(signed.payload).digest(), "m")

    return (
        in_memory,
        lambda: verification.verify(model, TrustPolicy.read(path)),
        ["verify", str(model), "--trust", str(path)],
    )


def handover(case: Case) -> tuple[Check, Check, list[str]]:
    path, trust = case.file("h.handover"), case.trust()

    def in_file() -> None:
        install(trust, "acme", path.read_bytes(), str(path))
        (trust.parent / "handovers" / "acme.1.handover").unlink()

    return (
        lambda: follow(case.publisher(), case.data, "h"),
        in_file,
        ["trust", "follow", str(path), "--trust", str(trust)],
    )


def read_log(segments: list[bytes], key: HostPublic, against: bytes | None) -> None:
    """A log in memory."""
    names = [Path(f"log.{number:06d}") for number in range(len(segments) - 1)] + [Path("log")]
    found = [
        Segment(path=name, file=io.BytesIO(data), size=len(data)) for name, data in zip(names, segments, strict=True)
    ]
    kept = _kept(against.decode()) if against is not None else None
    standing, watched = _read(Path("log"), found, key, kept[1].size if kept else None, None)
    if kept:
        _extends(Path("log"), standing, watched, *kept)


def log(case: Case) -> tuple[Check, Check, list[str]]:
    closed = [base64.b64decode(text) for text in case.header.get("closed", [])]
    for number, data in enumerate(closed):
        case.file(f"audit.log.{number:06d}", data)
    path, key = case.file("audit.log"), case.file("host.pub", case.keys[0])
    against = base64.b64decode(case.one("against")) if "against" in case.header else None
    kept = ["--against", str(case.file("kept", against))] if against is not None else []
    text = None if against is None else against.decode()
    return (
        lambda: read_log([*closed, case.data], case.host, against),
        lambda: verify_log(path, case.host, against=text),
        ["audit", "verify", str(path), "--key", str(key), *kept],
    )


def checkpoint(case: Case) -> tuple[Check, Check, list[str]]:
    whole = other(case.one("log"))
    path, kept, key = case.file("audit.log", whole), case.file("kept"), case.file("host.pub", case.keys[0])

    def decoded() -> str:
        try:
            return case.data.decode()
        except UnicodeDecodeError:
            raise FormatError("kept: not UTF-8") from None

    return (
        lambda: read_log([whole], case.host, decoded().encode()),
        lambda: verify_log(path, case.host, against=decoded()),
        ["audit", "verify", str(path), "--key", str(key), "--against", str(kept)],
    )


def proof(case: Case) -> tuple[Check, Check, list[str]]:
    path, key = case.file("p.tlog-proof"), case.file("host.pub", case.keys[0])
    chain = case.file("chain", base64.b64decode(case.one("succession")))
    more = ["--succession", str(chain)] if "succession" in case.header else []

    def checked(text: str, host: HostPublic) -> None:
        keys = proofs.follow(host, proofs.split_proofs(chain.read_text("utf-8"), "s"), "s")
        proofs.check_proof(text, keys, "p")

    return (
        lambda: checked(case.data.decode(), case.host),
        lambda: checked(path.read_text("utf-8"), store.load_host_public(str(key))),
        ["audit", "check-proof", str(path), "--key", str(key), *more],
    )


def cosignature(case: Case) -> tuple[Check, Check, list[str]]:
    """Every witness of the header must have cosigned the note."""
    log, note = case.file("audit.log", other(case.one("log"))), case.file("cosigned")
    key, witnesses = case.file("host.pub", case.keys[0]), case.header["witness"]
    asked = [word for text in witnesses for word in ("--cosigned-by", text)]

    def in_memory() -> None:
        for text in witnesses:
            check_cosigned(case.data.decode(), VerifierKey.from_text(text, "witness"), "note")

    def in_file() -> None:
        found = read_cosigned(note)
        for witness in AuditTerms.from_dict({"witnesses": witnesses}, "audit").witnesses:
            Checkpoint.from_text(found.text, "note")
            if cosigned_at(found, witness) is None:
                raise SignatureInvalid("note: no line of a witness")
        verify_log(log, case.host, against=found.to_text())

    return in_memory, in_file, ["audit", "verify", str(log), "--key", str(key), "--against", str(note), *asked]


def oms(case: Case) -> tuple[Check, Check, list[str]]:
    files = dict(entry.split("=", 1) for entry in case.header["file"])
    for name, text in files.items():
        case.file(f"bert/{name}", base64.b64decode(text))
    folder, path, key = case.folder / "bert", case.file("bert.sig"), case.file("k.pub", case.keys[0])
    publics = [PublisherPublic.from_pem(case.keys[0], "key")]

    def in_memory() -> None:
        manifest: ModelManifest = UnverifiedSignature.from_bytes(case.data, "s").verified_by(publics, "s")
        found = {name: hashlib.sha256(base64.b64decode(text)).digest() for name, text in files.items()}
        if manifest.resources != {name: value for name, value in found.items() if not manifest.ignores(name)}:
            raise PayloadTampered("folder")

    return (
        in_memory,
        lambda: verify_model(folder, path, publics),
        ["verify-model", str(folder), "--signature", str(path), "--key", str(key)],
    )


CHECKS: dict[str, Callable[[Case], tuple[Check, Check, list[str]]]] = {
    "sealed": sealed,
    "grant": grant,
    "publisher-key": public_key("publisher", PublisherPublic, store.load_publisher_public),
    "recipient-key": public_key("recipient", RecipientPublic, store.load_recipient_public),
    "host-key": public_key("host", HostPublic, store.load_host_public),
    "owner-secret": owner_secret,
    "revocations": revocations,
    "handover": handover,
    "log": log,
    "checkpoint": checkpoint,
    "proof": proof,
    "cosignature": cosignature,
    "trust": trust,
    "oms": oms,
}


def answer(check: Check) -> str:
    """What the API says: accepted, the error's class, or an audit log's verdict."""
    try:
        check()
    except AuditTampered as error:
        assert str(error) and "\n" not in str(error)
        return error.verdict
    except ModelVaultError as error:
        assert str(error) and "\n" not in str(error)
        return type(error).__name__
    return "accepted"


def on_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> int:
    """The exit status; a refusal is one line, and perhaps a hint."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert "Traceback" not in output.err
    if ended.value.code:
        assert lines[0].startswith("modelvault: error: "), output.err
        assert all(line.startswith("modelvault: hint: ") for line in lines[1:]), output.err
    return int(ended.value.code or 0)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.path.removesuffix(".vec"))
def test_vector(vector: Vector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, data = parse((FOLDER / vector.path).read_bytes())
    assert header["bytes"] == [str(len(data))]
    case = Case(vector, header, data, tmp_path)
    [expected] = header["expect"]
    bytes_api, file_api, arguments = CHECKS[vector.kind](case)
    assert answer(bytes_api) == expected
    assert answer(file_api) == expected
    assert on_command_line(arguments, capsys) == int(case.one("status"))


def test_the_committed_files_are_what_the_script_writes() -> None:
    committed = {p.relative_to(FOLDER).as_posix(): p.read_bytes() for p in FOLDER.glob("*/*.vec")}
    assert committed == {vector.path: vector.to_bytes() for vector in VECTORS}
    assert len(committed) >= 150
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 2 * 2**20


def by_minimal(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What docs/verify_minimal.py says; it must say so in one line."""
    monkeypatch.setattr(sys, "argv", ["verify_minimal.py", *arguments])
    try:
        runpy.run_path(str(MINIMAL), run_name="__main__")
    except SystemExit as ended:
        assert isinstance(ended.code, str) and ended.code.startswith("refused: ")
        return "refused"
    assert capsys.readouterr().out == "holds\n"
    return "accepted"


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS if "minimal" in dict(v.header)], ids=lambda v: v.path.removesuffix(".vec")
)
def test_the_minimal_reader_agrees(
    vector: Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, data = parse(vector.to_bytes())
    case = Case(vector, header, data, tmp_path)
    for number, text in enumerate(header.get("closed", [])):
        case.file(f"audit.log.{number:06d}", base64.b64decode(text))
    path = case.file("audit.log" if vector.kind == "log" else "m.mvlt")
    keys = [case.file(f"{number}.pub", key) for number, key in enumerate(case.keys)]
    kept = [case.file("kept", base64.b64decode(text)) for text in header.get("against", [])]
    found = by_minimal([str(p) for p in [path, *keys, *kept]], monkeypatch, capsys)
    assert found == case.one("minimal") or case.one("minimal") == "unknown"


def test_the_minimal_reader_is_small_and_stands_alone() -> None:
    text = MINIMAL.read_text()
    assert len(text.splitlines()) < 150
    imports = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imports - set(sys.stdlib_module_names) == {"cryptography"}
