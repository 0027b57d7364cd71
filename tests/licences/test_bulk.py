"""Grants for many recipients at once, and the commands around licences: what they accept and refuse."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from licences.field import Field
from modelvault import granting, recipients
from modelvault.cli.main import main
from modelvault.envelope import Envelope, sign
from modelvault.errors import FileError, FormatError
from modelvault.granting import Order
from modelvault.keys import PublisherKey, RecipientKey
from modelvault.sealedfile import SealedFile, UnverifiedGrant
from modelvault.trust import TrustPolicy
from modelvault.verification import inspect

Run = Callable[..., dict[str, Any]]


def test_the_payload_is_not_read(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SealedFile(sealed) as file:
        header, digest = file.payload_offset, file.statement_digest
    data = sealed.read_bytes()
    sealed.write_bytes(data[:header] + bytes(len(data) - header))
    read: list[tuple[int, int]] = []
    original = SealedFile._read

    def counted(self: SealedFile, view: memoryview, offset: int) -> None:
        read.append((offset, len(view)))
        original(self, view, offset)

    monkeypatch.setattr(SealedFile, "_read", counted)
    orders = [Order(recipient=RecipientKey.generate("x25519").public) for _ in range(30)]
    grants = list(granting.grant_all(sealed, orders, own=field.parties.own, signer=field.parties.publisher))
    assert max(offset + length for offset, length in read) <= header
    found = [UnverifiedGrant.from_bytes(g, "g").statement for g in grants]
    assert [g.recipient for g in found] == [o.recipient.fingerprint for o in orders]
    assert {g.model for g in found} == {digest}
    assert len({g.grant_id for g in found}) == 30


def test_each_of_many_loads(field: Field, sealed: Path) -> None:
    keys = {f"r{n}": RecipientKey.generate("x25519") for n in range(5)}
    orders = {name: Order(recipient=key.public) for name, key in keys.items()}
    grants = granting.grant_all(sealed, orders.values(), own=field.parties.own, signer=field.parties.publisher)
    folder = field.parties.folder / "grants"
    assert recipients.write_grants(folder, zip(orders, grants, strict=True)) == 5
    for name, key in keys.items():
        field.parties.load(sealed, identity=key, grant=folder / f"{name}.grant").close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name\nx\n", "column 'key' is missing"),
        ("", "column 'key' is missing"),
        ("name,key,licens\n", "unknown column 'licens'"),
        ("name,key\n", "names no recipient"),
        ("name,key\na,a.pub\na,a.pub\n", "name 'a' appears twice"),
        ("name,key\n../a,a.pub\n", "key name '../a'"),
        ("name,key\na\n", "line 2: expected 2 columns"),
        ("name,key\na,a.pub,x\n", "line 2: expected 2 columns"),
        ("name,key,purpose\na,a.pub,resell\n", "purpose: expected one of run, audit"),
        ('name,key\n"a,a.pub\n', "not a CSV file"),
        ("name,key\na,b.pub\n", "b.pub: no such file"),
        ("name,key,licence\na,a.pub,bad.toml\n", "unknown key 'not_afer'"),
    ],
)
def test_a_list_of_recipients_is_read_strictly(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.pub").write_bytes(RecipientKey.generate("x25519").public.to_pem())
    (tmp_path / "bad.toml").write_text("not_afer = 2031-01-01T00:00:00Z\n")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises((FormatError, FileError)) as error:
        recipients.read_orders(tmp_path / "list.csv")
    assert words in str(error.value)


def test_no_folder_unless_all_grants_are_in_it(tmp_path: Path) -> None:
    def grants() -> Iterator[tuple[str, bytes]]:
        yield "a", b"x"
        raise FormatError("second")

    with pytest.raises(FormatError, match="second"):
        recipients.write_grants(tmp_path / "out", grants())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(FileError, match="exists already"):
        recipients.write_grants(tmp_path / "out", grants())


@pytest.fixture
def run(tmp_path: Path, field: Field, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in the host's folder; what it prints with --json, or its error."""
    folder = field.parties.folder
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MODELVAULT_TRUST", str(folder / "trust.toml"))
    keys: dict[str, PublisherKey | RecipientKey] = {
        "p": field.parties.publisher,
        "p.own": field.parties.own,
        "c": field.parties.customer,
    }
    for name, key in keys.items():
        (folder / f"{name}.key").write_bytes(key.to_pem(None))
        (folder / f"{name}.key").chmod(0o600)
        (folder / f"{name}.pub").write_bytes(key.public.to_pem())

    def call(*args: str | Path, code: int = 0) -> dict[str, Any]:
        with pytest.raises(SystemExit) as exit_:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        assert exit_.value.code == code, captured.err
        assert "Traceback" not in captured.err
        found: dict[str, Any] = json.loads(captured.out) if "--json" in args and not code else {"error": captured.err}
        return found

    return call


def test_revoke_takes_files_and_names(run: Run, sealed: Path, field: Field) -> None:
    grant = field.grant(sealed)
    where = ("--sign", "p.key", "--list", "l.json", "--reason", "r", "--json")
    for number, (kind, what) in enumerate(
        [("model", sealed), ("model", "fraud@2"), ("grant", grant), ("recipient", "c.pub"), ("publisher", "p.pub")], 1
    ):
        assert run("revoke", kind, what, *where)["number"] == number
    assert run("revoke", "recipient", "c.pub", *where)["entries"] == 5
    shown = run("revoke", "show", "l.json", "--json")
    assert shown["signers"] == [field.parties.publisher.public.fingerprint]
    assert [e["id"] for e in shown["entries"]] == [
        inspect(sealed).statement_digest.hex(),
        "fraud@2",
        UnverifiedGrant.from_bytes(grant.read_bytes(), "g").statement.grant_id,
        field.parties.customer.public.fingerprint,
        field.parties.publisher.public.fingerprint,
    ]
    for kind, what in (("model", "nothing"), ("model", "fraud@x"), ("grant", "12")):
        assert "error" in run("revoke", kind, what, *where, code=4)
    assert "Missing option '--reason'" in run("revoke", "model", "fraud@2", code=2)["error"]
    (sealed.parent / "l.json").write_text("{}")
    run("revoke", "recipient", "c.pub", *where, code=4)


def test_sign_and_hand_over_by_command(run: Run, sealed: Path) -> None:
    run("keygen", "publisher", "new", "--no-passphrase", "--no-trust")
    assert run("sign", sealed, "--key", "new", "--json")["signatures"] == 2
    assert "already" in run("sign", sealed, "--key", "new", code=4)["error"]
    made = run("handover", "acme", "--to", "new", "--sign", "p.key", "--json")
    assert made["written"] == "acme.1.handover"
    assert "0 of 1 signatures by the new keys" in run("trust", "follow", "acme.1.handover", code=9)["error"]
    run("sign", "acme.1.handover", "--key", "new")
    assert "no publisher 'other'" in run("trust", "follow", "acme.1.handover", "--publisher", "other", code=9)["error"]
    run("trust", "follow", "acme.1.handover")
    assert "number: expected 2, got 1" in run("trust", "follow", "acme.1.handover", code=4)["error"]
    assert "rotated out by hand-over 1" in run("verify", sealed, code=9)["error"]  # its grants still are the old key's
    assert "exists already" in run("handover", "acme", "--to", "new", "--sign", "p.key", code=3)["error"]


def test_a_quiet_rotation(run: Run, sealed: Path, field: Field) -> None:
    run("keygen", "publisher", "new", "--no-passphrase", "--no-trust")
    run("handover", "acme", "--to", "p.pub", "--to", "new", "--sign", "p.key", "--sign", "new")
    run("trust", "follow", "acme.1.handover")
    run("sign", sealed, "--key", "new", "--grants")
    run("handover", "acme", "--number", "2", "--to", "new", "--sign", "new")
    run("trust", "follow", "acme.2.handover")
    run("verify", sealed)
    field.parties.load(sealed).close()


def test_grants_are_signed_only_if_they_hold(run: Run, sealed: Path, field: Field) -> None:
    run("keygen", "publisher", "new", "--no-passphrase", "--no-trust")
    stranger = PublisherKey.generate("ed25519")
    with SealedFile(sealed) as file:
        forged = Envelope.from_bytes(file.header.grants[1], "g", limit=2**20).payload
        granting.rewrite(file, grants=(file.header.grants[0], sign(forged, [stranger]).to_bytes()))
    before = sealed.read_bytes()
    assert "grants[1]: the grant is not signed" in run("sign", sealed, "--key", "new", "--grants", code=9)["error"]
    assert sealed.read_bytes() == before


def test_grant_all_and_rewrap_by_command(run: Run, sealed: Path, field: Field) -> None:
    Path("many").mkdir()
    for name in ("x", "y"):
        Path(f"many/{name}.pub").write_bytes(RecipientKey.generate("x25519").public.to_pem())
    assert run("grant", sealed, "--all", "many", "-o", "out", "--sign", "p.key", "--json")["grants"] == 2
    assert sorted(p.name for p in Path("out").iterdir()) == ["x.grant", "y.grant"]
    for bad in (("--all", "many"), ("--all", "many", "--embed"), ("--all", "many", "--to", "c.pub", "-o", "z"), ()):
        run("grant", sealed, *bad, code=2)
    shutil.copy(sealed, "many/copy.mvlt")
    moved = run("rewrap", "many", "--from", "c.pub", "--to", "many/x.pub", "--sign", "p.key", "--json")
    assert moved["moved"] == {"many/copy.mvlt": 1}
    assert (
        "holds no .mvlt" in run("rewrap", "out", "--from", "c.pub", "--to", "c.pub", "--sign", "p.key", code=3)["error"]
    )


def test_license_show_and_check_by_command(run: Run, sealed: Path, field: Field) -> None:
    run("keygen", "host", "--no-passphrase")
    Path("l.toml").write_text('max_loads = { count = 2, per = "day" }\nmax_runs = { count = 9 }\nmax_sessions = 1\n')
    run("grant", sealed, "--to", "c.pub", "--licence", "l.toml", "-o", "c.grant", "--sign", "p.key")
    shown = run("license", "show", "c.grant", "--json")
    assert shown["policy"] is None
    assert shown["grants"][0]["words"] == [
        "at most 1 sessions at once on a host",
        "at most 2 loads a day (UTC)",
        "at most 9 runs in all",
    ]
    assert len(run("license", "show", sealed, "--json")["grants"]) == 2
    check = ("license", "check", sealed, "--grant", "c.grant", "--identity", "c.pub", "--json")
    assert run(*check)["left"] == [{"of": "licence", "loads": 2, "runs": 9}]
    assert not (field.parties.folder.parent / "home" / "audit").exists()
    run("run", sealed, "--grant", "c.grant", "--identity", "c.key", "--random", "--shape", "x=1,3,48,192")
    before = run("audit", "verify", "--json")["records"]
    assert run(*check)["left"] == [{"of": "licence", "loads": 1, "runs": 8}]
    assert run("audit", "verify", "--json")["records"] == before
    run("run", sealed, "--grant", "c.grant", "--identity", "c.key")
    assert "2 loads a day allowed, 2 are used up" in run(*check, code=11)["error"]
    assert set(run("license", "machine", "--json")) == {"machine", "host"}
    text = TrustPolicy.read("trust.toml")
    assert text.revocation is None


def test_lists_and_hand_overs_of_another_shape(run: Run, sealed: Path, field: Field) -> None:
    for name, value in {
        "a.json": "{}",
        "b.json": "[",
        "c.json": '{"payload":"","payloadType":"x","signatures":[]}',
    }.items():
        Path(name).write_text(value)
        for command in (("revoke", "show", name), ("trust", "follow", name), ("sign", name, "--key", "p.key")):
            assert name in run(*command, code=4)["error"]


SUBCOMMANDS = [
    *(("license", name) for name in ("show", "check", "machine")),
    *(("revoke", name) for name in ("model", "grant", "publisher", "recipient", "renew", "show")),
    *(("trust", name) for name in ("revocations", "follow")),
]


@pytest.mark.parametrize("command", SUBCOMMANDS, ids=" ".join)
def test_help_of_subcommands(command: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert max(map(len, shown.splitlines())) <= 80
