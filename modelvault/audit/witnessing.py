"""A small witness for self-hosting: cosigns heads of logs it knows while they only grow (C2SP tlog-witness)."""

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from modelvault import _files, merkle
from modelvault._codec import NUMBER, Fields, b64encode, json_decode, json_encode
from modelvault.audit.lines import ROTATED
from modelvault.audit.proofs import MAX_PROOF, RecordProof, check_proof, hashes
from modelvault.audit.standing import next_key
from modelvault.checkpoint import Checkpoint, Note, NoteSignature
from modelvault.cosignature import COSIGNATURE, VerifierKey, cosign
from modelvault.errors import FormatError, ModelVaultError, SignatureInvalid
from modelvault.keys import HostPublic
from modelvault.keys.remote import HostSigner

MAX_STATE = 2**16
TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"

Answer = tuple[int, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the witness knows of one log: its present key, and the last head that it cosigned."""

    origin: str
    key: HostPublic
    size: int = 0
    root: bytes = merkle.EMPTY_ROOT
    note: str = ""


class Witness:
    """Its memory is a folder with one file a log; what it cosigned is on disk before it answers."""

    def __init__(self, folder: Path, name: str, key: HostSigner) -> None:
        self.folder = folder
        self.verifier = VerifierKey(name=name, algorithm=COSIGNATURE, key=key.public)
        self._key = key
        with _files.failures(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def trust(self, log: VerifierKey) -> None:
        """Watch this log from now on; a log that is watched already is left alone. Raises FileError."""
        with self._locked():
            if self._read(log.name) is None:
                self._write(_Seen(origin=log.name, key=log.key))

    def add_checkpoint(self, body: str) -> Answer:
        """Status, content type and body of the answer to an add-checkpoint request."""
        try:
            old, proof, note, head = _request(body)
        except FormatError as error:
            return 400, TEXT, f"{error}\n"
        with self._locked():
            seen = self._read(head.origin)
            if seen is None:
                return 404, TEXT, "unknown log\n"
            if (refusal := _refusal(seen, old, proof, note, head)) is not None:
                return refusal
            line = cosign(note.text, self.verifier.name, self._key, datetime.now(UTC))
            signed = Note(text=note.text, signatures=(*_own(note, head.origin), line)).to_text()
            self._write(_Seen(origin=head.origin, key=seen.key, size=head.size, root=head.root, note=signed))
            return 200, TEXT, line.to_text()

    def add_key(self, body: str) -> Answer:
        """Follow a log's rotation: the proof that its present key named the next one. Not part of C2SP's protocol."""
        try:
            origin = Checkpoint.from_text(
                Note.from_text(RecordProof.from_text(body, "proof").note, "note").text, "note"
            )
            with self._locked():
                seen = self._read(origin.origin)
                if seen is None:
                    return 404, TEXT, "unknown log\n"
                record = check_proof(body, [(0, seen.key)], "proof")
                if record.event != ROTATED:
                    return 400, TEXT, "the record hands over to no key\n"
                following = next_key(record, "record")
                self._write(_Seen(origin=seen.origin, key=following, size=seen.size, root=seen.root, note=seen.note))
        except ModelVaultError as error:
            return 403, TEXT, f"{error}\n"
        return 200, TEXT, ""

    def last(self, origin: str) -> Answer:
        """The last cosigned head of a log, for auditors."""
        seen = self._read(origin)
        return (200, TEXT, seen.note) if seen and seen.note else (404, TEXT, "unknown log\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Check and store as one step, against threads and other processes."""
        with _files.failures(self.folder):
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, origin: str) -> Path:
        return self.folder / (hashlib.sha256(origin.encode()).hexdigest() + ".json")

    def _read(self, origin: str) -> _Seen | None:
        path = self._path(origin)
        if not path.exists():
            return None
        fields = Fields(json_decode(_files.read_bytes(path, limit=MAX_STATE), str(path), limit=MAX_STATE), str(path))
        fields.exactly("origin", origin)
        return _Seen(
            origin=origin,
            key=HostPublic.from_bytes(fields.binary("key", size=32), str(path)),
            size=fields.integer("size"),
            root=fields.binary("root", size=32),
            note=fields.text("note", limit=MAX_STATE),
        )

    def _write(self, seen: _Seen) -> None:
        value = {"origin": seen.origin, "key": b64encode(seen.key.public_bytes), "size": seen.size, "note": seen.note}
        _files.write_bytes(self._path(seen.origin), json_encode({**value, "root": b64encode(seen.root)}), mode=0o600)


def _request(body: str) -> tuple[int, tuple[bytes, ...], Note, Checkpoint]:
    top, blank, text = body.partition("\n\n")
    first, *lines = top.split("\n")
    old = first.removeprefix("old ")
    if not blank or not first.startswith("old ") or not NUMBER.fullmatch(old):
        raise FormatError("expected 'old SIZE', a proof, an empty line and a checkpoint")
    note = Note.from_text(text, "checkpoint")
    return int(old), hashes(lines, "proof"), note, Checkpoint.from_text(note.text, "checkpoint")


def _refusal(seen: _Seen, old: int, proof: tuple[bytes, ...], note: Note, head: Checkpoint) -> Answer | None:
    """Why the head is not cosigned, in the order of the protocol; None where nothing speaks against it."""
    if not _signed(note, head.origin, seen.key):
        return 403, TEXT, "not signed by the log\n"
    if old > head.size:
        return 400, TEXT, "old size above the size of the checkpoint\n"
    if old != seen.size or (old == head.size and head.root != seen.root):
        return 409, SIZE, f"{seen.size}\n"
    if not _grew(seen, head, proof):
        return 422, TEXT, "the consistency proof does not verify\n"
    return None


def _signed(note: Note, origin: str, key: HostPublic) -> bool:
    try:
        return note.signed_by(origin, key)
    except SignatureInvalid:
        return False


def _own(note: Note, origin: str) -> list[NoteSignature]:
    return [s for s in note.signatures if s.name == origin]


def _grew(seen: _Seen, head: Checkpoint, proof: tuple[bytes, ...]) -> bool:
    if seen.size in (0, head.size):
        return not proof
    try:
        return merkle.roots_of_consistency(seen.size, head.size, seen.root, proof) == (seen.root, head.root)
    except FormatError:
        return False


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no fault of the witness's."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def make_server(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server at ``/add-checkpoint``, ``/add-key`` and ``/checkpoint?ORIGIN``; the caller runs and closes it."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        server_version = "modelvault-witness"
        sys_version = ""

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not NUMBER.fullmatch(length) or int(length) > MAX_PROOF:
                self._answer((413, TEXT, "too long\n"))
                return
            calls = {"/add-checkpoint": witness.add_checkpoint, "/add-key": witness.add_key}
            call = calls.get(self.path)
            try:
                body = self.rfile.read(int(length)).decode("utf-8")
                self._answer(call(body) if call else (404, TEXT, "no such call\n"))
            except UnicodeDecodeError:
                self._answer((400, TEXT, "not UTF-8\n"))
            except ModelVaultError:
                self._answer((500, TEXT, "the witness cannot store what it would sign\n"))

        def do_GET(self) -> None:
            path, _, origin = self.path.partition("?")
            self._answer(witness.last(origin) if path == "/checkpoint" else (404, TEXT, "no such call\n"))

        def _answer(self, answer: Answer) -> None:
            status, kind, body = answer
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """The library prints nothing."""

    return _Server((host, port), Handler)
