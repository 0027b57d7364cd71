"""What a trust policy asks of this host's audit log: its table ``[audit]``."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelvault._codec import Fields
from modelvault.cosignature import COSIGNATURE, VerifierKey
from modelvault.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTerms:
    """None means that the policy does not ask for it.

    ``key`` is the fingerprint of the key that began the log. An epoch ends after ``rotate_records`` records or
    ``rotate_days`` days. The fields in ``conceal`` are logged so that they can be redacted. ``witness_threshold`` of
    ``witnesses`` must have cosigned the log's head within the last ``cosigned_hours``.
    """

    key: str | None = None
    rotate_records: int | None = None
    rotate_days: int | None = None
    conceal: tuple[str, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    witness_threshold: int = 1
    cosigned_hours: int = 24

    @classmethod
    def from_dict(cls, value: dict[str, Any], field: str) -> "AuditTerms":
        """Raises FormatError; an unknown key is one, too."""
        fields = Fields(value, field)
        terms = cls(
            key=fields.text("key", None, limit=128),
            rotate_records=fields.integer("rotate_records", None, low=1),
            rotate_days=fields.integer("rotate_days", None, low=1, high=36_500),
            conceal=fields.texts("conceal", (), limit=64),
            witnesses=tuple(
                VerifierKey.from_text(text, f"{field}.witnesses[{number}]", COSIGNATURE)
                for number, text in enumerate(fields.texts("witnesses", (), limit=16))
            ),
            witness_threshold=fields.integer("witness_threshold", 1, low=1, high=16),
            cosigned_hours=fields.integer("cosigned_hours", 24, low=1, high=8760),
        )
        fields.done()
        if terms.witnesses and terms.witness_threshold > len(terms.witnesses):
            raise FormatError(
                f"{field}.witness_threshold: {terms.witness_threshold} of {len(terms.witnesses)} witnesses"
            )
        return terms

    @property
    def rotate_after(self) -> timedelta | None:
        return None if self.rotate_days is None else timedelta(days=self.rotate_days)
