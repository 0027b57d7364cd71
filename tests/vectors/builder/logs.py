"""Audit logs. The file is the open segment; closed ones stand in the header (``closed``), in order."""

from collections.abc import Callable, Iterator
from typing import Any

from vectors.builder.base import HOST, NEXT, STRANGER, WITNESS, Key, Vector, b64, canonical, sha
from vectors.builder.sealed import tree

ORIGIN = "modelvault/audit/0123456789abcdef"
DASH = "\N{EM DASH}"


def note(
    text: str, key: Key = HOST, name: str = ORIGIN, *, number: bytes | None = None, sig: bytes | None = None
) -> str:
    """A C2SP signed note with one signature."""
    return f"{text}\n{line(text, key, name, number=number, sig=sig)}"


def line(
    text: str, key: Key = HOST, name: str = ORIGIN, *, number: bytes | None = None, sig: bytes | None = None
) -> str:
    own = number or sha(name.encode(), b"\n\1", key.raw)[:4]
    return f"{DASH} {name} {b64(own + (sig or key.sign(text.encode())))}\n"


class Log:
    """Writes records and heads as docs/AUDITING.md says; what is given in place of a right value is written."""

    def __init__(self, key: Key = HOST, origin: str = ORIGIN, **opening: Any) -> None:
        self.key, self.origin = key, origin
        self.lines: list[bytes] = []
        self.closed: list[list[bytes]] = []
        self.leaves: list[bytes] = []
        self.batch = self.epoch = 0
        self.head_line: bytes | None = None
        self.fresh = True
        self.record("opened", origin=origin, key=key.fingerprint, public=b64(key.raw), **opening)

    def record(self, event: str, **fields: Any) -> "Log":
        own: dict[str, Any] = {"v": 1, "seq": len(self.leaves), "batch": self.batch, "epoch": self.epoch}
        own |= {"time": f"2026-11-25T12:00:{len(self.leaves):02d}Z", "boot": "b", "pid": 7, "event": event}
        if self.fresh and self.head_line is not None:
            own["prev"] = b64(sha(self.head_line))
        return self.raw(canonical({k: v for k, v in {**own, **fields}.items() if v is not None}))

    def raw(self, text: bytes) -> "Log":
        self.lines.append(text)
        self.leaves.append(sha(b"\0", text))
        self.fresh = False
        return self

    def leaf(self, seq: int) -> "Log":
        """Prune: the record's line gives way to its hash."""
        where = next(n for n, text in enumerate(self.lines) if b'"seq":%d,' % seq in text)
        self.lines[where] = canonical({"leaf": b64(self.leaves[seq])})
        return self

    def text(self, size: int | None = None, origin: str | None = None) -> str:
        count = len(self.leaves) if size is None else size
        return f"{origin or self.origin}\n{count}\n{b64(tree(self.leaves[:count]))}\n"

    def head(self, signed: str | None = None, *, more: str = "") -> "Log":
        found = signed if signed is not None else note(self.text(), self.key, self.origin)
        self.head_line = canonical({"checkpoint": found + more})
        self.lines.append(self.head_line)
        self.batch, self.fresh = self.batch + 1, True
        return self

    def rotate(self, key: Key = NEXT, **fields: Any) -> "Log":
        own = {"next": key.fingerprint, "public": b64(key.raw), "reason": "asked", **fields}
        self.record("key.rotated", **own).head()
        return self.next(key)

    def next(self, key: Key) -> "Log":
        """Begin the next segment."""
        self.closed.append(self.lines)
        self.lines, self.key, self.epoch = [], key, self.epoch + 1
        return self

    def segments(self) -> list[bytes]:
        return [b"".join(text + b"\n" for text in lines) for lines in [*self.closed, self.lines]]


def good() -> Log:
    """Seven records in three batches."""
    log = Log().head()
    log.record("load.intent", load="1", model={"name": "direction", "version": "1.0"}).head()
    log.record("load.done", load="1", memory="lean").record("session.closed", load="1", runs=3, seconds=0.25)
    return (
        log.record("load.intent", load="2")
        .record("load.denied", load="2", reason="PolicyDenied")
        .record("load.done", load="3")
        .head()
    )


def rotated() -> Log:
    """Two epochs."""
    log = Log().head().record("load.intent", load="1").record("load.done", load="1").head().rotate()
    return log.record("load.intent", load="2").head().record("load.done", load="2").head()


def pruned() -> Log:
    """Two epochs, of which the first was pruned, with permission."""
    log = rotated().record("pruned", minimum=3, segments=1).head()
    first = log.closed[0]
    kept = [text for text in first if b'"checkpoint"' not in text or text is first[-1]]
    log.closed[0] = [canonical({"leaf": b64(sha(b"\0", t))}) if b'"load.' in t else t for t in kept]
    return log


def vectors() -> Iterator[Vector]:
    for name, about, expect, log, *more in [*_good(), *_damaged(), *_epochs(), *_heads(), *_kept()]:
        *closed, last = log.segments() if isinstance(log, Log) else log
        minimal = "accepted" if expect == "accepted" else "refused"
        header = [("minimal", minimal), ("key", b64(HOST.der)), *(("closed", b64(c)) for c in closed), *more]
        yield Vector("log", name, about, expect, last, tuple(header))


Case = tuple[Any, ...]


def _good() -> Iterator[Case]:
    yield "good", "nothing is wrong", "accepted", good()
    yield "good-opening", "a log that was just opened", "accepted", Log().head()
    yield (
        "good-unknown-event",
        "an event that nobody knows yet",
        "accepted",
        Log().record("load.paused", at={"x": [1.5]}).head(),
    )
    yield "good-witness", "another key's signature line beside the log's", "accepted", _witnessed()
    yield "good-epochs", "two epochs", "accepted", rotated()
    yield "good-empty-segment", "an epoch has just ended", "accepted", Log().head().rotate()
    yield "good-ended", "an epoch has just ended, the segment is still open", "accepted", _ended()
    yield "good-pruned", "the first epoch was pruned", "accepted", pruned()
    concealed = Log().record("load.intent", recipient={"concealed": b64(sha(b"x"))}).head()
    yield "good-concealed", "a commitment for a value", "accepted", concealed
    yield (
        "good-unicode",
        "letters beyond ASCII stand as they are",
        "accepted",
        Log().record("load.denied", detail="Modèle 日本 \x7f").head(),
    )
    back = Log().record("load.intent", time="2026-11-25T11:00:00Z").head()
    yield "good-clock", "the clock stepped back", "accepted", back


def _witnessed() -> Log:
    log = Log()
    return log.head(more=line(log.text(), WITNESS, "witness.example"))


def _ended() -> list[bytes]:
    return [Log().head().rotate().segments()[0]]


def edit(log: Log, change: Callable[[list[bytes]], Any]) -> list[bytes]:
    """The open segment, its lines changed after they were signed."""
    change(log.lines)
    return log.segments()


def put(log: Log, where: int, old: bytes, new: bytes) -> list[bytes]:
    assert old in log.lines[where]
    log.lines[where] = log.lines[where].replace(old, new, 1)
    return log.segments()


def _damaged() -> Iterator[Case]:
    # Lines of good(): 0 opened, 1 head, 2 intent, 3 head, 4 to 8 records, 9 head.
    yield "empty", "no bytes", "unsealed", [b""]
    yield "no-head", "records that no head closes", "unsealed", Log()
    yield "record-changed", "a value of a record", "modified", put(good(), 4, b"lean", b"fast")
    yield "record-first", "a value of the first record", "modified", put(good(), 0, b'"pid":7', b'"pid":8')
    yield "record-time", "a time", "modified", put(good(), 6, b"T12", b"T13")
    yield "record-space", "white space in a record", "modified", put(good(), 5, b",", b", ")
    yield "record-gone", "a record is missing", "modified", edit(good(), lambda x: x.pop(6))
    yield "record-twice", "a record appears again", "forked", edit(good(), lambda x: x.insert(6, x[5]))
    yield "records-swapped", "two records changed places", "modified", edit(good(), lambda x: x.insert(5, x.pop(6)))
    yield (
        "record-added",
        "a record that was never written",
        "forked",
        edit(good(), lambda x: x.insert(5, x[5].replace(b"session", b"another"))),
    )
    yield "record-garbage", "a line that is no JSON", "modified", edit(good(), lambda x: x.__setitem__(5, b"garbage"))
    yield "record-utf8", "a line that is not UTF-8", "modified", put(good(), 5, b"session", b"sessio\xff")
    yield "record-empty", "an empty line", "modified", edit(good(), lambda x: x.insert(5, b""))
    yield (
        "record-long",
        "a line above the limit",
        "modified",
        edit(good(), lambda x: x.__setitem__(5, b'{"event":"' + b"x" * 65536 + b'"}')),
    )
    yield "batch-gone", "a whole batch is missing", "modified", edit(good(), lambda x: x.__delitem__(slice(2, 4)))
    yield "head-gone", "a head is missing", "modified", edit(good(), lambda x: x.pop(3))
    yield "head-twice", "a head appears again", "modified", edit(good(), lambda x: x.insert(3, x[3]))
    yield "head-early", "a head stands before its record", "modified", edit(good(), lambda x: x.insert(2, x.pop(3)))
    yield "opening-gone", "the first batch is missing", "modified", edit(good(), lambda x: x.__delitem__(slice(0, 2)))
    yield "tail-appended", "a batch written again at the end", "forked", edit(good(), lambda x: x.extend(x[2:4]))
    yield "torn-record", "a record that no head closes", "torn", edit(good(), lambda x: x.pop())
    yield "torn-line", "the last line has no end", "torn", [good().segments()[0][:-1]]
    yield "torn-half", "half a line at the end", "torn", [good().segments()[0] + b'{"batch":3,"boot"']
    yield "torn-zeros", "a block of zeros at the end", "torn", [good().segments()[0] + bytes(512)]
    yield "head-space", "white space in the last head", "modified", [_spaced(good().segments()[0], b'{"checkpoint"')]
    yield (
        "pruned-space",
        "white space in a pruned record",
        "modified",
        [_spaced(s, b'{"leaf"') for s in pruned().segments()],
    )
    yield "crlf", "line ends of Windows", "modified", [good().segments()[0].replace(b"\n", b"\r\n")]
    yield "pruned-record", "a record gave way to its hash without permission", "modified", good().leaf(1)
    yield "pruned-beyond", "pruned beyond the permission", "modified", _beyond()
    yield "pruned-hash", "a pruned record's hash was changed", "modified", _wrong_hash()


def _spaced(segment: bytes, start: bytes) -> bytes:
    """A space after the key in the last line that begins so."""
    return (start + b" ").join(segment.rsplit(start, 1))


def _beyond() -> Log:
    log = (
        Log()
        .head()
        .record("load.intent")
        .head()
        .record("load.done")
        .head()
        .record("pruned", minimum=2, segments=0)
        .head()
    )
    log.leaf(1).leaf(2)
    return log


def _wrong_hash() -> list[bytes]:
    segments = pruned().segments()
    start = segments[0].index(b'{"leaf":"') + 9
    replaced = b"A" if segments[0][start : start + 1] != b"A" else b"B"
    return [segments[0][:start] + replaced + segments[0][start + 1 :], segments[1]]


def _epochs() -> Iterator[Case]:
    first, second = rotated().segments()
    yield "epoch-gone", "the first segment is missing", "modified", [second]
    yield (
        "epoch-changed",
        "a record of a closed segment",
        "modified",
        [first.replace(b"load.done", b"load.fine"), second],
    )
    yield (
        "epoch-cut",
        "a closed segment lost its last head",
        "modified",
        [first[: first.rstrip(b"\n").rindex(b"\n") + 1], second],
    )
    yield "epoch-open", "a segment follows an epoch that did not end", "modified", [good().segments()[0], second]
    whole = rotated()
    whole.lines, whole.closed = [*whole.closed[0], *whole.lines], []
    yield "epoch-one-file", "records of the next epoch in the old segment", "modified", whole
    stranger = Log().head().rotate(NEXT).record("load.intent").head()
    stranger.lines[-1] = canonical({"checkpoint": note(stranger.text(), HOST)})
    yield "epoch-old-key", "the old key signs in the next epoch", "unknown-key", stranger
    early = Log().head()
    early.record("key.rotated", next=NEXT.fingerprint, public=b64(NEXT.raw), reason="asked")
    early.head(note(early.text(), NEXT))
    yield "epoch-new-key", "the new key signs its own hand-over", "unknown-key", early
    open_batch = Log().head().record("key.rotated", next=NEXT.fingerprint, public=b64(NEXT.raw), reason="asked")
    yield (
        "epoch-not-last",
        "a record after key.rotated in its batch",
        "modified",
        open_batch.record("load.intent").head(),
    )
    number = Log().head().rotate().record("load.intent", epoch=0).head()
    yield "epoch-number", "a record with the old epoch's number", "modified", number
    short = Log().head().record("key.rotated", next=NEXT.fingerprint, public=b64(NEXT.raw[:31]), reason="asked").head()
    yield "epoch-key-short", "a next key of 31 bytes", "modified", short
    other = Log().head().record("key.rotated", next=STRANGER.fingerprint, public=b64(NEXT.raw), reason="asked").head()
    yield "epoch-key-differs", "a next fingerprint that is not the next key's", "modified", other


def _heads() -> Iterator[Case]:
    def last(signed: str) -> Log:
        log = good()
        log.lines[-1] = canonical({"checkpoint": signed})
        return log

    text = good().text()
    yield "head-stranger", "a head signed by another key", "unknown-key", last(note(text, STRANGER))
    yield (
        "head-name",
        "a head signed under another name",
        "unknown-key",
        last(note(text, HOST, "modelvault/audit/other")),
    )
    yield "head-signature", "a signature of zeros", "modified", last(note(text, sig=bytes(64)))
    yield "head-number", "a key number that is not the key's", "unknown-key", last(note(text, number=b"\1\2\3\4"))
    yield "head-size", "a head over one record less", "modified", last(note(good().text(6)))
    root = text.split("\n")[2]
    yield "head-root", "a head over another root", "modified", last(note(text.replace(root, b64(sha(b"root")))))
    yield "head-origin", "a head of another log", "modified", last(note(good().text(origin="modelvault/audit/other")))
    yield "head-key", "an unknown key beside the checkpoint", "modified", put(good(), 3, b"}", b',"extra":1}')
    silent = Log().head().record("load.intent", prev=None).head()
    yield "prev-missing", "a batch's first record does not name the head before", "modified", silent
    foreign = Log().head().record("load.intent", prev=b64(sha(b"head"))).head()
    yield "prev-other", "a batch's first record names another head", "modified", foreign
    newline = Log().head()
    newline.record("load.intent", prev=b64(sha(newline.head_line or b"", b"\n"))).head()
    yield "prev-newline", "the head's digest counts its line feed", "modified", newline
    inside = Log().head().record("load.intent")
    inside.record("load.done", prev=b64(sha(inside.head_line or b""))).head()
    yield "prev-inside", "a record within a batch names a head", "modified", inside
    yield "opened-stranger", "a log that another key opened", "unknown-key", Log(STRANGER).head()
    yield "opened-event", "the first record is no opening", "modified", _opening("load.intent")
    forged = Log(key=HOST)
    forged.lines[0] = forged.lines[0].replace(HOST.fingerprint.encode(), STRANGER.fingerprint.encode())
    forged.leaves[0] = sha(b"\0", forged.lines[0])
    yield "opened-fingerprint", "an opening that names another key", "unknown-key", forged.head()
    yield "head-extension", "a checkpoint with an extension line", "torn", last(note(text + "extension\n"))
    twice = text + "\n" + line(text) * 2
    yield "head-signed-twice", "two signature lines of one key", "torn", last(twice)
    yield "head-no-signature", "a checkpoint that nobody signed", "torn", last(text + "\n")
    yield (
        "head-size-zero",
        "a size with a leading zero: no head, so the batch was never closed",
        "torn",
        last(note(text.replace("\n7\n", "\n07\n"))),
    )


def _opening(event: str) -> Log:
    log = Log()
    log.lines[0] = log.lines[0].replace(b'"opened"', f'"{event}"'.encode())
    log.leaves[0] = sha(b"\0", log.lines[0])
    return log.head()


def _kept() -> Iterator[Case]:
    kept = note(good().text())
    cut = good()
    cut.lines = cut.lines[:4]
    yield "kept-good", "the log holds the kept checkpoint", "accepted", good(), ("against", b64(kept.encode()))
    yield "kept-older", "an older checkpoint", "accepted", good(), ("against", b64(note(good().text(2)).encode()))
    yield "kept-truncated", "the last batch was cut off", "truncated", cut, ("against", b64(kept.encode()))
    other = Log().head().record("load.intent", load="9").head()
    yield (
        "kept-rewritten",
        "the history was rewritten",
        "rollback",
        other,
        ("against", b64(note(good().text(2)).encode())),
    )
    new = Log(origin="modelvault/audit/fedcba9876543210").head()
    yield "kept-new-log", "the log was begun anew", "rollback", new, ("against", b64(note(good().text(1)).encode()))
