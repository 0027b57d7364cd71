"""A scan's findings as SARIF 2.1.0 (OASIS Static Analysis Results Interchange Format), for the tools that read it."""

import hashlib
from typing import Any
from urllib.parse import quote

from modelvault._version import __version__
from modelvault.scan.finding import RULES, Finding, Rule
from modelvault.scan.scanning import ScanReport

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def to_sarif(report: ScanReport) -> dict[str, Any]:
    """One run with every rule that was asked, and one result for each finding; levels are the severities' names."""
    places = {name: number for number, name in enumerate(report.rules)}
    driver = {
        "name": "modelvault",
        "semanticVersion": __version__,
        "rules": [_rule(RULES[name]) for name in report.rules],
    }
    run = {
        "tool": {"driver": driver},
        "artifacts": [{"location": {"uri": uri}} for uri in sorted({_uri(f.file) for f in report.findings})],
        "results": [_result(f, places[f.rule]) for f in report.findings],
        "columnKind": "unicodeCodePoints",
        "properties": {"source": report.source, "kind": report.kind},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.why},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": rule.severity},
        "properties": {"stage": rule.stage},
    }


def _result(finding: Finding, place: int) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": _uri(finding.file)}}}
    if finding.where:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.where, "kind": "element"}]
    name = "\n".join((finding.rule, finding.file, finding.where))
    return {
        "ruleId": finding.rule,
        "ruleIndex": place,
        "level": finding.severity,
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {"place/v1": hashlib.sha256(name.encode()).hexdigest()},
    }


def _uri(path: str) -> str:
    return quote(path, safe="/")
