"""The append-only signed audit log: write it, read it, verify it."""

from modelvault.audit.log import AuditLog
from modelvault.audit.verification import AuditReport, read_records, verify_log

__all__ = ["AuditLog", "AuditReport", "read_records", "verify_log"]
