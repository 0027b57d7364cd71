"""modelvault audit witness, serve-witness"""

import sys
from pathlib import Path

import click

from modelvault._codec import format_time
from modelvault.audit.cosigned import cosigned_path
from modelvault.checkpoint import Checkpoint
from modelvault.cli.audit_show import KEY, LOG, read_verifier
from modelvault.cli.common import FILE, ask_passphrase, json_option, passphrase_option, print_fields, print_json
from modelvault.defaults import DEFAULT, audit_path
from modelvault.keys import store


@click.command(epilog="Example: modelvault audit witness https://witness.example/ --by witness.vkey")
@click.argument("url")
@LOG
@KEY
@click.option("--by", required=True, metavar="VKEY", help="Witness's verifier key NAME+HEX+BASE64, or a file of it.")
@json_option
def witness(url: str, log: Path | None, key: str, by: str, as_json: bool) -> None:
    """Have the head of LOG cosigned by the witness at URL (C2SP tlog-witness).

    The witness makes sure that the log only grew since it last saw it. The cosigned checkpoint is kept beside the log;
    "audit prove --under" makes proofs below it, and [audit] witnesses in the trust policy asks for a fresh one.
    """
    from modelvault.audit import witness as client

    path, cosigner = log or audit_path(), read_verifier(by)
    note, moment = client.submit(path, store.load_host_public(key), url, cosigner)
    head = Checkpoint.from_text(note.text, "head")
    facts = {"log": str(path), "origin": head.origin, "records": head.size, "witness": cosigner.name}
    facts |= {"cosigned": format_time(moment), "file": str(cosigned_path(path))}
    if as_json:
        print_json(facts)
    else:
        print_fields(list(facts.items()))


@click.command("serve-witness", epilog="Example: modelvault audit serve-witness state/ --log host7.vkey --port 8090")
@click.argument("folder", type=FILE)
@click.option("--name", default="modelvault-witness", show_default=True, help="Witness's name: a URL without scheme.")
@click.option("--key", default=DEFAULT, metavar="KEY", help="Witness's own host key: name or path.")
@click.option("--log", "logs", multiple=True, metavar="VKEY", help="Verifier key of a log to watch. Repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="Port; 0 takes any free one.")
@passphrase_option
def serve_witness(
    folder: Path, name: str, key: str, logs: tuple[str, ...], host: str, port: int, passphrase_file: Path | None
) -> None:
    """Run a small witness that keeps its memory in FOLDER. Put it on another machine, behind a TLS proxy.

    "audit verify" prints a log's verifier key. A log's later keys are followed by themselves. The last cosigned
    checkpoint of a log is at /checkpoint?ORIGIN, for "audit verify --against".
    """
    from modelvault.audit.witnessing import Witness, make_server

    service = Witness(folder, name, store.load_host(key, ask_passphrase(passphrase_file)))
    for reference in logs:
        service.trust(read_verifier(reference))
    with make_server(service, host, port) as server:
        click.echo(f"verifier key: {service.verifier.to_text()}")
        click.echo(f"listening on http://{host}:{server.server_port}")
        sys.stdout.flush()
        server.serve_forever()
