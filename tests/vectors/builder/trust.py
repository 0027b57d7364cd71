"""Trust policies: each is asked about a sealed model. What lies beside the policy stands in the header (``file``)."""

from collections.abc import Iterator
from typing import Any

from vectors.builder.base import HOST, PUBLISHER, SECOND, STRANGER, Key, Vector, b64
from vectors.builder.cosigned import verifier
from vectors.builder.lists import ENTRY, revocations_of

Case = tuple[Any, ...]
ONE = "sealed/good.vec"
TWO = "sealed/good-two-signatures.vec"
FILES = (("acme.pub", PUBLISHER.pem), ("second.pub", SECOND.pem))


def vectors() -> Iterator[Vector]:
    for group in (_good, _verdicts, _toml, _publishers, _keys, _audits, _revocations):
        for name, about, expect, text, *more in group():
            model, files = more or (ONE, FILES)
            data = text if isinstance(text, bytes) else text.encode()
            beside = tuple(("file", f"{file}={b64(content)}") for file, content in files)
            yield Vector("trust", name, about, expect, data, (("model", model), *beside))


def key(of: Key = PUBLISHER, file: str = "acme.pub", table: str = "publisher", **changes: str) -> str:
    """A table of a key; a change replaces a line's value, an empty one takes the line away."""
    return lines(f"[[{table}.key]]", {"file": f'"{file}"', "fingerprint": f'"{of.fingerprint}"', **changes})


def publisher(*keys: str, **changes: str) -> str:
    own = {"name": '"acme"', "models": '["*"]', **changes}
    return lines("[[publisher]]", own) + "".join(keys or (key(),))


def lines(head: str, values: dict[str, str]) -> str:
    return f"{head}\n" + "".join(f"{name} = {value}\n" for name, value in values.items() if value)


def policy(*parts: str, **changes: str) -> str:
    return lines("# trust", {"version": "1", **changes}) + "".join(parts or (publisher(),))


BOTH = key(), key(SECOND, "second.pub")


def _good() -> Iterator[Case]:
    yield "good", "nothing is wrong", "accepted", policy()
    full = publisher(threshold="1", minimum_version='"1.0"', allow_older="true")
    yield "good-full", "every entry of a publisher", "accepted", policy(full)
    yield (
        "good-pattern",
        "a pattern that the model's name matches",
        "accepted",
        policy(publisher(models='["x", "dir*n"]')),
    )
    yield (
        "good-threshold",
        "two signatures of two keys",
        "accepted",
        policy(publisher(*BOTH, threshold="2")),
        TWO,
        FILES,
    )
    yield "good-one-of-two", "one signature of two keys", "accepted", policy(publisher(*BOTH))
    other = publisher(key(SECOND, "second.pub"), name='"other"')
    yield "good-second-publisher", "the second publisher's model", "accepted", policy(other, publisher())
    yield "good-inline", "tables written in one line", "accepted", (
        'publisher = [{name = "acme", models = ["*"], key = [{file = "acme.pub", fingerprint = '
        f'"{PUBLISHER.fingerprint}"}}]}}]\nversion = 1\n'
    )  # fmt: skip
    yield "good-crlf", "lines that end in CR LF", "accepted", policy().replace("\n", "\r\n")
    yield "good-audit", "all that is asked of the audit log", "accepted", policy(publisher(), _audit())
    found = revocations_of(SECOND, [ENTRY])
    yield "good-revocation", "a list that revokes another model", "accepted", (
        policy(publisher(), _revocation())
    ), ONE, (*FILES, ("list.json", found))  # fmt: skip


def _verdicts() -> Iterator[Case]:
    untrusted = "UntrustedPublisher"
    yield "nobody", "no publisher at all", untrusted, policy("")
    yield "models-other", "the publisher may seal other models", untrusted, policy(publisher(models='["fraud-*"]'))
    yield "models-case", "the pattern is in capital letters", untrusted, policy(publisher(models='["DIRECTION"]'))
    yield "models-part", "the pattern matches a part of the name", untrusted, policy(publisher(models='["direct"]'))
    yield "models-none", "an empty list of models", untrusted, policy(publisher(models="[]"))
    wrong = policy(publisher(key(SECOND, "second.pub")))
    yield "key-other", "another key's policy", untrusted, wrong
    yield "threshold-short", "one signature of two", untrusted, policy(publisher(*BOTH, threshold="2"))
    shared = policy(publisher(name='"a"', models='["a"]'), publisher(key(SECOND, "second.pub"), name='"b"'))
    yield "models-shared", "the signer may seal another model alone", untrusted, shared
    yield "version-old", "a later version is asked for", "PolicyDenied", policy(publisher(minimum_version='"1.0.1"'))
    revoked = {**ENTRY, "id": "direction@1.0"}
    for name, about, expect, content in (
        ("revoked", "the list revokes this version", "Revoked", revocations_of(SECOND, [revoked])),
        ("revocation-stranger", "a list that nobody may sign", untrusted, revocations_of(STRANGER, [ENTRY])),
        ("revocation-garbage", "a list that is none", "FormatError", b"{}"),
    ):
        yield name, about, expect, policy(publisher(), _revocation()), ONE, (*FILES, ("list.json", content))
    stale = policy(publisher(), _revocation(max_age_hours="1"))
    old = (*FILES, ("list.json", revocations_of(SECOND, [ENTRY], issued="2020-01-01T00:00:00Z")))
    yield "revocation-stale", "a list of 2020, and an hour is allowed", "PolicyDenied", stale, ONE, old
    yield "revocation-missing", "no list where one is asked for", "PolicyDenied", policy(publisher(), _revocation())


def _toml() -> Iterator[Case]:
    good = policy()
    cases: dict[str, tuple[str, str | bytes]] = {
        "empty": ("no bytes", ""),
        "cut": ("a text that does not end", good[: good.rindex('"')]),
        "json": ("JSON", '{"version": 1}'),
        "twice": ("a key is repeated", good.replace('name = "acme"', 'name = "acme"\nname = "acme"')),
        "utf8": ("not UTF-8", good.encode().replace(b"acme.pub", b"\xffcme.pub", 1)),
        "bom": ("a byte order mark", b"\xef\xbb\xbf" + good.encode()),
        "control": ("a control character in a text", good.replace('"acme"', '"ac\x07me"')),
        "deep": ("nested 5000 levels deep", policy("", more="[" * 5000 + "]" * 5000)),
        "digits": ("a number of 5000 digits", policy(version="1" * 5000)),
        "table": ("the publisher's table is no array of tables", good.replace("[[publisher]]", "[publisher]")),
        "text": ("a text for the publishers", policy("", publisher='"acme"')),
        "version-missing": ("no version", policy(version="")),
        "version-2": ("version 2", policy(version="2")),
        "version-0": ("version 0", policy(version="0")),
        "version-text": ("a text for the version", policy(version='"1"')),
        "version-fraction": ("a fraction for the version", policy(version="1.0")),
        "version-bool": ("true for the version", policy(version="true")),
        "unknown-key": ("an unknown key", policy(publishers="[]")),
    }
    for name, (about, text) in cases.items():
        yield f"toml-{name}", about, "FormatError", text


def _publishers() -> Iterator[Case]:
    cases: dict[str, tuple[str, str]] = {
        "name-missing": ("no name", publisher(name="")),
        "name-empty": ("an empty name", publisher(name='""')),
        "name-slash": ("a slash in the name", publisher(name='"a/b"')),
        "name-newline": ("a line break at the name's end", publisher(name='"acme\\n"')),
        "name-long": ("a name of 129 characters", publisher(name=f'"{"n" * 129}"')),
        "name-number": ("a number for a name", publisher(name="7")),
        "name-twice": ("two publishers of one name", publisher() + publisher(key(SECOND, "second.pub"))),
        "models-missing": ("no models", publisher(models="")),
        "models-text": ("a text for the models", publisher(models='"*"')),
        "models-number": ("a number among the models", publisher(models='["*", 1]')),
        "models-1025": ("1025 patterns", publisher(models=str(["m"] * 1025))),
        "threshold-0": ("a threshold of 0", publisher(threshold="0")),
        "threshold-65": ("a threshold of 65", publisher(threshold="65")),
        "threshold-negative": ("a threshold of -1", publisher(threshold="-1")),
        "threshold-above": ("two signatures of one key", publisher(threshold="2")),
        "threshold-text": ("a text for the threshold", publisher(threshold='"1"')),
        "threshold-bool": ("true for the threshold", publisher(threshold="true")),
        "minimum-text": ("letters in the least version", publisher(minimum_version='"1.0-rc1"')),
        "minimum-number": ("a number for the least version", publisher(minimum_version="1.0")),
        "minimum-zero": ("a leading zero in the least version", publisher(minimum_version='"1.02"')),
        "older-text": ("a text for allow_older", publisher(allow_older='"yes"')),
        "older-number": ("1 for allow_older", publisher(allow_older="1")),
        "unknown-key": ("a misspelt key", publisher(treshold="2")),
        "time": ("a time for the name", publisher(name="2026-11-25T12:00:00Z")),
    }
    for name, (about, text) in cases.items():
        yield f"publisher-{name}", about, "FormatError", policy(text)


def _keys() -> Iterator[Case]:
    cases: dict[str, tuple[str, str]] = {
        "none": ("no keys", publisher("", key="[]")),
        "missing": ("no list of keys", lines("[[publisher]]", {"name": '"acme"', "models": '["*"]'})),
        "table": (
            "the key's table is no array of tables",
            publisher(key().replace("[[publisher.key]]", "[publisher.key]")),
        ),
        "twice": ("one key twice", publisher(key(), key())),
        "fingerprint": ("another key's fingerprint", publisher(key(SECOND))),
        "fingerprint-missing": ("no fingerprint", publisher(key(fingerprint=""))),
        "fingerprint-padded": ("a padded fingerprint", publisher(key(fingerprint=f'"{PUBLISHER.fingerprint}="'))),
        "fingerprint-long": ("a fingerprint of 129 characters", publisher(key(fingerprint=f'"{"f" * 129}"'))),
        "file-missing": ("no file's name", publisher(key().replace('file = "acme.pub"\n', ""))),
        "file-number": ("a number for the file's name", publisher(key().replace('"acme.pub"', "7"))),
        "unknown-key": ("an unknown key", publisher(key(uri='"x"'))),
    }
    for name, (about, text) in cases.items():
        yield f"key-{name}", about, "FormatError", policy(text)
    yield "key-file-gone", "no such file", "FileError", policy(publisher(key(file="gone.pub")))
    files = (("acme.pub", b"no key"),)
    yield "key-file-garbage", "a file that is no key", "FormatError", policy(), ONE, files
    two = (("acme.pub", PUBLISHER.pem + PUBLISHER.pem),)
    yield "key-file-twice", "a file of the same key twice", "FormatError", policy(), ONE, two
    host = policy(publisher(key(HOST, "host.pub"), key()))
    yield "good-host", "a host's key is an Ed25519 key, too", "accepted", host, ONE, (*FILES, ("host.pub", HOST.pem))


def _audit(**changes: str) -> str:
    full = {
        "key": f'"{HOST.fingerprint}"',
        "rotate_records": "1000",
        "rotate_days": "30",
        "conceal": '["recipient"]',
        "witnesses": f'["{verifier()}"]',
        "witness_threshold": "1",
        "cosigned_hours": "24",
    }
    return lines("[audit]", {**full, **changes})


def _audits() -> Iterator[Case]:
    cases: dict[str, tuple[str, str]] = {
        "text": ("a text for the table", 'audit = "full"\n'),
        "unknown-key": ("a misspelt key", _audit(rotate_day="30")),
        "key-number": ("a number for the key", _audit(key="7")),
        "key-long": ("a key of 129 characters", _audit(key=f'"{"k" * 129}"')),
        "rotate-records-0": ("an epoch of no records", _audit(rotate_records="0")),
        "rotate-days-0": ("an epoch of no days", _audit(rotate_days="0")),
        "rotate-days-many": ("an epoch of 36 501 days", _audit(rotate_days="36501")),
        "rotate-days-fraction": ("an epoch of half a day", _audit(rotate_days="0.5")),
        "conceal-text": ("a text for the concealed fields", _audit(conceal='"recipient"')),
        "conceal-65": ("65 concealed fields", _audit(conceal=str(["field"] * 65))),
        "witness-number": ("a witness's number that is another's", _audit(witnesses=f'["{_spoilt()}"]')),
        "witness-log": ("a witness's key that is no verifier key", _audit(witnesses=f'["{HOST.fingerprint}"]')),
        "witness-text": ("a text for the witnesses", _audit(witnesses=f'"{verifier()}"')),
        "witness-space": ("a space after a witness's key", _audit(witnesses=f'["{verifier()} "]')),
        "witness-kind": ("a log's key for a witness's", _audit(witnesses=f'["{verifier(kind=bytes([1]))}"]')),
        "witness-17": ("17 witnesses", _audit(witnesses=str([verifier(f"w{n}") for n in range(17)]))),
        "witness-threshold-0": ("none of the witnesses", _audit(witness_threshold="0")),
        "witness-threshold-2": ("two of one witness", _audit(witness_threshold="2")),
        "cosigned-0": ("within no hours", _audit(cosigned_hours="0")),
        "cosigned-many": ("within more than a year", _audit(cosigned_hours="8761")),
    }
    for name, (about, text) in cases.items():
        parts = (text, publisher()) if name == "text" else (publisher(), text)
        yield f"audit-{name}", about, "FormatError", policy(*parts)


def _spoilt() -> str:
    name, number, rest = verifier().split("+", 2)
    return f"{name}+{number[::-1]}+{rest}"


def _revocation(*keys: str, **changes: str) -> str:
    own = {"list": '"list.json"', **changes}
    return lines("[revocation]", own) + "".join(keys or (key(SECOND, "second.pub", "revocation"),))


def _revocations() -> Iterator[Case]:
    again = key(SECOND, "second.pub", "revocation")
    cases: dict[str, tuple[str, str]] = {
        "list-missing": ("no place of the list", _revocation(list="")),
        "list-number": ("a number for the list's place", _revocation(list="7")),
        "age-0": ("an age of no hours", _revocation(max_age_hours="0")),
        "age-many": ("an age above a century", _revocation(max_age_hours="876001")),
        "threshold-0": ("no signature", _revocation(threshold="0")),
        "threshold-2": ("two signatures of one key", _revocation(threshold="2")),
        "key-none": ("no keys", _revocation("", key="[]")),
        "key-twice": ("one key twice", _revocation(again, again)),
        "key-fingerprint": ("another key's fingerprint", _revocation(key(PUBLISHER, "second.pub", "revocation"))),
        "unknown-key": ("an unknown key", _revocation(url='"list.json"')),
    }
    for name, (about, text) in cases.items():
        found = (*FILES, ("list.json", revocations_of(SECOND, [ENTRY])))
        yield f"revocation-{name}", about, "FormatError", policy(publisher(), text), ONE, found
