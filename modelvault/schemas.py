"""JSON schemas (draft 2020-12) of the files people write: terms (policies and licences) and trust policies.

The terms' schema comes from the parser's own table; tests hold the trust policy's against its parser. TOML dates count
as RFC 3339 text. What a schema cannot say (fingerprints that fit their files, thresholds) only the parser checks.
"""

import dataclasses
from typing import Any

from modelvault._codec import MAX_TEXT
from modelvault.auditterms import AuditTerms
from modelvault.cosignature import VerifierKey
from modelvault.termtable import TERMS

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_VERSION = r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){0,3}$"
_THRESHOLD = {"type": "integer", "minimum": 1, "maximum": 64}
_TEXTS = {"type": "array", "items": {"type": "string", "maxLength": MAX_TEXT}, "maxItems": 1024}


def terms() -> dict[str, Any]:
    """The schema of a policy file (seal --policy) and of a licence file (grant --licence)."""
    properties = {name: {"description": term.meaning, **term.kind.schema} for name, term in TERMS.items()}
    return {"$schema": DRAFT, "title": "modelvault terms", **_closed(properties, [])}


def trust() -> dict[str, Any]:
    """The schema of a trust policy."""
    key = _closed({"file": _text(4096), "fingerprint": _text(128)}, ["file", "fingerprint"])
    keys = {"type": "array", "items": key, "maxItems": 64}
    publisher = {
        "name": {"type": "string", "pattern": _NAME},
        "models": _TEXTS,
        "threshold": _THRESHOLD,
        "minimum_version": {"type": "string", "pattern": _VERSION},
        "allow_older": {"type": "boolean"},
        "key": keys,
    }
    revocation = {
        "list": _text(4096),
        "max_age_hours": {"type": "integer", "minimum": 1, "maximum": 876_000},
        "threshold": _THRESHOLD,
        "key": keys,
    }
    properties = {
        "version": {"const": 1},
        "publisher": {"type": "array", "items": _closed(publisher, ["name", "models", "key"]), "maxItems": 1024},
        "revocation": _closed(revocation, ["list", "key"]),
        "audit": _closed(_audit(), []),
    }
    return {"$schema": DRAFT, "title": "modelvault trust policy", **_closed(properties, ["version"])}


def _audit() -> dict[str, Any]:
    """The audit log's own terms, by their types; bounds are the parser's."""
    texts = {"type": "array", "items": {"type": "string"}}
    number: dict[str, Any] = {"type": "integer", "minimum": 1}
    kinds: dict[Any, dict[str, Any]] = {
        str | None: {"type": "string"},
        int | None: number,
        int: number,
        tuple[str, ...]: texts,
        tuple[VerifierKey, ...]: texts,
    }
    return {field.name: kinds[field.type] for field in dataclasses.fields(AuditTerms)}


def _text(limit: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": limit}


def _closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """An object in which an unknown key is an error."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
