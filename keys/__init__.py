"""Generate, store, load and use keys."""

from modelvault.keys.material import (
    PUBLISHER_ALGORITHMS,
    RECIPIENT_ALGORITHMS,
    HostKey,
    HostPublic,
    PublisherKey,
    PublisherPublic,
    RecipientKey,
    RecipientPublic,
)
from modelvault.keys.owner import OwnerSecret

__all__ = [
    "PUBLISHER_ALGORITHMS",
    "RECIPIENT_ALGORITHMS",
    "HostKey",
    "HostPublic",
    "OwnerSecret",
    "PublisherKey",
    "PublisherPublic",
    "RecipientKey",
    "RecipientPublic",
]
