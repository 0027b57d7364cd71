"""Rules about what is written into a model beside its graph: settings, secrets, people, places."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from modelvault.onnxfile.checking import hidden_bytes
from modelvault.scan.finding import ERROR, NOTE, STRUCTURE, WARNING, Hit, plain, rule
from modelvault.scan.subject import Subject

MAX_TEXT = 2**20  # of one text; what is longer is looked at up to here, and reported as bulky
MAX_ALL = 64 * 2**20

_ACTIVE = re.compile(r"(?i)ort_config|session_options|execution_?providers?|provider_options|custom_op_?librar(y|ies)")
_ACTIVE_VALUE = re.compile(
    r"(?i)(?<![.\w])(eval|exec|__import__|os\.system|subprocess\.\w+)\s?\(|<script\b|javascript:|\bpickle\.loads?\b"
)
_SECRETS = (
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,100})\b")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{34,40}\b")),
    ("an API key", re.compile(r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,200}|\bAIza[0-9A-Za-z_-]{35}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20,100}")),
    ("a JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{16,2000}")),
    ("a password in a URL", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{3,128}@[\w.-]{1,200}")),
    (
        "a password",
        re.compile(
            r"(?i)\b(?:password|passwd|secret_?key|api_?key|access_?token)[\"']?\s{0,4}[:=]\s{0,4}[\"']?"
            r"(?=[^\s\"']{0,60}\d)[\w+/=!@#$%^&*-]{8,200}(?![\w.(\[])"
        ),
    ),
)  # fmt: skip
_HOME = re.compile(r"(?:/home/|/Users/|/root/|[A-Za-z]:\\{1,2}Users\\{1,2})([\w.-]{1,64})?[^\s\"',;:]{0,200}")
_HOST = re.compile(
    r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b"
    r"|\b(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}\b"
)
_TRACE = re.compile(
    r"Traceback \(most recent call last\)|File \"[^\"\n]{1,300}\", line \d+"
    r"|(?m:^\s{0,40}(?:# )?/[^\s:]{1,300}\.py(?:\(\d+\)|:\d+))"
)

Text = tuple[str, str]


def texts(subject: Subject) -> Iterator[Text]:
    """(place, text) of every doc string, metadata entry and producer's note, up to MAX_ALL in all."""
    left = MAX_ALL
    for place, text in _all_texts(subject):
        if text:
            yield place, text[:MAX_TEXT]
            left -= min(len(text), MAX_TEXT)
        if left <= 0:
            return


def _all_texts(subject: Subject) -> Iterator[Text]:
    model = subject.model
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        yield field, getattr(model, field)
    yield from _properties("metadata", model)
    for scope in subject.scopes:
        body = scope.body
        yield f"{scope.place}: doc_string", body.doc_string
        yield from _properties(f"{scope.place}: metadata", body)
        values = [*getattr(body, "output", ()), *body.value_info, *body.input, *scope.initializers]
        for value in values:
            if not isinstance(value, str):
                yield from _notes(partial(_in, scope.place, value), value)
    for place in subject.nodes:
        yield from _notes(place.__str__, place.node)
        for attribute in place.node.attribute:
            if attribute.doc_string:
                yield f"{place}.{plain(attribute.name, 40)}: doc_string", attribute.doc_string


def _in(place: str, value: Any) -> str:
    return f"{place}: {plain(value.name, 60)}"


def _notes(place: Any, message: Any) -> Iterator[Text]:
    if message.doc_string:
        yield f"{place()}: doc_string", message.doc_string
    if message.metadata_props:
        yield from _properties(f"{place()}: metadata", message)


def _properties(place: str, message: Any) -> Iterator[Text]:
    for entry in message.metadata_props:
        yield f"{place}.{plain(entry.key, 60)}", entry.value


def _matches(subject: Subject, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """(place, match): each distinct match once, with the first place it stands at."""
    seen: set[str] = set()
    for place, text in texts(subject):
        for match in pattern.finditer(text):
            if match.group() not in seen and len(seen) < 1000:
                seen.add(match.group())
                yield place, match.group()


@rule(
    "active-metadata",
    ERROR,
    STRUCTURE,
    why="some loaders obey metadata: ort_config sets session options, profiling to a file among them; text may be run",
    fix="remove the metadata entry; give session options in the application",
)
def active(subject: Subject) -> Iterator[Hit]:
    for entry in subject.model.metadata_props:
        if _ACTIVE.fullmatch(entry.key):
            yield Hit(f"metadata.{plain(entry.key, 60)}", "a setting that onnxruntime or its tools may obey")
        elif found := _ACTIVE_VALUE.search(entry.value[:MAX_TEXT]):
            yield Hit(f"metadata.{plain(entry.key, 60)}", f"holds what looks like code: {plain(found.group(), 40)}")


@rule(
    "embedded-secret",
    ERROR,
    STRUCTURE,
    why="keys and passwords in metadata or doc strings reach everybody who may open the model",
    fix="remove it, and revoke the secret: it has been in a file",
)
def secret(subject: Subject) -> Iterator[Hit]:
    for place, text in texts(subject):
        for words, pattern in _SECRETS:
            if pattern.search(text):
                yield Hit(place, f"holds what looks like {words}")


@rule(
    "user-path",
    WARNING,
    STRUCTURE,
    why="a path below somebody's home folder tells who built the model, and on which system",
    fix="seal without --keep-docs, which drops doc strings; remove it from metadata",
)
def user_path(subject: Subject) -> Iterator[Hit]:
    people: set[str] = set()
    for place, path in _matches(subject, _HOME):
        match = _HOME.match(path)
        name = (match.group(1) if match else "") or "root"
        if name not in people:
            people.add(name)
            yield Hit(place, f"names {plain(path, 120)}")


@rule(
    "person-or-host",
    NOTE,
    STRUCTURE,
    why="mail addresses and private network addresses tell about the people and hosts behind a model",
    fix="remove it, unless it is a contact that is meant to be there",
)
def person(subject: Subject) -> Iterator[Hit]:
    for place, text in _matches(subject, _HOST):
        yield Hit(place, f"names {plain(text, 120)}")


@rule(
    "stack-trace",
    NOTE,
    STRUCTURE,
    why="exporters' stack traces show the source code's layout and file names",
    fix="seal without --keep-docs, which drops doc strings",
)
def trace(subject: Subject) -> Iterator[Hit]:
    count, first = 0, ""
    for place, text in texts(subject):
        if _TRACE.search(text):
            first, count = first or place, count + 1
    if count:
        yield Hit(first, f"a stack trace or source line, in {count} {'place' if count == 1 else 'places'}")


@rule(
    "bulky-metadata",
    WARNING,
    STRUCTURE,
    why="a megabyte of text is no description: it may carry a payload past reviewers, and is only scanned in part",
    fix="keep such data in an asset",
)
def bulky(subject: Subject) -> Iterator[Hit]:
    for place, text in _all_texts(subject):
        if len(text) > MAX_TEXT:
            yield Hit(place, f"{len(text)} characters")


@rule(
    "unknown-field",
    WARNING,
    STRUCTURE,
    why="fields that ONNX does not define are carried along unseen by every tool",
    fix="load and save the model without them (ModelProto.DiscardUnknownFields)",
)
def unknown_field(subject: Subject) -> Iterator[Hit]:
    if count := hidden_bytes(subject.model):
        yield Hit("", f"{count} bytes in fields that ONNX does not define")
