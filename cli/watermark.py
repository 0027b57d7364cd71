"""modelvault watermark"""

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
from modelvault.errors import FileError, FormatError
from modelvault.keys import store

if TYPE_CHECKING:
    from modelvault.watermark.embedding import EmbedReport
    from modelvault.watermark.verdict import Verdict

F = TypeVar("F", bound=Callable[..., Any])
NO_CLAIM = 30
SHOWN = 12
_OWNER = click.option("--owner", default=DEFAULT, metavar="KEY", help="Owner's secret: name or path. Default: default.")


@click.group("watermark", epilog="Example: modelvault watermark embed fraud.onnx -o fraud-marked.onnx")
def command() -> None:
    """Mark a model's weights, and find the mark again in a copy."""


@command.command(
    epilog="Examples: modelvault watermark embed fraud.onnx -o fraud-marked.onnx --payload 'bank 2.1'   |   "
    "modelvault watermark embed fraud.onnx -o m.onnx --inputs samples.npz --strength 0.002",
)
@click.argument("model", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Where to write the marked model.")
@_OWNER
@click.option("--payload", default="", metavar="TEXT|HEX", help="At most 16 bytes of text, or 32 hex digits.")
@click.option("--strength", default="auto", show_default=True, help="Change of a weight over its scale, e.g. 0.003.")
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Real inputs to measure drift on. Default: random ones.")
@click.option("--min-cosine", default=0.9995, show_default=True, help="Least cosine of outputs, before and after.")
@click.option("--min-agreement", default=0.995, show_default=True, help="Least arg-max agreement, ties apart.")
@click.option("--no-check", is_flag=True, help="Do not run the model to measure drift.")
@click.option("--force", is_flag=True, help="Replace an existing output file.")
@passphrase_option
@json_option
def embed(
    model: Path,
    output: Path,
    owner: str,
    payload: str,
    strength: str,
    inputs: Path | None,
    min_cosine: float,
    min_agreement: float,
    no_check: bool,
    force: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write a copy of MODEL whose weights carry the owner's mark.

    The outputs are compared with the original's, and the mark is refused where they differ too much. A private
    record of the mark is kept under $MODELVAULT_HOME/watermarks.
    """
    from modelvault.watermark import embedding
    from modelvault.watermark.fidelity import read_inputs

    if output.exists() and not force:
        raise FileError(f"{output}: exists already")
    chosen = _strength(strength)
    secret = store.load_owner(owner, ask_passphrase(passphrase_file))
    with progress_bar("marking", bytes_in(model)) as step:
        report = embedding.embed(
            model,
            output,
            secret,
            payload=embedding.parse_payload(payload),
            strength=chosen,
            inputs=read_inputs(inputs) if inputs else None,
            inputs_name=inputs.name if inputs else "",
            budget=embedding.Budget(cosine=min_cosine, agreement=min_agreement),
            check=not no_check,
            progress=step,
        )
    if as_json:
        print_json(report.to_dict())
    else:
        _print_embedded(report)


def _strength(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-6 <= value <= 0.1:
        raise click.UsageError(f"--strength: expected auto or a number from 0.000001 to 0.1, got {text[:20]!r}")
    return value


def _print_embedded(report: "EmbedReport") -> None:
    facts = report.to_dict()
    drift = facts["drift"]
    measured = [f"cosine {drift['cosine']:.6f}", f"arg-max agreement {drift['argmax_agreement']:.4f}"] if drift else []
    if drift:
        measured[-1] += f", without ties {drift['argmax_agreement_without_ties']:.4f}"
        measured += [f"largest difference {drift['max_difference']:.4f} of the output's rms"]
        measured += [f"mean difference {drift['mean_difference']:.5f}", f"on {drift['inputs']}"]
    worst = max(facts["changes"].values(), default=0.0)
    print_fields(
        [
            ("marked", report.output),
            ("owner", facts["commitment"]["owner"]),
            ("commitment", facts["commitment"]["commitment"]),
            ("carriers", f"{facts['carriers']} tensors, {facts['weights']} weights"),
            ("left out", facts["left_out"] or "none"),
            ("strength", f"{facts['strength']}; largest relative change of a tensor {worst:.4f}"),
            ("robustness", f"{facts['robustness']}: expected score {facts['expected_z']} after 10 % noise"),
            ("drift", measured or "not measured"),
            ("record", report.record),
        ]
    )


def _verifying(function: F) -> F:
    """The argument and options of verify and evidence."""
    options = [
        click.argument("suspect", type=FILE),
        _OWNER,
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


@command.command(
    epilog="Examples: modelvault watermark verify leaked.onnx --original fraud.onnx   |   "
    "modelvault watermark verify leaked.safetensors --json; exit status 30 means: no claim",
)
@_verifying
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


@command.command(
    epilog="Example: modelvault watermark evidence leaked.onnx --original fraud.onnx --sealed fraud.mvlt "
    "--audit-log audit.log -o evidence.html",
)
@_verifying
@click.option("-o", "--output", type=FILE, required=True, help="Where to write the page.")
@click.option("--audit-log", type=FILE, help="An audit log that names the --sealed file's statement.")
@click.option("--host", default=DEFAULT, metavar="KEY", help="The log's public host key. Default: default.")
@click.option("--force", is_flag=True, help="Replace an existing page.")
def evidence(suspect: Path, output: Path, audit_log: Path | None, host: str, force: bool, **choices: Any) -> int:
    """Write one page about SUSPECT for a court or a manager: verdict, probability, plots, chain of proof.

    Needs the plots: pip install 'modelvault[plots]'. Exit status 30 means: no claim; the page says so.
    """
    from modelvault.watermark.evidence import publication, write

    if output.exists() and not force:
        raise FileError(f"{output}: exists already")
    sealed: Path | None = choices["sealed"]
    if audit_log is not None and sealed is None:
        raise click.UsageError("--audit-log: needs the --sealed file whose statement it names")
    verdict, published = find(suspect, **choices), None
    if sealed is not None:
        key = store.load_host_public(host) if audit_log else None
        published = publication(sealed, defaults.trust_policy(None), audit_log, key)
    write(output, verdict, suspect, choices["original"], published)
    print_fields([("written", output), ("verdict", "claim" if verdict.claim else "no claim")])
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
