"""modelvault doctor"""

import click

from modelvault.cli.common import json_option, print_json, print_table
from modelvault.hardening import report


@click.command("doctor", epilog="Example: modelvault doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Report what this host does to keep a loaded model to itself, and what to do about the rest.

    The exit status is 0: which of these a service needs is its operator's choice (modelvault run --hardening strict).
    """
    found = report()
    if as_json:
        print_json([{"name": p.name, "holds": p.holds, "seen": p.seen, "advice": p.advice} for p in found])
        return
    print_table(["protection", "holds", "seen"], [(p.name, "yes" if p.holds else "no", p.seen) for p in found])
    for protection in found:
        if not protection.holds:
            click.echo(f"\n{protection.name}: {protection.advice}")
