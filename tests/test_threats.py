"""docs/THREAT_MODEL.md names what exists: every claim has a module and a test, and all of them are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "THREAT_MODEL.md").read_text()
NAMED = re.compile(r"`((?:modelvault|keys|cli|tests|docs|samples)/[^`]*)`")
ATTACKERS = (
    "CDN", "Hostile supplier", "Curious customer", "Malicious recipient", "Colluders", "Query thief", "Other users",
    "Host administrator", "Insider",
)  # fmt: skip


def problem(reference: str) -> str | None:
    """What is wrong with ``path`` or ``path::function``; None where it exists."""
    name, _, function = reference.partition("::")
    path = ROOT / name
    if not path.exists():
        return f"{reference}: no such file"
    if function and function not in functions(path):
        return f"{reference}: no such function"
    return None


def functions(path: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


def claims() -> list[list[str]]:
    """The rows of all tables of what holds: claim, modules, tests."""
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) == 3 and row[0] not in ("what holds", "asset") and "`" in row[1]]


def test_everything_named_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 100
    assert [p for p in map(problem, named) if p] == []


def test_every_claim_has_a_module_and_a_test() -> None:
    found = claims()
    assert len(found) > 35
    for claim, modules, tests in found:
        assert all(not n.startswith("tests/") for n in NAMED.findall(modules)), claim
        assert NAMED.findall(modules), claim
        assert NAMED.findall(tests), claim
        assert all(re.fullmatch(r"tests/.*\.py::test_\w+", n) for n in NAMED.findall(tests)), claim


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_every_attacker_has_a_section(attacker: str) -> None:
    assert re.search(rf"^### {attacker}", PAGE, re.MULTILINE)


def test_what_is_missing_is_seen() -> None:
    assert problem("modelvault/nowhere.py") == "modelvault/nowhere.py: no such file"
    assert problem("tests/test_threats.py::test_nothing") == "tests/test_threats.py::test_nothing: no such function"
    assert problem("tests/test_threats.py::test_what_is_missing_is_seen") is None
