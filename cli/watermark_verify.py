"""modelvault watermark verify, and the search for a mark that evidence shares with it"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelvault import defaults
from modelvault.cli.common import (
    FILE,
    ask_passphrase,
    bytes_in,
    json_option,
    passphrase_option,
    print_fields,
    print_json,
    print_table,
    progress_bar,
)
from modelvault.cli.opening import open_model
from modelvault.defaults import DEFAULT
from modelvault.errors import FormatError
from modelvault.keys import store

if TYPE_CHECKING:
    from modelvault.watermark.verdict import Verdict

F = TypeVar("F", bound=Callable[..., Any])
NO_CLAIM = 30
SHOWN = 12
OWNER = click.option("--owner", default=DEFAULT, metavar="KEY", help="Owner's secret: name or path. Default: default.")


def verifying(function: F) -> F:
    """The argument and options of verify and evidence."""
    options = [
        click.argument("suspect", type=FILE),
        OWNER,
        click.option(
            "--original", type=FILE, metavar="MODEL", help="The unmarked original: far stronger than without."
        ),
        click.option(
            "--record", "records", type=FILE, multiple=True, help="A mark's record. Default: all the owner's."
        ),
        click.option("--sealed", type=FILE, help="A published sealed file whose signed statement commits to the mark."),
        click.option("--identity", metavar="KEY", help="Recipient key that opens a sealed SUSPECT or original."),
        click.option("--grant", type=FILE, help="A grant kept beside the sealed file."),
        click.option("--claim-below", default=1e-12, show_default=True, help="Probability below which to claim."),
        passphrase_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    epilog="Examples: modelvault watermark verify leaked.onnx --original fraud.onnx   |   "
    "modelvault watermark verify leaked.safetensors --json; exit status 30 means: no claim",
)
@verifying
@json_option
def verify(suspect: Path, as_json: bool, **choices: Any) -> int:
    """Say whether SUSPECT carries the owner's mark, and how sure that is.

    SUSPECT is an ONNX, safetensors or .npz file, or a sealed one that you may open. With --original, renaming,
    transposes, permutations and rescaling are undone first. Without, the owner's records are looked for in the
    weights themselves.
    """
    verdict = find(suspect, **choices)
    if as_json:
        print_json(verdict.to_dict())
    else:
        _print_verdict(verdict)
    return 0 if verdict.claim else NO_CLAIM


def find(
    suspect: Path,
    *,
    owner: str,
    original: Path | None,
    records: tuple[Path, ...],
    sealed: Path | None,
    identity: str | None,
    grant: Path | None,
    claim_below: float,
    passphrase_file: Path | None,
) -> "Verdict":
    """The verdict, informed where there is an original."""
    from modelvault.watermark import record, verifying
    from modelvault.watermark.sealed import commitment_of, is_sealed

    if not 0 < claim_below < 1:
        raise click.UsageError("--claim-below: expected a probability between 0 and 1")
    ask = ask_passphrase(passphrase_file)
    secret = store.load_owner(owner, ask)
    notes = [record.read(r) for r in records] or record.records_of(secret.fingerprint)
    signed = {p for p in (suspect, original, sealed) if p is not None and is_sealed(p)}
    if sealed is not None and sealed not in signed:
        raise FormatError(f"{sealed}: not a sealed model")
    found = [c for c in (commitment_of(p, defaults.trust_policy(None)) for p in sorted(signed)) if c is not None]
    settings: dict[str, Any] = {"commitments": found, "threshold": math.log10(claim_below)}
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(progress_bar("comparing", bytes_in(original or suspect)))
        theirs = open_model(stack, suspect, identity, grant, ask)
        if original is None:
            return verifying.verify_blind(theirs, secret, notes, progress=step, **settings)
        mine = open_model(stack, original, identity, grant, ask)
        return verifying.verify_informed(theirs, mine, secret, records=notes, progress=step, **settings)


def _print_verdict(verdict: "Verdict") -> None:
    facts, o = verdict.to_dict(), verdict.outcome
    print_fields(
        [
            ("verdict", "CLAIM: this file carries the owner's mark" if verdict.claim else "no claim"),
            ("probability", f"at most 10^{o.log10_p:.1f} for a file made without this key"),
            ("threshold", f"10^{verdict.threshold:.1f}"),
            ("score", f"{o.z:.2f} standard deviations"),
            ("detection", f"{verdict.mode}; keys or records tried: {verdict.trials}"),
            ("payload", _payload(verdict)),
            ("commitment", _commitment(verdict)),
            ("tensors", f"{facts['tensors_found']} found, {facts['tensors_missing']} missing"),
            ("undone", ", ".join(sorted({u for t in verdict.tensors for u in t.undone})) or "nothing"),
        ]
    )
    click.echo()
    rows = [(f"{t.z:.1f}", f"{t.share:.1%}", f"{t.coverage:.0%}", t.name) for t in verdict.tensors[:SHOWN]]
    print_table(["score", "share", "covered", "tensor"], rows)
    if len(verdict.tensors) > SHOWN:
        click.echo(f"... and {len(verdict.tensors) - SHOWN} more: see --json")


def _commitment(verdict: "Verdict") -> str:
    if verdict.commitment is not None:
        return "key and payload open the one in a publisher's signed statement"
    return "key and payload open the owner's own record" if verdict.record else "none at hand"


def _payload(verdict: "Verdict") -> str:
    read = verdict.outcome.read
    if read is None:
        return "could not be read"
    from modelvault.watermark.verdict import payload_text

    text = payload_text(read.payload)
    shown = repr(text) if text else f"hex {read.payload.hex()}"
    return f"{shown}, at most 10^{verdict.outcome.read_log10_p:.1f} by chance, {read.corrected} of 32 bytes corrected"
