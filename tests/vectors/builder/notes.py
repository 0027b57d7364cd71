"""Checkpoints that were kept (checked against log/good.vec), and proofs of its records."""

from collections.abc import Iterator

from vectors.builder.base import HOST, NEXT, STRANGER, WITNESS, Key, Vector, b64, sha
from vectors.builder.logs import ORIGIN, good, line, note, rotated
from vectors.builder.sealed import tree

Case = tuple[str, str, str, bytes]


def vectors() -> Iterator[Vector]:
    header = (("key", b64(HOST.der)), ("log", "log/good.vec"))
    for name, about, expect, data in _checkpoints():
        yield Vector("checkpoint", name, about, expect, data, header)
    for name, about, expect, data in _proofs():
        yield Vector("proof", name, about, expect, data, header[:1])
    for name, about, expect, data, chain in _epochs():
        yield Vector("proof", name, about, expect, data, (*header[:1], ("succession", b64(chain))))


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
        "origin-control": note(text.replace(ORIGIN, "log\x01"), name="log\x01").encode(),
        "name-control": (note(text) + line(text, WITNESS, "witness\x1b.example")).encode(),
        "name-201": (note(text) + line(text, WITNESS, "w" * 201)).encode(),
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


def _path(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*_path(leaves[:split], index), tree(leaves[split:])]
    return [*_path(leaves[split:], index - split), tree(leaves[:split])]


def _proofs() -> Iterator[Case]:
    log = good()
    records = [text for text in log.lines if not text.startswith(b'{"checkpoint"')]

    def proof(index: int, *, text: bytes | None = None, number: str | None = None, path: list[bytes] | None = None,
              head: str | None = None, start: str = "c2sp.org/tlog-proof@v1") -> bytes:  # fmt: skip
        hashes = "".join(f"{b64(h)}\n" for h in (_path(log.leaves, index) if path is None else path))
        top = f"{start}\nextra {b64(records[index] if text is None else text)}\nindex {number or index}\n{hashes}"
        return f"{top}\n{note(log.text()) if head is None else head}".encode()

    for index in (0, 3, 6):
        yield f"good-{index}", f"record {index} of seven", "accepted", proof(index)
    yield "record", "another record", "modified", proof(3, text=records[4])
    yield "index", "another index", "modified", proof(3, number="4")
    yield "path-short", "a hash is missing", "FormatError", proof(3, path=_path(log.leaves, 3)[:-1])
    yield "path-long", "a hash too many", "FormatError", proof(3, path=[*_path(log.leaves, 3), bytes(32)])
    yield "path-order", "the hashes in reverse", "modified", proof(3, path=_path(log.leaves, 3)[::-1])
    yield "path-hash", "a hash was changed", "modified", proof(3, path=[bytes(32), *_path(log.leaves, 3)[1:]])
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


def _epochs() -> Iterator[tuple[str, str, str, bytes, bytes]]:
    """Proofs of the six records of log/good-epochs.vec, the first epoch of which ends with record 3."""
    log = rotated()
    records = [t for lines in [*log.closed, log.lines] for t in lines if not t.startswith(b'{"checkpoint"')]

    def proof(index: int, size: int = 6, key: Key = NEXT, *, text: bytes | None = None) -> bytes:
        leaves = log.leaves if text is None else [*log.leaves[:index], sha(b"\0", text), *log.leaves[index + 1 :]]
        top = f"c2sp.org/tlog-proof@v1\nextra {b64(text or records[index])}\nindex {index}\n"
        hashes = "".join(f"{b64(h)}\n" for h in _path(leaves[:size], index))
        head = note(f"{ORIGIN}\n{size}\n{b64(tree(leaves[:size]))}\n", key)
        return f"{top}{hashes}\n{head}".encode()

    chain, later = proof(3, 4, HOST), proof(5)
    yield "epoch-good", "a record of the second epoch", "accepted", later, chain
    yield "epoch-first", "a record of the first epoch under its last head", "accepted", proof(1, 4, HOST), chain
    yield "epoch-both", "a record of the first epoch under the second's head", "accepted", proof(1), chain
    wrong = "SignatureInvalid"
    yield "epoch-unknown", "a head of the second epoch, whose key nothing leads to", wrong, later, b""
    yield "epoch-old-key", "a head of the second epoch, signed by the first one's key", wrong, proof(5, 6, HOST), chain
    yield "epoch-new-key", "a head of the first epoch, signed by the second one's key", wrong, proof(1, 4), chain
    yield "succession-stranger", "the next key is named under a stranger's head", wrong, later, proof(3, 4, STRANGER)
    yield "succession-twice", "the same end of an epoch twice", wrong, later, chain + chain
    yield "succession-hash", "another record's path", "modified", later, chain.replace(b"index 3", b"index 2")
    yield (
        "succession-late-head",
        "under a head of the next epoch, signed by the old key",
        "FormatError",
        later,
        proof(3, 6, HOST),
    )
    yield "succession-before", "an empty line before the first proof", "FormatError", later, b"\n" + chain
    yield "succession-record", "a record that names no key", "FormatError", later, proof(2, 4, HOST)
    changed = {
        "next": ("a fingerprint that is not the next key's", NEXT.fingerprint, HOST.fingerprint),
        "public": ("a next key of 31 bytes", b64(NEXT.raw), b64(NEXT.raw[:31])),
        "epoch": ("the end of another epoch", '"epoch":0', '"epoch":1'),
    }
    for name, (about, old, new) in changed.items():
        text = records[3].replace(old.encode(), new.encode())
        yield f"succession-{name}", about, "FormatError", later, proof(3, 4, HOST, text=text)


def _single(text: bytes) -> bytes:
    """A proof of a record that stands alone in a log."""
    head = note(f"{ORIGIN}\n1\n{b64(sha(bytes(1), text))}\n")
    return f"c2sp.org/tlog-proof@v1\nextra {b64(text)}\nindex 0\n\n{head}".encode()
