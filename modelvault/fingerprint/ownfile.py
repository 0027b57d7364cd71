"""A file of its own for one recipient: a full-length mark on all carriers, stronger than slots of a shared file.

It is a watermark like the owner's (docs/WATERMARK.md), under a secret derived for that recipient.
"""

from dataclasses import dataclass, replace

from modelvault._primitives import LABEL_FINGERPRINT, hkdf
from modelvault.fingerprint.registry import Issued, Registry, now
from modelvault.keys import OwnerSecret
from modelvault.onnxfile import Edit
from modelvault.watermark.embedding import Plan
from modelvault.watermark.marker import Marker


def recipient_secret(secret: OwnerSecret, recipient: str) -> OwnerSecret:
    """The secret of one recipient's mark; ``recipient``: its key's fingerprint."""
    return OwnerSecret(hkdf(secret.secret, salt=b"", info=LABEL_FINGERPRINT + b"own file" + recipient.encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFilePlan:
    """One recipient's mark: ``mark`` was planned under its recipient_secret. ``label``: the publisher's name for it."""

    mark: Plan
    recipient: str
    label: str
    registry: Registry

    @property
    def summary(self) -> str:
        """For people."""
        return f"own file of {self.label or self.recipient}, strength {self.mark.strength}, {self.mark.robustness}"

    def marker(self, before: Edit | None) -> Marker:
        return replace(self.mark.marker(), before=before)

    def record(self, digest: bytes) -> None:
        """Write into the registry who gets the file; ``digest``: the model statement's SHA-256."""
        issued = Issued(
            statement=digest,
            original=self.mark.original,
            recipient=self.recipient,
            label=self.label,
            kind="file",
            created=now(),
        )
        self.registry.append(issued)
