"""The public trace of a watermark: what a publisher signs, so that the mark is older than any quarrel about it."""

from dataclasses import dataclass
from typing import Any

from modelvault._codec import Fields

SCHEME = "modelvault/watermark/v1"
MAX_STRENGTH = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """Binds an owner's secret, an original's weights, a strength and a payload; shows none of them but the strength.

    ``original``: digest over the original's carriers; ``strength``: change of a weight over its scale, in millionths;
    ``value``: SHA-256 of a key that only the owner can derive, and all of these (docs/WATERMARK.md section 6).
    """

    owner: str
    original: bytes
    strength: int
    value: bytes

    def to_dict(self) -> dict[str, Any]:
        return {
            "commitment": self.value.hex(),
            "original": self.original.hex(),
            "owner": self.owner,
            "scheme": SCHEME,
            "strength": self.strength,
        }

    @classmethod
    def from_dict(cls, value: Any, field: str) -> "Commitment":
        """Parse strictly; FormatError names the field below ``field``."""
        fields = Fields(value, field)
        fields.exactly("scheme", SCHEME)
        result = cls(
            owner=fields.fingerprint("owner"),
            original=fields.digest("original"),
            strength=fields.integer("strength", low=1, high=MAX_STRENGTH),
            value=fields.digest("commitment"),
        )
        fields.done()
        return result
