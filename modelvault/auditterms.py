"""What a trust policy asks of this host's audit log: its table ``[audit]``."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelvault._codec import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTerms:
    """None means that the policy does not ask for it.

    ``key`` is the fingerprint of the key that began the log. An epoch ends after ``rotate_records`` records or
    ``rotate_days`` days.
    """

    key: str | None = None
    rotate_records: int | None = None
    rotate_days: int | None = None

    @classmethod
    def from_dict(cls, value: dict[str, Any], field: str) -> "AuditTerms":
        """Raises FormatError; an unknown key is one, too."""
        fields = Fields(value, field)
        terms = cls(
            key=fields.text("key", None, limit=128),
            rotate_records=fields.integer("rotate_records", None, low=1),
            rotate_days=fields.integer("rotate_days", None, low=1, high=36_500),
        )
        fields.done()
        return terms

    @property
    def rotate_after(self) -> timedelta | None:
        return None if self.rotate_days is None else timedelta(days=self.rotate_days)
