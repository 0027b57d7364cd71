"""modelvault audit checkpoint, prove, succession, check-proof"""

from pathlib import Path

import click

from modelvault import _files
from modelvault.audit import proofs, verify_log
from modelvault.cli.audit_show import KEY, LOG, read_text
from modelvault.cli.common import FILE, json_option, print_fields, print_json
from modelvault.defaults import audit_path
from modelvault.keys import store

_OUTPUT = click.option("-o", "--output", type=FILE, metavar="FILE", help="Write here instead of standard output.")


def _put(text: str, output: Path | None) -> None:
    if output:
        _files.write_bytes(output, text.encode())
    else:
        click.echo(text, nl=False)


@click.command(epilog="Example: modelvault audit checkpoint -o /mnt/elsewhere/host7.checkpoint")
@LOG
@KEY
@_OUTPUT
def checkpoint(log: Path | None, key: str, output: Path | None) -> None:
    """Print the last signed head of LOG, once it is verified.

    Keep it where the host cannot reach it: "audit verify --against" then shows that the log still holds all of it.
    """
    _put(verify_log(log or audit_path(), store.load_host_public(key)).head, output)


@click.command(epilog="Example: modelvault audit prove 17 -o load.tlog-proof")
@click.argument("seq", type=click.IntRange(min=0))
@LOG
@KEY
@click.option("--under", type=FILE, metavar="FILE", help="A checkpoint of LOG to prove it under. Default: the last.")
@_OUTPUT
def prove(seq: int, log: Path | None, key: str, under: Path | None, output: Path | None) -> None:
    """Print a proof that record SEQ is in LOG, to be checked without the log (C2SP tlog-proof)."""
    note = read_text(under) if under else None
    _put(proofs.prove(log or audit_path(), store.load_host_public(key), seq, note=note).to_text(), output)


@click.command(epilog="Example: modelvault audit succession -o host7.succession")
@LOG
@KEY
@_OUTPUT
def succession(log: Path | None, key: str, output: Path | None) -> None:
    """Print the proofs that lead from the host's first key to its present one."""
    _put("".join(proofs.succession(log or audit_path(), store.load_host_public(key))), output)


@click.command("check-proof", epilog="Example: modelvault audit check-proof load.tlog-proof --key host.pub")
@click.argument("proof", type=FILE)
@KEY
@click.option("--succession", "chain", type=FILE, metavar="FILE", help="What leads from KEY to later epochs' keys.")
@json_option
def check_proof(proof: Path, key: str, chain: Path | None, as_json: bool) -> None:
    """Check that PROOF shows one record of the host's log, and print the record."""
    first = store.load_host_public(key)
    parts = proofs.split_proofs(read_text(chain), str(chain)) if chain else []
    keys = proofs.follow(first, parts, str(chain))
    record = proofs.check_proof(read_text(proof), keys, str(proof))
    if as_json:
        print_json(record.to_dict())
    else:
        print_fields(list(record.to_dict().items()))
