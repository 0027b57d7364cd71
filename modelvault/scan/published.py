"""Rules about what anybody can read in a sealed file."""

from collections.abc import Iterator

from modelvault.scan.finding import NOTE, PUBLIC, WARNING, Hit, plain, rule
from modelvault.scan.subject import Subject


@rule(
    "allowed-finding",
    WARNING,
    PUBLIC,
    why="the publisher sealed the model although its scan found an error, and signed that it did",
    fix="ask the publisher why the rule was allowed",
)
def allowed(subject: Subject) -> Iterator[Hit]:
    if subject.public:
        for name in subject.public.statement.allowed or ():
            yield Hit("statement.scanAllowed", f"rule {plain(name, 60)} was allowed when the model was sealed")


@rule(
    "public-names",
    NOTE,
    PUBLIC,
    why="names and shapes of inputs and outputs stand in the statement, where everybody can read them",
    fix="seal without --public-io, where that is not meant",
)
def public_names(subject: Subject) -> Iterator[Hit]:
    if subject.public and subject.public.statement.io is not None:
        yield Hit("statement.io", "inputs and outputs are public")


@rule(
    "content-unseen",
    WARNING,
    PUBLIC,
    why="without a key that opens the file, nothing inside of it was assessed",
    fix="scan with --identity and a grant to run or audit the model",
)
def unseen(subject: Subject) -> Iterator[Hit]:
    if subject.public and subject.model is None:
        yield Hit("payload", "only public, unverified facts were assessed: no identity was given")
