"""Proofs that travel without the log, and the commands that make and check them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit.conftest import fill
from modelvault.audit import AuditLog, LogKey, verify_log
from modelvault.audit.proofs import RecordProof, check_proof, follow, prove, split_proofs, succession
from modelvault.checkpoint import Checkpoint, Note, sign
from modelvault.cli.main import cli, status_of
from modelvault.errors import AuditTampered, FormatError, ModelVaultError, SignatureInvalid
from modelvault.keys import HostKey, HostPublic


def test_every_record_is_proved_under_the_last_head_and_an_earlier_one(writer: AuditLog, pinned: HostPublic) -> None:
    fill(writer, 10)
    early = verify_log(writer.path, pinned)
    fill(writer, 13)
    for seq in range(24):
        record = check_proof(prove(writer.path, pinned, seq).to_text(), [(0, pinned)], "proof")
        assert record.seq == seq
        if seq < early.size:
            proof = prove(writer.path, pinned, seq, note=early.head)
            assert proof.note == early.head
            assert check_proof(proof.to_text(), [(0, pinned)], "proof").seq == seq
    with pytest.raises(FormatError, match="no record 24"):
        prove(writer.path, pinned, 24)
    with pytest.raises(FormatError, match="no record 11"):
        prove(writer.path, pinned, 11, note=early.head)


def test_a_changed_proof_is_refused(writer: AuditLog, pinned: HostPublic) -> None:
    fill(writer, 10)
    text = prove(writer.path, pinned, 4).to_text()
    assert RecordProof.from_text(text, "proof").to_text() == text
    with pytest.raises(SignatureInvalid):
        check_proof(text, [(0, HostKey.generate().public)], "proof")
    for at in range(len(text)):
        other = "0" if text[at] != "0" else "1"
        with pytest.raises((FormatError, SignatureInvalid, AuditTampered)):
            check_proof(text[:at] + other + text[at + 1 :], [(0, pinned)], "proof")


@pytest.mark.parametrize(
    "text",
    ["", "x\n\ny", "c2sp.org/tlog-proof@v1\n\n", "c2sp.org/tlog-proof@v1\nextra e30=\nindex 01\n\n", "a" * 2**19],
)
def test_what_is_no_proof(text: str) -> None:
    with pytest.raises(FormatError):
        RecordProof.from_text(text, "proof")


def test_a_note_with_two_lines_of_one_key(writer: AuditLog, pinned: HostPublic) -> None:
    """Report: duplicate signature lines in a note."""
    fill(writer, 1)
    head = verify_log(writer.path, pinned).head
    with pytest.raises(FormatError, match="two signatures of one key"):
        Note.from_text(head + head.split("\n\n")[1], "note")


def test_keys_of_later_epochs_follow_from_the_first(writer: AuditLog, pinned: HostPublic) -> None:
    for _ in range(3):
        fill(writer, 2)
        writer.rotate()
    fill(writer, 1)
    chain = succession(writer.path, pinned)
    keys = follow(pinned, chain, "chain")
    wanted = verify_log(writer.path, pinned).keys
    assert [(began, k.fingerprint) for began, k in keys] == [(began, k.fingerprint) for began, k in wanted]
    text = prove(writer.path, pinned, 1).to_text()
    assert check_proof(text, keys, "proof").seq == 1
    with pytest.raises(SignatureInvalid):
        check_proof(text, [(0, pinned)], "proof")
    with pytest.raises(SignatureInvalid):
        follow(pinned, chain[1:], "chain")
    with pytest.raises(FormatError, match="end of epoch 0"):
        AuditLog(writer.path, LogKey.read(str(writer._file.key.path))).append("load.done")
        follow(keys[-1][1], [text], "chain")
    assert split_proofs("".join(chain)) == chain


def test_an_old_key_signs_no_head_of_a_later_epoch(writer: AuditLog, pinned: HostPublic) -> None:
    """Who kept the first epoch's key writes a history of its own beyond that epoch's end."""
    old = LogKey.read(str(writer._file.key.path)).present
    fill(writer, 2)
    writer.rotate()
    fill(writer, 5)
    keys = follow(pinned, succession(writer.path, pinned), "chain")
    honest = prove(writer.path, pinned, 6)
    head = Checkpoint.from_text(Note.from_text(honest.note, "note").text, "note")
    forged = dataclasses.replace(honest, note=sign(head, old).to_text())
    assert check_proof(forged.to_text(), [(0, pinned)], "proof").seq == 6
    assert check_proof(honest.to_text(), keys, "proof").seq == 6
    with pytest.raises(SignatureInvalid, match="head of 9 records"):
        check_proof(forged.to_text(), keys, "proof")
    with pytest.raises(SignatureInvalid, match="a key of its epoch"):
        check_proof(honest.to_text(), [], "proof")


def command(*args: Any) -> Any:
    result = CliRunner().invoke(cli, [str(a) for a in args], catch_exceptions=True)
    if isinstance(result.exception, ModelVaultError):
        return status_of(result.exception)
    assert result.exception is None, result.exception
    return result.output


def test_the_commands(writer: AuditLog, host: LogKey, pinned: HostPublic, tmp_path: Path) -> None:
    fill(writer, 3)
    assert host.path is not None
    key = host.path.with_suffix(".pub")
    kept, proof, chain = tmp_path / "kept", tmp_path / "proof", tmp_path / "chain"
    command("audit", "checkpoint", writer.path, "--key", key, "-o", kept)
    assert json.loads(command("audit", "rotate", writer.path, "--key", host.path, "--json"))["ended"] == 0
    command("audit", "prove", 2, writer.path, "--key", key, "-o", proof)
    command("audit", "succession", writer.path, "--key", key, "-o", chain)
    assert "number" in command("audit", "check-proof", proof, "--key", key)  # the last head is the closed epoch's
    fill(AuditLog(writer.path, LogKey.read(str(host.path))), 1)
    command("audit", "prove", 2, writer.path, "--key", key, "-o", proof)
    assert command("audit", "check-proof", proof, "--key", key) == 8
    shown = command("audit", "check-proof", proof, "--key", key, "--succession", chain, "--json")
    assert json.loads(shown)["seq"] == 2
    report = json.loads(command("audit", "verify", writer.path, "--key", key, "--against", kept, "--json"))
    assert (report["records"], report["epochs"]) == (6, 2)
    writer.path.write_bytes(b"")
    assert "records" in command("audit", "verify", writer.path, "--key", key, "--against", kept)
    (writer.path.parent / "audit.log.000000").unlink()
    assert command("audit", "verify", writer.path, "--key", key, "--against", kept) == 24
    assert command("audit", "rotate", tmp_path / "none", "--key", host.path) == 3
    assert command("audit", "verify", tmp_path / "none", "--key", key) == 3


def test_filters(writer: AuditLog, host: LogKey) -> None:
    assert host.path is not None
    for name in ("fraud", "spam"):
        writer.append("load.intent", model={"name": name, "version": "1"})
        writer.append("load.denied", model={"name": name, "version": "1"}, reason="PolicyDenied")

    def shown(*args: str) -> list[int]:
        key = str(host.path.with_suffix(".pub") if host.path else "")
        return [r["seq"] for r in json.loads(command("audit", "show", writer.path, "--key", key, "--json", *args))]

    assert shown() == [0, 1, 2, 3, 4]
    assert shown("--event", "load.intent") == [1, 3]
    assert shown("--model", "spam", "--outcome", "denied") == [4]
    assert shown("--since", "1h") == shown("--since", "2020-01-01") == [0, 1, 2, 3, 4]
    assert shown("--since", "2999-01-01T00:00:00Z") == []
    assert shown("--since", "99999d") == [0, 1, 2, 3, 4]
    for odd in ("soon", "", "d", "²d", "٣d", "999999d", "9" * 19 + "d", "9" * 5000 + "m"):
        assert CliRunner().invoke(cli, ["audit", "show", "--since", odd]).exit_code == 2


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_following_waits_a_number_of_seconds(writer: AuditLog, seconds: str) -> None:
    result = CliRunner().invoke(cli, ["audit", "verify", str(writer.path), "--follow", f"--interval={seconds}"])
    assert (result.exit_code, "expected seconds" in result.output) == (2, True)


def test_verify_follows_a_growing_log(writer: AuditLog, host: LogKey) -> None:
    assert host.path is not None
    fill(writer, 2)
    options = ["--key", str(host.path.with_suffix(".pub")), "--follow", "--interval", "0.05", "--json"]
    command = [sys.executable, "-m", "modelvault", "audit", "verify", str(writer.path), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for size in (3, 4, 6):
            lines: list[str] = []
            while not lines or lines[-1] != "}\n":
                lines.append(process.stdout.readline())
            assert json.loads("".join(lines))["records"] == size
            fill(writer, 1) if size == 3 else writer.rotate() if size == 4 else None
            fill(writer, 1) if size == 4 else None
        whole = writer.path.read_bytes()
        writer.path.write_bytes(whole.replace(b'"number":0', b'"number":1'))
        assert process.wait(60) == 20
        assert "not what the head signs" in process.stderr.read()
