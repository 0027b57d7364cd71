"""A CycloneDX bill of materials for a sealed model: what may be said in public, and with a key, what is inside."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from modelvault._version import __version__
from modelvault.errors import ModelError
from modelvault.trust import VerifiedModel

NAMESPACE = "modelvault"


def bill_of_materials(model: VerifiedModel, *, file_sha256: bytes | None, assets: Mapping[str, bytes] | None) -> bytes:
    """CycloneDX 1.6 JSON of a verified model; the same model always gives the same bytes.

    ``file_sha256`` is the digest of the sealed file itself, grants included. ``assets`` are the sealed files beside the
    model, path -> SHA-256, for a bill that stays in the house; None leaves them out. Raises ModelError without the
    extra ``sbom``.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError:
        raise ModelError("sbom: needs the package cyclonedx-python-lib (pip install 'modelvault[sbom]')") from None

    def digest(value: bytes) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=value.hex())]

    statement = model.statement
    component = Component(
        name=statement.name,
        version=statement.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"{statement.name}@{statement.version}",
        publisher=model.publisher.name,
        hashes=digest(file_sha256) if file_sha256 else [],
        properties=[Property(name=f"{NAMESPACE}:{key}", value=value) for key, value in _facts(model)],
        components=[
            Component(name=path, type=ComponentType.FILE, bom_ref=f"asset:{path}", hashes=digest(value))
            for path, value in sorted((assets or {}).items())
        ],
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:{NAMESPACE}:{_statement_digest(model)}"))
    bom.metadata.timestamp = statement.created
    bom.metadata.component = component
    bom.metadata.tools.components.add(Component(name=NAMESPACE, version=__version__, type=ComponentType.APPLICATION))
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return text.encode() + b"\n"


def _statement_digest(model: VerifiedModel) -> str:
    return hashlib.sha256(model.statement.to_bytes()).hexdigest()


def _facts(model: VerifiedModel) -> list[tuple[str, str]]:
    """What the publisher signed for everybody to read."""
    statement = model.statement
    predicate: dict[str, Any] = json.loads(statement.to_bytes())["predicate"]
    facts = [("statement", _statement_digest(model)), ("root", statement.root.hex())]
    facts += [("signer", signer) for signer in sorted(model.signers)]
    facts += [("payload-bytes", str(statement.payload_size))]
    for key in ("policy", "watermark", "fingerprint", "io", "plainSignature"):
        if predicate.get(key):
            facts.append((key, json.dumps(predicate[key], sort_keys=True, separators=(",", ":"))))
    return facts
