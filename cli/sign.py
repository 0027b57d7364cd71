"""modelvault sign"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, PLACE, ask_passphrase, json_option, passphrase_option, print_json, progress_bar
from modelvault.container import MAGIC
from modelvault.defaults import DEFAULT, trust_policy
from modelvault.handover import MAX_HANDOVER
from modelvault.issuing import add_signature, countersign
from modelvault.keys import store


@click.command("sign", epilog="Example: modelvault sign fraud.mvlt --key release-officer")
@click.argument("file", type=FILE)
@click.option("--key", default=DEFAULT, metavar="KEY", help="Publisher key: name or path. Default: default.")
@click.option("--grants", is_flag=True, help="Sign the embedded grants, too, if they hold under the trust policy.")
@click.option("--trust", type=PLACE, help="Trust policy for --grants. Default: $MODELVAULT_HOME/trust.toml.")
@passphrase_option
@json_option
def command(
    file: Path, key: str, grants: bool, trust: str | Path | None, passphrase_file: Path | None, as_json: bool
) -> None:
    """Add a signature to FILE, a sealed model or a hand-over, that others signed before.

    A model's payload is checked first: it must be what its statement says. What its grants allow does not change.
    """
    signer = store.load_publisher(key, ask_passphrase(passphrase_file))
    if _is_sealed(file):
        with progress_bar("checking", file.stat().st_size) as step:
            count = add_signature(file, signer, regrant=trust_policy(trust) if grants else None, progress=step)
    else:
        data, count = countersign(file, signer)
        _files.write_bytes(file, data)
    if as_json:
        print_json({"file": str(file), "key": signer.public.fingerprint, "signatures": count})
        return
    click.echo(f"{file}: {count} signatures now, the last one by {signer.public.fingerprint}")


def _is_sealed(file: Path) -> bool:
    with _files.failures(file):
        size = file.stat().st_size
    return size > MAX_HANDOVER or _files.read_bytes(file, limit=MAX_HANDOVER).startswith(MAGIC)
