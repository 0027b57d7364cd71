"""modelvault audit report"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from modelvault import _files
from modelvault.cli.common import FILE, json_option, print_json, print_table
from modelvault.defaults import DEFAULT, audit_path
from modelvault.errors import AuditTampered


@click.command(epilog="Example: modelvault audit report hosts/*.log --keys hosts/ -o report.html")
@click.argument("logs", nargs=-1, type=FILE)
@click.option("--key", default=DEFAULT, metavar="KEY", help="Host's public key: name or path. Default: default.")
@click.option("--keys", type=FILE, metavar="FOLDER", help="Each log's key stands here: host7.pub for host7.log.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the page there.")
@json_option
def report(logs: tuple[Path, ...], key: str, keys: Path | None, output: Path | None, as_json: bool) -> None:
    """One page over one or many hosts' LOGS: verdicts, loads, denials, models, what is unusual.

    The page holds everything it shows and prints well; it needs pip install 'modelvault[plots]'. Without -o the
    verdicts are printed. The exit status is that of the first log that does not verify.
    """
    from modelvault.audit.findings import examine

    chosen = logs or (audit_path(),)
    pins = [str(keys / f"{log.name.removesuffix('.log')}.pub") if keys else key for log in chosen]
    if len(chosen) == 1:
        found = [examine(chosen[0], pins[0])]
    else:
        with ProcessPoolExecutor() as pool:
            found = list(pool.map(examine, chosen, pins))
    if output:
        from modelvault.audit.report import make_report

        _files.write_bytes(output, make_report(found).encode())
    if as_json:
        print_json([f.to_dict() for f in found])
    else:
        rows = [(f.verdict, f.records, f.loads.total(), f.denied.total(), f.log) for f in found]
        print_table(["verdict", "records", "loads", "denied", "log"], rows)
    for bad in found:
        if bad.verdict != "ok":
            verdict = bad.verdict if bad.verdict != "unreadable" else "unsealed"
            raise AuditTampered(bad.reason, verdict=verdict)
