"""That slots and code were fixed before any copy left: the signed statement commits to what the registry says."""

import os
from collections.abc import Iterable

from modelvault.errors import FormatError, NoMatchingKey
from modelvault.fingerprint.layout import Layout
from modelvault.fingerprint.registry import Record, Sealed
from modelvault.keys import OwnerSecret
from modelvault.sealedfile import SealedFile
from modelvault.trust import TrustPolicy


def committed_layout(
    path: str | os.PathLike[str], trust: TrustPolicy, secret: OwnerSecret, records: Iterable[Record]
) -> Layout:
    """The registry's layout of a sealed file, which the statement of a trusted publisher commits to.

    Raises FormatError, NoMatchingKey where there is none or it is another one; and as verification does.
    """
    with SealedFile(path) as sealed:
        statement = trust.verify_model(sealed.envelope, sealed.statement, str(path)).statement
        digest = sealed.statement_digest
    if statement.variants is None:
        raise FormatError(f"{path}: has no fingerprints")
    layout = next((r.layout for r in records if isinstance(r, Sealed) and r.statement == digest), None)
    if layout is None:
        raise NoMatchingKey(f"{path}: not in the registry")
    if layout.variants(secret) != statement.variants:
        raise FormatError(f"{path}: its statement does not commit to the slots in the registry")
    return layout
