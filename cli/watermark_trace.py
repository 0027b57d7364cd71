"""modelvault watermark trace"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

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
@click.option("--sealed", type=FILE, help="The sealed file: its statement must commit to the registry's slots.")
@click.option("--evidence", type=FILE, metavar="FILE.html", help="Write a page for a court or a manager as well.")
@passphrase_option
@json_option
def trace(
    suspect: Path,
    owner: str,
    registry: Path | None,
    original: Path,
    sealed: Path | None,
    evidence: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Name the recipients whose copies SUSPECT was made from.

    SUSPECT is an ONNX, safetensors or .npz file. Every recipient in the owner's registry is scored; the probability
    shown bounds the chance that an innocent recipient, any of them, scores so high.
    """
    from modelvault.fingerprint import tracing

    ask = ask_passphrase(passphrase_file)
    issuer = load_issuer(owner, registry, ask)
    records = list(issuer.registry)
    with progress_bar("comparing", bytes_in(original)) as step:
        found = tracing.trace(suspect, original, issuer.secret, records, progress=step)
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
