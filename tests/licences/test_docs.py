"""The commands of docs/LICENCES.md and docs/INCIDENTS.md do what the pages say."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from modelvault import samples
from modelvault.cli.license import WORDS
from modelvault.cli.main import main
from modelvault.termtable import TERMS

DOCS = Path(__file__).parents[2] / "docs"
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a page's line in a folder that holds what the page takes for granted; returns the exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVAULT_HOME", str(tmp_path / "home"))
    shutil.copy(samples.MODEL, "model.onnx")
    Path("models").mkdir()

    def call(line: str) -> int:
        words = shlex.split(line, comments=True)
        with pytest.MonkeyPatch.context() as patch:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            if words[0] != "modelvault":
                return subprocess.run(words, check=False, env=os.environ).returncode
            with pytest.raises(SystemExit) as exit_:
                main(words[1:])
        return int(exit_.value.code or 0)

    for line in (
        "keygen publisher --no-passphrase",
        "keygen recipient bank --no-passphrase",
        "keygen host --no-passphrase",
        "seal model.onnx -o models/fraud.mvlt --name fraud --version 1.0 --to bank",
    ):
        assert call(f"modelvault {line}") == 0
    return call


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def follow(run: Run, page: str) -> None:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert len(lines) > 10
    for line in lines:
        expected = int(found[1]) if (found := re.search(r"# exit (\d+)$", line)) else 0
        assert run(line) == expected, line


def test_licences(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("models/fraud.mvlt", "fraud.mvlt")
    Path("q4.toml").write_text(blocks("LICENCES.md", "toml")[0])
    assert run("modelvault keygen recipient bank-2 --no-passphrase") == 0
    Path("customers").mkdir()
    for name in ("bank", "bank-2"):
        shutil.copy(f"home/keys/recipient/{name}.pub", "customers")
    Path("customers.csv").write_text("name,key,licence\nbank,customers/bank.pub,q4.toml\nb2,customers/bank-2.pub,\n")
    follow(run, "LICENCES.md")
    assert sorted(p.name for p in Path("grants-q4").iterdir()) == ["b2.grant", "bank.grant"]
    capsys.readouterr()
    run("modelvault license show grants-q4/bank.grant")
    shown = capsys.readouterr().out
    for words in (
        "until 2099-12-31T23:59:59Z",
        "at most 20 loads a day (UTC)",
        "at most 2 sessions at once",
        "screening",
    ):
        assert words in shown


def test_incidents(run: Run) -> None:
    for line in (
        "keygen publisher revoker --no-passphrase --no-trust",
        "revoke renew --sign revoker --list revocations.json",
        "trust revocations revocations.json --key revoker --max-age 72",
    ):
        assert run(f"modelvault {line}") == 0
    follow(run, "INCIDENTS.md")


def test_every_term_has_its_row_and_its_words() -> None:
    table = (DOCS / "LICENCES.md").read_text()
    assert list(WORDS) == list(TERMS)
    for name in TERMS:
        assert re.search(rf"^\| .*`{name}`.* \|", table, re.M), name
