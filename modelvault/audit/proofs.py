"""Proofs that travel without the log: one record's inclusion (C2SP tlog-proof), and what a witness is asked to sign."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelvault import merkle
from modelvault._codec import NUMBER, b64decode, b64encode
from modelvault.audit.lines import ROTATED, Record, parse
from modelvault.audit.segments import segment_path
from modelvault.audit.standing import next_key
from modelvault.audit.verification import AuditReport, last_note, read_leaves, verify_log
from modelvault.checkpoint import Checkpoint, Note
from modelvault.errors import AuditTampered, FormatError, SignatureInvalid
from modelvault.keys import HostPublic

PROOF_START = "c2sp.org/tlog-proof@v1"
MAX_PROOF = 2**18
MAX_HASHES = 63

EpochKeys = Sequence[tuple[int, HostPublic]]
"""The first record and the key of each epoch, from a log's first one on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordProof:
    """A record's line, its place, and the path from it to a signed head. Nobody has checked it yet."""

    index: int
    path: tuple[bytes, ...]
    note: str
    line: bytes

    def to_text(self) -> str:
        """C2SP tlog-proof; the record itself stands in its extra data."""
        lines = [PROOF_START, f"extra {b64encode(self.line)}", f"index {self.index}", *map(b64encode, self.path)]
        return "\n".join(lines) + "\n\n" + self.note

    @classmethod
    def from_text(cls, text: str, field: str) -> "RecordProof":
        """Parse; FormatError names ``field``."""
        if len(text) > MAX_PROOF:
            raise FormatError(f"{field}: {len(text)} characters, above the limit of {MAX_PROOF}")
        top, blank, note = text.partition("\n\n")
        lines = top.split("\n")
        if not blank or lines.pop(0) != PROOF_START:
            raise FormatError(f"{field}: expected a proof that begins with {PROOF_START}")
        if not lines or not lines[0].startswith("extra "):
            raise FormatError(f"{field}: extra: expected the record's line")
        line = b64decode(lines.pop(0).removeprefix("extra "), f"{field}: extra")
        index = lines.pop(0).removeprefix("index ") if lines and lines[0].startswith("index ") else ""
        if not NUMBER.fullmatch(index):
            raise FormatError(f"{field}: index: expected a number")
        return cls(index=int(index), path=hashes(lines, field), note=note, line=line)


def hashes(lines: Sequence[str], field: str) -> tuple[bytes, ...]:
    """Lines of base64 SHA-256 hashes. Raises FormatError."""
    if len(lines) > MAX_HASHES:
        raise FormatError(f"{field}: more than {MAX_HASHES} hashes")
    found = tuple(b64decode(line, f"{field}: hash") for line in lines)
    if any(len(item) != merkle.HASH for item in found):
        raise FormatError(f"{field}: hash: expected {merkle.HASH} bytes")
    return found


def prove(log: Path, key: HostPublic, seq: int, *, note: str | None = None) -> RecordProof:
    """The proof that record ``seq`` is in a verified log.

    ``note`` is the signed head that the proof leads to, one of this log's; left out, the last head. Raises as
    verify_log; FormatError where there is no such record below that head, or it was pruned.
    """
    found: list[Record] = []
    leaves: list[bytes] = []
    report = verify_log(
        log,
        key,
        against=note,
        visit=lambda record: found.append(record) if record.seq == seq else None,
        visit_leaf=lambda leaf, line: leaves.append(leaf),
    )
    if note is not None:
        leaves = leaves[: Checkpoint.from_text(Note.from_text(note, "checkpoint").text, "checkpoint").size]
    if not 0 <= seq < len(leaves):
        raise FormatError(f"{log}: no record {seq}, there are {len(leaves)}")
    if not found:
        raise FormatError(f"{log}: record {seq} was pruned: only its hash is left")
    path = merkle.inclusion_proof(leaves, seq)
    return RecordProof(index=seq, path=tuple(path), note=note or report.head, line=found[0].to_line())


def check_proof(text: str, keys: EpochKeys, source: str) -> Record:
    """The record that a proof shows to be in the log of a host. Its head must be signed by the key of its epoch.

    An old key signs no later head: whoever got hold of it cannot write the epochs after its own.

    Raises FormatError; SignatureInvalid where the head is not the host's, AuditTampered where the record is not below
    that head.
    """
    proof, note, head = _opened(text, source)
    key = next((key for began, key in reversed(keys) if began < head.size), None)
    if key is None or not note.signed_by(head.origin, key):
        names = key.fingerprint if key else "a key of its epoch"
        raise SignatureInvalid(f"{source}: the head of {head.size} records is not signed by {names}")
    if merkle.root_of_inclusion(merkle.leaf_hash(proof.line), proof.index, head.size, proof.path) != head.root:
        raise AuditTampered(f"{source}: the record is not in the log that the head signs")
    record = parse(proof.line, source)
    if not isinstance(record, Record) or record.seq != proof.index:
        raise FormatError(f"{source}: extra: expected record {proof.index}")
    return record


def _opened(text: str, source: str) -> tuple[RecordProof, Note, Checkpoint]:
    """A proof, the note it leads to, and what that says."""
    proof = RecordProof.from_text(text, source)
    note = Note.from_text(proof.note, source)
    return proof, note, Checkpoint.from_text(note.text, source)


def succession(log: Path, key: HostPublic) -> list[str]:
    """For every epoch that ended, the proof of the record that names the next key, under the epoch's closing head."""
    report, leaves = read_leaves(log, key)
    rotations: list[Record] = []
    verify_log(log, key, visit=lambda record: rotations.append(record) if record.event == ROTATED else None)
    texts = []
    for record in rotations:
        note = last_note(segment_path(log, record.epoch))
        path = merkle.inclusion_proof(leaves[: record.seq + 1], record.seq)
        texts.append(RecordProof(index=record.seq, path=tuple(path), note=note, line=record.to_line()).to_text())
    if len(texts) != report.epoch:
        raise AuditTampered(f"{log}: changed while it was being read")
    return texts


def split_proofs(text: str, source: str) -> list[str]:
    """Several proofs that stand one after another in one file, and nothing before them. Raises FormatError."""
    before, *parts = text.split(PROOF_START)
    if before:
        raise FormatError(f"{source}: expected proofs that begin with {PROOF_START}")
    return [PROOF_START + part for part in parts]


def follow(first: HostPublic, proofs: Sequence[str], source: str) -> list[tuple[int, HostPublic]]:
    """The keys of all epochs, from the pinned first one and a :func:`succession`. Raises as check_proof."""
    keys = [(0, first)]
    for number, text in enumerate(proofs):
        record = check_proof(text, keys[-1:], f"{source}: proof {number}")
        closing = _opened(text, source)[2].size == record.seq + 1  # the next key alone signs larger heads
        if record.event != ROTATED or record.epoch != number or not closing:
            raise FormatError(f"{source}: proof {number}: expected the end of epoch {number}")
        keys.append((record.seq + 1, next_key(record, f"{source}: proof {number}")))
    return keys


def consistency(report: AuditReport, leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the log's first ``old`` records are still what they were when they were its whole."""
    if old > report.size:
        raise AuditTampered(f"{report.path}: {report.size} records, but {old} were there before", verdict="truncated")
    return merkle.consistency_proof(leaves, old)
