"""What fuzzing found outside one parser: where hostile text is shown, and what paths are asked about."""

from pathlib import Path

import pytest
from vectors.builder.base import b64, envelope
from vectors.builder.sealed import container, model

from fuzz.make_corpus import scrypt_bomb
from modelvault.cli.main import main
from modelvault.errors import FormatError, printable
from modelvault.keys import PublisherKey

ESCAPE = "\x1b]0;owned\x07\nmodelvault: verified \u202e\x9b31m"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def test_errors_are_one_line_that_no_terminal_obeys() -> None:
    text = str(FormatError(f"m: {ESCAPE}"))
    assert text.isprintable()
    assert text == "m: \\x1b]0;owned\\x07\\nmodelvault: verified \\u202e\\x9b31m"
    assert printable("M\u00fcnchen \u65e5\u672c") == "M\u00fcnchen \u65e5\u672c"


def test_neither_do_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.mvlt"
    io = {"inputs": [{"name": ESCAPE, "dtype": ESCAPE, "shape": [ESCAPE]}]}
    path.write_bytes(container(envelope(model(io=io), signatures=[{"keyid": ESCAPE, "sig": b64(b"")}])))
    status, shown, _ = run(capsys, "inspect", str(path))
    assert status == 0
    assert all(line.isprintable() for line in shown.splitlines())
    assert "modelvault: verified" not in [line.strip()[:20] for line in shown.splitlines()]


def test_a_key_file_cannot_ask_for_all_memory() -> None:
    with pytest.raises(FormatError, match="passphrase costs"):
        PublisherKey.from_pem(scrypt_bomb(), lambda: b"x", "k")


@pytest.mark.parametrize("command", ["trust list --trust", "pubkey publisher", "audit verify --key", "seal", "inspect"])
def test_paths_that_are_too_long(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, words = run(capsys, *command.split(), "x" * 5000)
    assert (status, words.count("\n")) == (3, 1)
    assert words.endswith(("x: file name too long\n", ".mvlt: file name too long\n"))
