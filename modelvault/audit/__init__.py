"""The append-only signed audit log: write it, read it, verify it."""

from modelvault.audit.keyfile import LogKey
from modelvault.audit.log import AuditLog
from modelvault.audit.verification import AuditReport, read_leaves, read_records, verify_log

__all__ = ["AuditLog", "AuditReport", "LogKey", "read_leaves", "read_records", "verify_log"]
