"""modelvault revoke"""

import string
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from modelvault import _files
from modelvault._codec import format_time
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_json, print_table
from modelvault.defaults import DEFAULT
from modelvault.envelope import Envelope
from modelvault.errors import FormatError
from modelvault.issuing import revoke
from modelvault.keys import store
from modelvault.manifest import check_name, check_version
from modelvault.revocation import MAX_LIST_ENVELOPE, Entry, RevocationList
from modelvault.sealedfile import MAX_GRANT_ENVELOPE, SealedFile, UnverifiedGrant

F = TypeVar("F", bound=Callable[..., Any])


@click.group("revoke", epilog="Example: modelvault revoke model fraud@2.1 --reason 'weights leaked' --sign revoker")
def command() -> None:
    """Issue the next revocation list: what no loader that gets it will load again.

    A list is signed and numbered; hosts obey it once "modelvault trust revocations" names it, and never take an older
    one back. Sign it with a key of its own, kept apart from the keys that seal.
    """


def _options(function: F) -> F:
    for option in (
        click.option("--list", "path", type=FILE, help="The list. Default: $MODELVAULT_HOME/revocations.json."),
        click.option("--sign", "signers", multiple=True, metavar="KEY", help="Key that signs lists. Repeatable."),
        click.option("--name", "name_of_list", default="revocations", show_default=True, help="A new list's name."),
        passphrase_option,
        json_option,
    ):
        function = option(function)
    return function


def _reason(function: F) -> F:
    return click.option("--reason", required=True, help="Shown to who is refused, and kept in its audit log.")(function)


@command.command(epilog="Example: modelvault revoke model fraud@2.1 --reason 'weights leaked'")
@click.argument("model")
@_reason
@_options
def model(model: str, reason: str, **where: Any) -> None:
    """Revoke MODEL: a sealed file (this very sealing), its statement digest, or NAME@VERSION."""
    _issue("model", _model(model), reason, **where)


@command.command(epilog="Example: modelvault revoke grant bank.grant --reason 'contract ended'")
@click.argument("grant")
@_reason
@_options
def grant(grant: str, reason: str, **where: Any) -> None:
    """Revoke GRANT: a grant file, or a grant's id."""
    path = Path(grant)
    if path.exists():
        data = _files.read_bytes(path, limit=MAX_GRANT_ENVELOPE)
        grant = UnverifiedGrant.from_bytes(data, grant).statement.grant_id
    _issue("grant", _hex(grant, 32, "grant"), reason, **where)


@command.command(epilog="Example: modelvault revoke publisher acme-2026.pub --reason 'key leaked'")
@click.argument("key")
@_reason
@_options
def publisher(key: str, reason: str, **where: Any) -> None:
    """Revoke a publisher's KEY (name, path or SHA256: fingerprint): its signatures count for nothing."""
    found = key if key.startswith("SHA256:") else store.load_publisher_public(key).fingerprint
    _issue("publisher", found, reason, **where)


@command.command(epilog="Example: modelvault revoke recipient bank.pub --reason 'key leaked'")
@click.argument("key")
@_reason
@_options
def recipient(key: str, reason: str, **where: Any) -> None:
    """Revoke a recipient's KEY (name, path or SHA256: fingerprint): no grant for it loads anything."""
    found = key if key.startswith("SHA256:") else store.load_recipient_public(key).fingerprint
    _issue("recipient", found, reason, **where)


@command.command(epilog="Example: modelvault revoke renew")
@_options
def renew(**where: Any) -> None:
    """Issue the list again with a new number and date, for hosts that ask for a fresh one."""
    _issue(None, "", "", **where)


@command.command(epilog="Example: modelvault revoke show revocations.json")
@click.argument("path", type=FILE, required=False)
@json_option
def show(path: Path | None, as_json: bool) -> None:
    """Show a list. Nothing of it is verified."""
    source = path or _default()
    data = _files.read_bytes(source, limit=MAX_LIST_ENVELOPE)
    envelope = Envelope.from_bytes(data, str(source), limit=MAX_LIST_ENVELOPE)
    found = RevocationList.from_bytes(envelope.payload, str(source))
    if as_json:
        signers = [s.keyid for s in envelope.signatures]
        print_json(_facts(source, found) | {"signers": signers, "entries": [e.to_dict() for e in found.entries]})
        return
    click.echo(f"{found.name} number {found.number}, issued {format_time(found.issued)}")
    rows = [(e.kind, format_time(e.revoked), e.reason, e.id) for e in found.entries]
    print_table(["what", "since", "reason", "id"], rows)


def _default() -> Path:
    return store.home() / "revocations.json"


def _facts(path: Path, found: RevocationList) -> dict[str, Any]:
    return {"list": str(path), "name": found.name, "number": found.number, "issued": format_time(found.issued)}


def _issue(
    kind: str | None,
    name: str,
    reason: str,
    *,
    path: Path | None,
    signers: tuple[str, ...],
    name_of_list: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    ask = ask_passphrase(passphrase_file)
    keys = [store.load_publisher(signer, ask) for signer in signers or (DEFAULT,)]
    now = datetime.now(UTC).replace(microsecond=0)
    entries = [] if kind is None else [Entry(kind=kind, id=name, reason=reason, revoked=now)]
    target = path or _default()
    found = revoke(target, entries, signers=keys, name=check_name(name_of_list, "--name"))
    if as_json:
        print_json(_facts(target, found) | {"entries": len(found.entries)})
        return
    click.echo(f"{target}: {found.name} number {found.number}, {len(found.entries)} entries")
    if kind is not None:
        click.echo(f"revoked {kind} {name}: hosts refuse it once they have this list")


def _model(reference: str) -> str:
    name, at, version = reference.rpartition("@")
    if Path(reference).exists():
        with SealedFile(reference) as sealed:
            return sealed.statement_digest.hex()
    if at:
        return f"{check_name(name, 'model')}@{check_version(version, 'model version')}"
    return _hex(reference, 64, "model")


def _hex(text: str, length: int, what: str) -> str:
    if len(text) != length or set(text) - set(string.hexdigits.lower()):
        raise FormatError(f"{what} {text[:80]!r}: no such file, and not {length} hex digits")
    return text
