"""The ``modelvault`` command: finds the subcommand, and turns every error into one line and an exit status."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click

from modelvault import errors
from modelvault._files import reason
from modelvault._version import __version__
from modelvault.cli.hints import hint_for

COMMANDS = {
    "audit": "Show or verify an audit log.",
    "completion": "Print a shell completion script.",
    "demo": "Tell the whole story on a bundled model, in a temporary folder.",
    "diff": "Compare two models: graph and weights.",
    "doctor": "Report what this host does to protect a loaded model.",
    "grant": "Give a recipient access to a sealed model.",
    "handover": "Let a publisher's old keys sign its new ones.",
    "inspect": "Show what anybody can read in a sealed file.",
    "keygen": "Make a key: publisher, recipient, owner or host.",
    "license": "Explain and check what a grant allows.",
    "pubkey": "Print a key's public half.",
    "revoke": "Issue the next revocation list.",
    "rewrap": "Move grants from a recipient's old key to its new one.",
    "run": "Load a sealed model and run it once.",
    "sbom": "Print a CycloneDX bill of materials.",
    "scan": "Assess a model before it is sealed, shipped or run.",
    "seal": "Encrypt and sign an ONNX model.",
    "sign": "Add a signature to a sealed model or a hand-over.",
    "sign-model": "Sign a plain model folder (OpenSSF Model Signing).",
    "trust": "Say which publishers may vouch for which models.",
    "ungrant": "Remove a recipient's grant from a sealed file.",
    "verify": "Check signatures and ciphertext with public keys alone.",
    "verify-model": "Check a plain model folder against its signature.",
    "watermark": "Mark a model's weights, and find the mark again in a copy.",
}

# One status for each thing a script would handle differently; docs/CLI.md has the table. 2 is click's usage error.
STATUSES: tuple[tuple[type[errors.ModelVaultError], int], ...] = (
    (errors.Revoked, 12),
    (errors.FileError, 3),
    (errors.FormatError, 4),
    (errors.ModelError, 5),
    (errors.KeyUnavailable, 6),
    (errors.NoMatchingKey, 7),
    (errors.SignatureInvalid, 8),
    (errors.UntrustedPublisher, 9),
    (errors.PayloadTampered, 10),
    (errors.PolicyDenied, 11),
    (errors.AuditUnavailable, 13),
    (errors.ForbiddenOption, 14),
    (errors.HostUnsafe, 15),
    (errors.InputRejected, 16),
    (errors.QueryRefused, 17),
    (errors.ModelVaultError, 1),
)
VERDICTS = {
    "modified": 20, "truncated": 21, "forked": 22, "unknown-key": 23, "unsealed": 24, "rollback": 25, "torn": 26,
}  # fmt: skip
INTERNAL = 70
INTERRUPTED = 130


class _Group(click.Group):
    """Imports a subcommand's module only when it is used: --help stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"modelvault.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Keys, trust policy and audit log live under $MODELVAULT_HOME. Exit statuses: docs/CLI.md.",
)
@click.version_option(__version__, prog_name="modelvault")
def cli() -> None:
    """Sealed, watermarked and audited ONNX models."""


def status_of(error: errors.ModelVaultError) -> int:
    """The exit status that stands for an error."""
    if isinstance(error, errors.AuditTampered):
        return VERDICTS[error.verdict]
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit; nothing but this prints an error."""
    with _stopped_in_order():
        _run(args)


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what it has begun to write is taken back. nohup stays heard."""

    def stop(number: int, frame: object) -> None:
        sys.exit(128 + number)

    ours = threading.current_thread() is threading.main_thread()  # no other may set handlers
    taken = [s for s in (signal.SIGTERM, signal.SIGHUP) if ours and signal.getsignal(s) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _run(args: list[str] | None) -> None:
    try:
        result: Any = cli.main(args, prog_name="modelvault", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except errors.ModelVaultError as error:
        _complain(error)
        sys.exit(status_of(error))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("modelvault: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(INTERRUPTED)
    except OSError as error:  # of a path that was only asked about: too long, or behind a folder that is closed to us
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        failure = errors.FileError(f"{named}{reason(error)}")
        _complain(failure)
        sys.exit(status_of(failure))
    except Exception as error:
        if os.environ.get("MODELVAULT_DEBUG"):
            raise
        # A traceback could show secrets in its lines; the type is enough to report it.
        click.echo(f"modelvault: internal error: {type(error).__name__} (MODELVAULT_DEBUG=1 shows more)", err=True)
        sys.exit(INTERNAL)


def _complain(error: errors.ModelVaultError) -> None:
    click.echo(f"modelvault: error: {' '.join(str(error).split())}", err=True)
    for note in getattr(error, "__notes__", []):
        click.echo(f"modelvault: note: {note}", err=True)
    if hint := hint_for(error):
        click.echo(f"modelvault: hint: {hint}", err=True)
