"""Give and take access to a sealed model: issue a grant, embed it, remove it. The payload is never touched."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import _files, envelope
from modelvault.container import MAX_GRANT_COUNT, payload_offset
from modelvault.envelope import Signer
from modelvault.errors import FileError, FormatError, NoMatchingKey, UntrustedPublisher
from modelvault.filekey import FileKey, Identity, Recipient
from modelvault.manifest import GrantStatement
from modelvault.policy import Terms
from modelvault.sealedfile import SealedFile, UnverifiedGrant, open_header

if TYPE_CHECKING:
    from modelvault.fingerprint.rings import Owner, RecipientKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Whom a grant is for (``label``: the publisher's name for it), under which terms: to ``run`` or to ``audit``."""

    recipient: Recipient
    licence: Terms | None = None
    purpose: str = "run"
    label: str = ""


def grant(
    path: str | os.PathLike[str],
    recipient: Recipient,
    *,
    own: Identity,
    signer: Signer,
    licence: Terms | None = None,
    purpose: str = "run",
    owner: "Owner | None" = None,
) -> bytes:
    """A signed grant of the sealed model for ``recipient``: to be kept beside the file, or embedded.

    ``own`` is the publisher's own recipient key, which every file that it sealed is granted to; ``signer`` one of the
    keys that signed the file, since loaders take grants from the model's publisher alone. ``owner`` issues
    the copies of a file with fingerprints: its secret chooses the variants, its registry records the recipient first.

    Raises FormatError, FileError, NoMatchingKey, UntrustedPublisher, PayloadTampered.
    """
    order = Order(recipient=recipient, licence=licence, purpose=purpose)
    return next(grant_all(path, [order], own=own, signer=signer, owner=owner))


def grant_all(
    path: str | os.PathLike[str],
    orders: Iterable[Order],
    *,
    own: Identity,
    signer: Signer,
    owner: "Owner | None" = None,
) -> Iterator[bytes]:
    """A grant for each order, in turn. The file is opened once, its key unwrapped once, its payload never read.

    ``path`` may be a URL, of which the header is read by range. Raises as :func:`grant`.
    """
    with open_header(path) as sealed:
        signers = {s.keyid for s in sealed.envelope.signatures}
        if signer.public.fingerprint not in signers:
            raise UntrustedPublisher(f"{sealed.path}: not signed by {signer.public.fingerprint}")
        sealed.envelope.verified_by([signer.public])
        key = FileKey.open(_own_grant(sealed, own), own, sealed.statement)
        name, digest = sealed.statement.name, sealed.statement_digest
        orders = list(orders)
        keys = _issue(sealed, orders, owner)
    for order in orders:
        variants = keys.of(order.recipient.fingerprint, order.purpose) if keys else None
        statement = key.grant(
            order.recipient, name, digest, licence=order.licence, purpose=order.purpose, variants=variants
        )
        yield envelope.sign(statement.to_bytes(), [signer]).to_bytes()


def _issue(sealed: SealedFile, orders: Sequence[Order], owner: "Owner | None") -> "RecipientKeys | None":
    """What chooses the variants, once every recipient is in the owner's registry."""
    if sealed.statement.variants is None:
        return None
    if owner is None:
        raise NoMatchingKey(f"{sealed.path}: only owner {sealed.statement.variants.owner} can draw its fingerprints")
    who = [(o.recipient.fingerprint, o.label) for o in orders if o.purpose != "audit"]
    return owner.issue(sealed.statement, sealed.statement_digest, who, str(sealed.path))


def rewrap(
    path: str | os.PathLike[str],
    old: str,
    new: Recipient,
    *,
    own: Identity,
    signer: Signer,
    owner: "Owner | None" = None,
) -> int:
    """Move every embedded grant of the key with fingerprint ``old`` to ``new``, terms and purpose kept; how many.

    A file without a grant for ``old`` is left alone. Raises as :func:`grant`.
    """
    with open_header(path) as sealed:
        pairs = list(zip(sealed.header.grants, sealed.grants(), strict=True))
        moved = [item.statement for _, item in pairs if item.statement.recipient == old]
        if moved:
            orders = [Order(recipient=new, licence=g.licence, purpose=g.purpose) for g in moved]
            fresh = grant_all(path, orders, own=own, signer=signer, owner=owner)
            kept = [raw for raw, item in pairs if item.statement.recipient != old]
            rewrite(sealed, grants=(*kept, *fresh))
    return len(moved)


def _own_grant(sealed: SealedFile, own: Identity) -> GrantStatement:
    for item in sealed.grants():
        if item.statement.recipient == own.public.fingerprint and item.statement.model == sealed.statement_digest:
            return item.statement
    raise NoMatchingKey(f"{sealed.path}: no grant for {own.public.fingerprint}; only its publisher can grant it")


def embed(path: str | os.PathLike[str], grant: bytes) -> None:
    """Add a grant to the file; one that its recipient already has is replaced. Atomic: the payload is copied."""
    with open_header(path) as sealed:
        added = UnverifiedGrant.from_bytes(grant, "grant").statement
        if added.model != sealed.statement_digest:
            raise FormatError(f"{sealed.path}: the grant is for another model")
        kept = [
            raw
            for raw, item in zip(sealed.header.grants, sealed.grants(), strict=True)
            if (item.statement.recipient, item.statement.purpose) != (added.recipient, added.purpose)
        ]
        if len(kept) >= MAX_GRANT_COUNT:
            raise FormatError(f"{sealed.path}: grants: more than {MAX_GRANT_COUNT}")
        rewrite(sealed, grants=(*kept, grant))


def ungrant(path: str | os.PathLike[str], fingerprint: str) -> int:
    """Remove every embedded grant of a recipient; returns how many. NoMatchingKey where there is none.

    Who has decrypted the model once may have kept it, and a copy of the file still holds the grant.
    """
    with open_header(path) as sealed:
        pairs = zip(sealed.header.grants, sealed.grants(), strict=True)
        kept = tuple(raw for raw, item in pairs if item.statement.recipient != fingerprint)
        removed = len(sealed.header.grants) - len(kept)
        if not removed:
            raise NoMatchingKey(f"{sealed.path}: no embedded grant for {fingerprint}")
        rewrite(sealed, grants=kept)
    return removed


def rewrite(sealed: SealedFile, **changes: Any) -> None:
    """Replace parts of the header: ``grants`` or ``envelope``. Atomic: the payload is copied as it is."""
    if not sealed.path.is_file():
        raise FileError(f"{sealed.path}: only a local file can be changed; keep the grant beside it")
    header = replace(sealed.header, **changes)
    offset = payload_offset(header.length)
    mode = sealed.path.stat().st_mode & 0o777
    with _files.atomic_write(sealed.path, mode=mode) as file:
        file.write(header.to_bytes(offset))
        with open(os.dup(sealed.descriptor), "rb") as source:
            source.seek(sealed.payload_offset)
            shutil.copyfileobj(source, file, 2**20)


def write_grant(path: str | os.PathLike[str], grant: bytes) -> None:
    """Write a grant file."""
    _files.write_bytes(Path(path), grant)
