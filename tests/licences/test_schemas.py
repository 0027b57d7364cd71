"""The published schemas say what the parsers do: the same files pass both, the same mistakes fail both."""

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Parties

from licences.make_schemas import FILES, FOLDER, text
from modelvault import schemas
from modelvault.cosignature import VerifierKey
from modelvault.errors import FileError, FormatError
from modelvault.keys import HostKey
from modelvault.policy import Terms
from modelvault.termtable import TERMS
from modelvault.trust import TrustPolicy, require_revocations

WHOLE: dict[str, Any] = {
    "not_before": "2031-01-01T00:00:00Z",
    "not_after": "2031-06-01T12:00:00+02:00",
    "versions": ["2.*"],
    "providers": ["CPUExecutionProvider"],
    "hosts": ["SHA256:x"],
    "machines": [],
    "logs": ["modelvault/audit/1"],
    "max_sessions": 3,
    "max_loads": {"count": 10, "per": "day"},
    "max_runs": {"count": 0},
    "min_loader": "0.1",
    "memory": "lean",
    "hardening": "strict",
    "purposes": ["screening"],
    "queries": {"per_minute": 60, "total": 9, "rejected": 0.1, "near_duplicates": 1, "equal_steps": 0},
    "cosigned": {"by": [VerifierKey(name="w", algorithm=b"\x04", key=HostKey.generate().public).to_text()], "hours": 2},
}
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    1.5,
    "",
    "x",
    "2031-01-01",
    [],
    [1],
    ["x"],
    {},
    {"count": 1},
    {"count": 1, "x": 2},
)


def passes(schema: dict[str, Any], value: Any) -> bool:
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    return bool(checker.is_valid(value))


def parses(value: dict[str, Any]) -> bool:
    try:
        Terms.from_dict(value, "t")
    except FormatError:
        return False
    return True


def variations(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document; with each key misspelt, left out, and of every wrong value."""
    yield whole
    for key in whole:
        changed = copy.deepcopy(whole)
        changed[key + "s"] = changed.pop(key)
        yield changed
        yield {k: v for k, v in whole.items() if k != key}
        for value in WRONG:
            yield {**whole, key: value}


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_committed_schemas_are_the_code_s(name: str) -> None:
    assert (FOLDER / name).read_text() == text(FILES[name]()), "run: python tests/licences/make_schemas.py"
    jsonschema.Draft202012Validator.check_schema(FILES[name]())


def test_terms_pass_both_or_neither() -> None:
    assert list(WHOLE) == list(TERMS)
    schema, verdicts = schemas.terms(), set()
    inner = [{**WHOLE, name: v} for name in ("max_loads", "queries", "cosigned") for v in variations(WHOLE[name])]
    for value in [*variations(WHOLE), *inner]:
        term = value.get("cosigned")
        named = not isinstance(term, dict) or term.get("by", WHOLE["cosigned"]["by"]) == WHOLE["cosigned"]["by"]
        assert passes(schema, value) == parses(value) or not named, value  # what a witness's key looks like
        verdicts.add(parses(value))
    assert verdicts == {True, False}


def test_trust_policies_pass_both_or_neither(parties: Parties) -> None:
    path = parties.folder / "trust.toml"
    require_revocations(path, "list.json", [parties.folder / "acme.pub"], max_age_hours=5)
    path.write_text(path.read_text() + '[audit]\nkey = "SHA256:x"\nrotate_days = 3\nrotate_records = 7\n')
    whole = tomllib.loads(path.read_text())
    whole["publisher"][0] |= {"threshold": 1, "minimum_version": "1.0", "allow_older": True}
    whole["revocation"]["threshold"] = 1
    places: list[tuple[Any, ...]] = [(), ("publisher", 0), ("publisher", 0, "key", 0), ("revocation",), ("audit",)]
    schema, seen = schemas.trust(), set()
    for place in places:
        for changed in variations(_at(whole, place)):
            if place == ("audit",) and 2**63 in changed.values():
                continue  # its upper bounds are left to the parser
            document = copy.deepcopy(whole)
            _at(document, place).clear()
            _at(document, place).update(changed)
            verdict = _trust_parses(path, document)
            assert passes(schema, document) == verdict or _beyond(document, whole), (place, changed)
            seen.add(verdict)
    assert seen == {True, False}


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


def _beyond(document: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether only what a schema cannot say is wrong: which file has which fingerprint, and that there are keys."""
    keys = [p.get("key") for p in document.get("publisher") or [] if isinstance(p, dict)]
    keys += [document["revocation"].get("key")] if isinstance(document.get("revocation"), dict) else []
    return keys != [whole["publisher"][0]["key"], whole["revocation"]["key"]]


def _trust_parses(path: Path, document: dict[str, Any]) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelvault.trust.read_toml", lambda _: copy.deepcopy(document))  # TOML has no null
        try:
            TrustPolicy.read(path)
        except (FormatError, FileError):
            return False
    return True
