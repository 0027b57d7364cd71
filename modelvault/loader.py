"""Load a sealed model: trust, grant, terms, audit intent, decryption, root, session, audit outcome, in that order."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import _files, defaults, options
from modelvault.audit import AuditLog
from modelvault.audit.cosigned import check_fresh
from modelvault.decryption import Decrypted, decrypt
from modelvault.errors import (
    AuditUnavailable,
    ModelVaultError,
    NoMatchingKey,
    PolicyDenied,
)
from modelvault.filekey import FileKey, Identity
from modelvault.hardening import apply, check_buffers, check_level
from modelvault.manifest import GrantStatement
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, Progress, SealedFile, UnverifiedGrant
from modelvault.trust import TrustPolicy, VerifiedModel
from modelvault.verification import verify_grant

if TYPE_CHECKING:
    import onnxruntime

    from modelvault.guards import OutputLimits, QueryLimits
    from modelvault.session import GuardedSession


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Everything a load is decided on."""

    trust: TrustPolicy
    identity: Identity
    grant: Path | None
    providers: tuple[str, ...]
    hardening: str


def load(path: str | os.PathLike[str], **choices: Any) -> "GuardedSession":
    """Open a sealed model in a guarded session with onnxruntime's own interface.

    ``identity`` is a recipient key, its name or its path; ``trust`` a policy or its path; ``audit`` a log or its path;
    ``grant`` the path of a grant kept beside the file; ``passphrase`` is called where a key file needs one. What is
    left out comes from the environment and ``$MODELVAULT_HOME``.

    ``sess_options``, ``providers`` and ``provider_options`` are onnxruntime's, through an allow-list. ``memory`` is
    ``lean`` (the weights stand in memory once), ``fast`` (prepacked) or ``auto``; ``hardening`` is ``standard`` or
    ``strict``; ``input_guard`` is ``reject``, ``warn`` or ``off``; ``queries`` are QueryLimits and ``outputs``
    OutputLimits. ``progress`` is called from several threads with counts of bytes decrypted.

    Every load, done or denied, leaves an audit record; where the record of intent can't be written, nothing is
    decrypted. Raises a subclass of ModelVaultError.
    """
    from modelvault.session import GuardedSession

    session = GuardedSession.__new__(GuardedSession)
    open_into(session, path, **choices)
    return session


def open_into(
    session: "GuardedSession",
    path: str | os.PathLike[str],
    *,
    identity: Identity | str | os.PathLike[str] | None = None,
    trust: TrustPolicy | str | os.PathLike[str] | None = None,
    audit: AuditLog | str | os.PathLike[str] | None = None,
    grant: str | os.PathLike[str] | None = None,
    passphrase: Callable[[], bytes] | None = None,
    sess_options: "onnxruntime.SessionOptions | None" = None,
    providers: options.Providers | None = None,
    provider_options: Sequence[Mapping[Any, Any]] | None = None,
    memory: str = "auto",
    hardening: str = "standard",
    input_guard: str = "reject",
    queries: "QueryLimits | None" = None,
    outputs: "OutputLimits | None" = None,
    progress: Progress | None = None,
) -> None:
    """:func:`load` into a session object that was made but not started."""
    from modelvault.session import SessionSettings, available_providers

    log = defaults.audit_log(audit, passphrase)
    record: dict[str, Any] = {"load": secrets.token_hex(8), "file": Path(path).name}
    try:
        policy = defaults.trust_policy(trust)
        _check_log(log, policy)  # first: it says which fields even a refusal must conceal
        settings = SessionSettings(
            sess_options=sess_options,
            providers=options.providers(providers, provider_options, available_providers()),
            memory=memory,
            input_guard=input_guard,
            queries=queries,
            outputs=outputs,
        )
        request = _Request(
            trust=policy,
            identity=defaults.recipient(identity, passphrase),
            grant=Path(grant) if grant is not None else None,
            providers=tuple(settings.providers),
            hardening=check_level(hardening),
        )
        with SealedFile(path) as sealed:
            model = _decrypt(sealed, request, log, record, progress)
            statement = sealed.statement
        session._start(model, statement, settings, lambda counters: _closed(log, record, counters))
    except AuditUnavailable:
        raise
    except ModelVaultError as error:
        _denied(log, record, error)
        raise
    try:
        chosen = {"memory": session.memory, "hardening": hardening, "input_guard": input_guard}
        log.append("load.done", **record, **chosen, locked=model.locked)
    except ModelVaultError:
        session.close()
        raise


def _decrypt(
    sealed: SealedFile, request: _Request, log: AuditLog, record: dict[str, Any], progress: Progress | None
) -> Decrypted:
    grant = _authorise(sealed, request, record)
    apply(request.hardening)
    log.append("load.intent", **record)
    key = FileKey.open(grant, request.identity, sealed.statement)
    return decrypt(sealed, key, progress, lambda locked: check_buffers(request.hardening, locked))


def _check_log(log: AuditLog, trust: TrustPolicy) -> None:
    if trust.audit_key is not None and log.key_fingerprint != trust.audit_key:
        raise PolicyDenied(f"audit log is signed by {log.key_fingerprint}, the trust policy expects {trust.audit_key}")
    log.obey(trust.audit)
    if trust.audit.witnesses:
        within = timedelta(hours=trust.audit.cosigned_hours)
        check_fresh(log.path, trust.audit.witnesses, trust.audit.witness_threshold, within, datetime.now(UTC))


def _authorise(sealed: SealedFile, request: _Request, record: dict[str, Any]) -> GrantStatement:
    """The grant that lets this identity load this model now; ``record`` gathers what the audit log shall say."""
    source, statement = str(sealed.path), sealed.statement
    digest = sealed.statement_digest
    record |= {"model": {"name": statement.name, "version": statement.version}, "statement": digest.hex()}
    verified = request.trust.verify_model(sealed.envelope, statement, source)
    record |= {"publisher": verified.publisher.name, "signers": sorted(verified.signers)}
    record |= {"recipient": request.identity.public.fingerprint}
    grant = _find_grant(sealed, request, verified)
    record["grant"] = grant.grant_id
    now = datetime.now(UTC)
    statement.policy.check(now=now, providers=request.providers, source=f"{source}: policy")
    grant.licence.check(now=now, providers=request.providers, source=f"{source}: grant {grant.grant_id}")
    return grant


def _find_grant(sealed: SealedFile, request: _Request, verified: VerifiedModel) -> GrantStatement:
    """The given grant, else the first embedded one for this identity; signed by the model's own publisher."""
    mine = request.identity.public.fingerprint
    if request.grant is not None:
        data = _files.read_bytes(request.grant, limit=MAX_GRANT_ENVELOPE)
        found = [(UnverifiedGrant.from_bytes(data, str(request.grant)), str(request.grant))]
    else:
        found = [(g, f"{sealed.path}: grants[{n}]") for n, g in enumerate(sealed.grants())]
    for grant, source in found:
        if grant.statement.recipient == mine and grant.statement.purpose == "run":
            return verify_grant(grant, verified, sealed.statement_digest, source)
    where = str(request.grant or sealed.path)
    raise NoMatchingKey(f"{where}: no grant to run this model for {mine}")


def _denied(log: AuditLog, record: dict[str, Any], error: ModelVaultError) -> None:
    try:
        log.append("load.denied", **record, reason=type(error).__name__, detail=str(error)[:500])
    except ModelVaultError as failure:
        error.add_note(f"the refusal could not be logged: {failure}")


def _closed(log: AuditLog, record: dict[str, Any], counters: dict[str, Any]) -> None:
    log.append("session.closed", load=record["load"], model=record["model"], **counters)
