"""Weight watermarks: evidence of whose model a file is. The scheme is docs/WATERMARK.md."""

from modelvault.watermark.embedding import Budget, EmbedReport, Plan, embed, make_plan, parse_payload
from modelvault.watermark.record import Record, records_of
from modelvault.watermark.verdict import Verdict
from modelvault.watermark.verifying import verify_blind, verify_informed

__all__ = [
    "Budget",
    "EmbedReport",
    "Plan",
    "Record",
    "Verdict",
    "embed",
    "make_plan",
    "parse_payload",
    "records_of",
    "verify_blind",
    "verify_informed",
]
