"""modelvault watermark evidence"""

from pathlib import Path
from typing import Any

import click

from modelvault import defaults
from modelvault.cli.common import FILE, print_fields
from modelvault.cli.watermark_verify import NO_CLAIM, find, verifying
from modelvault.defaults import DEFAULT
from modelvault.errors import FileError
from modelvault.keys import store


@click.command(
    epilog="Example: modelvault watermark evidence leaked.onnx --original fraud.onnx --sealed fraud.mvlt "
    "--audit-log audit.log -o evidence.html",
)
@verifying
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
