"""modelvault completion"""

import click
from click.shell_completion import get_completion_class


@click.command("completion", epilog='Example: eval "$(modelvault completion bash)" in ~/.bashrc')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print a script that completes modelvault's commands in SHELL."""
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(found(context.find_root().command, {}, "modelvault", "_MODELVAULT_COMPLETE").source())
