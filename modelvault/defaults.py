"""What a caller leaves out: keys, trust policy and audit log from the environment and the home folder."""

import os
from collections.abc import Callable
from pathlib import Path

from modelvault import remote
from modelvault.audit import AuditLog, LogKey
from modelvault.errors import AuditUnavailable, FileError, KeyUnavailable, ModelVaultError
from modelvault.filekey import Identity
from modelvault.keys import RecipientKey, store
from modelvault.trust import TrustPolicy

Passphrase = Callable[[], bytes]
PathLike = str | os.PathLike[str]
Provider = Callable[[], Identity | bytes]  # fetches a recipient key, or its PEM text
DEFAULT = "default"


def trust_path() -> Path:
    """Where a policy can be written. Raises FileError."""
    chosen = os.environ.get("MODELVAULT_TRUST") or store.home() / "trust.toml"
    if remote.is_url(chosen):
        raise FileError(f"{remote.display(chosen)}: MODELVAULT_TRUST is a URL, and only a local policy can be changed")
    return Path(chosen)


def audit_path() -> Path:
    return Path(os.environ.get("MODELVAULT_AUDIT") or store.home() / "audit" / "audit.log")


def trust_policy(trust: TrustPolicy | PathLike | None) -> TrustPolicy:
    """The policy itself, or the one at a path or pinned URL, or the home folder's.

    Raises UntrustedPublisher, FormatError, FileError.
    """
    if isinstance(trust, TrustPolicy):
        return trust
    place = os.fspath(trust or os.environ.get("MODELVAULT_TRUST") or trust_path())
    return TrustPolicy.read(place if remote.is_url(place) else Path(place))


def recipient(identity: Identity | Provider | PathLike | None, passphrase: Passphrase | None) -> Identity:
    """The identity itself, what a provider fetches, or the key of that name, path or URI.

    Raises KeyUnavailable, FormatError.
    """
    if callable(identity):
        return _fetched(identity, passphrase)
    if identity is not None and not isinstance(identity, str | os.PathLike):
        return identity
    name = os.fspath(identity) if identity is not None else os.environ.get("MODELVAULT_IDENTITY", DEFAULT)
    return store.load_recipient(name, passphrase or environment_passphrase)


def _fetched(provider: Provider, passphrase: Passphrase | None) -> Identity:
    """What a caller's function gives. It may fail in any way, with words that hold secrets: only the type is told."""
    try:
        found = provider()
    except ModelVaultError:
        raise
    except Exception as error:
        raise KeyUnavailable(f"identity: the key provider failed ({type(error).__name__})") from None
    if isinstance(found, bytes):
        return RecipientKey.from_pem(found, passphrase or environment_passphrase, "identity")
    return found


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
