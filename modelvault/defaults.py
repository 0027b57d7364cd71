"""What a caller leaves out: keys, trust policy and audit log from the environment and the home folder."""

import os
from collections.abc import Callable
from pathlib import Path

from modelvault.audit import AuditLog, LogKey
from modelvault.errors import AuditUnavailable, KeyUnavailable
from modelvault.filekey import Identity
from modelvault.keys import RecipientKey, store
from modelvault.trust import TrustPolicy

Passphrase = Callable[[], bytes]
PathLike = str | os.PathLike[str]
DEFAULT = "default"


def trust_path() -> Path:
    return Path(os.environ.get("MODELVAULT_TRUST") or store.home() / "trust.toml")


def audit_path() -> Path:
    return Path(os.environ.get("MODELVAULT_AUDIT") or store.home() / "audit" / "audit.log")


def trust_policy(trust: TrustPolicy | PathLike | None) -> TrustPolicy:
    """The policy itself, or the one at a path, or the home folder's. Raises UntrustedPublisher, FormatError."""
    return trust if isinstance(trust, TrustPolicy) else TrustPolicy.read(Path(trust or trust_path()))


def recipient(identity: Identity | PathLike | None, passphrase: Passphrase | None) -> Identity:
    """The identity itself, or the key of that name or path. Raises KeyUnavailable, FormatError."""
    if identity is not None and not isinstance(identity, str | os.PathLike):
        return identity
    name = os.fspath(identity) if identity is not None else os.environ.get("MODELVAULT_IDENTITY", DEFAULT)
    key: RecipientKey = store.load_recipient(name, passphrase or environment_passphrase)
    return key


def audit_log(audit: AuditLog | PathLike | None, passphrase: Passphrase | None) -> AuditLog:
    """The log itself, or the one at a path, signed with the host's default key. Raises AuditUnavailable."""
    if isinstance(audit, AuditLog):
        return audit
    try:
        key = LogKey.read(os.environ.get("MODELVAULT_HOST_KEY", DEFAULT), passphrase or environment_passphrase)
    except KeyUnavailable as error:
        raise AuditUnavailable(f"audit log cannot be signed: {error}") from None
    log = AuditLog(Path(audit or audit_path()), key)
    if os.environ.get("MODELVAULT_TELEMETRY"):
        from modelvault.audit.telemetry import make_observer

        log.observe = make_observer()
    return log


def environment_passphrase() -> bytes:
    """``$MODELVAULT_PASSPHRASE``, or the first line of the file ``$MODELVAULT_PASSPHRASE_FILE`` names."""
    if path := os.environ.get("MODELVAULT_PASSPHRASE_FILE"):
        return store.passphrase_file(Path(path))
    if text := os.environ.get("MODELVAULT_PASSPHRASE"):
        return text.encode()
    raise KeyUnavailable("the key is encrypted, and neither MODELVAULT_PASSPHRASE nor _PASSPHRASE_FILE is set")
