"""Ask a witness to cosign the log's head (C2SP tlog-witness)."""

import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from modelvault import _files
from modelvault._codec import NUMBER, b64encode
from modelvault.audit.cosigned import cosigned_path, read_cosigned
from modelvault.audit.proofs import consistency, succession
from modelvault.audit.verification import read_leaves
from modelvault.checkpoint import MAX_NOTE, Checkpoint, Note, parse_signatures
from modelvault.cosignature import VerifierKey, cosigned_at
from modelvault.errors import AuditTampered, FileError, SignatureInvalid
from modelvault.keys import HostPublic

TIMEOUT = 30.0
SIZE_TYPE = "text/x.tlog.size"


def submit(log: Path, key: HostPublic, url: str, witness: VerifierKey) -> tuple[Note, datetime]:
    """Send the log's head with a consistency proof to a witness; keep and return the head with its cosignature.

    ``key`` is the log's first key. Raises as verify_log; FileError where the witness cannot be reached or refuses,
    AuditTampered (rollback) where it saw a longer or another log, SignatureInvalid where its cosignature is wrong.
    """
    report, leaves = read_leaves(log, key)
    old = _seen(log, report.origin, witness)
    for _ in range(3):
        if old > report.size:
            raise AuditTampered(f"{log}: {report.size} records, {url} has seen {old}", verdict="rollback")
        proof = "".join(b64encode(h) + "\n" for h in consistency(report, leaves, old))
        status, kind, body = _post(f"{url.rstrip('/')}/add-checkpoint", f"old {old}\n{proof}\n{report.head}")
        if status == 409 and kind == SIZE_TYPE and NUMBER.fullmatch(body.strip()) and int(body) != old:
            old = int(body)  # it has seen more or less than we remember
        elif status == 403 and report.epoch:
            _introduce(url, succession(log, key))
        else:
            break
    if status in (409, 422):
        raise AuditTampered(f"{log}: {url} has seen another log of this name at {old} records", verdict="rollback")
    if status != 200:
        raise FileError(f"{url}: refused with status {status}: {' '.join(body.split())[:200]}")
    note = _merged(log, Note.from_text(report.head, "head"), body, url)
    moment = cosigned_at(note, witness)
    if moment is None:
        raise SignatureInvalid(f"{url}: no cosignature by {witness.name}")
    _files.write_bytes(cosigned_path(log), note.to_text().encode())
    return note, moment


def _seen(log: Path, origin: str, witness: VerifierKey) -> int:
    """How much of the log this witness cosigned last, as far as we know."""
    path = cosigned_path(log)
    if not path.exists():
        return 0
    note = read_cosigned(path)
    head = Checkpoint.from_text(note.text, str(path))
    known = head.origin == origin and any(s.name == witness.name for s in note.signatures)
    return head.size if known else 0


def _merged(log: Path, note: Note, body: str, url: str) -> Note:
    """The head with the new cosignatures, and with those that it had."""
    signatures = {(s.name, s.key_id): s for s in note.signatures}
    path = cosigned_path(log)
    if path.exists() and (kept := read_cosigned(path)).text == note.text:
        signatures |= {(s.name, s.key_id): s for s in kept.signatures}
    new = parse_signatures(body, url)
    signatures |= {(s.name, s.key_id): s for s in new if s.name != note.text.split("\n")[0]}
    return Note(text=note.text, signatures=tuple(signatures.values()))


def _introduce(url: str, proofs: Sequence[str]) -> None:
    """Tell this package's own witness of the keys that followed; others are told by their operators."""
    for proof in proofs:
        _post(f"{url.rstrip('/')}/add-key", proof)


def _post(url: str, body: str) -> tuple[int, str, str]:
    """Status, content type and text of the answer. Raises FileError."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise FileError(f"{url}: expected an http or https address")
    request = urllib.request.Request(url, data=body.encode(), method="POST")  # noqa: S310
    request.add_header("Content-Type", "text/plain; charset=utf-8")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return answer.status, answer.headers.get_content_type(), answer.read(MAX_NOTE).decode("utf-8", "replace")
    except urllib.error.HTTPError as answer:
        with answer:
            text = answer.read(MAX_NOTE).decode("utf-8", "replace")
        return answer.code, answer.headers.get_content_type(), text
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise FileError(f"{url}: not reached: {str(reason).lower()}") from None
