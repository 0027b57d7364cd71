"""Whether a load would be allowed now, and what is left: no record is written, nothing is decrypted."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelvault import ledger
from modelvault._codec import format_time
from modelvault.admission import Authorised, Request, authorise, check_log
from modelvault.audit import AuditLog
from modelvault.permit import check_seats
from modelvault.sealedfile import open_header
from modelvault.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A load that is allowed now; ``left`` holds what counted terms leave, by the document that asks for them."""

    authorised: Authorised
    left: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        a = self.authorised
        return {
            "allowed": True,
            "model": f"{a.statement.name} {a.statement.version}",
            "publisher": a.model.publisher.name,
            "recipient": a.request.recipient,
            "grant": a.grant.grant_id,
            "memory": a.memory,
            "left": list(self.left),
        }


def check(path: str | os.PathLike[str], request: Request, log: AuditLog) -> Allowance:
    """What a load would be told at this moment; raises what the load would raise before it decrypts."""
    check_log(log, request.trust)
    with open_header(path) as sealed:
        authorised = authorise(sealed, request, {})
    usage, at = ledger.peek(log) or (Usage(), None)
    now = datetime.now(UTC)
    authorised.check(usage, at, log, now)
    check_seats(log.path, authorised, usage)
    return Allowance(authorised=authorised, left=_left(authorised, usage, format_time(now)))


def _left(authorised: Authorised, usage: Usage, now: str) -> tuple[dict[str, Any], ...]:
    found = []
    for limit, words in zip(authorised.limits, ("policy", "licence"), strict=True):
        left: dict[str, Any] = {}
        if (loads := limit.terms.max_loads) is not None:
            left["loads"] = loads.count - usage.loads(limit.subject, loads.per, now)
        if limit.terms.max_runs is not None:
            left["runs"] = limit.runs_left(usage, now)
        if left:
            found.append({"of": words, **left})
    return tuple(found)
