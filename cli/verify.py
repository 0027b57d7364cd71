"""modelvault verify"""

from pathlib import Path

import click

from modelvault.cli.common import (
    PLACE,
    allowed_line,
    bytes_in,
    json_option,
    print_fields,
    print_json,
    progress_bar,
)
from modelvault.defaults import trust_policy
from modelvault.verification import verify


@click.command("verify", epilog="Example: modelvault verify fraud.mvlt --trust trust.toml")
@click.argument("file", type=PLACE)
@click.option(
    "--trust", type=PLACE, help="Trust policy: path, or URL#sha256=HEX. Default: $MODELVAULT_HOME/trust.toml."
)
@json_option
def command(file: str | Path, trust: str | Path | None, as_json: bool) -> None:
    """Check who sealed FILE and that not a byte changed, with no private key."""
    policy = trust_policy(trust)
    with progress_bar("verifying", bytes_in(file)) as step:
        model = verify(file, policy, progress=step)
    facts = {
        "verified": True,
        "file": str(file),
        "name": model.statement.name,
        "version": model.statement.version,
        "publisher": model.publisher.name,
        "signers": sorted(model.signers),
        "root": model.statement.root.hex(),
    }
    allowed = model.statement.allowed
    if as_json:
        print_json(facts | {"scan_allowed": list(allowed)})
    else:
        rows = [(k, v) for k, v in facts.items() if k not in ("verified", "file")]
        print_fields([("verified", file), *rows, ("scan", allowed_line(allowed))])
