"""Every option of every command, given what no one should give: a refusal in a line or two, and no internal error."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from watermark.models import mlp

from modelvault.audit import verify_log
from modelvault.cli.main import INTERNAL, cli, main
from modelvault.keys import store

TEXTS = ("", "²", "9" * 5000, "-1", "nan", "a=1,²", "\udcff", "1e999", "a\n\x1b[31m", "fd:²", "../x", "SHA256:")
NAMES = ("", ".", "\udcff", "n" * 300, "nothing.here", "://", "http://")
# What each command is given otherwise; NEW is a path where nothing stands yet, WITNESS a verifier key.
GIVEN = {
    "audit check-proof": "proof",
    "audit checkpoint": "-o NEW",
    "audit export": "--tiles NEW",
    "audit prove": "2 -o NEW",
    "audit prune": "--before 2020-01-01",
    "audit redact": "2 --field x",
    "audit report": "",
    "audit rotate": "",
    "audit ship": "NEW",
    "audit show": "",
    "audit succession": "-o NEW",
    "audit verify": "",
    "audit witness": "http://127.0.0.1:1 --by WITNESS",
    "completion": "bash",
    "diff": "m.onnx marked.onnx",
    "doctor": "",
    "grant": "m.mvlt --to bank -o NEW",
    "handover": "default --to next --sign default -o NEW",
    "inspect": "m.mvlt",
    "keygen": "publisher NEW --no-passphrase",
    "license check": "m.mvlt",
    "license machine": "",
    "license show": "b.grant",
    "pubkey": "recipient bank -o NEW",
    "revoke grant": "b.grant --reason r --list NEW",
    "revoke model": "m.mvlt --reason r --list NEW",
    "revoke publisher": "next --reason r --list NEW",
    "revoke recipient": "bank --reason r --list NEW",
    "revoke renew": "--list list.json --sign next",
    "revoke show": "list.json",
    "rewrap": "b.grant --from default --to bank",
    "run": "m.mvlt --random",
    "sbom": "m.mvlt -o NEW",
    "scan": "m.onnx",
    "seal": "m.onnx -o NEW",
    "sign": "m.mvlt --key next",
    "sign-model": "folder --key oms --signature NEW",
    "trust add": "bank --models * --trust NEW",
    "trust follow": "next.handover",
    "trust list": "",
    "trust revocations": "list.json --key next --trust NEW",
    "ungrant": "m.mvlt bank",
    "verify": "m.mvlt",
    "verify-model": "folder --key oms --signature folder.sig",
    "watermark embed": "m.onnx -o NEW",
    "watermark evidence": "marked.onnx --original m.onnx -o NEW",
    "watermark trace": "marked.onnx --original m.onnx",
    "watermark verify": "marked.onnx --original m.onnx",
}
ELSEWHERE = {"demo", "audit serve-witness"}  # takes no argument; never ends


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from commands(below, *path, name)


COMMANDS = dict(commands(cli))


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with every kind of file that a command reads."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELVAULT_HOME", str(folder / "home"))
        patch.chdir(folder)
        mlp(Path("m.onnx"), width=192, hidden=768, classes=192)
        Path("folder").mkdir()
        shutil.copy("m.onnx", "folder/m.onnx")
        for line in (
            *(f"keygen {role} --no-passphrase" for role in store.ROLES),
            "keygen recipient bank --no-passphrase",
            "keygen publisher next --no-passphrase",
            "keygen publisher oms --no-passphrase --algorithm ecdsa-p256",
            "seal m.onnx",
            "grant m.mvlt --to bank -o b.grant",
            "run m.mvlt --random",
            "audit checkpoint -o kept",
            "audit prove 2 -o proof",
            "watermark embed m.onnx -o marked.onnx",
            "revoke recipient bank --reason gone --list list.json --sign next",
            "handover default --to next --sign default -o next.handover",
            "sign-model folder --key oms",
        ):
            assert call(*line.split()) == 0, line
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the odd files."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.setenv("MODELVAULT_HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    odd = folder / "odd"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "zeros").write_bytes(bytes(5000))
    (odd / "digits.json").write_bytes(b'{"a":' + b"9" * 6000 + b"}")
    (odd / "deep.json").write_bytes(b"[" * 100_000)
    (odd / "other.toml").write_text("a = 1\n[[b]]\nc = 99999999999999999999999\n")
    np.savez(odd / "names.npz", allow_pickle=False, **{"x.²": np.zeros(3)})
    for name in ("m.mvlt", "b.grant", "m.onnx", "list.json"):
        data = bytearray(Path(name).read_bytes())
        data[:: max(len(data) // 40, 1)] = bytes(len(data[:: max(len(data) // 40, 1)]))
        (odd / f"bent.{name}").write_bytes(data)
    os.mkfifo(odd / "fifo")
    (odd / "loop").symlink_to("loop")
    (odd / "folder").mkdir()
    return folder


def odd_values(kind: str, folder: Path) -> list[str]:
    files = [str(path) for path in sorted((folder / "odd").iterdir())]
    return [*NAMES, *files] if kind in ("path", "file or url") else [*TEXTS, str(folder / "odd" / "fifo")]


def variants(command: click.Command, given: list[str], folder: Path) -> Iterator[list[str]]:
    """The command line with one thing odd: each option added, each argument put in the place of the given one."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    for parameter in command.params:
        if isinstance(parameter.type, click.types.BoolParamType | click.Choice):
            continue
        for value in odd_values(parameter.type.name, folder):
            if parameter not in arguments:
                yield [*given, f"{parameter.opts[-1]}={value}" if parameter.opts[-1][:2] == "--" else f"-o{value}"]
            elif not value.startswith("-"):
                place = arguments.index(parameter)
                yield [*given[:place], value, *given[place + 1 :]]


def test_every_command_is_here() -> None:
    assert GIVEN.keys() | ELSEWHERE == COMMANDS.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_odd_arguments(name: str, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from modelvault.keys import HostPublic

    key = HostPublic.from_pem((home / "home/keys/host/default.pub").read_bytes(), "key")
    witness = verify_log(home / "home/audit/audit.log", key).verifier
    words = [{"WITNESS": witness}.get(word, word) for word in GIVEN[name].split()]
    for number, line in enumerate(variants(COMMANDS[name], words, home)):
        arguments = [str(home / f"new{number}") if word == "NEW" else word for word in line]
        code = call(*name.split(), *arguments)
        printed = capfd.readouterr()
        assert code != INTERNAL, (arguments, printed.err)
        assert "Traceback" not in printed.err, arguments
        assert code == 0 or len(printed.err.splitlines()) < 12, (arguments, printed.err)
    assert not list(home.glob(".*.tmp"))
