"""modelvault license"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from modelvault import _files, defaults, remote
from modelvault._codec import format_time
from modelvault.admission import Request
from modelvault.cli.common import FILE, PLACE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.container import MAGIC
from modelvault.keys import store
from modelvault.licencecheck import check as check_load
from modelvault.machine import machine_id
from modelvault.manifest import GrantStatement
from modelvault.options import CPU
from modelvault.policy import Terms
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, UnverifiedGrant
from modelvault.termtable import Quota
from modelvault.verification import inspect


def _any_of(what: str) -> Callable[[tuple[str, ...]], str]:
    return lambda values: f"{what} {' or '.join(values) or '(none at all)'}"


def _quota(what: str) -> Callable[[Quota], str]:
    return lambda quota: f"at most {quota.count} {what} {'in all' if quota.per == 'ever' else f'a {quota.per} (UTC)'}"


QUERIES = {
    "per_minute": "calls a minute at most",
    "total": "calls in all at most",
    "rejected": "share of rejected inputs at most",
    "near_duplicates": "share of near-duplicates at most",
    "equal_steps": "share of equal steps at most",
}
WORDS: dict[str, Callable[[Any], str]] = {
    "not_before": lambda moment: f"from {format_time(moment)}",
    "not_after": lambda moment: f"until {format_time(moment)}",
    "versions": _any_of("model version"),
    "providers": _any_of("on"),
    "hosts": _any_of("by a host with key"),
    "machines": _any_of("on machine"),
    "logs": _any_of("recorded in audit log"),
    "max_sessions": lambda count: f"at most {count} sessions at once on a host",
    "max_loads": _quota("loads"),
    "max_runs": _quota("runs"),
    "min_loader": lambda version: f"with modelvault {version} or later",
    "memory": lambda mode: f"in memory mode {mode}",
    "hardening": lambda level: f"with hardening {level}",
    "purposes": _any_of("for the declared purpose"),
    "queries": lambda limits: "by caller, " + ", ".join(f"{QUERIES[k]} {v}" for k, v in limits.to_dict().items()),
    "cosigned": lambda term: (
        f"while {term.threshold} of these witnesses cosigned the audit log in the last {term.hours} hours: "
        + ", ".join(key.name for key in term.by)
    ),
}


def describe(terms: Terms) -> list[str]:
    """The terms as sentences' ends, one a term; without limits just that."""
    found = [words(value) for name, words in WORDS.items() if (value := getattr(terms, name)) is not None]
    return found or ["without limits"]


@click.group("license", epilog="Example: modelvault license show bank.grant")
def command() -> None:
    """Explain and check what a grant allows."""


@command.command(epilog="Examples: modelvault license show bank.grant   |   modelvault license show fraud.mvlt")
@click.argument("file", type=PLACE)
@json_option
def show(file: str | Path, as_json: bool) -> None:
    """Say what FILE, a grant or a sealed model with its grants, allows, to whom, until when. Nothing is verified."""
    policy, grants = _read(file)
    if as_json:
        print_json({"policy": policy and policy.to_dict(), "grants": [_facts(grant) for grant in grants]})
        return
    if policy is not None:
        print_fields([("everybody", describe(policy))])
    for grant in grants:
        click.echo()
        print_fields(
            [
                ("grant", grant.grant_id),
                ("to", grant.recipient),
                ("may", f"{'run' if grant.purpose == 'run' else 'audit'} {grant.model_name}"),
                ("", describe(grant.licence)),
            ]
        )
    click.echo("\nnot verified: see modelvault license check")


def _read(file: str | Path) -> tuple[Terms | None, tuple[GrantStatement, ...]]:
    if _start(file) == MAGIC:
        facts = inspect(file)
        return facts.statement.policy, facts.grants
    data = remote.read_bytes(file, limit=MAX_GRANT_ENVELOPE)
    return None, (UnverifiedGrant.from_bytes(data, remote.display(file)).statement,)


def _start(file: str | Path) -> bytes:
    if isinstance(file, str):
        with remote.opened(file) as there:
            return there.read(0, min(len(MAGIC), there.size))
    with _files.failures(file), open(_files.open_regular(file), "rb") as here:
        return here.read(len(MAGIC))


def _facts(grant: GrantStatement) -> dict[str, Any]:
    return {
        "id": grant.grant_id,
        "model": grant.model_name,
        "recipient": grant.recipient,
        "purpose": grant.purpose,
        "licence": grant.licence.to_dict(),
        "words": describe(grant.licence),
    }


@command.command(epilog="Example: modelvault license check fraud.mvlt --grant bank.grant")
@click.argument("file", type=PLACE)
@click.option("--grant", type=PLACE, help="A grant kept beside the file.")
@click.option("--identity", metavar="KEY", help="Recipient's public key: name or path. Default: default.")
@click.option("--provider", "providers", multiple=True, default=(CPU,), show_default=True, help="Repeatable.")
@click.option("--memory", type=click.Choice(["auto", "lean", "fast"]), default="auto", show_default=True)
@click.option("--hardening", type=click.Choice(["standard", "strict"]), default="standard", show_default=True)
@click.option("--purpose", help="The purpose that the load would declare.")
@click.option(
    "--trust", type=PLACE, help="Trust policy: path, or URL#sha256=HEX. Default: $MODELVAULT_HOME/trust.toml."
)
@click.option("--audit", type=FILE, help="Audit log. Default: $MODELVAULT_HOME/audit/audit.log.")
@passphrase_option
@json_option
def check(
    file: str | Path,
    grant: str | Path | None,
    identity: str | None,
    providers: tuple[str, ...],
    memory: str,
    hardening: str,
    purpose: str | None,
    trust: str | Path | None,
    audit: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Say whether FILE would load now, without decrypting it. The exit status is the load's own."""
    name = identity or os.environ.get("MODELVAULT_IDENTITY", defaults.DEFAULT)
    request = Request(
        trust=defaults.trust_policy(trust),
        recipient=store.load_recipient_public(name).fingerprint,
        grant=grant,
        providers=providers,
        memory=memory,
        hardening=hardening,
        purpose=purpose,
    )
    found = check_load(file, request, defaults.audit_log(audit, ask_passphrase(passphrase_file)))
    facts = found.to_dict()
    if as_json:
        print_json(facts)
        return
    left = [
        f"{value} {key} (by the {entry['of']})" for entry in found.left for key, value in entry.items() if key != "of"
    ]
    shown = [(key, value) for key, value in facts.items() if key not in ("allowed", "left")]
    terms = describe(found.authorised.grant.licence)
    print_fields([("allowed", "yes, now"), *shown, ("licence", terms), *([("left", left)] if left else [])])


@command.command(epilog="Example: modelvault license machine")
@json_option
def machine(as_json: bool) -> None:
    """Print the value that the term "machines" takes for this machine, and the fingerprint for "hosts".

    The value is derived from the machine id. It is no secret and no proof: root can change the id, a copied image has
    the same one, and containers have their own or none.
    """
    key = store.folder("host") / f"{defaults.DEFAULT}.pub"
    host = store.load_host_public(str(key)).fingerprint if key.is_file() else None
    if as_json:
        print_json({"machine": machine_id(), "host": host})
    else:
        print_fields([("machine", machine_id() or "none: this host has no machine id"), ("host key", host or "none")])
