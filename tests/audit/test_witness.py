"""The witness, a real process over HTTP on loopback: it cosigns logs that only grow."""

import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from conftest import Parties
from serving import serving

from audit.conftest import fill
from modelvault import merkle
from modelvault._codec import format_time
from modelvault.audit import AuditLog, LogKey, read_leaves, verify_log
from modelvault.audit.cosigned import check_fresh, cosigned_path
from modelvault.audit.proofs import check_proof, prove
from modelvault.audit.tip import state_path
from modelvault.audit.witness import SIZE_TYPE, submit
from modelvault.audit.witnessing import Witness, make_server
from modelvault.checkpoint import Note
from modelvault.cli.main import main
from modelvault.cosignature import VerifierKey, cosigned_at
from modelvault.errors import AuditTampered, FileError, FormatError, PolicyDenied, SignatureInvalid
from modelvault.keys import HostKey, HostPublic


@dataclass(slots=True)
class Service:
    url: str
    verifier: VerifierKey
    folder: Path


@pytest.fixture
def service(tmp_path: Path, writer: AuditLog, pinned: HostPublic) -> Iterator[Service]:
    fill(writer, 3)
    (tmp_path / "witness.key").write_bytes(HostKey.generate().to_pem(None))
    (tmp_path / "witness.key").chmod(0o600)
    command = [sys.executable, "-m", "modelvault", "audit", "serve-witness", str(tmp_path / "seen"), "--port", "0"]
    command += ["--key", str(tmp_path / "witness.key"), "--log", verify_log(writer.path, pinned).verifier]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        verifier = process.stdout.readline().removeprefix("verifier key: ").strip()
        url = process.stdout.readline().removeprefix("listening on ").strip()
        yield Service(url, VerifierKey.from_text(verifier, "key"), tmp_path / "seen")
    finally:
        process.terminate()
        process.communicate()


def post(url: str, body: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST")) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_a_growing_log_is_cosigned(service: Service, writer: AuditLog, pinned: HostPublic) -> None:
    for count in (0, 5, 0):
        fill(writer, count)
        note, moment = submit(writer.path, pinned, service.url, service.verifier)
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
        assert note.to_text() == cosigned_path(writer.path).read_text()
        assert verify_log(writer.path, pinned, against=note.to_text()).size >= 4
    proof = prove(writer.path, pinned, 2, note=note.to_text()).to_text()
    assert check_proof(proof, [(0, pinned)], "proof").seq == 2
    assert cosigned_at(Note.from_text(proof.split("\n\n", 1)[1], "note"), service.verifier) == moment
    with urllib.request.urlopen(f"{service.url}/checkpoint?{verify_log(writer.path, pinned).origin}") as answer:
        kept = answer.read().decode()
    fill(writer, 1)
    assert verify_log(writer.path, pinned, against=kept).size == 10


def test_a_client_that_forgot_is_told(service: Service, writer: AuditLog, pinned: HostPublic) -> None:
    submit(writer.path, pinned, service.url, service.verifier)
    cosigned_path(writer.path).unlink()
    fill(writer, 4)
    submit(writer.path, pinned, service.url, service.verifier)


def test_a_cut_or_rewritten_log_is_not_cosigned(
    service: Service, writer: AuditLog, host: LogKey, pinned: HostPublic
) -> None:
    fill(writer, 4)
    submit(writer.path, pinned, service.url, service.verifier)
    lines = writer.path.read_bytes().splitlines(keepends=True)
    writer.path.write_bytes(b"".join(lines[:-2]))
    state_path(writer.path).unlink()
    for path in (cosigned_path(writer.path),):
        path.unlink()
    with pytest.raises(AuditTampered, match="has seen 8") as caught:
        submit(writer.path, pinned, service.url, service.verifier)
    assert caught.value.verdict == "rollback"
    fill(writer, 3)  # the host goes on: another history of the same name
    with pytest.raises(AuditTampered, match="has seen another log"):
        submit(writer.path, pinned, service.url, service.verifier)


def test_later_keys_are_followed(service: Service, writer: AuditLog, pinned: HostPublic) -> None:
    submit(writer.path, pinned, service.url, service.verifier)
    for _ in range(2):
        writer.rotate()
        fill(writer, 2)
    submit(writer.path, pinned, service.url, service.verifier)
    stranger = AuditLog(writer.path.with_name("other.log"), HostKey.generate())
    fill(stranger, 1)
    with pytest.raises(FileError, match="404"):
        submit(stranger.path, HostPublic.of(stranger._file.key.first.parts), service.url, service.verifier)


def test_the_protocol(service: Service, writer: AuditLog, pinned: HostPublic) -> None:
    """Every status that C2SP tlog-witness asks for."""
    fill(writer, 4)
    report, leaves = read_leaves(writer.path, pinned)
    from modelvault._codec import b64encode

    call = f"{service.url}/add-checkpoint"
    assert post(call, f"old 9\n\n{report.head}")[0] == 400
    assert post(call, f"old 2\n\n{report.head}")[:2] == (409, "text/x.tlog.size")
    assert post(call, f"old 2\n\n{report.head}")[2] == "0\n"
    assert post(call, f"old 0\n{b64encode(bytes(32))}\n\n{report.head}")[0] == 422
    assert post(call, f"old 0\n\n{report.head}")[0] == 200
    assert post(call, f"old 8\n\n{report.head}")[0] == 200
    fill(writer, 2)
    grown, leaves = read_leaves(writer.path, pinned)
    good = [b64encode(h) for h in merkle.consistency_proof(leaves, 8)]
    for proof in ([], good[:-1], [b64encode(bytes(32)), *good[1:]]):
        assert post(call, "\n".join(["old 8", *proof]) + f"\n\n{grown.head}")[0] == 422
    text, signature = grown.head.split("\n\n")
    assert post(call, f"old 8\n\n{text}\n\n{signature[:-7]}AAAAA=\n")[0] in (400, 403)
    assert post(call, "old 8\n\n" + grown.head.replace(grown.origin, "elsewhere"))[0] == 404
    for bad in ("", "old 08\n\n" + grown.head, "old x\n\n" + grown.head, f"old {'9' * 5000}\n\n{grown.head}", "a\n\nb"):
        assert post(call, bad)[0] == 400
    assert post(call, "\n".join(["old 8", *good]) + f"\n\n{grown.head}")[0] == 200
    assert post(f"{service.url}/other", "")[0] == 404
    assert post(f"{service.url}/add-key", "x")[0] == 403


def test_check_and_store_is_one_step(tmp_path: Path, writer: AuditLog, pinned: HostPublic) -> None:
    """Of two heads that extend the same old one, only one is cosigned."""
    fill(writer, 2)
    report = verify_log(writer.path, pinned)
    log = VerifierKey(name=report.origin, algorithm=b"\x01", key=pinned)
    key = HostKey.generate()
    for number in range(20):
        folder = tmp_path / f"seen{number}"
        Witness(folder, "w", key).trust(log)
        answers: list[int] = []
        start = threading.Barrier(4)

        def ask(folder: Path = folder, start: threading.Barrier = start, answers: list[int] = answers) -> None:
            witness = Witness(folder, "w", key)
            start.wait()
            answers.append(witness.add_checkpoint(f"old 0\n\n{report.head}")[0])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 409, 409, 409]


def test_a_witness_that_answers_nonsense(service: Service, writer: AuditLog, pinned: HostPublic) -> None:
    other = VerifierKey(name=service.verifier.name, algorithm=b"\x04", key=HostKey.generate().public)
    with pytest.raises(SignatureInvalid, match="no cosignature"):
        submit(writer.path, pinned, service.url, other)
    assert not cosigned_path(writer.path).exists()
    with pytest.raises(FileError, match="not reached"):
        submit(writer.path, pinned, "http://127.0.0.1:1", service.verifier)
    with pytest.raises(FileError, match="http or https"):
        submit(writer.path, pinned, "file:///etc/passwd", service.verifier)


def test_a_witness_whose_size_is_none(writer: AuditLog, pinned: HostPublic) -> None:
    class Odd(BaseHTTPRequestHandler):
        size = b""

        def do_POST(self) -> None:
            self.send_response(409)
            self.send_header("Content-Type", SIZE_TYPE)
            self.end_headers()
            self.wfile.write(self.size)

        def log_message(self, format: str, *args: object) -> None:
            return

    witness = VerifierKey(name="witness.example", algorithm=b"\x04", key=pinned)
    fill(writer, 1)
    with serving(Odd) as url:
        for Odd.size in ("²".encode(), b"9" * 5000, b"-1", b""):
            with pytest.raises(AuditTampered, match="has seen another log"):
                submit(writer.path, pinned, url, witness)


def test_clients_that_go_away_or_lie_about_their_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    witness = Witness(tmp_path / "seen", "witness.example", HostKey.generate())
    with make_server(witness, "127.0.0.1", 0) as server:
        server.daemon_threads = False  # closing waits for the answers
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for length in ("9" * 5000, "²", "-1", ""):
            client = http.client.HTTPConnection("127.0.0.1", server.server_port)
            client.putrequest("POST", "/add-checkpoint")
            client.putheader("Content-Length", length.encode())
            client.endheaders()
            assert client.getresponse().status == 413
            client.close()
        with socket.create_connection(("127.0.0.1", server.server_port)) as rude:
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
            rude.sendall(b"POST /add-checkpoint HTTP/1.0\r\nContent-Length: 100\r\n\r\nold")
        server.shutdown()
        thread.join()
    assert capfd.readouterr().err == ""


def test_a_load_can_demand_a_fresh_cosignature(parties: Parties, sealed: Path, tmp_path: Path) -> None:
    witness = Witness(tmp_path / "seen", "witness.example", HostKey.generate())
    policy = parties.folder / "trust.toml"
    policy.write_text(policy.read_text() + f'[audit]\nwitnesses = ["{witness.verifier.to_text()}"]\n')
    with pytest.raises(PolicyDenied, match="0 of 1 witnesses"):
        parties.load(sealed)
    report = verify_log(parties.log.path, parties.host.public)
    witness.trust(VerifierKey(name=report.origin, algorithm=b"\x01", key=parties.host.public))
    status, _, line = witness.add_checkpoint(f"old 0\n\n{report.head}")
    assert status == 200
    cosigned_path(parties.log.path).write_text(report.head + line)
    parties.load(sealed).close()
    later = datetime.now(UTC) + timedelta(hours=25)
    with pytest.raises(PolicyDenied, match="0 of 1"):
        check_fresh(parties.log.path, [witness.verifier], 1, timedelta(hours=24), later)
    cosigned_path(parties.log.path).write_text((report.head + line).replace(report.origin, "elsewhere"))
    with pytest.raises(PolicyDenied, match="another log"):
        parties.load(sealed)
    assert parties.events().count("load.denied") == 2


def test_verifier_keys(pinned: HostPublic) -> None:
    key = VerifierKey(name="witness.example/w1", algorithm=b"\x04", key=pinned)
    assert VerifierKey.from_text(key.to_text(), "key") == key
    number = re.search(r"\+([0-9a-f]{8})\+", key.to_text())
    assert number is not None
    for bad in ("", "x", key.to_text().replace(number[1], "00000000"), key.to_text()[:-4], "a+00000000+AQ=="):
        with pytest.raises(FormatError):
            VerifierKey.from_text(bad, "key")


def test_an_auditor_checks_a_witness_s_line(
    service: Service, writer: AuditLog, pinned: HostPublic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(writer, 3)
    _, moment = submit(writer.path, pinned, service.url, service.verifier)
    key, plain = tmp_path / "pinned.pub", tmp_path / "plain"
    key.write_bytes(pinned.to_pem())
    plain.write_text(verify_log(writer.path, pinned).head)
    command = ["audit", "verify", str(writer.path), "--key", str(key), "--cosigned-by", service.verifier.to_text()]

    def status(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        return int(ended.value.code or 0)

    assert status("--against", str(cosigned_path(writer.path)), "--json") == 0
    assert json.loads(capsys.readouterr().out)["cosigned"] == {service.verifier.name: format_time(moment)}
    assert status("--against", str(cosigned_path(writer.path))) == 0
    assert f"cosigned by {service.verifier.name}" in capsys.readouterr().out
    assert status("--against", str(plain)) == 8
    assert status() == 2
    assert "no cosignature by" in capsys.readouterr().err
