"""What every place for keys must be good for: seal, grant, load, rotate, with keys that were just made there."""

from typing import Any

import pytest

from modelvault.audit import AuditLog
from modelvault.errors import NoMatchingKey
from modelvault.granting import embed, grant, rewrap
from modelvault.keys.remote import HostSigner, PublisherSigner, Unwrapper
from modelvault.loader import load
from modelvault.trust import TrustPolicy, add_publisher


def seal_grant_load_rotate(
    parties: Any, publisher: PublisherSigner, bank: Unwrapper, renewed: Unwrapper, host: HostSigner | None = None
) -> None:
    """``bank`` is granted a sealed model and loads it; ``renewed`` takes its place, and ``bank`` opens nothing more."""
    (parties.folder / "kms.pub").write_bytes(publisher.public.to_pem())
    add_publisher(parties.folder / "kms.toml", "kms", [parties.folder / "kms.pub"], models=["*"])
    log = AuditLog(parties.folder / "audit.log", host) if host else parties.log
    settings: dict[str, Any] = {"trust": TrustPolicy.read(parties.folder / "kms.toml"), "audit": log}
    path = parties.seal(signers=[publisher], recipients=[])
    with pytest.raises(NoMatchingKey):
        load(path, identity=bank, **settings)
    embed(path, grant(path, bank.public, own=parties.own, signer=publisher))
    load(path, identity=bank, **settings).close()
    assert rewrap(path, bank.public.fingerprint, renewed.public, own=parties.own, signer=publisher) == 1
    load(path, identity=renewed, **settings).close()
    with pytest.raises(NoMatchingKey):
        load(path, identity=bank, **settings)
