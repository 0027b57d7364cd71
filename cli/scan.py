"""modelvault scan"""

import contextlib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault import _files, defaults
from modelvault.cli.common import (
    FILE,
    WIDTH,
    Passphrase,
    ask_passphrase,
    json_option,
    passphrase_option,
    print_json,
    print_table,
)
from modelvault.cli.opening import auditor
from modelvault.errors import FileError, ModelError
from modelvault.keys import store

if TYPE_CHECKING:
    from modelvault.commitment import Commitment
    from modelvault.keys import OwnerSecret
    from modelvault.onnxfile import OpenModel
    from modelvault.scan import Claims, Finding, ScanReport
    from modelvault.watermark.record import Record

WARNINGS, ERRORS = 40, 41
MAX_COMMITMENT = 2**20


@click.command(
    "scan",
    epilog="Examples: modelvault scan fraud.onnx   |   modelvault scan bundle/ --sarif scan.sarif   |   "
    "modelvault scan fraud.mvlt --identity auditor --json; exit status 40 means: warnings, 41: errors",
)
@click.argument("model", type=FILE)
@click.option("--identity", metavar="KEY", help="Recipient key that opens a sealed MODEL; that is audited.")
@click.option("--grant", type=FILE, help="A grant kept beside the sealed file.")
@click.option("--owner", "owners", multiple=True, metavar="KEY", help="Look for this owner's mark. Repeatable.")
@click.option("--record", "records", type=FILE, multiple=True, help="A mark's record. Default: all the owner's.")
@click.option(
    "--commitment",
    "commitments",
    type=FILE,
    multiple=True,
    help="A sealed model, or its commitment as JSON: are these its unmarked weights? Repeatable.",
)
@click.option("--sarif", type=FILE, metavar="FILE", help="Write the findings as SARIF 2.1.0.")
@click.option("--force", is_flag=True, help="Replace an existing SARIF file.")
@passphrase_option
@json_option
def command(
    model: Path,
    identity: str | None,
    grant: Path | None,
    owners: tuple[str, ...],
    records: tuple[Path, ...],
    commitments: tuple[Path, ...],
    sarif: Path | None,
    force: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Assess MODEL without running it: an ONNX file, a folder that holds one, or a sealed file.

    docs/SCAN.md explains every rule. Of a sealed file, without --identity, only what anybody can read is assessed.
    """
    from modelvault.scan.sarif import to_sarif

    if sarif is not None and sarif.exists() and not force:
        raise FileError(f"{sarif}: exists already")
    ask = ask_passphrase(passphrase_file)
    sought = _Sought([_owner(name, records, ask) for name in owners], [_commitment(path) for path in commitments])
    report = _scan(model, identity, grant, sought, ask)
    if sarif is not None:
        _files.write_bytes(sarif, json.dumps(to_sarif(report), indent=2).encode() + b"\n")
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)
    return {"error": ERRORS, "warning": WARNINGS}.get(report.worst or "", 0)


class _Sought:
    """Whose weights are looked for; nobody's, mostly."""

    def __init__(self, owners: "list[tuple[OwnerSecret, list[Record]]]", commitments: "list[Commitment]") -> None:
        self.owners = owners
        self.commitments = commitments

    def __bool__(self) -> bool:
        return bool(self.owners or self.commitments)

    def claims(self, model: "OpenModel") -> "Claims":
        from modelvault.scan import Claims

        return Claims(model=model, owners=self.owners, commitments=self.commitments)


def _scan(path: Path, identity: str | None, grant: Path | None, sought: _Sought, ask: Passphrase) -> "ScanReport":
    from modelvault.onnxfile import OpenModel
    from modelvault.onnxfile.lean import open_lean
    from modelvault.scan import scan, scan_decrypted, scan_public
    from modelvault.sources import find_model
    from modelvault.watermark.sealed import decrypted, is_sealed

    if path.is_dir() or not is_sealed(path):
        if identity is not None or grant is not None:
            raise click.UsageError("--identity and --grant open a sealed file")
        return scan(path, claims=sought.claims(open_lean(find_model(path))) if sought else None)
    if identity is None:
        if sought:
            raise click.UsageError("--owner and --commitment: the sealed file's weights need --identity")
        return scan_public(path)
    with contextlib.ExitStack() as stack:
        parts = stack.enter_context(decrypted(path, auditor(identity, grant, ask), purpose="scan"))
        model = OpenModel(path, graph=bytes(parts.graph.view), region=parts.weights.view) if sought else None
        return scan_decrypted(path, parts, claims=sought.claims(model) if model else None)


def _owner(name: str, files: Sequence[Path], ask: Passphrase) -> "tuple[OwnerSecret, list[Record]]":
    from modelvault.watermark import record

    secret = store.load_owner(name, ask)
    notes = [record.read(path) for path in files] or list(record.records_of(secret.fingerprint))
    mine = [r for r in notes if r.commitment.owner == secret.fingerprint]
    if not mine:
        raise ModelError(f"no record of a mark by {secret.fingerprint}: give it with --record")
    return secret, mine


def _commitment(path: Path) -> "Commitment":
    """Of a sealed model that a trusted publisher signed, or as a JSON object that whoever runs this vouches for."""
    from modelvault._codec import json_decode
    from modelvault.commitment import Commitment
    from modelvault.watermark.sealed import commitment_of, is_sealed

    if not is_sealed(path):
        data = _files.read_bytes(path, limit=MAX_COMMITMENT)
        return Commitment.from_dict(json_decode(data, str(path), limit=MAX_COMMITMENT), str(path))
    found = commitment_of(path, defaults.trust_policy(None))
    if found is None:
        raise ModelError(f"{path}: its statement commits to no watermark")
    return found


def _print(report: "ScanReport") -> None:
    if report.findings:
        rows = [(f.severity, f.rule, _short(f)) for f in report.findings]
        print_table(["severity", "rule", "place"], rows)
        click.echo()
        for rule in dict.fromkeys(f.rule for f in report.findings):
            _explain(rule, [f for f in report.findings if f.rule == rule])
    counts = ", ".join(f"{n} {s}{'' if n == 1 else 's'}" for s, n in report.counts().items())
    click.echo(f"{report.source}: {counts} ({report.kind}, {len(report.rules)} rules asked)")


def _short(finding: "Finding") -> str:
    return finding.where or finding.file


def _explain(rule: str, findings: "Sequence[Finding]") -> None:
    """A rule's findings, why it matters and what to do, in lines of WIDTH."""
    from modelvault.scan import RULES

    click.echo(rule)
    texts = [f"{f.place}: {f.message}" for f in findings] + [f"why: {RULES[rule].why}", f"fix: {RULES[rule].fix}"]
    for text in texts:
        click.echo(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    "))
    click.echo()
