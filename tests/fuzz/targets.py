"""Every parser as a function of bytes. Whatever they are given, only modelvault's own errors may leave them."""

import functools
import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelvault import diff, onnxfile, policy, remote, scan, tensorfile, trust, trustupdates
from modelvault._codec import Fields, b64decode, json_decode, parse_time
from modelvault.audit import openings, proofs, tip
from modelvault.audit.cosigned import read_cosigned
from modelvault.audit.lines import MAX_LINE, Record, parse
from modelvault.audit.segments import Segment
from modelvault.audit.standing import new_minimum, next_key
from modelvault.audit.verification import _read
from modelvault.audit.witnessing import Witness, _request
from modelvault.checkpoint import Checkpoint, Note
from modelvault.commitment import Commitment
from modelvault.container import MAX_ENVELOPE, PRELUDE, Header, Prelude
from modelvault.cosignature import VerifierKey, cosigned_at
from modelvault.diff.report import to_dict
from modelvault.envelope import Envelope
from modelvault.errors import ModelVaultError
from modelvault.graphcheck import check_sealed_graph
from modelvault.handover import MAX_HANDOVER, Handover
from modelvault.index import Index
from modelvault.keys import HostKey, HostPublic, PublisherKey, PublisherPublic, RecipientKey, RecipientPublic, store
from modelvault.keys import remote as key_services
from modelvault.keys.owner import OwnerSecret
from modelvault.manifest import GrantStatement, ModelStatement
from modelvault.omsbundle import ModelManifest, UnverifiedSignature
from modelvault.policy import Terms
from modelvault.revocation import MAX_LIST_ENVELOPE, RevocationList
from modelvault.sealedfile import SealedFile, UnverifiedGrant
from modelvault.usage import Usage
from modelvault.variants import KeyRing, SlotReader, Variants
from modelvault.watermark.record import Record as MarkRecord

Target = Callable[[bytes], object]
TARGETS: dict[str, Target] = {}
KEYS = [bytes.fromhex(text) for text in (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",  # RFC 8032, test 1
)]  # fmt: skip


def target(function: Target) -> Target:
    """Register under the function's name; modelvault's errors are the expected answer to nonsense."""

    @functools.wraps(function)
    def run(data: bytes) -> object:
        try:
            return function(data)
        except ModelVaultError as error:
            if not str(error) or "\n" in str(error):
                raise AssertionError(f"not one line: {error!r}") from error
            return None

    TARGETS[function.__name__] = run
    return run


@functools.cache
def folder() -> Path:
    """Where parsers of files find what is to be parsed."""
    memory = Path("/dev/shm")  # where there is one: thousands of files a second
    made = tempfile.TemporaryDirectory(prefix="modelvault-fuzz-", dir=memory if memory.is_dir() else None)
    _KEPT.append(made)
    path = Path(made.name)
    (path / "a.pub").write_bytes(host().to_pem())
    return path


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def host() -> HostPublic:
    return HostPublic.from_bytes(KEYS[0], "key")


def file(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def value(data: bytes) -> Any:
    return json_decode(data, "value", limit=2**20)


@target
def json(data: bytes) -> None:
    value(data)


@target
def base64(data: bytes) -> None:
    b64decode(text(data), "text")


@target
def time(data: bytes) -> None:
    parse_time(text(data), "time")


@target
def container(data: bytes) -> None:
    prelude = Prelude.from_bytes(data[: PRELUDE.size], "file")
    header = Header.from_bytes(data[: prelude.payload_offset], "file")
    assert header.to_bytes(prelude.payload_offset) == data[: prelude.payload_offset]
    envelope = Envelope.from_bytes(header.envelope, "envelope", limit=MAX_ENVELOPE)
    ModelStatement.from_bytes(envelope.payload, "statement")


@target
def sealed_file(data: bytes) -> None:
    with SealedFile(file("m.mvlt", data)) as sealed:
        sealed.grants()
        sealed.verify_payload()


@target
def envelope(data: bytes) -> None:
    found = Envelope.from_bytes(data, "envelope", limit=MAX_ENVELOPE)
    assert found.to_bytes() == data
    found.verified_by([PublisherPublic.of(host().parts)])


@target
def model_statement(data: bytes) -> None:
    found = ModelStatement.from_bytes(data, "statement")
    assert ModelStatement.from_bytes(found.to_bytes(), "statement") == found


@target
def grant_statement(data: bytes) -> None:
    found = GrantStatement.from_bytes(data, "grant")
    assert GrantStatement.from_bytes(found.to_bytes(), "grant") == found


@target
def grant(data: bytes) -> None:
    UnverifiedGrant.from_bytes(data, "grant")


@target
def variants(data: bytes) -> None:
    Variants.from_dict(value(data), "fingerprint")


@target
def key_ring(data: bytes) -> None:
    KeyRing.from_bytes(data[1:], 8 * (1 + data[0] if data else 1), "grant")


@target
def slot_places(data: bytes) -> None:
    found = Variants(owner="SHA256:A", original=b"", slots=8, length=64, coalition=2, commitment=b"")
    region, store = bytearray(2**14), data[: found.store].ljust(found.store, b"\0")
    reader = SlotReader(found, memoryview(region), memoryview(store), "variants")
    assert all(b - a >= found.length for a, b in itertools.pairwise((*reader.places, len(region))))
    assert reader.inside(0, len(region)) == range(found.slots)


@target
def commitment(data: bytes) -> None:
    Commitment.from_dict(value(data), "watermark")


@target
def index(data: bytes) -> None:
    contents, _, table = data.partition(b"\n")
    found = Index.from_bytes(contents, "index", table=table.removesuffix(b"\n"))
    assert Index.from_bytes(found.to_bytes().split(b"\n")[0], "index").assets == found.assets


@target
def terms(data: bytes) -> None:
    fields = Fields({"terms": value(data)}, "statement")
    found = Terms.from_dict(fields.mapping("terms"), "terms")
    assert Terms.from_dict(found.to_dict(), "terms") == found


@target
def terms_toml(data: bytes) -> None:
    policy.read_terms(file("terms.toml", data))


@target
def trust_policy(data: bytes) -> None:
    found = trust.TrustPolicy.read(file("trust.toml", data))
    if found.revocation is None:
        trustupdates.updated(found)


@target
def revocations(data: bytes) -> None:
    RevocationList.from_bytes(Envelope.from_bytes(data, "list", limit=MAX_LIST_ENVELOPE).payload, "list")


@target
def revocation_statement(data: bytes) -> None:
    found = RevocationList.from_bytes(data, "list")
    found.check("model", ("0" * 64,), "m")


@target
def handover(data: bytes) -> None:
    Handover.from_bytes(Envelope.from_bytes(data, "hand-over", limit=MAX_HANDOVER).payload, "hand-over")


@target
def handover_statement(data: bytes) -> None:
    Handover.from_bytes(data, "hand-over")


@target
def public_keys(data: bytes) -> None:
    for kind in (PublisherPublic, RecipientPublic, HostPublic):
        try:
            key = kind.from_pem(data, "key")
        except ModelVaultError:
            continue
        assert kind.from_pem(key.to_pem(), "key") == key


@target
def private_keys(data: bytes) -> None:
    for kind in (PublisherKey, RecipientKey, HostKey):
        try:
            kind.from_pem(data, lambda: b"x", "key")
        except ModelVaultError:
            continue


@target
def owner_secret(data: bytes) -> None:
    OwnerSecret.from_pem(data, lambda: b"x", "owner")


@target
def checkpoint(data: bytes) -> None:
    note = Note.from_text(text(data), "note")
    assert Note.from_text(note.to_text(), "note") == note
    found = Checkpoint.from_text(note.text, "note")
    assert found.to_text() == note.text
    note.signed_by(found.origin, host())


@target
def cosignature(data: bytes) -> None:
    note = read_cosigned(file("audit.log.cosigned", data))
    cosigned_at(note, VerifierKey(name="w", algorithm=b"\4", key=host()))


@target
def verifier_key(data: bytes) -> None:
    VerifierKey.from_text(text(data), "key")


@target
def audit_line(data: bytes) -> None:
    record = parse(data[: MAX_LINE + 1], "line")
    if isinstance(record, Record):
        openings.reveal(record, {})
        for look in (next_key, new_minimum):
            try:
                look(record, "line")
            except ModelVaultError:
                continue
        assert len(record.to_line()) > 0


@target
def audit_log(data: bytes) -> None:
    """Segments, each ended by a NUL but the last."""
    parts = data.split(b"\0")
    segments = [
        Segment(path=Path(f"log.{number:06d}"), file=io.BytesIO(part), size=len(part))
        for number, part in enumerate(parts[:8])
    ]
    _read(Path("log"), segments, host(), 2, None)


@target
def audit_openings(data: bytes) -> None:
    file("audit.log.openings", data)
    openings.read_openings(folder() / "audit.log")


@target
def audit_state(data: bytes) -> None:
    file("audit.log.state", data)
    tip._read_state(folder() / "audit.log")


@target
def audit_usage(data: bytes) -> None:
    try:
        Usage.from_dict(value(data))
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # what the ledger catches: a side file that is not understood is made anew


@target
def audit_proof(data: bytes) -> None:
    for part in proofs.split_proofs(text(data), "s")[:4]:
        proofs.check_proof(part, [(0, host())], "proof")


@target
def witness_request(data: bytes) -> None:
    _request(text(data))
    witness = Witness(folder() / "witness", "w", HostKey.generate())
    assert witness.add_checkpoint(text(data))[0] == 404


@target
def oms_bundle(data: bytes) -> None:
    UnverifiedSignature.from_bytes(data, "bundle").verified_by([PublisherPublic.of(host().parts)], "bundle")


@target
def oms_manifest(data: bytes) -> None:
    found = ModelManifest.from_bytes(data, "list")
    assert ModelManifest.from_bytes(found.to_bytes(), "list") == found


@target
def graph(data: bytes) -> None:
    check_sealed_graph(data, 1024, "graph")


@target
def onnx_model(data: bytes) -> None:
    path = file("m.onnx", data)
    for weight in (model := onnxfile.OpenModel(path)).weights[:4]:
        if weight.size <= 2**20:
            model.read(weight)
    onnxfile.split(path)


@target
def scanned(data: bytes) -> None:
    scan.scan(file("m.onnx", data)).to_dict()


@target
def compared(data: bytes) -> None:
    """Two models that differ in a byte."""
    changed = data[:-1] + bytes([data[-1] ^ 1]) if data else data
    to_dict(diff.compare(file("m.onnx", data), file("n.onnx", changed)))


@target
def tensor_file(data: bytes) -> None:
    for tensor in (tensorfile.read_tensors(file("t.npz", data)) or [])[:4]:
        if tensor.size <= 2**20:
            tensor.read()


@target
def watermark_record(data: bytes) -> None:
    MarkRecord.from_bytes(data, "record")


@target
def urls(data: bytes) -> None:
    url = text(data)
    remote.is_url(url)
    remote.display(url)
    if remote.is_url(url) and url.startswith(("memory:", "none:")):
        remote.read_bytes(url, limit=10)


@target
def key_references(data: bytes) -> None:
    """Names, paths and URIs of keys; none that asks a service, a token or an open descriptor."""
    reference = text(data)
    store.is_uri(reference)
    key_services.check_address(reference, "key")
    if not key_services.is_remote(reference) and not reference.startswith(("fd:", "keyring:")):
        store.load_publisher_public(reference)


@target
def token_uri(data: bytes) -> None:
    key_services.backend("pkcs11:").Uri.parse(f"pkcs11:{text(data)}")  # type: ignore[attr-defined]
