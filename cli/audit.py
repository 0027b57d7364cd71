"""modelvault audit"""

import importlib

import click

COMMANDS = {
    "check-proof": ("audit_proof", "check_proof"),
    "checkpoint": ("audit_proof", "checkpoint"),
    "export": ("audit_keep", "export"),
    "prove": ("audit_proof", "prove"),
    "prune": ("audit_keep", "prune"),
    "redact": ("audit_keep", "redact"),
    "report": ("audit_report", "report"),
    "rotate": ("audit_keep", "rotate"),
    "serve-witness": ("audit_witness", "serve_witness"),
    "ship": ("audit_keep", "ship"),
    "show": ("audit_show", "show"),
    "succession": ("audit_proof", "succession"),
    "verify": ("audit_show", "verify"),
    "witness": ("audit_witness", "witness"),
}


class _Group(click.Group):
    """Imports a subcommand's module only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"modelvault.cli.{module}"), name)
        return command


@click.group("audit", cls=_Group)
def command() -> None:
    """Read, verify and keep an audit log (default: $MODELVAULT_HOME/audit/audit.log)."""
