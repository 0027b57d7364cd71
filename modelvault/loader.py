"""Load a sealed model: trust, grant, terms, audit intent, decryption, root, session, audit outcome, in that order."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault import _files, defaults, options, remote
from modelvault.admission import Request, authorise, check_log
from modelvault.audit import AuditLog
from modelvault.decryption import decrypt
from modelvault.errors import AuditUnavailable, ModelVaultError
from modelvault.filekey import FileKey, Identity
from modelvault.hardening import apply, check_buffers, check_level
from modelvault.permit import Permit, admit
from modelvault.sealedfile import Progress, SealedFile
from modelvault.trust import TrustPolicy

if TYPE_CHECKING:
    import onnxruntime

    from modelvault.guards import OutputLimits, QueryLimits
    from modelvault.session import GuardedSession


def load(path: str | os.PathLike[str], **choices: Any) -> "GuardedSession":
    """Open a sealed model in a guarded session with onnxruntime's own interface.

    ``identity`` is a recipient key, a function that fetches one, or its name, path or URI (docs/KEYS.md);
    ``trust`` is a policy or its path; ``audit`` a log or its path;
    ``grant`` the path of a grant kept beside the file; ``passphrase`` is called where a key file needs one. What is
    left out comes from the environment and ``$MODELVAULT_HOME``.

    ``sess_options``, ``providers`` and ``provider_options`` are onnxruntime's, through an allow-list. ``memory`` is
    ``lean`` (the weights stand in memory once), ``fast`` (prepacked) or ``auto``; ``hardening`` is ``standard`` or
    ``strict``; ``input_guard`` is ``reject``, ``warn`` or ``off``; ``queries`` are QueryLimits and ``outputs``
    OutputLimits. ``purpose`` is declared for the record, and for licences that limit it. ``progress`` is called from
    several threads with counts of bytes decrypted.

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
    identity: Identity | defaults.Provider | str | os.PathLike[str] | None = None,
    trust: TrustPolicy | str | os.PathLike[str] | None = None,
    audit: AuditLog | str | os.PathLike[str] | None = None,
    grant: str | os.PathLike[str] | None = None,
    passphrase: Callable[[], bytes] | None = None,
    sess_options: "onnxruntime.SessionOptions | None" = None,
    providers: options.Providers | None = None,
    provider_options: Sequence[Mapping[Any, Any]] | None = None,
    memory: str = "auto",
    hardening: str = "standard",
    purpose: str | None = None,
    input_guard: str = "reject",
    queries: "QueryLimits | None" = None,
    outputs: "OutputLimits | None" = None,
    progress: Progress | None = None,
) -> None:
    """:func:`load` into a session object that was made but not started."""
    from modelvault.session import SessionSettings, available_providers

    log = defaults.audit_log(audit, passphrase)
    record: dict[str, Any] = {"load": secrets.token_hex(8), "file": _files.readable(Path(remote.display(path)).name)}
    permit: Permit | None = None
    try:
        policy = defaults.trust_policy(trust)
        check_log(log, policy)  # first: it says which fields even a refusal must conceal
        settings = SessionSettings(
            sess_options=sess_options,
            providers=options.providers(providers, provider_options, available_providers()),
            memory=memory,
            input_guard=input_guard,
            queries=queries,
            outputs=outputs,
        )
        own = defaults.recipient(identity, passphrase)
        request = Request(
            trust=policy,
            recipient=own.public.fingerprint,
            grant=grant,
            providers=tuple(settings.providers),
            memory=memory,
            hardening=check_level(hardening),
            purpose=purpose,
        )
        with SealedFile(path) as sealed:
            authorised = authorise(sealed, request, record)
            apply(request.hardening)
            permit = admit(log, authorised, record)
            key = FileKey.open(authorised.grant, own, sealed.statement)
            model = decrypt(sealed, key, progress, lambda locked: check_buffers(request.hardening, locked))
            statement = sealed.statement
        settings = replace(
            settings, memory=permit.memory, queries=authorised.queries(queries), before_run=permit.before_run
        )
        session._start(model, statement, settings, permit.close)
    except BaseException as error:
        logged = _denied(log, record, error)
        if permit is not None:
            permit.release(logged=logged)
        raise
    try:
        facts = {"memory": session.memory, "hardening": hardening, "input_guard": input_guard}
        log.append("load.done", **record, **facts, locked=model.locked)
    except ModelVaultError:
        session.close()
        raise


def _denied(log: AuditLog, record: dict[str, Any], error: BaseException) -> bool:
    """Record a refusal; False where there is none to record, or it can't be recorded."""
    if not isinstance(error, ModelVaultError) or isinstance(error, AuditUnavailable):
        return False
    try:
        log.append("load.denied", **record, reason=type(error).__name__, detail=str(error)[:500])
    except ModelVaultError as failure:
        error.add_note(f"the refusal could not be logged: {failure}")
        return False
    return True
