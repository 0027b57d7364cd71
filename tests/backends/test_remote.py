"""Sealed models and grants at URLs: in memory, over HTTP, and in S3 at moto's server."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import needs
import pytest
from serving import serving

import modelvault
from modelvault import remote
from modelvault.cli.main import main
from modelvault.defaults import trust_path
from modelvault.errors import FileError, FormatError, PayloadTampered, UntrustedPublisher
from modelvault.granting import embed, grant
from modelvault.keys import PublisherKey

PARTS: list[tuple[int, int]] = []


@pytest.fixture(autouse=True)
def _client() -> None:
    needs.module("fsspec")
    needs.module("aiohttp")


class Store(BaseHTTPRequestHandler):
    """Serves one file with ranges and an ETag, and notes the ranges that were asked for."""

    content, etag, ranges = b"", "1", True

    def do_HEAD(self) -> None:
        self._head(200, len(self.content))

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if asked is None or not self.ranges:
            self._head(200, len(self.content))
            self.wfile.write(self.content)
            return
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        PARTS.append((first, last + 1))
        piece = self.content[first : last + 1]
        self._head(206, len(piece), f"bytes {first}-{first + len(piece) - 1}/{len(self.content)}")
        self.wfile.write(piece)

    def _head(self, status: int, length: int, part: str | None = None) -> None:
        self.send_response(404 if self.path.startswith("/none") else 403 if self.path.startswith("/no") else status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{self.etag}"')
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def web() -> Iterator[str]:
    Store.content, Store.etag, Store.ranges = b"", "1", True
    PARTS.clear()
    with serving(Store) as url:
        yield url


def test_memory(parties: Any, sealed: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/models/m.mvlt", sealed.read_bytes())
    memory.pipe("/models/s.grant", grant(sealed, parties.stranger.public, own=parties.own, signer=parties.publisher))
    assert modelvault.inspect("memory://models/m.mvlt").statement.name == "direction"
    modelvault.verify("memory://models/m.mvlt", parties.trust)
    parties.load("memory://models/m.mvlt").close()
    parties.load("memory://models/m.mvlt", identity=parties.stranger, grant="memory://models/s.grant").close()
    with pytest.raises(FileError, match="only a local file can be changed"):
        embed("memory://models/m.mvlt", memory.cat("/models/s.grant"))
    memory.rm("/models", recursive=True)


@pytest.fixture
def policy(parties: Any) -> Iterator[str]:
    """The parties' trust policy and its keys in memory: its URL, pinned."""
    import fsspec

    memory = fsspec.filesystem("memory")
    data = (parties.folder / "trust.toml").read_bytes()
    memory.pipe("/trust/policy.toml", data)
    for path in (parties.folder / "trusted").iterdir():
        memory.pipe(f"/trust/trusted/{path.name}", path.read_bytes())
    yield f"memory://trust/policy.toml#sha256={hashlib.sha256(data).hexdigest()}"
    memory.rm("/trust", recursive=True)


def test_a_pinned_trust_policy(
    parties: Any, sealed: Path, policy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fsspec

    parties.load(sealed, trust=policy).close()
    monkeypatch.setenv("MODELVAULT_TRUST", policy)
    parties.load(sealed, trust=None).close()
    with pytest.raises(FileError, match="only a local policy can be changed"):
        trust_path()
    place = policy.partition("#")[0]
    for wrong, words in (
        (place, "expected #sha256= and 64 hex digits"),
        (f"{place}#sha256=00", "expected #sha256= and 64 hex digits"),
        (f"{place}#sha256={'0' * 64}", "policy.toml: has SHA-256 [0-9a-f]{64}, expected 0000"),
    ):
        with pytest.raises(UntrustedPublisher, match=words):
            parties.load(sealed, trust=wrong)
    memory = fsspec.filesystem("memory")
    (key,) = memory.ls("/trust/trusted", detail=False)
    memory.pipe(key, parties.customer.public.to_pem())
    with pytest.raises(FormatError, match="not a key of this role"):
        parties.load(sealed, trust=policy)
    memory.pipe(key, PublisherKey.generate("ed25519").public.to_pem())  # the policy pins its keys
    with pytest.raises(FormatError, match="has fingerprint"):
        parties.load(sealed, trust=policy)
    memory.rm("/trust/policy.toml")
    with pytest.raises(FileError, match="no such file"):
        parties.load(sealed, trust=policy)
    assert parties.events().count("load.denied") == 6
    memory.pipe("/trust/policy.toml", b"")


def test_commands_take_urls(
    parties: Any, sealed: Path, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fsspec

    needs.module("cyclonedx")
    memory = fsspec.filesystem("memory")
    memory.pipe("/models/m.mvlt", sealed.read_bytes())
    for name, data in {
        "p.key": parties.publisher.to_pem(None),
        "own.key": parties.own.to_pem(None),
        "to.pub": parties.stranger.public.to_pem(),
        "host.key": parties.host.to_pem(None),
    }.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)

    def run(*args: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(list(args))
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == code, captured.err
        return captured.out + captured.err

    url, given = "memory://models/m.mvlt", tmp_path / "s.grant"
    keys = ("--to", str(tmp_path / "to.pub"), "--sign", str(tmp_path / "p.key"), "--own", str(tmp_path / "own.key"))
    assert "only a local file can be changed" in run("grant", url, *keys, "--embed", code=3)
    run("grant", url, *keys, "-o", str(given))
    assert not remote.cache_folder().exists()  # the header was enough
    memory.pipe("/models/s.grant", given.read_bytes())
    parties.load(url, identity=parties.stranger, grant=given).close()
    run("verify", url, "--trust", policy)
    bill = json.loads(run("sbom", url, "--trust", policy))
    assert bill["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(sealed.read_bytes()).hexdigest()
    assert parties.stranger.public.fingerprint in run("license", "show", "memory://models/s.grant")
    memory.rm("/models", recursive=True)


def test_the_cache_holds_one_version_and_ciphertext_only(parties: Any, sealed: Path, web: str) -> None:
    Store.content = sealed.read_bytes()
    url = f"{web}/m.mvlt?X-Signature=secret"
    parties.load(url).close()
    fetched = len(PARTS)
    parties.load(url).close()
    assert len(PARTS) == fetched + 1  # its first bytes; the rest comes from the cache
    (copy,) = remote.cache_folder().iterdir()
    assert copy.read_bytes() == sealed.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700

    Store.content, Store.etag = parties.seal(name="newer").read_bytes(), "2"
    with parties.load(url) as session:
        assert session.statement.name == "newer"
    assert len(list(remote.cache_folder().iterdir())) == 1

    (copy,) = remote.cache_folder().iterdir()
    damaged = bytearray(copy.read_bytes())
    damaged[-1] ^= 1
    copy.write_bytes(damaged)
    with pytest.raises(PayloadTampered):
        parties.load(url)
    assert all("secret" not in str(record.fields) for record in parties.records())

    Store.content, Store.etag = b"a plain model" * 100, "3"
    with pytest.raises(FormatError, match="not a sealed model"):
        parties.load(url)
    assert len(list(remote.cache_folder().iterdir())) == 1


def test_inspect_reads_the_header_only(parties: Any, sealed: Path, web: str) -> None:
    Store.content = sealed.read_bytes()
    facts = modelvault.inspect(f"{web}/m.mvlt")
    assert facts.to_dict() == modelvault.inspect(sealed).to_dict()
    assert sum(last - first for first, last in PARTS) < 30_000 < len(Store.content)
    assert not remote.cache_folder().exists()
    Store.content = sealed.read_bytes()[:-1]
    with pytest.raises(FormatError, match="payload: file has"):
        modelvault.inspect(f"{web}/m.mvlt")


def test_what_cannot_be_read(parties: Any, sealed: Path, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.content = sealed.read_bytes()
    for url, words in (
        (f"{web}/none.mvlt", "no such file"),
        (f"{web}/no.mvlt", "permission denied"),
        (f"http://user:secret@127.0.0.1:{needs.free_port()}/m.mvlt?key=secret", "cannot be read"),
        (f"simplecache::{web}/m.mvlt", "simplecache::"),
        ("nothing://m.mvlt", "cannot be read"),
        ("memory://none.mvlt", "no such file"),
    ):
        with pytest.raises(FileError, match=words) as refused:
            parties.load(url)
        assert "secret" not in str(refused.value)
    monkeypatch.setattr(remote, "MAX_DOWNLOAD", 1000)
    with pytest.raises(FileError, match="larger than the limit of 1000"):
        parties.load(f"{web}/m.mvlt")
    with pytest.raises(FileError, match="larger than the limit of 10 bytes"):
        remote.read_bytes(f"{web}/m.mvlt", limit=10)
    assert not remote.cache_folder().exists()
    Store.ranges = False
    monkeypatch.setattr(remote, "MAX_DOWNLOAD", 2**40)
    monkeypatch.setattr(remote, "PIECE", 100_000)
    with pytest.raises(FileError, match=r"cannot be read \(ValueError\)"):
        parties.load(f"{web}/m.mvlt")
    assert list(remote.cache_folder().iterdir()) == []


def test_the_command_line(
    parties: Any, sealed: Path, web: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Store.content = sealed.read_bytes()
    trust = str(parties.folder / "trust.toml")
    for arguments, code in (
        (["inspect", f"{web}/m.mvlt"], 0),
        (["verify", f"{web}/m.mvlt", "--trust", trust], 0),
        (["verify", f"{web}/none", "--trust", trust], 3),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == code, captured.err
        assert captured.err.count("\n") == (code != 0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    needs.module("s3fs")
    needs.module("moto.server")
    with needs.moto(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


def test_s3(parties: Any, sealed: Path, running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import boto3

    needs.aws_environment(running[0], monkeypatch, tmp_path)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.put_object(Bucket="models", Key="a/m.mvlt", Body=sealed.read_bytes())
    given = grant(sealed, parties.stranger.public, own=parties.own, signer=parties.publisher)
    client.put_object(Bucket="models", Key="a/s.grant", Body=given)
    assert modelvault.inspect("s3://models/a/m.mvlt").statement.name == "direction"
    parties.load("s3://models/a/m.mvlt", identity=parties.stranger, grant="s3://models/a/s.grant").close()
    client.put_object(Bucket="models", Key="a/m.mvlt", Body=parties.seal(name="newer").read_bytes())
    with parties.load("s3://models/a/m.mvlt") as session:
        assert session.statement.name == "newer"
    for url, words in (("s3://models/none", "no such file"), ("s3://nowhere/x", "NoSuchBucket")):
        with pytest.raises(FileError, match=words):
            parties.load(url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{needs.free_port()}")
    with pytest.raises(FileError, match="cannot be read"):
        parties.load("s3://models/a/m.mvlt")
