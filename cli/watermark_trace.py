"""modelvault watermark trace"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

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
from modelvault.cli.fingerprints import load_issuer
from modelvault.cli.opening import auditor
from modelvault.cli.watermark_verify import NO_CLAIM, OWNER

if TYPE_CHECKING:
    from modelvault.fingerprint.tracing import Trace

SHOWN = 10


@click.command(
    epilog="Examples: modelvault watermark trace leaked.onnx --original fraud.onnx   |   "
    "modelvault watermark trace leaked.safetensors --sealed fraud.mvlt --json; exit status 30 means: nobody is named",
)
@click.argument("suspect", type=FILE)
@OWNER
@click.option("--registry", type=FILE, help="The owner's registry. Default: under $MODELVAULT_HOME/registries.")
@click.option("--original", type=FILE, metavar="MODEL", help="The model that was sealed, without fingerprints.")
@click.option("--sealed", type=FILE, help="Or the sealed file, which must commit to the registry's slots.")
@click.option("--identity", metavar="KEY", help="Recipient key that opens the sealed file, with a grant for audits.")
@click.option("--grant", type=FILE, help="A grant kept beside the sealed file.")
@click.option("--evidence", type=FILE, metavar="FILE.html", help="Write a page for a court or a manager as well.")
@passphrase_option
@json_option
def trace(
    suspect: Path,
    owner: str,
    registry: Path | None,
    original: Path | None,
    sealed: Path | None,
    identity: str | None,
    grant: Path | None,
    evidence: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Name the recipients whose copies SUSPECT was made from.

    SUSPECT is an ONNX, safetensors or .npz file. Every recipient in the owner's registry is scored; the probability
    shown bounds the chance that an innocent recipient, any of them, scores so high.
    """
    from modelvault.fingerprint import tracing
    from modelvault.fingerprint.committed import committed_layout
    from modelvault.watermark.sealed import decrypted

    if (original is None) == (sealed is None):
        raise click.UsageError("choose one: --original MODEL or --sealed FILE")
    ask = ask_passphrase(passphrase_file)
    issuer = load_issuer(owner, registry, ask)
    records = list(issuer.registry)
    with contextlib.ExitStack() as stack:
        step = stack.enter_context(progress_bar("comparing", bytes_in(original or sealed or suspect)))
        if sealed is None:
            base = tracing.Base.of_model(original or suspect)
        else:
            layout = committed_layout(sealed, defaults.trust_policy(None), issuer.secret, records)
            model = stack.enter_context(decrypted(sealed, auditor(identity, grant, ask), purpose="trace"))
            base = tracing.Base.of_sealed(model, layout)
        found = tracing.trace(suspect, base, issuer.secret, records, progress=step)
    if evidence is not None:
        from modelvault.fingerprint import report

        report.write(evidence, found, suspect, sealed or original or suspect, committed=sealed is not None)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    return 0 if found.named else NO_CLAIM


def _print(found: "Trace") -> None:
    named = [s.issued.label or s.issued.recipient for s in found.named]
    print_fields(
        [
            ("named", named or "nobody"),
            ("recipients", len(found.suspicions)),
            ("slots found", f"{found.slots[0]} of {found.slots[1]}"),
        ]
    )
    rows = [
        ["named" if s.named else "", f"10^{s.log10_p:.1f}", s.issued.label or s.issued.recipient, s.how]
        for s in found.suspicions[:SHOWN]
    ]
    print_table(["", "chance", "recipient", "fits best"], rows)
