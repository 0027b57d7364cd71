"""Signed notes, checkpoints and cosignatures, against the texts of C2SP and the example of Go's sumdb/note."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from modelvault import checkpoint
from modelvault._codec import b64encode
from modelvault.checkpoint import Checkpoint, Note, NoteSignature
from modelvault.cosignature import COSIGNATURE, VerifierKey, cosign, cosigned_at
from modelvault.errors import FormatError, SignatureInvalid
from modelvault.keys import HostKey

ROOT = bytes(range(32))
TEXT = f"log.example/1\n42\n{b64encode(ROOT)}\n"


def refused(words: str) -> Any:
    return pytest.raises(FormatError, match=rf"^{re.escape(words)}$")


def test_a_checkpoint_is_three_lines() -> None:
    value = Checkpoint(origin="log.example/1", size=42, root=ROOT)
    assert value.to_text() == TEXT
    assert Checkpoint.from_text(TEXT, "c") == value
    for size in ("0", "9" * 19):
        assert Checkpoint.from_text(TEXT.replace("42", size), "c").size == int(size)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected three lines"),
        (TEXT[:-1], "expected three lines"),
        (TEXT + "ext\n", "expected three lines"),
        (TEXT + "x", "expected three lines"),
        (TEXT.replace("42", "042"), "not a checkpoint"),
        (TEXT.replace("42", "-1"), "not a checkpoint"),
        (TEXT.replace("42", "1" * 20), "not a checkpoint"),
        (TEXT.replace("log.example/1", ""), "not a checkpoint"),
        (TEXT.replace("log.example/1", "a b"), "not a checkpoint"),
        (TEXT.replace("log.example/1", "a+b"), "not a checkpoint"),
        (TEXT.replace("log.example/1", "a" * 201), "not a checkpoint"),
        (f"o\n1\n{b64encode(bytes(31))}\n", "root: expected 32 bytes, got 31"),
        ("o\n1\nx\n", "root: not base64"),
    ],
)
def test_checkpoints_that_are_refused(text: str, words: str) -> None:
    with refused(f"c: {words}"):
        Checkpoint.from_text(text, "c")


def test_a_note_s_lines() -> None:
    note = Note(text="text\n", signatures=(NoteSignature(name="n", key_id=b"\x01\x02\x03\x04", signature=b"\xff"),))
    assert note.to_text() == "text\n\n— n AQIDBP8=\n"
    assert Note.from_text(note.to_text(), "n") == note
    assert Note(text="t\n", signatures=note.signatures * 2).to_text() == "t\n\n— n AQIDBP8=\n— n AQIDBP8=\n"
    inside = Note(text="a\n\nb\n", signatures=note.signatures)
    assert Note.from_text(inside.to_text(), "n") == inside


LINE = "— n AQIDBP8=\n"


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ("", "not a signed note"),
        ("text\n" + LINE, "not a signed note"),
        ("text\n\n", "not a signed note"),
        ("text\n\n" + LINE[:-1], "not a signed note"),
        ("text\n\n" + LINE + "x", "not a signed note"),
        ("text\n\n- n AQIDBP8=\n", "not a signature line"),
        ("text\n\n— n\n", "not a signature line"),
        ("text\n\n—  AQIDBP8=\n", "not a signature line"),
        ("text\n\n— a+b AQIDBP8=\n", "not a signature line"),
        ("text\n\n— n AQID BP8=\n", "signature: not base64"),
        ("text\n\n— n AQIDBA==\n", "signature: too short"),
        ("text\n\n" + LINE * 2, "two signatures of one key"),
        ("t" * 16384 + "\n\n" + LINE, "not a signed note"),
        ("text\n\n" + "".join(f"— n{i} AQIDBP8=\n" for i in range(17)), "not a signed note"),
    ],
)
def test_notes_that_are_refused(note: str, words: str) -> None:
    with refused(f"n: {words}"):
        Note.from_text(note, "n")


def test_limits_of_a_note() -> None:
    sixteen = "".join(f"— n{i} AQIDBP8=\n" for i in range(16))
    assert len(Note.from_text("text\n\n" + sixteen, "n").signatures) == 16
    longest = "t" * (16384 - 2 - len(LINE)) + "\n\n" + LINE
    assert len(longest) == 16384
    assert Note.from_text(longest, "n").to_text() == longest
    two = "text\n\n— n AQIDBP8=\n— n AQIDBf8=\n— m AQIDBP8=\n"  # one name, two keys; one number, two names
    assert len(Note.from_text(two, "n").signatures) == 3


def test_keys_are_named_as_go_names_them() -> None:
    """The example of golang.org/x/mod/sumdb/note: PeterNeumann+c74f20a3+..."""
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = VerifierKey.from_text(text, "k")
    assert (key.name, key.algorithm) == ("PeterNeumann", b"\x01")
    assert key.to_text() == text
    assert checkpoint.key_id("PeterNeumann", key.key).hex() == "c74f20a3"
    assert checkpoint.verifier_key("PeterNeumann", key.key) == text
    with pytest.raises(FormatError, match="expected the verifier key of an Ed25519 log or witness"):
        VerifierKey.from_text(f"{text}\n", "k")
    with pytest.raises(FormatError, match="expected the verifier key of an Ed25519 witness"):
        VerifierKey.from_text(text, "k", COSIGNATURE)


def test_the_note_of_go_s_documentation_verifies() -> None:
    key = VerifierKey.from_text("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "k")
    note = Note.from_text(
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
        "n",
    )
    assert note.signed_by("PeterNeumann", key.key)
    assert not note.signed_by("PeterNeuman", key.key)
    assert not note.signed_by("PeterNeumann", HostKey.generate().public)
    with pytest.raises(SignatureInvalid):
        Note(text=note.text + "!\n", signatures=note.signatures).signed_by("PeterNeumann", key.key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name+c74f20a3",
        "na me+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpcAA==",
        "PeterNeumann+c74f20a3+" + b64encode(b"\x02" + bytes(32)),
        "PeterNeumann+c74f20a3+" + b64encode(b"\x01" + bytes(31)),
        "PeterNeumann+c74f20a3+" + b64encode(b"\x01" + bytes(33)),
    ],
)
def test_verifier_keys_that_are_refused(text: str) -> None:
    with refused("k: expected the verifier key of an Ed25519 log or witness"):
        VerifierKey.from_text(text, "k")


def test_a_verifier_key_s_number_belongs_to_it() -> None:
    public = HostKey.generate().public
    text = VerifierKey(name="n", algorithm=COSIGNATURE, key=public).to_text()
    assert VerifierKey.from_text(text, "k").algorithm == b"\x04"
    name, number, key = text.split("+", 2)
    other = f"{name}+{int(number, 16) ^ 1:08x}+{key}"
    for bad in (other, "other" + text[1:]):
        with refused("k: the key's number does not fit the key"):
            VerifierKey.from_text(bad, "k")
    with refused("k: base64 is not canonical"):
        VerifierKey.from_text("PeterNeumann+c74f20a3+AB==", "k")


def test_signing_a_checkpoint() -> None:
    host = HostKey.generate()
    note = checkpoint.sign(Checkpoint(origin="log.example/1", size=42, root=ROOT), host)
    assert note.text == TEXT
    assert note.signed_by("log.example/1", host.public)
    (line,) = note.signatures
    assert line.name == "log.example/1"
    assert line.key_id == checkpoint.key_id("log.example/1", host.public)
    host.public.verify(TEXT.encode(), line.signature)


def test_a_cosignature_is_c2sp_s() -> None:
    witness, moment = HostKey.generate(), datetime(2026, 1, 2, 3, 4, 5, 999_999, UTC)
    line = cosign(TEXT, "w", witness, moment)
    seconds = 1_767_323_045
    assert line.signature[:8] == seconds.to_bytes(8, "big")
    assert len(line.signature) == 72
    witness.public.verify(f"cosignature/v1\ntime {seconds}\n{TEXT}".encode(), line.signature[8:])
    assert line.key_id == checkpoint.key_id("w", witness.public, b"\x04")
    assert line.key_id != checkpoint.key_id("w", witness.public)
    note = Note(text=TEXT, signatures=(line,))
    key = VerifierKey(name="w", algorithm=COSIGNATURE, key=witness.public)
    assert cosigned_at(note, key) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert cosigned_at(note, VerifierKey(name="v", algorithm=COSIGNATURE, key=witness.public)) is None
    assert cosigned_at(Note(text=TEXT, signatures=()), key) is None
    with pytest.raises(SignatureInvalid):
        cosigned_at(Note(text=TEXT + "x\n", signatures=(line,)), key)


def test_cosignatures_of_another_form() -> None:
    witness = HostKey.generate()
    key = VerifierKey(name="w", algorithm=COSIGNATURE, key=witness.public)
    number = checkpoint.key_id("w", witness.public, COSIGNATURE)

    def line(seconds: int, *, short: bool = False) -> Note:
        stamped = seconds.to_bytes(8, "big") + witness.sign(f"cosignature/v1\ntime {seconds}\n{TEXT}".encode())
        data = stamped[:-1] if short else stamped
        return Note(text=TEXT, signatures=(NoteSignature(name="w", key_id=number, signature=data),))

    last = 253_402_300_799  # the end of the year 9999
    assert cosigned_at(line(last), key) == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for note in (line(last + 1), line(1, short=True), line(2**63)):
        with pytest.raises(SignatureInvalid, match=r"^cosignature by w: not a timestamped signature$"):
            cosigned_at(note, key)
