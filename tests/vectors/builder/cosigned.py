"""Checkpoints of log/good.vec that witnesses cosigned; all witnesses of the header must have."""

import struct
from collections.abc import Iterator

from vectors.builder.base import HOST, STRANGER, WITNESS, Key, Vector, b64, sha
from vectors.builder.logs import DASH, good, line, note

NAME = "witness.example/w1"
TIME = 1795608000  # 2026-11-25T12:00:00Z

Case = tuple[str, str, str, bytes]


def _number(name: str, key: Key, kind: bytes) -> bytes:
    return sha(name.encode(), b"\n", kind, key.raw)[:4]


def verifier(name: str = NAME, key: Key = WITNESS, kind: bytes = b"\4") -> str:
    """A verifier key of C2SP's signed notes."""
    return f"{name}+{_number(name, key, kind).hex()}+{b64(kind + key.raw)}"


def cosignature(
    text: str, key: Key = WITNESS, name: str = NAME, *, time: int = TIME, said: int | None = None, kind: bytes = b"\4",
    head: str = "cosignature/v1", sig: bytes | None = None,
) -> str:  # fmt: skip
    """A witness's line (AUDITING.md section 7); ``said`` is the time that is signed, where it is another."""
    own = key.sign(f"{head}\ntime {time if said is None else said}\n{text}".encode()) if sig is None else sig
    return f"{DASH} {name} {b64(_number(name, key, kind) + struct.pack('>Q', time) + own)}\n"


def vectors() -> Iterator[Vector]:
    header = (("key", b64(HOST.der)), ("log", "log/good.vec"))
    for name, about, expect, data in [*_cosignatures(), *_notes()]:
        yield Vector("cosignature", name, about, expect, data, (*header, ("witness", verifier())))
    text = good().text()
    both = (*header, ("witness", verifier()), ("witness", verifier("other.example", STRANGER)))
    second = cosignature(text, STRANGER, "other.example")
    found = (note(text) + cosignature(text) + second).encode()
    yield Vector("cosignature", "good-two", "two witnesses", "accepted", found, both)
    one = (note(text) + cosignature(text)).encode()
    yield Vector("cosignature", "second-missing", "one of two witnesses", "SignatureInvalid", one, both)
    renamed = (*header, ("witness", verifier("other.example")))
    yield Vector("cosignature", "name", "the witness's key under another name", "SignatureInvalid", one, renamed)
    for name, about, key in _verifiers():
        yield Vector("cosignature", f"verifier-{name}", about, "FormatError", one, (*header, ("witness", key)))


def _cosignatures() -> Iterator[Case]:
    log = good()
    text = log.text()

    def with_line(*lines: str) -> bytes:
        return (note(text) + "".join(lines)).encode()

    yield "good", "the log's last head", "accepted", with_line(cosignature(text))
    yield "good-first", "the witness's line stands before the log's", "accepted", (
        f"{text}\n{cosignature(text)}{line(text)}".encode()
    )  # fmt: skip
    old = log.text(1)
    yield "good-older", "an older head", "accepted", (note(old) + cosignature(old)).encode()
    yield "good-epoch", "cosigned in 1970", "accepted", with_line(cosignature(text, time=0))
    yield "good-latest", "the last second of the year 9999", "accepted", with_line(cosignature(text, time=253402300799))
    other = cosignature(text, STRANGER, "other.example")
    yield "good-others", "an unknown witness's line beside it", "accepted", with_line(other, cosignature(text))
    garbage = f"{DASH} other.example {b64(bytes(5))}\n"
    yield "good-unknown", "an unknown line of one byte beside it", "accepted", with_line(garbage, cosignature(text))
    stranger = cosignature(text, STRANGER)
    yield "good-name-twice", "another key under the witness's name beside it", "accepted", with_line(
        stranger, cosignature(text)
    )  # fmt: skip
    wrong = {
        "missing": ("no witness's line", ""),
        "stranger": ("another key under the witness's name", stranger),
        "number": ("another key under the witness's name and number", cosignature(text, sig=STRANGER.sign(b"x"))),
        "signature": ("a signature of zeros", cosignature(text, sig=bytes(64))),
        "signature-short": ("63 bytes", cosignature(text, sig=bytes(63))),
        "signature-long": ("65 bytes", cosignature(text, sig=bytes(65))),
        "signature-none": ("a time and no signature", cosignature(text, sig=b"")),
        "time": ("another time than the one signed", cosignature(text, said=TIME - 1)),
        "time-late": ("a time after the year 9999", cosignature(text, time=253402300800)),
        "time-huge": ("2^64 - 1 seconds", cosignature(text, time=2**64 - 1)),
        "version": ("signed as cosignature/v2", cosignature(text, head="cosignature/v2")),
        "other-text": ("signed over another head", cosignature(old)),
        "note-signature": ("a plain signature of the note", line(text, WITNESS, NAME)),
        "note-number": ("a plain signature under the number of a cosignature", line(
            text, WITNESS, NAME, number=_number(NAME, WITNESS, b"\4")
        )),
        "log-kind": ("a cosignature under the number of a log's key", cosignature(text, kind=b"\1")),
    }  # fmt: skip
    for name, (about, found) in wrong.items():
        yield name, about, "SignatureInvalid", with_line(found)


def _notes() -> Iterator[Case]:
    text = good().text()
    own = cosignature(text)
    cases = {
        "twice": ("two lines of the witness", note(text) + own + cosignature(text, time=TIME + 1)),
        "base64": ("a line that is not base64", note(text) + f"{DASH} {NAME} !!!!\n"),
        "no-number": ("a line of three bytes", note(text) + f"{DASH} {NAME} {b64(bytes(3))}\n"),
        "no-name": ("a line without a name", note(text) + own.replace(f"{NAME} ", "")),
        "no-line-end": ("the last line does not end", (note(text) + own)[:-1]),
        "space": ("an empty line between the signatures", f"{note(text)}\n{own}"),
        "extension": ("an extension line, cosigned", note(text + "more\n") + cosignature(text + "more\n")),
        "text": ("the witness's line alone", own),
    }  # fmt: skip
    for name, (about, found) in cases.items():
        yield f"note-{name}", about, "FormatError", found.encode()


def _verifiers() -> Iterator[tuple[str, str, str]]:
    good_key = verifier()
    number = good_key.split("+")[1]
    yield "number", "a verifier key whose number is another key's", good_key.replace(number, "00000000", 1)
    yield "number-upper", "a verifier key with upper-case hex digits", good_key.replace(number, number.upper(), 1)
    yield "kind", "a verifier key of an unknown kind", verifier(kind=b"\2")
    yield "short", "a verifier key of 31 bytes", f"{NAME}+{number}+{b64(bytes([4]) + bytes(31))}"
    yield "base64", "a verifier key that is not base64", good_key[:-1]
    yield "no-name", "a verifier key without a name", f"+{number}+{good_key.split('+', 2)[2]}"
    yield "two-parts", "a verifier key of two parts", f"{NAME}+{number}"
