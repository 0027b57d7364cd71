"""modelvault inspect"""

from pathlib import Path

import click

from modelvault._codec import format_time
from modelvault.cli.common import PLACE, allowed_line, json_option, print_fields, print_json, print_table, size
from modelvault.cli.license import describe
from modelvault.verification import PublicFacts, inspect


@click.command("inspect", epilog="Example: modelvault inspect fraud.mvlt --json")
@click.argument("file", type=PLACE)
@json_option
def command(file: str | Path, as_json: bool) -> None:
    """Show what anybody can read in a sealed FILE, with no key. Nothing of it is verified: see "verify"."""
    facts = inspect(file)
    if as_json:
        print_json(facts.to_dict())
        return
    _print(facts)


def _print(facts: PublicFacts) -> None:
    s = facts.statement
    print_fields(
        [
            ("model", f"{s.name} {s.version}"),
            ("created", format_time(s.created)),
            ("statement", facts.statement_digest.hex()),
            ("payload", f"{size(s.payload_size)} in {len(s.extents)} extents"),
            ("signed by", list(facts.signers)),
            ("policy", describe(s.policy)),
            ("watermark", f"committed by {s.watermark.owner}" if s.watermark else "none"),
            ("fingerprints", f"{s.variants.slots} slots, of {s.variants.owner}" if s.variants else "none"),
            ("scan", allowed_line(s.allowed)),
            ("plain model", list(s.plain_signature.signers) if s.plain_signature else "no signature recorded"),
        ]
    )
    if s.io is not None:
        rows = [(side, *_io_row(entry)) for side in ("inputs", "outputs") for entry in s.io.get(side, [])]
        click.echo()
        print_table(["side", "name", "type", "shape"], rows)
    click.echo()
    print_table(["grant", "purpose", "recipient"], [(g.grant_id[:8], g.purpose, g.recipient) for g in facts.grants])
    click.echo("\nnot verified: anybody could have written this; see modelvault verify")


def _io_row(entry: dict[str, object]) -> tuple[object, object, object]:
    return entry.get("name"), entry.get("dtype"), entry.get("shape")
