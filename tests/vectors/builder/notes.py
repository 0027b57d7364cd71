"""Checkpoints that were kept (checked against log/good.vec), and proofs of its records."""

from collections.abc import Iterator

from vectors.builder.base import HOST, STRANGER, WITNESS, Vector, b64, sha
from vectors.builder.logs import ORIGIN, Log, good, line, note

Case = tuple[str, str, str, bytes]


def vectors() -> Iterator[Vector]:
    header = (("key", b64(HOST.der)), ("log", "log/good.vec"))
    for name, about, expect, data in _checkpoints():
        yield Vector("checkpoint", name, about, expect, data, header)
    for name, about, expect, data in _proofs():
        yield Vector("proof", name, about, expect, data, header[:1])


def _checkpoints() -> Iterator[Case]:
    log = good()
    text = log.text()
    root = text.split("\n")[2]
    yield "good", "the log's last head", "accepted", note(text).encode()
    yield "good-older", "an older head", "accepted", note(log.text(1)).encode()
    both = note(text) + line(text, WITNESS, "witness.example")
    yield "good-witness", "a witness signed, too", "accepted", both.encode()
    yield "stranger", "signed by another key", "unknown-key", note(text, STRANGER).encode()
    yield "signature", "a signature of zeros", "unknown-key", note(text, sig=bytes(64)).encode()
    yield "name", "signed under another name", "unknown-key", note(text, name="modelvault/other").encode()
    wrong = text.replace(root, b64(sha(b"root")))
    yield "root", "another root, signed", "rollback", note(wrong).encode()
    yield "longer", "one record more than the log has", "truncated", note(text.replace("\n7\n", "\n8\n")).encode()
    other = log.text(origin="modelvault/audit/fedcba9876543210")
    yield "origin", "another log's", "rollback", note(other, name="modelvault/audit/fedcba9876543210").encode()
    cases = {
        "empty": b"",
        "text-alone": text.encode(),
        "no-blank-line": (text + line(text)).encode(),
        "no-signature": (text + "\n").encode(),
        "no-line-end": note(text).encode()[:-1],
        "hyphen": note(text).replace("\N{EM DASH}", "-").encode(),
        "latin-1": note(text).replace("\N{EM DASH}", "-").encode() + b"\x97",
        "extension": note(text + "more\n").encode(),
        "two-lines": note("\n".join(text.split("\n")[:2]) + "\n").encode(),
        "size-negative": note(text.replace("\n7\n", "\n-7\n")).encode(),
        "size-zero": note(text.replace("\n7\n", "\n007\n")).encode(),
        "size-huge": note(text.replace("\n7\n", f"\n{10**30}\n")).encode(),
        "size-text": note(text.replace("\n7\n", "\nseven\n")).encode(),
        "size-arabic": note(text.replace("\n7\n", "\n\u0667\n")).encode(),
        "root-short": note(text.replace(root, b64(bytes(31)))).encode(),
        "root-base64": note(text.replace(root, root[:-1])).encode(),
        "origin-space": note(text.replace(ORIGIN, "a b")).encode(),
        "origin-empty": note(text.replace(ORIGIN, "")).encode(),
        "signed-twice": (note(text) + line(text)).encode(),
        "signatures-17": (note(text) + "".join(line(text, WITNESS, f"w{n}") for n in range(16))).encode(),
        "signature-short": note(text).rsplit(" ", 1)[0].encode() + b" AAAA\n",
        "signature-base64": note(text).rsplit(" ", 1)[0].encode() + b" !!!!\n",
        "crlf": note(text).replace("\n", "\r\n").encode(),
        "long": note(text.replace(ORIGIN, "x" * 201)).encode(),
    }
    for name, data in cases.items():
        yield name, f"no checkpoint: {name}", "FormatError", data


def _path(log: Log, index: int) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    from vectors.builder.sealed import tree

    def path(index: int, leaves: list[bytes]) -> list[bytes]:
        if len(leaves) == 1:
            return []
        split = 1 << (len(leaves) - 1).bit_length() - 1
        if index < split:
            return [*path(index, leaves[:split]), tree(leaves[split:])]
        return [*path(index - split, leaves[split:]), tree(leaves[:split])]

    return path(index, log.leaves)


def _proofs() -> Iterator[Case]:
    log = good()
    records = [text for text in log.lines if not text.startswith(b'{"checkpoint"')]

    def proof(index: int, *, text: bytes | None = None, number: str | None = None, path: list[bytes] | None = None,
              head: str | None = None, start: str = "c2sp.org/tlog-proof@v1") -> bytes:  # fmt: skip
        hashes = "".join(f"{b64(h)}\n" for h in (_path(log, index) if path is None else path))
        top = f"{start}\nextra {b64(records[index] if text is None else text)}\nindex {number or index}\n{hashes}"
        return f"{top}\n{note(log.text()) if head is None else head}".encode()

    for index in (0, 3, 6):
        yield f"good-{index}", f"record {index} of seven", "accepted", proof(index)
    yield "record", "another record", "modified", proof(3, text=records[4])
    yield "index", "another index", "modified", proof(3, number="4")
    yield "path-short", "a hash is missing", "FormatError", proof(3, path=_path(log, 3)[:-1])
    yield "path-long", "a hash too many", "FormatError", proof(3, path=[*_path(log, 3), bytes(32)])
    yield "path-order", "the hashes in reverse", "modified", proof(3, path=_path(log, 3)[::-1])
    yield "path-hash", "a hash was changed", "modified", proof(3, path=[bytes(32), *_path(log, 3)[1:]])
    yield "index-beyond", "an index beyond the head", "FormatError", proof(6, number="7")
    yield "head-stranger", "a head signed by another key", "SignatureInvalid", proof(3, head=note(log.text(), STRANGER))
    yield (
        "head-signature",
        "a head signed with zeros",
        "SignatureInvalid",
        proof(3, head=note(log.text(), sig=bytes(64))),
    )
    good_proof = proof(3)
    cases = {
        "empty": b"",
        "version": proof(3, start="c2sp.org/tlog-proof@v2"),
        "no-extra": good_proof.replace(b"extra ", b"more ", 1),
        "extra-base64": good_proof.replace(b"extra ", b"extra !", 1),
        "no-index": good_proof.replace(b"index 3\n", b"", 1),
        "index-negative": proof(3, number="-3"),
        "index-zero": proof(3, number="03"),
        "index-huge": proof(3, number=str(10**30)),
        "hash-short": proof(3, path=[bytes(31)]),
        "hash-base64": good_proof.replace(b"index 3\n", b"index 3\n****\n", 1),
        "hashes-64": proof(3, path=[bytes(32)] * 64),
        "no-note": good_proof.split(b"\n\n")[0],
        "note": proof(3, head="no note\n"),
    }
    for name, data in cases.items():
        yield name, f"no proof: {name}", "FormatError", data
    foreign = b'{"leaf":"' + b64(bytes(32)).encode() + b'"}'
    yield "leaf", "a pruned record for a record", "FormatError", _single(foreign)
    yield "seq", "a record with another number", "FormatError", _single(records[1])


def _single(text: bytes) -> bytes:
    """A proof of a record that stands alone in a log."""
    head = note(f"{ORIGIN}\n1\n{b64(sha(bytes(1), text))}\n")
    return f"c2sp.org/tlog-proof@v1\nextra {b64(text)}\nindex 0\n\n{head}".encode()
